"""`cogito runs` lists what is on disk: readable names, the newest first, what differs, and what cannot be read."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from command import ROOT, answer, cogito
from factories import make_checkpoint, make_record, make_score

from flows.commands.runs import age
from tasks.log.check import check_log
from tasks.log.experiment_log import read_log, write_row
from tasks.log.rows import render_row
from tasks.report.swept import swept
from tasks.review.sweeps import compare_runs
from tasks.runs.listing import list_runs
from tasks.store.home import Home
from tasks.store.locks import hold, work_lock
from tasks.store.records import RunRecord, StageRecord

BEGUN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def put(home: Home, number: int, name: str = "test", **changes: object) -> RunRecord:
    """The run of the n-th hour, with its own seed."""
    spec = json.loads(json.dumps(make_record().spec))
    spec["training"]["seed"] = number
    spec |= changes.pop("spec", {})  # type: ignore[arg-type]
    fields = {"run_id": f"run_{number}", "name": name, "spec": spec, "created": BEGUN + timedelta(hours=number)}
    record = make_record(**fields | changes)
    home.run(record.run_id).root.mkdir(exist_ok=True)
    record.save(home.run(record.run_id))
    return record


def test_the_newest_come_first_with_name_scores_and_status(home: Home) -> None:
    scores = [make_score("mrpc", 0.9), make_score("stsb", 0.1, 0.3), make_score("qqp", None)]
    put(home, 1, "first", scores=scores)
    put(home, 2, "second", status="diverged", scores=[])
    put(home, 3, "first", kind="evaluation", checkpoint=make_checkpoint(name="run_1"))
    lines = list_runs(home)
    assert [(line.id, line.kind, line.name, line.status) for line in lines] == [
        ("run_3", "evaluation", "first", "complete"),
        ("run_2", "training", "second", "diverged"),
        ("run_1", "training", "first", "complete"),
    ]
    assert lines[2].scores == {"mrpc": "0.900", "stsb": "0.100 (below floor)", "qqp": "failed"}
    assert not any(line.differs for line in lines), "no two of them are siblings"


def test_siblings_show_what_differs(home: Home) -> None:
    for number in (1, 2, 3):
        put(home, number, "grid", spec={"name": f"grid{number}"})
    put(home, 4, "other")
    differs = {line.id: line.differs for line in list_runs(home)}
    assert differs == {f"run_{number}": {"training.seed": number} for number in (1, 2, 3)} | {"run_4": {}}


def test_the_list_and_the_report_of_a_sweep_name_the_same_keys(home: Home) -> None:
    """Neither names, tracking nor publishing: they change nothing that is computed."""
    specs = [{"name": f"a{n}", "publish": {"store": "local", "repo": f"a{n}"}, "tracking": {"tags": n}} for n in (1, 2)]
    records = [put(home, n, "a", spec=spec) for n, spec in enumerate(specs, start=1)]
    listed = {line.id: dict(line.differs) for line in list_runs(home)}
    assert listed == {"run_1": {"training.seed": 1}, "run_2": {"training.seed": 2}}
    assert swept([(record.name, record) for record in records]).values == listed


def test_the_runs_of_a_sweep_are_siblings_whatever_their_names(home: Home) -> None:
    for number in (1, 2):
        put(home, number, f"wide_seed{number}", pretraining=None)
    compare_runs([(f"wide_seed{n}", f"run_{n}", "done") for n in (1, 2)], home, home.root / "sweeps" / "0a1b")
    (sweep, second, first) = list_runs(home)
    assert (sweep.id, sweep.kind, sweep.name, sweep.runs) == ("0a1b", "sweep", "wide_seed", ("run_1", "run_2"))
    assert (first.differs, second.differs) == ({"training.seed": 1}, {"training.seed": 2})


def test_a_stage_is_named_where_a_run_stands(home: Home) -> None:
    done, failed = StageRecord(status="complete"), StageRecord(status="failed", message="no room")
    put(home, 1, status="failed", stages={"data": done, "pretraining": done, "publishing": failed, "analysis": done})
    put(home, 2, status="paused", stages={"data": done})
    put(home, 3, status="running", stages={"data": done, "pretraining": done})
    put(home, 4, status="running", stages={})
    with hold(work_lock(home, "run_3")):
        found = {line.id: (line.status, line.stage) for line in list_runs(home)}
    assert found == {
        "run_1": ("failed", "publishing"),
        "run_2": ("paused", "pretraining"),
        "run_3": ("running", "publishing"),
        "run_4": ("stopped", "data"),  # the record says `running`, but nobody works at it
    }


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"kind": "training"}', "\udcff"])
def test_a_record_that_cannot_be_read_is_a_line_that_says_so(home: Home, text: str) -> None:
    put(home, 1)
    (home.runs / "broken").mkdir()
    (home.runs / "broken" / "record.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    (home.root / "sweeps" / "0a1b").mkdir(parents=True)
    (home.root / "sweeps" / "0a1b" / "comparison.json").write_bytes(text.encode("utf-8", "surrogateescape") or b"[1]")
    lines = {line.id: line for line in list_runs(home)}
    assert lines.keys() >= {"run_1", "broken", "0a1b"} and lines["run_1"].status == "complete"
    assert lines["broken"].status == "unreadable" and "record.json" in lines["broken"].problem
    if text != "[]":  # a sweep of nothing is readable
        assert lines["0a1b"].status == "unreadable" and "comparison.json" in lines["0a1b"].problem


def test_a_thousand_runs_are_listed_at_once_and_without_torch(home: Home) -> None:
    for number in range(1000):
        put(home, number, f"name{number // 2}")
    started = time.process_time()
    lines = list_runs(home)
    assert time.process_time() - started < 5
    assert len(lines) == 1000 and lines[0].id == "run_999" and lines[0].differs == {"training.seed": 999}
    code = "import sys, flows.commands.runs; print([n for n in ('torch', 'prefect', 'pandas') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_prints_and_filters_them(home: Home) -> None:
    for number, name in ((1, "narrow"), (2, "wide"), (3, "wide")):
        put(home, number, name)
    (home.runs / "broken").mkdir()
    (home.runs / "broken" / "record.json").write_text("{")
    done = cogito("runs", home=home.root)
    assert done.returncode == 0 and not done.stderr
    assert "training.seed=3" in done.stdout and "mrpc 0.822 (at floor)" in done.stdout
    assert "is not a readable record" in " ".join(done.stdout.split()) and "4 of the 4 in" in done.stdout
    assert done.stdout.index("run_3") < done.stdout.index("run_2") < done.stdout.index("run_1")
    rows = answer(cogito("runs", "wide", "--json", home=home.root))
    assert [row["id"] for row in rows] == ["run_3", "run_2"]
    assert rows[0]["differs"] == {"training.seed": 3} and rows[0]["created"] == "2026-03-01T15:00:00+00:00"
    assert "0 of the 4 in" in cogito("runs", "never", home=home.root).stdout


def test_a_home_without_runs_says_how_to_make_one(home: Home) -> None:
    done = cogito("runs", home=home.root)
    assert done.stdout == f"no runs in {home.root} yet; `cogito run experiments/quickstart.yaml` makes one\n"
    assert answer(cogito("runs", "--json", home=home.root)) == []


def test_ages() -> None:
    seconds = {0: "0 s", -5: "0 s", 59: "59 s", 60: "1 min", 3599: "59 min", 3600: "1 h", 86_400 * 400: "400 d"}
    assert {s: age(BEGUN, BEGUN + timedelta(seconds=s)) for s in seconds} == seconds


def test_the_row_of_a_new_run_names_its_experiment_and_the_log_is_read_as_before(home: Home) -> None:
    old, new = (
        make_record(),
        make_record(run_id="perceiver_mlm_H512L6C128_20260301_130000", name="wide_lr3e-4", row_form=2),
    )
    assert render_row(old)["Run ID / Model Type"] == f"`{old.run_id}`"
    assert render_row(new)["Run ID / Model Type"] == f"`{new.run_id}` <br> wide_lr3e-4"
    log = home.root / "log.md"
    log.parent.mkdir(parents=True, exist_ok=True)
    for record in (old, new, old, new):
        write_row(log, record)
    rows = read_log(log)["training"]
    assert list(rows["run_id"]) == [old.run_id, new.run_id]
    rules = {run_id: {f.rule for f in check_log(log) if f.row == run_id} for run_id in rows["run_id"]}
    assert rules[new.run_id] - rules[old.run_id] == set(), "its name alone is no finding"
