"""One fine-tuning job in its own process: train, choose the epoch, predict every split once.

Legend: B batch, N tokens of the longest pair in a batch.
"""

import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.checkpoints import CheckpointError, load_classifier
from tasks.benchmarks import TASKS
from tasks.errors import StageError
from tasks.scores import METRICS
from tasks.specs import CellProtocol
from tasks.task_data import load_examples, special_ids
from tasks.worker import report_progress

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
    examples: dict[str, np.ndarray], indices: np.ndarray, pad_token_id: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask [B, N], labels [B], padded to the longest pair of the batch."""
    offsets = examples["offsets"]
    longest = int((offsets[indices + 1] - offsets[indices]).max())
    input_ids = np.full((len(indices), longest), pad_token_id, dtype=np.int64)
    mask = np.zeros((len(indices), longest), dtype=np.int64)
    for row, index in enumerate(indices):
        ids = examples["ids"][offsets[index] : offsets[index + 1]]
        input_ids[row, : len(ids)], mask[row, : len(ids)] = ids, 1
    return {
        "input_ids": torch.from_numpy(input_ids).to(device),
        "attention_mask": torch.from_numpy(mask).to(device),
        "labels": torch.from_numpy(examples["labels"][indices]).to(device),
    }


def run_finetuning(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Fine-tune one model on one task with one seed; returns the fields of a CellResult."""
    started = time.monotonic()
    task, protocol, seed = TASKS[job["task"]], CellProtocol.model_validate(job["protocol"]), int(job["seed"])
    data = Path(job["data"])
    device = torch.device(job["device"])
    pad = special_ids(data)["pad_token_id"]
    train, selection = load_examples(data, "train"), load_examples(data, "selection")
    torch.manual_seed(seed)
    try:
        model, report = load_classifier(
            Path(job["checkpoint"]), job["head"], task.num_outputs, random_start=job["start"] == "random"
        )
    except CheckpointError as error:
        raise StageError(str(error)) from error
    torch.nn.Module.to(model, device)  # transformers wraps its own `to` in a way that hides its types
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
    losses: list[float] = []
    for step, batch_indices in enumerate(_batches(lengths, protocol.global_batch_size, seed, steps), start=1):
        model.train()
        batch = make_batch(train, batch_indices, pad, device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % per_epoch == 0 or step == steps:
            if not math.isfinite(losses[-1]):
                raise StageError(f"the loss is not finite at step {step}; fix: lower evaluation.learning_rate")
            predictions = _predict(model, selection, pad, device)
            value = metric.compute(selection["labels"], _answers(predictions, task.is_regression))
            mean_loss = float(np.mean(losses[-per_epoch:]))
            history.append({"epoch": step / per_epoch, "train_loss": mean_loss, task.primary_metric: value})
            report_progress(step=step, steps=steps, epoch=step / per_epoch, loss=mean_loss, selection=value)
            if best is None or value > best[0]:
                best = (value, step, copy.deepcopy({k: v.detach().cpu() for k, v in model.state_dict().items()}))
    assert best is not None
    model.load_state_dict(best[2])
    paths = {}
    for split in task.eval_splits:
        examples = load_examples(data, f"eval-{split.label}")
        outputs = _predict(model, examples, pad, device)
        paths[split.label] = folder / f"predictions-{split.label}.parquet"
        _write_predictions(paths[split.label], examples["labels"], outputs, task.is_regression)
    return {
        "task": task.name,
        "seed": seed,
        "start": job["start"],
        "status": "complete",
        "predictions": paths,
        "history": history,
        "best_epoch": best[1] / per_epoch,
        "train_examples": len(lengths),
        "loaded_weights": len(report.loaded),
        "new_weights": report.new if job["start"] == "checkpoint" else ["all"],
        "seconds": time.monotonic() - started,
    }


def _batches(lengths: np.ndarray, batch_size: int, seed: int, steps: int) -> Iterator[np.ndarray]:
    epoch = done = 0
    while True:
        for batch in length_grouped_batches(lengths, batch_size, np.random.default_rng((seed, epoch))):
            if done == steps:
                return
            yield batch
            done += 1
        epoch += 1


@torch.no_grad()
def _predict(model: torch.nn.Module, examples: dict[str, np.ndarray], pad: int, device: torch.device) -> np.ndarray:
    """Logits [n, num_labels] in float32, in the order of the examples."""
    model.eval()
    lengths = np.diff(examples["offsets"])
    order = np.argsort(-lengths, kind="stable")
    outputs: list[np.ndarray] = []
    for start in range(0, len(order), EVAL_BATCH_SIZE):
        batch = make_batch(examples, order[start : start + EVAL_BATCH_SIZE], pad, device)
        batch.pop("labels")
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            outputs.append(model(**batch).logits.float().cpu().numpy())
    logits = np.concatenate(outputs)
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
    part = path.with_suffix(".part")
    pq.write_table(pa.table(columns), part)
    part.replace(path)
