"""The five fine-tuning tasks of the lab end to end: CPU-seconds of all processes, and scores, against the usual way.

The usual way (`benchmarks/usual.py`) is a process for each score, which imports its libraries, pads every pair to 128
tokens and trains by transformers' Trainer; for the two scores of MNLI it trains twice. Ours is a training of each task,
forked from one process, in batches of pairs of like length. Both fine-tune the same new weights of one model of H128 L2
C32, on as many rows of train, and choose the epoch on as many others. Tasks are those of the data root
(COGITO_DATA_ROOT), or, without one, generated. Scores are of the last round, with their 95 % intervals.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measuring import ENVIRONMENT, ratio, spread
from tasks.data.sources import resolve_data_root
from tasks.spec.benchmarks import TASKS

TITLE = "The fine-tuning suite"
TASK_NAMES = ("mrpc", "qqp", "mnli", "stsb", "paws")
# Tasks, rows of each to train on at most, epochs, rounds.
SIZE, QUICK = (TASK_NAMES, 2000, 2, 3), (("mnli",), 100, 1, 1)
SETTINGS = {"global_batch_size": 64, "learning_rate": 5e-4, "max_length": 128}
HEAD = "via_decoder"
ROOT = Path(__file__).resolve().parents[1]
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


def rows(quick: bool) -> list[dict[str, Any]]:
    """A row for the CPU-seconds, and one for each score."""
    names, count, epochs, rounds = QUICK if quick else SIZE
    usual = [(name, split) for name in names for split in range(len(TASKS[name].eval_splits))]
    mirror = None if quick else resolve_data_root(None)
    seconds: dict[str, list[float]] = {"ours": [], "usual": []}
    scores: dict[str, dict[str, Any]] = {"ours": {}, "usual": {}}
    # Processes whose parent ended become ours, so that their time is counted.
    prctl, known = ctypes.CDLL(None).prctl, set(psutil.Process().children())
    prctl(_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        given = (count, epochs, mirror or "")
        _run("checkpoint", folder, 0, *given)
        for number in range(rounds):
            for way in ("ours", "usual")[:: 1 if number % 2 else -1]:
                before = _cpu_seconds()
                for task, split in usual if way == "usual" else [(",".join(names), 0)]:
                    scores[way] |= _run(way, folder, number, *given, task, split)
                _wait_for_all(known)
                seconds[way].append(_cpu_seconds() - before)
    prctl(_SUBREAPER, 0, 0, 0, 0)
    total = {"": "CPU-seconds", "ours": spread(seconds["ours"]), "usual": spread(seconds["usual"])}
    table: list[dict[str, Any]] = [total | {"ratio": ratio(seconds["usual"], seconds["ours"]), "intervals": ""}]
    for label, (value, low, high) in scores["ours"].items():
        other, other_low, other_high = scores["usual"][label]
        meet = "overlap" if max(low, other_low) <= min(high, other_high) else "apart"
        row = {"": label, "ours": (value, low, high), "usual": (other, other_low, other_high)}
        table.append(row | {"ratio": None, "intervals": meet})
    return table


def _run(way: str, folder: str, *arguments: object) -> dict[str, Any]:
    module = "benchmarks.usual" if way == "usual" else "benchmarks.suite"
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT), "HF_HOME": f"{folder}/cache"}
    command = [sys.executable, "-m", module, way, folder, *map(str, arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


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


def ours(
    names: Sequence[str], folder: Path, number: str, count: int, epochs: float, mirror: Path | None
) -> dict[str, tuple[float, float, float]]:
    """Prepare, fine-tune and score every task as the product does, in an empty home; value and interval by score."""
    from tasks.data.task_data import find_task_source, prepare_task
    from tasks.finetuning.cell import Cell
    from tasks.finetuning.scoring import score_task
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
    run, found = home.run("suite"), {}
    for name in names:
        protocol = spec.for_task(name)
        source = find_task_source(TASKS[name], data, home, mirror)
        prepared = prepare_task(TASKS[name], protocol, model, source, home)
        cell = finetune(Cell(name, 42, "checkpoint", HEAD, protocol), checkpoint, prepared, run, home)
        for score in score_task([cell], prepared, run):
            if score.primary:
                assert score.value is not None and score.interval is not None
                found[score.task] = (score.value, *score.interval)
    return found


if __name__ == "__main__":
    asked, place, number, count, epochs, root, *more = sys.argv[1:]
    if asked == "checkpoint":
        make_checkpoint(Path(place) / "checkpoint")
        print("{}")
    else:
        data = Path(root) if root else None
        print(json.dumps(ours(more[0].split(","), Path(place), number, int(count), float(epochs), data)))
