"""The five fine-tuning tasks of the lab end to end: CPU-seconds of all processes, and scores, against the usual way.

The usual way (`benchmarks/usual.py`) is a process for each score, which imports its libraries, pads every pair to 128
tokens and trains by transformers' Trainer; for the two scores of MNLI it trains twice. Ours is a training of each task,
forked from one process, in batches of pairs of like length. Both fine-tune the same new weights of one model of H128 L2
C32 on the same rows, in the proportion of the real tasks, with another seed in each round, and choose the epoch on rows
held out of them. Tasks are those of the data root (COGITO_DATA_ROOT), or, without one, generated. Scores are means over
the rounds, with 95 % intervals over examples.
"""

import ctypes
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.measuring import ENVIRONMENT, ratio, spread
from tasks.data.sources import resolve_data_root
from tasks.scores.intervals import bootstrap_interval
from tasks.scores.metrics import METRICS
from tasks.spec.benchmarks import TASKS

TITLE = "The fine-tuning suite"
# Rows of each task to train on: in the proportion of GLUE and PAWS (3,668, 363,846, 392,702, 5,749 and 49,401), but a
# thousand at least; rows of a split to score on at most; epochs; rounds.
ROWS = {"mrpc": 1000, "qqp": 7412, "mnli": 8000, "stsb": 1000, "paws": 1006}
SIZE, QUICK = (ROWS, 2000, 3, 3), ({"mnli": 100}, 100, 1, 1)
SETTINGS = {"global_batch_size": 64, "learning_rate": 5e-4, "max_length": 128}
HEAD, SEED = "via_decoder", 42
ROOT = Path(__file__).resolve().parents[1]
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


def rows(quick: bool) -> list[dict[str, Any]]:
    """A row for the CPU-seconds, and one for each score."""
    sizes, scored, epochs, rounds = QUICK if quick else SIZE
    usual = [(name, split) for name in sizes for split in range(len(TASKS[name].eval_splits))]
    mirror = None if quick else resolve_data_root(None)
    seconds: dict[str, list[float]] = {"ours": [], "usual": []}
    # Processes whose parent ended become ours, so that their time is counted.
    prctl, known = ctypes.CDLL(None).prctl, set(psutil.Process().children())
    prctl(_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if mirror is not None:
            shorten(sizes, scored, mirror, folder / "mirror")
        given = (epochs, folder / "mirror" if mirror else "")
        _run("checkpoint", folder, 0, *given)
        for number in range(rounds):
            for way in ("ours", "usual")[:: 1 if number % 2 else -1]:
                before = _cpu_seconds()
                for task, split in usual if way == "usual" else [(",".join(sizes), 0)]:
                    _run(way, folder, number, *given, task, split, sizes.get(task, max(sizes.values())))
                _wait_for_all(known)
                seconds[way].append(_cpu_seconds() - before)
                print(f"round {number}, {way}: {seconds[way][-1]:.0f} CPU-seconds", file=sys.stderr, flush=True)
        prctl(_SUBREAPER, 0, 0, 0, 0)
        total = {"": "CPU-seconds", "ours": spread(seconds["ours"]), "usual": spread(seconds["usual"])}
        table: list[dict[str, Any]] = [total | {"ratio": ratio(seconds["usual"], seconds["ours"]), "intervals": ""}]
        for task, number in usual:
            label, metric = TASKS[task].eval_splits[number].label, TASKS[task].primary_metric
            own, other = (_score(folder, way, label, metric, rounds) for way in ("ours", "usual"))
            meet = "overlap" if max(own[1], other[1]) <= min(own[2], other[2]) else "apart"
            table.append({"": f"{label}, {metric}", "ours": own, "usual": other, "ratio": None, "intervals": meet})
    return table


def shorten(sizes: Mapping[str, int], scored: int, mirror: Path, folder: Path) -> None:
    """A mirror of the first rows of every split, so that both ways read the same ones."""
    import pyarrow.parquet as pq

    for name, size in sizes.items():
        place = Path(TASKS[name].dataset, TASKS[name].config or "")
        (folder / place).mkdir(parents=True)
        readme = mirror / TASKS[name].dataset / "README.md"
        if readme.exists():
            shutil.copy(readme, folder / TASKS[name].dataset)
        for file in (mirror / place).glob("*.parquet"):
            table = pq.read_table(file)
            pq.write_table(
                table.slice(0, size if file.name.startswith("train") else scored), folder / place / file.name
            )


def keep(folder: Path, way: str, label: str, number: object, labels: np.ndarray, predictions: np.ndarray) -> None:
    """Keep the labels and predictions of a split."""
    np.save(folder / f"{way}-{label}-{number}.npy", np.stack([labels, predictions]).astype(np.float64))


def _score(folder: Path, way: str, label: str, metric: str, rounds: int) -> tuple[float, float, float]:
    """The mean score over the rounds, with its interval."""
    found = [np.load(folder / f"{way}-{label}-{number}.npy") for number in range(rounds)]
    value = float(np.mean([METRICS[metric].compute(labels, predictions) for labels, predictions in found]))
    return value, *bootstrap_interval(metric, found[0][0], [predictions for _, predictions in found])


def _run(way: str, folder: Path, *arguments: object) -> None:
    module = "benchmarks.usual" if way == "usual" else "benchmarks.suite"
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT), "HF_HOME": f"{folder}/cache"}
    subprocess.run([sys.executable, "-m", module, way, *map(str, (folder, *arguments))], env=environment, check=True)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _wait_for_all(known: set[psutil.Process]) -> None:
    """Until the process that forks jobs has ended too."""
    while started := set(psutil.Process().children()) - known:
        for child in started:
            os.waitpid(child.pid, 0)


