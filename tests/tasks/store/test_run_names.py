"""A run is named by its id, by the beginning of its id, or by its experiment; never silently by a name of several."""

import logging
from pathlib import Path

import pytest
from factories import make_checkpoint, make_record

from tasks.errors import UserError
from tasks.log.experiment_log import write_row
from tasks.report.writing import write_report
from tasks.review.reproduction import plan_reproduction
from tasks.review.sides import find_side
from tasks.runs.whereabouts import missing_inputs
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.pretraining import DataSpec, TrainingSpec
from tasks.store.home import Home
from tasks.store.records import RunRecord, load_record
from tasks.store.run_names import find_run, row_called, run_called

FIRST, SECOND, JUDGED = "perceiver_20260101_000000", "perceiver_20260102_000000", "via_decoder_20260103_000000"


def put(home: Home, run_id: str, name: str, **changes: object) -> RunRecord:
    record = make_record(**{"run_id": run_id, "name": name, **changes})
    home.run(run_id).root.mkdir()
    record.save(home.run(run_id))
    return record


@pytest.fixture
def runs(home: Home) -> Home:
    put(home, FIRST, "narrow")
    put(home, SECOND, "wide")
    put(home, JUDGED, "wide", kind="evaluation", checkpoint=make_checkpoint(name=SECOND))
    return home


@pytest.mark.parametrize(
    ("name", "run_id"),
    [
        (FIRST, FIRST),
        ("perceiver_20260102", SECOND),
        ("via", JUDGED),
        ("narrow", FIRST),
        ("wide", SECOND),  # the training, not the evaluation of it
        ("perceiver_20260101_000000x", None),
        ("Wide", None),
        ("wid", None),
        ("../runs/" + FIRST, None),
        ("", None),
    ],
)
def test_what_a_name_stands_for(runs: Home, name: str, run_id: str | None) -> None:
    found = run_called(name, runs)
    assert (found.run_id if found else None) == run_id


@pytest.mark.parametrize("name", ["perceiver_2026", "p", "twice"])
def test_a_name_of_several_lists_them(runs: Home, name: str) -> None:
    put(runs, "tsdae_20260104_000000", "twice")
    put(runs, "tsdae_20260105_000000", "twice", status="failed")
    with pytest.raises(UserError) as caught:
        run_called(name, runs)
    wanted = (FIRST, SECOND) if name.startswith("p") else ("tsdae_20260104_000000", "tsdae_20260105_000000")
    assert all(run_id in str(caught.value) for run_id in wanted) and "`cogito runs`" in str(caught.value)
    assert "stands for 2 runs" in str(caught.value) and JUDGED not in str(caught.value)


def test_an_id_wins_over_longer_ids_and_names(runs: Home) -> None:
    put(runs, FIRST + "_2", FIRST)
    assert run_called(FIRST, runs) == runs.run(FIRST)
    put(runs, "wide", "another")
    assert run_called("wide", runs) == runs.run("wide")


def test_an_evaluation_is_named_where_there_is_no_training(runs: Home) -> None:
    put(runs, "head_20260106_000000", "foreign", kind="evaluation", checkpoint=make_checkpoint(name="someone/bert"))
    found = run_called("foreign", runs)
    assert found is not None and found.run_id == "head_20260106_000000"


def test_it_is_said_which_run_was_taken(runs: Home, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "cogito.runs"):
        run_called(FIRST, runs)
        assert not caplog.messages
        run_called("wide", runs)
    assert caplog.messages == [f"wide: the run {SECOND}"]


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "training", "name": ["wide"]}', '"wide"'])
def test_a_broken_record_hides_no_other(runs: Home, text: str) -> None:
    (runs.runs / "a_broken_one").mkdir()
    (runs.runs / "a_broken_one" / "record.json").write_text(text)
    found = run_called("wide", runs)
    assert found is not None and found.run_id == SECOND


ROWS = [FIRST, SECOND, JUDGED, "tsdae_H8_20250101_000000", "tsdae_H9_20250101_000000"]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        (FIRST, FIRST),
        ("via", JUDGED),
        ("tsdae_H8", "tsdae_H8_20250101_000000"),  # of a run that is not in this home
        ("narrow", FIRST),
        ("wide", SECOND),
        ("other", None),  # a run of this home without a row
        ("tsdae_H1", None),
        ("", None),
    ],
)
def test_a_row_is_named_as_a_run_is(runs: Home, name: str, row: str | None) -> None:
    put(runs, "without_row", "other")
    assert row_called(name, ROWS, runs) == row


@pytest.mark.parametrize("name", ["perceiver", "tsdae_H"])
def test_a_name_of_several_rows_lists_them(runs: Home, name: str) -> None:
    with pytest.raises(UserError, match="stands for 2 runs") as caught:
        row_called(name, ROWS, runs)
    assert all(row in str(caught.value) for row in ROWS if row.startswith(name))
    assert row_called(FIRST, [FIRST, FIRST + "_2"], runs) == FIRST, "an id wins over longer ones"


def test_a_home_without_runs_stays_as_it_is(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert run_called("anything", home) is None
    assert not home.root.exists()


def test_every_reader_of_rows_takes_every_name(runs: Home, tmp_path: Path) -> None:
    log = tmp_path / "log.md"
    for run_id in (FIRST, SECOND):
        write_row(log, load_record(runs.run(run_id)))
    for name in ("perceiver_20260102", "wide", SECOND):
        assert find_side(f"{log}#{name}", runs).name == SECOND
        assert plan_reproduction(log, name, runs).run_id == SECOND
    with pytest.raises(UserError, match="stands for 2 runs"):
        plan_reproduction(log, "perceiver", runs)
    with pytest.raises(UserError, match="did you mean 'perceiver_20260102_000000'"):
        find_side(f"{log}#perceiver_20260112_000000", runs)


def test_every_reader_of_runs_takes_every_name(runs: Home, tmp_path: Path) -> None:
    for name in ("perceiver_20260102", "wide"):
        assert find_side(name, runs).name == SECOND
        assert find_run(name, runs).run_id == SECOND
        (report, _) = write_report(name, runs, baseline="narrow", output=tmp_path / name)
        text = report.read_text(encoding="utf-8")
        assert SECOND in text and FIRST in text
        spec = ExperimentSpec(name="warm", data=DataSpec(), training=TrainingSpec(init_from=name))
        assert not [warning for warning in missing_inputs(spec, runs, None) if "init_from" in warning]
    with pytest.raises(UserError, match="did you mean 'perceiver_20260102_000000'"):
        find_run("perceiver_20260112_000000", runs)
