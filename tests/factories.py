"""Small made results for tests: whole records without a run."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from models.family import IGNORE_INDEX
from tasks.finetuning.scoring import score_split
from tasks.jobs.messages import AnalysisJob, FinetuningJob, Job, PretrainingJob
from tasks.spec.experiment import ExperimentSpec, TrackingSpec
from tasks.spec.pretraining import DataSpec
from tasks.store.home import Home
from tasks.store.records import (
    AnalysisResult,
    CellResult,
    Checkpoint,
    CorpusResult,
    Environment,
    PretrainingResult,
    RunRecord,
    Score,
    StageRecord,
)


def labels_of(batch: dict[str, Any]) -> torch.Tensor:
    """The labels [B, N] of a batch of the loader, put back to where they stand in the text."""
    shape, located = batch["input_ids"].shape, batch["labels"]
    flat = located.positions + torch.arange(shape[0])[:, None] * shape[1]
    labels, real = torch.full(shape, IGNORE_INDEX), located.weights > 0
    labels.view(-1)[flat.flatten()[located.chosen[real]]] = located.targets[real]
    return labels


RUN_ID = "perceiver_mlm_H512L6C128_20260301_120000"


def make_home(root: Path) -> Home:
    """A home whose folders are there, as after a first run."""
    home = Home(root)
    home.create()
    return home


def make_score(task: str = "mrpc", value: float | None = 0.822, floor: float = 0.812, **changes: Any) -> Score:
    """A primary score of a checkpoint; correlation for stsb, accuracy for mnli and paws, F1 for the rest."""
    metrics = {"stsb": "pearson", "mnli-m": "accuracy", "mnli-mm": "accuracy", "paws": "accuracy"}
    fields: dict[str, Any] = {
        "task": task,
        "metric": metrics.get(task, "f1"),
        "primary": True,
        "start": "checkpoint",
        "value": value,
        "interval": None if value is None else (value - 0.03, value + 0.02),
        "n": 408,
        "seed_values": {} if value is None else {42: value},
        "sd": None,
        "floor": floor,
        "floor_name": "majority",
        "overlap_baseline": None,
        "above_floor": value is not None and value - 0.03 > floor,
    }
    return Score(**fields | changes)


def make_corpus(**changes: Any) -> CorpusResult:
    fields: dict[str, Any] = {
        "corpus_id": "0123456789abcdef",
        "folder": Path("corpus"),
        "tokenizer": Path("tokenizer"),
        "tokenizer_name": "answerdotai/ModernBERT-base",
        "dataset": "JeanKaddour/minipile",
        "source_fingerprint": "f00d",
        "blocks": "concat",
        "block_tokens": 512,
        "vocab_size": 50368,
        "train_documents": 990,
        "train_blocks": 1000,
        "train_tokens": 512_000,
        "held_out_documents": 10,
        "held_out_blocks": 10,
        "held_out_tokens": 5120,
        "bytes_per_token": 4.2,
        "unigram_entropy_nats": 7.25,
        "seconds": 1.0,
    }
    return CorpusResult(**fields | changes)


def make_pretraining(**changes: Any) -> PretrainingResult:
    fields: dict[str, Any] = {
        "model": Path("model"),
        "steps": 100,
        "epochs": 20.0,
        "train_loss": 3.9,
        "eval_loss": 4.01,
        "curve": Path("curve.jsonl"),
        "steps_per_second": 2.1437,
        "tokens_per_second": 70_000.0,
        "processes": 1,
        "device": "cpu",
        "precision": "fp32",
        "parameters": 36_000_000,
        "wandb_url": None,
        "seconds": 60.0,
    }
    return PretrainingResult(**fields | changes)


def make_environment(**changes: Any) -> Environment:
    fields: dict[str, Any] = {
        "machine": "testbench",
        "platform": "Linux",
        "python": "3.11",
        "gpus": [],
        "git_commit": "54ee870c0ffee0123456789abcdef0123456789a",
        "git_dirty": False,
        "git_tag": None,
        "versions": {},
    }
    return Environment(**fields | changes)


def make_checkpoint(**changes: Any) -> Checkpoint:
    fields: dict[str, Any] = {
        "name": RUN_ID,
        "folder": Path("checkpoint"),
        "origin": "run",
        "weights_sha256": "0" * 64,
        "variant": "perceiver_mlm",
    }
    return Checkpoint(**fields | changes)


def make_analysis(**changes: Any) -> AnalysisResult:
    fields: dict[str, Any] = {
        "figures": {"nuclear_rank_of_mean": 15.94, "effective_rank_per_sample_mean": 33.333},
        "samples": 64,
        "num_concepts": 128,
        "plots": {},
        "seconds": 1.0,
    }
    return AnalysisResult(**fields | changes)


def make_record(**changes: Any) -> RunRecord:
    """The record of a complete training run; `kind="evaluation"` gives one that evaluated its checkpoint."""
    fields: dict[str, Any] = {
        "kind": "training",
        "run_id": RUN_ID,
        "name": "test",
        "status": "complete",
        "created": datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC),
        "spec": ExperimentSpec(name="test", data=DataSpec()).model_dump(mode="json"),
        "pretraining_identity": "a" * 16,
        "evaluation_identity": "b" * 16,
        "environment": make_environment(),
        "stages": {"pretraining": StageRecord(status="complete", seconds=60.0)},
        "head": "via_decoder",
        "corpus": make_corpus(),
        "pretraining": make_pretraining(),
        "scores": [make_score(), make_score("qqp", 0.615, 0.528), make_score("stsb", 0.627, 0.0)],
        "analysis": make_analysis(),
    }
    if changes.get("kind") == "evaluation":
        fields |= {"run_id": "eval_perceiver_mlm_20260301_120000", "checkpoint": make_checkpoint(), "pretraining": None}
    return RunRecord(**fields | changes)


def put_scored_run(
    home: Home, run_id: str, references: np.ndarray, answers: dict[int, np.ndarray], task: str = "mrpc", **changes: Any
) -> RunRecord:
    """A run of one task with stored predictions and scores, without a training.

    Args:
        answers: predictions [n] by seed.
    """
    run, cells = home.run(run_id), []
    for seed, predictions in answers.items():
        path = run.cell(task, seed, "checkpoint") / f"predictions-{task}.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"label": references, "prediction": predictions}), path)
        cells.append(CellResult(task=task, seed=seed, start="checkpoint", status="complete", predictions={task: path}))
    scores = score_split(task, cells, references, answers, {})
    record = make_record(**{"run_id": run_id, "cells": cells, "scores": scores} | changes)
    record.save(run)
    return record


def job_without_inputs(kind: str, folder: Path, *, wandb: str = "disabled") -> Job[Any]:
    """A job of a kind that starts as any other, and fails since nothing of what it names is there."""
    spec = ExperimentSpec(name="test", data=DataSpec(), tracking=TrackingSpec(wandb=wandb))  # type: ignore[arg-type]
    gone = folder / "gone"
    if kind == "pretraining":
        return PretrainingJob(
            identity="x",
            spec=spec,
            run_id="test",
            corpus=gone,
            config={},
            init_from=None,
            unigram_entropy=1.0,
            processes=1,
            tracking_folder=gone,
        )
    if kind == "analysis":
        ids = {"pad_token_id": 0}
        return AnalysisJob(
            identity="x", checkpoint=gone, corpus=gone, special_token_ids=ids, max_samples=1, batch_size=1
        )
    return FinetuningJob(
        identity="x",
        task="mrpc",
        seed=1,
        start="checkpoint",
        head="via_decoder",
        checkpoint=gone,
        family="concept",
        precision="fp32",
        start_from=None,
        data=gone,
        protocol=spec.evaluation.for_task("mrpc"),
    )
