"""The order in which the cells of a fan-out start, and what they are foretold to take."""

from pathlib import Path
from typing import Any

import pytest

from flows.fan_out import Column, Evaluation, _foretell
from models.weight_files import weights_size
from tasks.data.task_data import PreparedTask
from tasks.jobs.devices import Device
from tasks.jobs.history import Work
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.pretraining import DataSpec
from tasks.store.files import write_json
from tasks.store.home import Home, claim_run
from tasks.store.records import Checkpoint, load_record
from tests.factories import make_checkpoint, make_record

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
    put_past(home, checkpoint)
    assert order(evaluation(), checkpoint) == from_checkpoint("paws", "qqp", "mnli", "stsb", "mrpc")


PAST = {"mnli": 50.0, "qqp": 70.0, "paws": 900.0, "mrpc": 5.0, "stsb": 6.0}


def put_past(home: Home, checkpoint: Checkpoint, head: str = "via_decoder") -> None:
    for task, seconds in PAST.items():
        folder = home.root / "runs" / "before" / "finetuning" / f"{task}-seed42-checkpoint"
        folder.mkdir(parents=True)
        size = weights_size(checkpoint.folder)
        work = Work(kind="finetuning", size=size, tokens=TOKENS[task], task=task, head=head)
        write_json(folder / "job.json", {"identity": "x", "device": "cpu", "work": work.model_dump()})
        write_json(folder / "result.json", {"identity": "x", "seconds": seconds})


@pytest.mark.parametrize("devices", [1, 2])
def test_the_fan_out_is_foretold_by_past_cells_alone(
    home: Home, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    monkeypatch.setattr("tasks.forecast.foretold.visible_devices", lambda: (Device("cpu", "0", 1),) * devices)
    run = claim_run(home, "new")
    record = make_record(run_id=run.run_id, head="via_decoder", forecast={})
    _foretell(evaluation(), checkpoint, record, run)
    assert record.forecast == {}, "nothing like it was done: the work alone tells an order, no time"
    put_past(home, checkpoint)
    _foretell(evaluation(), checkpoint, record, run)
    assert record.forecast == {"finetuning": pytest.approx(sum(PAST.values()) if devices == 1 else 900.0)}
    assert load_record(run).forecast == record.forecast
    again = make_record(run_id=run.run_id, head="via_decoder", forecast={})
    write_json(run.cell("mrpc", 42, "checkpoint") / "result.json", {})
    _foretell(evaluation(), checkpoint, again, run)
    assert again.forecast == {}, "a part is done: the rest would be held against the whole"


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
