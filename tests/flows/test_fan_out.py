"""The order in which the cells of a fan-out start."""

from pathlib import Path
from typing import Any

import pytest

from flows.fan_out import Column, Evaluation
from models.weight_files import weights_size
from tasks.data.task_data import PreparedTask
from tasks.jobs.history import Work
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.pretraining import DataSpec
from tasks.store.files import write_json
from tasks.store.home import Home
from tasks.store.records import Checkpoint
from tests.factories import make_checkpoint

TOKENS = {"mrpc": 200_000, "qqp": 9_000_000, "mnli": 14_000_000, "stsb": 180_000, "paws": 2_500_000}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(1000))
    return make_checkpoint(folder=folder)


def evaluation(**section: Any) -> Evaluation:
    spec = ExperimentSpec(name="test", data=DataSpec(), evaluation={"epochs": 1, **section})  # type: ignore[arg-type]
    tasks = {name: PreparedTask(name, name, Path(), TOKENS[name] // 40, TOKENS[name]) for name in TOKENS}
    return Evaluation(spec, None, tasks)


def order(asked: Evaluation, checkpoint: Checkpoint) -> list[Column]:
    return asked.longest_first(checkpoint, "via_decoder")


def from_checkpoint(*tasks: str) -> list[Column]:
    return [(task, "checkpoint") for task in tasks]


def test_the_longest_start_first_by_their_text(home: Home, checkpoint: Checkpoint) -> None:
    assert order(evaluation(), checkpoint) == from_checkpoint("mnli", "qqp", "paws", "mrpc", "stsb")
    many_epochs = evaluation(per_task={"stsb": {"epochs": 100}})
    assert order(many_epochs, checkpoint) == from_checkpoint("stsb", "mnli", "qqp", "paws", "mrpc")


def test_the_longest_start_first_by_what_was_measured(home: Home, checkpoint: Checkpoint) -> None:
    """PAWS took longest in an earlier run of this home, whatever its text makes one think."""
    for task, seconds in {"mnli": 50.0, "qqp": 70.0, "paws": 900.0, "mrpc": 5.0, "stsb": 6.0}.items():
        folder = home.root / "runs" / "before" / "finetuning" / f"{task}-seed42-checkpoint"
        folder.mkdir(parents=True)
        size = weights_size(checkpoint.folder)
        work = Work(kind="finetuning", size=size, tokens=TOKENS[task], task=task, head="via_decoder")
        write_json(folder / "job.json", {"identity": "x", "device": "cpu", "work": work.model_dump()})
        write_json(folder / "result.json", {"identity": "x", "seconds": seconds})
    assert order(evaluation(), checkpoint) == from_checkpoint("paws", "qqp", "mnli", "stsb", "mrpc")


def test_what_others_start_from_comes_first_and_they_last(home: Home, checkpoint: Checkpoint) -> None:
    asked = evaluation(
        random_start=True,
        tasks=("mrpc", "qqp", "mnli"),
        per_task={"mrpc": {"start_from": "mnli"}, "mnli": {"epochs": 0.1}},
    )
    assert order(asked, checkpoint) == [
        ("mnli", "checkpoint"),
        ("qqp", "checkpoint"),
        ("qqp", "random"),
        ("mnli", "random"),
        ("mrpc", "random"),
        ("mrpc", "checkpoint"),
    ]
