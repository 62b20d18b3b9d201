"""The launch side of pretraining: what is asked of the ranks, where it lies, whether it was done before."""

import logging
import math
from pathlib import Path
from typing import Any

from models.variants import VARIANTS
from tasks.errors import UserError
from tasks.launch import OnProgress, claimed_job, run_job
from tasks.leases import lease_for_training, visible_devices
from tasks.records import CorpusResult, PretrainingResult
from tasks.run_folder import Home, RunFolder, content_hash, is_complete
from tasks.specs import ExperimentSpec, pretraining_part

log = logging.getLogger("cogito.pretraining")

# Raise when the same spec would train other weights, and when a default of the spec changes.
CONTRACT_VERSION = 1


def pretraining_identity(spec: ExperimentSpec, data_identity: str) -> str:
    """What a run id names: data, model, objective and training, and nothing of where or when."""
    return content_hash([CONTRACT_VERSION, data_identity, pretraining_part(spec)])


def model_config(spec: ExperimentSpec, vocab_size: int, run_id: str | None, special: dict[str, int]) -> dict[str, Any]:
    """The arguments of `models.configuration.ConceptConfig` for a spec."""
    model, variant = spec.model, VARIANTS[spec.model.variant]
    return {
        "vocab_size": vocab_size,
        "hidden_size": model.hidden_size,
        "token_embedding_dim": model.token_embedding_dim,
        "num_concepts": model.num_concepts,
        "num_layers": model.num_layers,
        "num_attention_heads": model.attention_heads,
        "intermediate_size": model.intermediate_size,
        "max_sequence_length": spec.max_sequence_length,
        "hidden_dropout_prob": model.hidden_dropout_prob,
        "attention_probs_dropout_prob": model.attention_probs_dropout_prob,
        "concept_position_type": model.concept_position_type,
        "use_bixt": model.use_bixt,
        "recursive": model.recursive,
        "initializer_range": model.initializer_range,
        "decoder": variant.decoder,
        "num_decoder_layers": model.decoder_layers,
        "head": variant.default_head,
        "variant": variant.name,
        "run_id": run_id,
        "tie_word_embeddings": model.tied,
        **special,
    }


def pretrain(
    spec: ExperimentSpec,
    corpus: CorpusResult,
    run: RunFolder,
    home: Home,
    *,
    processes: int | None = None,
    on_progress: OnProgress | None = None,
) -> PretrainingResult:
    """Train the model of a run to the end, continue it, or find it finished.

    Args:
        processes: number of processes; None takes every GPU, or one process on a CPU.
        on_progress: called with the figures of every progress line.

    Raises:
        UserError: more processes than GPUs or than sequences of a step.
        StageError: training failed.
    """
    identity = pretraining_identity(spec, corpus.corpus_id)
    with claimed_job(run.pretraining, identity, home) as done:
        # A model that is no longer whole is written again from the last training state.
        if done is not None and is_complete(Path(done["model"])):
            return PretrainingResult.model_validate({**done, "reused": True})
        return _train(spec, corpus, run, home, identity, processes, on_progress)


def training_steps(spec: ExperimentSpec, train_blocks: int) -> int:
    """Optimiser steps of a whole training."""
    steps = math.ceil(spec.training.epochs * train_blocks / spec.training.global_batch_size)
    return min(steps, spec.training.max_steps or steps)


def warmup_steps(spec: ExperimentSpec, steps: int) -> int:
    """Steps of a rising learning rate: those asked for, at most half of the training."""
    return min(spec.training.warmup_steps, steps // 2)


def _train(
    spec: ExperimentSpec,
    corpus: CorpusResult,
    run: RunFolder,
    home: Home,
    identity: str,
    processes: int | None,
    on_progress: OnProgress | None,
) -> PretrainingResult:
    devices = visible_devices()
    on_gpu = devices[0].kind == "cuda"
    count = processes or (len(devices) if on_gpu else 1)
    if on_gpu and count > len(devices):
        raise UserError(f"--processes {count}: this machine has {len(devices)} GPUs")
    if count > spec.training.global_batch_size:
        raise UserError(f"--processes {count}: more than training.global_batch_size {spec.training.global_batch_size}")
    steps = training_steps(spec, corpus.train_blocks)
    if warmup_steps(spec, steps) < spec.training.warmup_steps:
        log.warning(
            "training.warmup_steps %d exceeds half of the %d steps: warming up for %d",
            spec.training.warmup_steps, steps, warmup_steps(spec, steps),
        )  # fmt: skip
    with lease_for_training(home, count) as leased:
        job = {
            "kind": "pretraining",
            "identity": identity,
            "spec": spec.model_dump(mode="json"),
            "run_id": run.run_id,
            "corpus": corpus.folder,
            "objective": VARIANTS[spec.model.variant].objective,
            "config": model_config(spec, corpus.vocab_size, run.run_id, corpus.special_token_ids),
            "processes": count,
            "device": leased[0].kind,
            "tracking_folder": run.root / "wandb",
        }
        result = run_job(run.pretraining, job, leased, launcher=True, on_progress=on_progress)
    return PretrainingResult.model_validate(result)
