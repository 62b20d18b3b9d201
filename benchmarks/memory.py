"""The memory of a training step as it is counted beforehand, against that of a process which takes it."""

from typing import Any

import torch

from benchmarks.measuring import fresh, peak_bytes
from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.family import VARIANTS
from models.pretraining_step import PretrainingStep
from tasks.forecast.estimate import KEPT
from tasks.pretraining.cost import random_batch, step_memory
from tasks.pretraining.stage import model_config
from tasks.spec.experiment import ExperimentSpec

TITLE = "The memory of a training step, counted and measured"
VOCABULARY = 16_384
SIZES = {"hidden_size": 256, "num_layers": 4, "num_concepts": 64, "intermediate_size": 1024}


def a_spec(variant: str, batch: int) -> ExperimentSpec:
    """A training of a variant whose tensors outweigh the rest of a process."""
    training = {"global_batch_size": batch, "per_device_batch_size": batch, "mixed_precision": "fp32"}
    sections = {"data": {"block_tokens": 256}, "model": {"variant": variant, **SIZES}, "training": training}
    return ExperimentSpec.model_validate({"name": "memory", **sections})


def growth(variant: str, batch: int) -> int:
    """By how many bytes this process grows from before the model is built to the peak of three steps."""
    spec = a_spec(variant, batch)
    built = ConceptConfig(**model_config(spec, VOCABULARY, None, {}))
    inputs = random_batch(spec, built, batch)
    before = peak_bytes()
    module = PretrainingStep(ConceptModelForMaskedLM(built), {}, "fixed")
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    for _ in range(3):
        module(**inputs, num_items_in_batch=1.0, share=1.0)["total"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return peak_bytes() - before


def rows(quick: bool) -> list[dict[str, Any]]:
    """Megabytes of every variant: of tensors, of a process with its allocator, and measured."""
    batch, found = 1 if quick else 16, []
    for variant in list(VARIANTS)[: 1 if quick else None]:
        spec = a_spec(variant, batch)
        tensors = step_memory(spec, model_config(spec, VOCABULARY, None, {}), "cpu", 1).total / 1e6
        measured = fresh(growth, variant, batch) / 1e6
        figures = {"tensors, MB": tensors, "with the allocator, MB": KEPT * tensors, "measured, MB": measured}
        found.append({"step": variant, **figures, "estimate / measured": KEPT * tensors / measured})
    return found
