"""The table of stages: a row is enough for record, report and console, and what is in no row fails at once."""

import time

import pytest
from factories import make_record

from flows.bookkeeping import note_stage
from flows.commands.listing import print_record
from tasks import stages
from tasks.report.rendering import to_markdown
from tasks.report.run import run_report
from tasks.store import stage_table
from tasks.store.home import Home, claim_run
from tasks.store.records import load_record
from tasks.store.stage_table import STAGES, Stage, in_order, recorded_stages


def test_every_row_has_a_task_and_every_task_a_row() -> None:
    rows = {value.fn.__wrapped__.row for value in vars(stages).values() if hasattr(value, "fn")}
    assert rows == set(STAGES)


def test_a_new_row_is_seen_in_record_report_and_console(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["data", "pretraining", "publishing", "finetuning", "probing", "analysis", "scores", "row", "report"]
    monkeypatch.setattr(stage_table, "STAGES", {name: STAGES.get(name, Stage()) for name in names})
    run = claim_run(home, "probed")
    record = make_record(run_id=run.run_id, status="running", stages={}, analysis=None)
    record.save(run)
    assert "probing" in to_markdown(run_report(run)), "the report names it among the stages that were not reached"
    for name, problem in (("analysis", None), ("probing", "no probe"), ("finetuning", None)):
        note_stage(record, name, time.monotonic(), None, problem)
    record.save(run)
    assert list(load_record(run).stages) == ["finetuning", "probing", "analysis"]
    assert "no probe" in to_markdown(run_report(run))
    print_record(record, run, home.root / "log.md")
    assert "probing failed: no probe" in capsys.readouterr().out


def test_what_is_in_no_row_fails_at_once() -> None:
    with pytest.raises(KeyError, match=r"unknown stage 'probing'.*allowed: analysis, data"):
        stages.stage("probing", "probe")
    record = make_record(stages={})
    with pytest.raises(KeyError, match="unknown stage 'fine-tuning': did you mean 'finetuning'"):
        note_stage(record, "fine-tuning", time.monotonic(), None, None)
    assert record.stages == {}


def test_a_stage_of_another_version_keeps_its_record() -> None:
    assert in_order(["gone", "analysis", "data"]) == ["data", "analysis", "gone"]
    assert recorded_stages("evaluation") == ["finetuning", "analysis"]
