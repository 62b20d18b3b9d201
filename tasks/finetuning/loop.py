"""One fine-tuning job in its own process: train, choose the epoch, predict every split once.

Legend: B batch, N tokens of the longest pair in a batch. pyarrow, which loads slowly, is imported where it writes.
"""

import copy
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from models.checkpoints import CheckpointError, LoadReport, load_classifier, save_checkpoint, without_remarks
from models.heads import PairHead
from models.plain import load_plain_classifier
from models.plain_inputs import reads_segments
from tasks.data.task_data import load_examples, padding
from tasks.errors import StageError
from tasks.jobs.messages import FinetuningJob, report_progress
from tasks.scores.metrics import METRICS
from tasks.spec.benchmarks import TASKS, Task
from tasks.store.files import building, replacing, write_manifest
from tasks.store.records import CellResult, Precision

EVAL_BATCH_SIZE = 128
# Pairs of like length are batched together within windows of this many batches.
GROUPING_WINDOW = 20


def length_grouped_batches(lengths: np.ndarray, batch_size: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Shuffled batches of pairs of like length: little padding, yet another order in every epoch."""
    order = generator.permutation(len(lengths))
    window = GROUPING_WINDOW * batch_size
    parts = [order[start : start + window] for start in range(0, len(order), window)]
    order = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[number] for number in generator.permutation(len(batches))]


def make_batch(
    examples: dict[str, np.ndarray],
    indices: np.ndarray,
    pad_token_id: int,
    device: torch.device,
    *,
    apart: bool = False,
    padding_side: str = "right",
) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask [B, N], labels [B], padded to the longest sequence of the batch.

    With `apart` both texts of a pair stand alone, `[CLS] a [SEP]` and `[CLS] b [SEP]`, under names that end in _a, _b.
    Examples with `token_types` also give token_type_ids [B, N].
    """
    offsets = examples["offsets"]

    def rows_of(name: str) -> list[np.ndarray]:
        return [examples[name][offsets[index] : offsets[index + 1]] for index in indices]

    rows = rows_of("ids")
    labels = torch.from_numpy(examples["labels"][indices])
    batch = {"labels": (labels.float() if labels.is_floating_point() else labels).to(device)}
    if not apart:
        batch |= _pad(rows, pad_token_id, device, "", padding_side)
        if "token_types" in examples:
            batch["token_type_ids"] = _pad(rows_of("token_types"), 0, device, "", padding_side)["input_ids"]
        return batch
    firsts = examples["first_lengths"][indices]
    a = [row[:first] for row, first in zip(rows, firsts, strict=True)]
    b = [np.concatenate([row[:1], row[first:]]) for row, first in zip(rows, firsts, strict=True)]
    return batch | _pad(a, pad_token_id, device, "_a") | _pad(b, pad_token_id, device, "_b")


def _pad(
    rows: list[np.ndarray], pad_token_id: int, device: torch.device, suffix: str, side: str = "right"
) -> dict[str, torch.Tensor]:
    tensors = [torch.from_numpy(row.astype(np.int64)) for row in rows]
    input_ids = pad_sequence(tensors, batch_first=True, padding_value=pad_token_id, padding_side=side)
    mask = pad_sequence([torch.ones_like(tensor) for tensor in tensors], batch_first=True, padding_side=side)
    return {f"input_ids{suffix}": input_ids.to(device), f"attention_mask{suffix}": mask.to(device)}


def run_finetuning(job: FinetuningJob, folder: Path) -> CellResult:
    """Fine-tune one model on one task with one seed, or compare its concepts untrained, and predict every split.

    Raises:
        StageError: the checkpoint cannot be loaded, or the loss is not finite.
    """
    started = time.monotonic()
    task, device = TASKS[job.task], torch.device(job.device)
    if job.memory is not None:  # more would be taken from the jobs beside it
        torch.cuda.set_per_process_memory_fraction(job.memory / torch.cuda.get_device_properties(device).total_memory)
    torch.manual_seed(job.seed)
    try:
        model, report = _load(job, task.num_outputs)
    except CheckpointError as error:
        raise StageError(str(error)) from error
    torch.nn.Module.to(model, device)  # transformers wraps its own `to` in a way that hides its types
    if job.start == "zero_shot":
        assert isinstance(model.head, PairHead)
        torch.nn.init.zeros_(model.head.scorer.weight)  # pools by the plain mean over the concepts
        torch.nn.init.zeros_(model.head.scorer.bias)
        training = _Training()
        report_progress(1, 1, epoch=0.0, loss=0.0, selection=0.0)
    else:
        training = _train(model, task, job, device)
    predictions = {}
    for split in task.eval_splits:
        examples = _examples(job.data, f"eval-{split.label}", model)
        output = "cosine" if job.start == "zero_shot" else "logits"
        outputs = _predict(model, examples, padding(job.data), device, job.precision, output)
        predictions[split.label] = folder / f"predictions-{split.label}.parquet"
        _write_predictions(predictions[split.label], examples["labels"], outputs, task.is_regression)
    kept = folder / "model" if job.protocol.keep_model and job.start == "checkpoint" else None
    if kept is not None:
        with building(kept) as part:
            if job.family == "plain":
                without_remarks()(model.save_pretrained)(part)
            else:
                save_checkpoint(model, part)
            write_manifest(part)
    return CellResult(
        **job.model_dump(include={"task", "seed", "start", "start_from", "precision"}),
        status="complete",
        predictions=predictions,
        model=kept,
        loaded_weights=len(report.loaded),
        new_weights=["all"] if job.start == "random" else report.new,
        dropped_weights=report.dropped,
        stored_precision=report.precision,
        notes=report.notes,
        seconds=time.monotonic() - started,
        peak_memory=torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None,
        history=training.history,
        best_epoch=training.best_epoch,
        train_examples=training.examples,
    )


def _load(job: FinetuningJob, num_labels: int) -> tuple[PreTrainedModel, LoadReport]:
    random_start = job.start == "random"
    if job.family == "plain":
        return load_plain_classifier(job.checkpoint, num_labels, random_start=random_start)
    return load_classifier(job.checkpoint, job.head, num_labels, random_start=random_start)


@dataclass(frozen=True)
class _Training:
    """What happened while a cell was trained; nothing for a zero-shot one."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: float | None = None
    examples: int = 0


def _train(model: PreTrainedModel, task: Task, job: FinetuningJob, device: torch.device) -> _Training:
    """Train to the end and leave the model with the weights of its best epoch."""
    protocol, pad = job.protocol, padding(job.data)
    train, selection = _examples(job.data, "train", model), _examples(job.data, "selection", model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=protocol.learning_rate, weight_decay=protocol.weight_decay, fused=True
    )
    lengths = np.diff(train["offsets"])
    per_epoch = math.ceil(len(lengths) / protocol.global_batch_size)
    steps = max(1, math.ceil(protocol.epochs * per_epoch))
    warmup = max(1, round(protocol.warmup_share * steps))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))
    )
    metric = METRICS[task.primary_metric]
    history: list[dict[str, float]] = []
    best: tuple[float, int, dict[str, torch.Tensor]] | None = None
    losses: deque[torch.Tensor] = deque(maxlen=per_epoch)
    for step, batch_indices in enumerate(_batches(lengths, protocol.global_batch_size, job.seed, steps), start=1):
        model.train()
        batch = make_batch(train, batch_indices, device=device, apart=_reads_apart(model), **pad)
        with _computing(job.precision, device):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())  # read at the end of the epoch: no step makes the host wait
        if step % per_epoch == 0 or step == steps:
            read = torch.stack(tuple(losses)).tolist()
            if not math.isfinite(read[-1]):
                raise StageError(f"the loss is not finite at step {step}; fix: lower evaluation.learning_rate")
            predictions = _predict(model, selection, pad, device, job.precision, "logits")
            value = metric.compute(selection["labels"], _answers(predictions, task.is_regression))
            mean_loss = float(np.mean(read))
            history.append({"epoch": step / per_epoch, "train_loss": mean_loss, task.primary_metric: value})
            report_progress(step, steps, epoch=step / per_epoch, loss=mean_loss, selection=value)
            if best is None or value > best[0]:
                best = (value, step, copy.deepcopy({k: v.detach().cpu() for k, v in model.state_dict().items()}))
    assert best is not None
    model.load_state_dict(best[2])
    return _Training(history, best[1] / per_epoch, len(lengths))


def _reads_apart(model: PreTrainedModel) -> bool:
    return isinstance(getattr(model, "head", None), PairHead)


def _examples(data: Path, part: str, model: PreTrainedModel) -> dict[str, np.ndarray]:
    """The arrays of a part, without the token types where the model knows no segments."""
    examples = load_examples(data, part)
    if not reads_segments(model):
        examples.pop("token_types", None)
    return examples


def _batches(lengths: np.ndarray, batch_size: int, seed: int, steps: int) -> Iterator[np.ndarray]:
    generators = (np.random.default_rng((seed, epoch)) for epoch in count())
    epochs = (length_grouped_batches(lengths, batch_size, generator) for generator in generators)
    return islice(chain.from_iterable(epochs), steps)


def _computing(precision: Precision, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16 autocast")


@torch.no_grad()
def _predict(
    model: PreTrainedModel,
    examples: dict[str, np.ndarray],
    pad: dict[str, Any],
    device: torch.device,
    precision: Precision,
    answer: str,
) -> np.ndarray:
    """The model's `logits` [n, num_labels] or `cosine` [n, 1], in float32, in the order of the examples."""
    model.eval()
    lengths = np.diff(examples["offsets"])
    order = np.argsort(-lengths, kind="stable")
    outputs: list[np.ndarray] = []
    for start in range(0, len(order), EVAL_BATCH_SIZE):
        indices = order[start : start + EVAL_BATCH_SIZE]
        batch = make_batch(examples, indices, device=device, apart=_reads_apart(model), **pad)
        batch.pop("labels")
        with _computing(precision, device):
            outputs.append(model(**batch)[answer].float().cpu().numpy())
    logits = np.concatenate(outputs)
    if not np.isfinite(logits).all():  # the largest of NaN is class 0
        raise StageError(f"{answer} of the model are not finite; fix: lower evaluation.learning_rate")
    ordered = np.empty_like(logits)
    ordered[order] = logits
    return ordered


def _answers(logits: np.ndarray, regression: bool) -> np.ndarray:
    return logits[:, 0].astype(np.float64) if regression else logits.argmax(axis=1)


def _write_predictions(path: Path, labels: np.ndarray, logits: np.ndarray, regression: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"index": np.arange(len(labels)), "label": labels, "prediction": _answers(logits, regression)}
    columns |= {f"logit_{number}": logits[:, number] for number in range(logits.shape[1])}
    with replacing(path) as part:
        pq.write_table(pa.table(columns), part)