def make_checkpoint(folder: Path) -> None:
    """A model with new weights, and a tokenizer of the documentation of Python."""
    import torch

    from models.autoencoder import ConceptModelForMaskedLM
    from models.checkpoints import save_checkpoint
    from models.configuration import ConceptConfig
    from tasks.data.corpus import load_tokenizer, train_tokenizer
    from tasks.data.python_docs import iterate_documents

    torch.manual_seed(0)
    train_tokenizer((text for _, text in zip(range(4000), iterate_documents(), strict=False)), 4096, folder)
    tokenizer = load_tokenizer(folder)
    config = ConceptConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_concepts=32,
        num_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_sequence_length=128,
        pad_token_id=tokenizer.pad_token_id,
    )
    weights = folder / "weights"
    save_checkpoint(ConceptModelForMaskedLM(config), weights)
    for path in weights.iterdir():
        path.rename(folder / path.name)
    weights.rmdir()


def ours(names: Sequence[str], folder: Path, number: int, epochs: float, mirror: Path | None, count: int) -> None:
    """Prepare, fine-tune and score every task as the product does, in an empty home; keeps the predictions."""
    from tasks.data.task_data import find_task_source, prepare_task
    from tasks.finetuning.cell import Cell
    from tasks.finetuning.scoring import read_predictions, score_task
    from tasks.finetuning.stage import finetune
    from tasks.spec.evaluation import EvaluationSpec
    from tasks.store.files import file_sha256
    from tasks.store.home import Home
    from tasks.store.records import Checkpoint

    data = "hub" if mirror else "made"
    home, model = Home(folder / f"home-{number}"), folder / "checkpoint"
    home.create()
    os.environ["COGITO_HOME"] = str(home.root)
    spec = EvaluationSpec(tasks=tuple(names), data=data, epochs=epochs, max_train_examples=count, **SETTINGS)  # type: ignore[arg-type]
    checkpoint = Checkpoint(
        name="suite",
        folder=model,
        origin="local",
        weights_sha256=file_sha256(model / "model.safetensors"),
        variant="perceiver_mlm",
    )
    run = home.run("suite")
    for name in names:
        protocol = spec.for_task(name)
        source = find_task_source(TASKS[name], data, home, mirror)
        prepared = prepare_task(TASKS[name], protocol, model, source, home)
        cell = finetune(Cell(name, SEED + number, "checkpoint", HEAD, protocol), checkpoint, prepared, run, home)
        score_task([cell], prepared, run)
        for label, file in cell.predictions.items():
            keep(folder, "ours", label, number, *read_predictions(file))


if __name__ == "__main__":
    asked, place, number, epochs, root, *more = sys.argv[1:]
    if asked == "checkpoint":
        make_checkpoint(Path(place) / "checkpoint")
    else:
        data, count = Path(root) if root else None, int(more[2])
        ours(more[0].split(","), Path(place), int(number), float(epochs), data, count)
