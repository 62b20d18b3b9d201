"""Numbers of the GPU against those of the CPU: attention by every kernel, and a step of every member of the family.

Legend: B batch, N tokens, C concepts, H hidden.
"""

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention
from torch.utils._pytree import tree_map_only

from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.family import CONCEPT_LOSSES, LOSS_WEIGHTINGS, VARIANTS
from models.pretraining_step import PretrainingStep
from tasks.pretraining.cost import random_batch
from tasks.pretraining.stage import model_config
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.reading import build_spec

Figures = dict[str, float | str]
Changes = dict[str, str | int | float]


class CheckFailed(Exception):
    """What a check found wrong with the machine, its driver or its libraries."""


# How torch says that a kernel of attention does not run on a device, in a dtype or under a mask.
NO_KERNEL = re.compile(r"No (available kernel|viable backend)|not implemented", re.IGNORECASE)
KERNELS = ("MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Largest error relative to the size of the answer: of attention, and of a loss after a whole model.
ATTENTION_ERROR = {"fp32": 1e-4, "bf16": 2e-2}
LOSS_ERROR = {"fp32": 1e-3, "bf16": 1e-2}
# Smallest cosine between the gradients of all weights as one vector.
GRADIENT_COSINE = {"fp32": 0.9999, "bf16": 0.99}
# Queries x keys of the encoder's two attentions, and whether padding is masked.
SHAPES = {"tokens": (128, 512, False), "padded": (128, 512, True), "concepts": (128, 128, False)}


def check_attention(device: str) -> Figures:
    """The error of every kernel of attention that runs here, forward and backward, against float64 on the CPU.

    Raises:
        CheckFailed: an error is too large, or there is no kernel at all.
    """
    figures: Figures = {}
    for kernel in KERNELS:
        for dtype in DTYPES:
            errors = [_attention_error(device, kernel, dtype, *shape) for shape in SHAPES.values()]
            for shape, error in zip(SHAPES, errors, strict=True):
                name = f"{kernel.removesuffix('_ATTENTION').lower()} {dtype} {shape}"
                figures[name] = "does not run here" if error is None else error
                if error is not None and not error <= ATTENTION_ERROR[dtype]:
                    raise CheckFailed(f"attention by {name} is wrong by {error:.1e} of its size")
    if not any(isinstance(error, float) for error in figures.values()):
        raise CheckFailed("no kernel of attention runs")
    return figures


def _attention_error(device: str, kernel: str, dtype: str, queries: int, keys: int, padded: bool) -> float | None:
    """Relative error of one kernel, None where it does not run."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 8, length, 64, generator=generator) for length in (queries, keys, keys)]
    rounded = [tensor.to(DTYPES[dtype]) for tensor in inputs]
    keep = (torch.arange(keys) < keys - 50)[None, None, None] if padded else None
    expected = _attention([tensor.double() for tensor in rounded], keep)
    try:
        with warnings.catch_warnings(), sdpa_kernel(getattr(SDPBackend, kernel)):
            warnings.simplefilter("ignore")  # each says at length why it does not run
            found = _attention([tensor.to(device) for tensor in rounded], None if keep is None else keep.to(device))
    except RuntimeError as error:
        if NO_KERNEL.search(str(error)):
            return None
        raise
    sizes = zip(found, expected, strict=True)
    return max(float((one.cpu().double() - other).abs().max() / other.abs().max()) for one, other in sizes)


def _attention(inputs: list[Tensor], keep: Tensor | None) -> list[Tensor]:
    """The answer and the gradients of queries, keys and values."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    answer = scaled_dot_product_attention(leaves[0], leaves[1], leaves[2], attn_mask=keep)
    return [answer.detach(), *torch.autograd.grad(answer.sin().sum(), leaves)]


def check_family(device: str) -> Figures:
    """A step of every variant, and of all concept losses under every weighting: loss and gradient against CPU fp32.

    Raises:
        CheckFailed: one differs by more than rounding.
    """
    figures: Figures = {}
    losses = "{" + ", ".join(f"{name}: 0.1" for name in CONCEPT_LOSSES) + "}"
    rows: dict[str, Changes] = {name: {"model.variant": name} for name in VARIANTS}
    for name in LOSS_WEIGHTINGS:
        rows[f"all losses, {name}"] = {"objective.concept_losses": losses, "objective.loss_weighting": name}
    for name, changes in rows.items():
        loss, gradient = _step("cpu", "fp32", changes)
        for dtype in DTYPES:
            found, other = _step(device, dtype, changes)
            error, cosine = abs(found / loss - 1), float(cosine_similarity(gradient, other, dim=0))
            figures[f"{name} {dtype}"] = f"loss {error:.0e}, gradient {cosine:.5f}"
            if not (error <= LOSS_ERROR[dtype] and cosine >= GRADIENT_COSINE[dtype]):
                raise CheckFailed(f"{name} in {dtype}: {figures[f'{name} {dtype}']} against the CPU in fp32")
    return figures


def small_spec(**changes: Any) -> ExperimentSpec:
    """A small experiment without dropout, from a start that rounding does not decide.

    Args:
        changes: other values by their keys, such as `training.max_steps`.
    """
    sizes = {"hidden_size": 64, "num_layers": 2, "num_concepts": 16, "intermediate_size": 128, "num_attention_heads": 2}
    calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02}
    content: dict[str, Any] = {
        "name": "gpu_check",
        "data": {"dataset": "builtin/made_text", "train_tokenizer_vocab_size": 600, "block_tokens": 64},
        "model": {**sizes, **calm},
        "evaluation": {"data": "made", "tasks": ["mrpc"], "max_length": 64},
        "tracking": {"wandb": "disabled"},
    }
    return build_spec(content, [f"{key}={value}" for key, value in changes.items()], "gpu_check")


def _step(device: str, dtype: str, changes: Changes) -> tuple[float, Tensor]:
    """Loss of one step and the gradient of all weights as one vector on the CPU, in float64."""
    spec = small_spec(**changes)
    config = ConceptConfig(**model_config(spec, 500, None, {"mask_token_id": 499}))
    batch = random_batch(spec, config, samples=8)
    torch.manual_seed(0)
    objective = spec.objective
    step = PretrainingStep(ConceptModelForMaskedLM(config), objective.concept_losses, objective.loss_weighting)
    step.to(device)
    inputs = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), batch)
    with _autocast(device, dtype):
        total = step(**inputs, num_items_in_batch=batch["labels"].total.float(), share=1.0)["total"]
    total.backward()
    used = [parameter.grad.flatten().cpu().double() for parameter in step.parameters() if parameter.grad is not None]
    return float(total.detach()), torch.cat(used)


@contextlib.contextmanager
def _autocast(device: str, dtype: str) -> Iterator[None]:
    with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
        yield
