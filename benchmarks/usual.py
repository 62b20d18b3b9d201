"""Fine-tuning as it is usually written: a script for one score, by transformers' Trainer.

Started by `benchmarks/suite.py`, which says what it is compared with.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset
from transformers import Trainer, TrainingArguments

from benchmarks.suite import HEAD, SEED, SETTINGS, keep
from models.checkpoints import load_classifier
from tasks.data.made_tasks import make_split
from tasks.data.task_data import SELECTION_MAX, SELECTION_MIN, SELECTION_SHARE
from tasks.data.tokenizers import CONCEPT_TOKENS, load_tokenizer
from tasks.scores.intervals import bootstrap_interval
from tasks.scores.metrics import METRICS
from tasks.spec.benchmarks import TASKS, Task


def read(task: Task, split: str, mirror: Path | None) -> Dataset:
    """A split with the columns a, b and label."""
    if mirror is None:
        return Dataset.from_dict(made(task, split))
    found = load_dataset(str(mirror / task.dataset), task.config, split=split)
    a, b = task.text_columns
    return found.rename_columns({a: "a", b: "b"})


def made(task: Task, split: str) -> dict[str, list[Any]]:
    """Generated rows, as columns."""
    columns, (a, b) = make_split(task.name, split), task.text_columns
    return {"a": columns[a], "b": columns[b], "label": columns[task.label_column]}


def fine_tune(name: str, number: int, place: Path, seed: int, mirror: Path | None, count: int, epochs: float) -> None:
    """Train, choose the epoch and score one split; keeps the predictions."""
    checkpoint = place / "checkpoint"
    task, length = TASKS[name], int(SETTINGS["max_length"])
    split, metric = task.eval_splits[number], METRICS[task.primary_metric]
    tokenizer = load_tokenizer(checkpoint, CONCEPT_TOKENS)

    def tokenise(rows: dict[str, list[Any]]) -> dict[str, Any]:
        return dict(tokenizer(rows["a"], rows["b"], truncation=True, padding="max_length", max_length=length))

    train = read(task, "train", mirror)
    train = train.select(range(min(count, len(train)))).map(tokenise, batched=True)
    scored = read(task, split.name, mirror).map(tokenise, batched=True)
    held_out = min(max(round(SELECTION_SHARE * len(train)), SELECTION_MIN), SELECTION_MAX, len(train) // 2)
    parts = train.train_test_split(test_size=held_out, seed=seed)
    model, _ = load_classifier(checkpoint, HEAD, task.num_outputs)

    def answers(logits: np.ndarray) -> np.ndarray:
        return logits[:, 0].astype(np.float64) if task.is_regression else logits.argmax(axis=1)

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            TrainingArguments(
                folder,
                num_train_epochs=epochs,
                per_device_train_batch_size=int(SETTINGS["global_batch_size"]),
                per_device_eval_batch_size=128,
                learning_rate=SETTINGS["learning_rate"],
                warmup_steps=0.06,
                weight_decay=0.01,
                eval_strategy="epoch",
                save_strategy="epoch",
                load_best_model_at_end=True,
                metric_for_best_model="score",
                seed=seed,
                use_cpu=True,
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=parts["train"],
            eval_dataset=parts["test"],
            compute_metrics=lambda found: {"score": metric.compute(found.label_ids, answers(found.predictions))},
        )
        trainer.train()
        found = trainer.predict(scored)
    labels, predictions = np.asarray(found.label_ids), answers(np.asarray(found.predictions))
    low, high = bootstrap_interval(task.primary_metric, labels, [predictions])
    print(f"{split.label}: {metric.compute(labels, predictions):.3f} ({low:.3f} to {high:.3f})", file=sys.stderr)
    keep(place, "usual", split.label, seed - SEED, labels, predictions)


if __name__ == "__main__":
    _, _, place, number, epochs, root, task, split, count = sys.argv
    mirror = Path(root) if root else None
    fine_tune(task, int(split), Path(place), SEED + int(number), mirror, int(count), float(epochs))
