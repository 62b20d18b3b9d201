"""Scoring a run again from its stored predictions: what comes out, what stays, and that it is all or nothing."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import answer, cogito
from factories import make_environment, make_record, put_scored_run

from tasks.errors import UserError
from tasks.log.experiment_log import write_row
from tasks.review.rescoring import rescore_run
from tasks.scores.intervals import bootstrap_interval
from tasks.store.home import Home
from tasks.store.records import CellResult, RunRecord, load_record

RUN = "perceiver_mlm_H512L6C128_20260301_120000"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.md"


def put(home: Home, seeds: tuple[int, ...] = (42, 43), n: int = 408) -> RunRecord:
    generator = np.random.default_rng(0)
    references = (generator.random(n) < 0.6).astype(int)
    answers = {seed: np.where(generator.random(n) < 0.8, references, 1 - references) for seed in seeds}
    return put_scored_run(home, RUN, references, answers)


def predictions(home: Home, seed: int) -> Path:
    return home.run(RUN).cell("mrpc", seed, "checkpoint") / "predictions-mrpc.parquet"


def write(path: Path, labels: np.ndarray, answers: np.ndarray) -> None:
    pq.write_table(pa.table({"label": labels, "prediction": answers}), path)


def spoil(record: RunRecord, home: Home) -> RunRecord:
    """Figures of an earlier code: another value and interval, no mark, a baseline that needs the task's data."""
    first, *rest = record.scores
    wrong = first.model_copy(
        update={
            "value": 0.5,
            "interval": (0.4, 0.6),
            "above_floor": False,
            "sd": None,
            "overlap_baseline": 0.7,
            "unreliable": True,
        }
    )
    spoilt = record.model_copy(update={"scores": [wrong, *rest]})
    spoilt.save(home.run(RUN))
    return spoilt


def test_a_run_scored_by_this_code_comes_out_as_it_was(home: Home, log: Path) -> None:
    record = put(home)
    before = home.run(RUN).record.read_bytes()
    assert rescore_run(home.run(RUN), log) == []
    assert home.run(RUN).record.read_bytes() == before
    assert f"`{record.run_id}`" in log.read_text(encoding="utf-8")


def test_every_figure_is_made_anew_and_what_changed_is_told(home: Home, log: Path) -> None:
    record = put(home)
    good = record.scores[0]
    spoil(record, home)
    changes = rescore_run(home.run(RUN), log)
    assert {(one.task, one.metric, one.start) for one in changes} == {("mrpc", "f1", "checkpoint")}
    assert {one.field: (one.before, one.after) for one in changes} == {
        "value": (0.5, good.value),
        "interval": ((0.4, 0.6), good.interval),
        "above_floor": (False, good.above_floor),
        "sd": (None, good.sd),
        "unreliable": (True, False),
    }
    found = load_record(home.run(RUN)).scores[0]
    assert found.overlap_baseline == 0.7, "what needs the task's data stays"
    assert found == good.model_copy(update={"overlap_baseline": 0.7})
    tables = [pq.read_table(predictions(home, seed)) for seed in (42, 43)]
    labels, *answers = [tables[0]["label"].to_numpy(), *(table["prediction"].to_numpy() for table in tables)]
    assert found.interval == bootstrap_interval("f1", labels, answers)
    assert rescore_run(home.run(RUN), log) == []


def test_the_row_follows_and_all_else_of_the_log_stays(home: Home, log: Path) -> None:
    spoilt = spoil(put(home), home)
    write_row(log, make_record(run_id="another_run"))
    write_row(log, spoilt)
    text = log.read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if RUN in line]
    by_hand = row.rsplit("|", 2)[0] + "| A person's own words. |"
    log.write_text("Kept.\n\n" + text.replace(row, by_hand), encoding="utf-8")
    rescore_run(home.run(RUN), log)
    after = log.read_text(encoding="utf-8")
    (new,) = [line for line in after.splitlines() if RUN in line]
    assert "**MRPC:** 50.0%" in row and "**MRPC:** 50.0%" not in new and new.endswith("| A person's own words. |")
    assert after.replace(new, row) == "Kept.\n\n" + text


def test_predictions_that_are_missing_refuse_the_whole(home: Home, log: Path) -> None:
    spoil(put(home, (42, 43, 44)), home)
    write_row(log, load_record(home.run(RUN)))
    before = home.run(RUN).record.read_bytes(), log.read_bytes()
    predictions(home, 42).unlink()
    predictions(home, 44).write_bytes(b"not Parquet")
    with pytest.raises(UserError) as error:
        rescore_run(home.run(RUN), log)
    first, *lines = str(error.value).splitlines()
    assert "nothing was written" in first and len(lines) == 2
    assert lines[0].startswith("mrpc seed 42 (checkpoint):") and str(predictions(home, 42)) in lines[0]
    assert lines[1].startswith("mrpc seed 44 (checkpoint):") and "fix" in lines[1]
    assert (home.run(RUN).record.read_bytes(), log.read_bytes()) == before


def test_predictions_of_other_examples_are_refused(home: Home, log: Path) -> None:
    put(home)
    before = home.run(RUN).record.read_bytes()
    table = pq.read_table(predictions(home, 43))
    labels, answers = table["label"].to_numpy(), table["prediction"].to_numpy()
    for own in ((labels[:400], answers[:400]), (1 - labels, answers)):
        write(predictions(home, 43), *own)
        with pytest.raises(UserError, match=r"mrpc seed 43 .*is of other examples"):
            rescore_run(home.run(RUN), log)
    assert home.run(RUN).record.read_bytes() == before and not log.exists()


def test_a_log_that_cannot_be_read_is_found_before_anything_is_written(home: Home, log: Path) -> None:
    spoil(put(home), home)
    before = home.run(RUN).record.read_bytes()
    log.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="UTF-8"):
        rescore_run(home.run(RUN), log)
    assert home.run(RUN).record.read_bytes() == before


def test_seeds_and_starts_stay_apart_and_failed_ones_are_named(home: Home, log: Path) -> None:
    record = put(home)
    failed = CellResult(task="mrpc", seed=44, start="checkpoint", status="failed", error="memory")
    path = predictions(home, 43)
    random = CellResult(task="mrpc", seed=42, start="random", status="complete", predictions={"mrpc": path})
    gone = CellResult(task="qqp", seed=42, start="checkpoint", status="failed", error="memory")
    lost = record.scores[0].model_copy(update={"task": "qqp", "value": None, "interval": None, "seed_values": {}})
    # A cell of another start between two seeds
    cells = [record.cells[0], random, *record.cells[1:], failed, gone]
    record.model_copy(update={"cells": cells, "scores": [*record.scores, lost]}).save(home.run(RUN))
    changes = rescore_run(home.run(RUN), log)
    scores = {(one.task, one.metric, one.start): one for one in load_record(home.run(RUN)).scores}
    assert scores["mrpc", "f1", "checkpoint"].failed_seeds == [44]
    assert scores["mrpc", "f1", "checkpoint"].value == record.scores[0].value
    assert scores["mrpc", "f1", "random"].seed_values == {42: record.scores[0].seed_values[43]}
    assert scores["qqp", "f1", "checkpoint"] == lost, "where every seed failed there is nothing to score"
    new = [(one.metric, one.field, one.before) for one in changes if one.start == "random"]
    assert new == [("f1", "value", None), ("accuracy", "value", None)], "a score that is new is one change"


def test_a_moved_home_is_scored_from_its_own_files(home: Home, log: Path, tmp_path: Path) -> None:
    good = put(home)
    spoil(good, home)
    home.root.rename(tmp_path / "moved")
    moved = Home(tmp_path / "moved").run(RUN)
    assert {one.field for one in rescore_run(moved, log)} >= {"value", "interval"}
    assert load_record(moved).scores[0].value == good.scores[0].value


def test_what_has_no_predictions_is_refused(home: Home, log: Path) -> None:
    make_record(run_id=RUN).save(home.run(RUN))
    with pytest.raises(UserError, match="no predictions to score"):
        rescore_run(home.run(RUN), log)
    record = put(home)
    record.model_copy(update={"status": "running"}).save(home.run(RUN))
    with pytest.raises(UserError, match="is not finished"):
        rescore_run(home.run(RUN), log)
    record.model_copy(update={"scores": [*record.scores, make_record().scores[1]]}).save(home.run(RUN))
    with pytest.raises(UserError, match=r"qqp \(checkpoint\): the record names no fine-tuning of it"):
        rescore_run(home.run(RUN), log)
    assert not log.exists()


def test_the_command(home: Home, log: Path) -> None:
    record = put(home)
    spoil(record, home)
    found = answer(cogito("rescore", RUN, "--log", log, "--json", home=home.root))
    assert found["run_id"] == RUN and {one["field"] for one in found["changes"]} >= {"value", "interval"}
    assert json.loads(home.run(RUN).record.read_text(encoding="utf-8"))["scores"][0]["value"] == record.scores[0].value
    again = cogito("rescore", RUN, "--log", log, home=home.root)
    assert again.returncode == 0 and "every score comes out as it was" in again.stdout
    bad = cogito("rescore", f"{RUN}1", "--log", log, home=home.root)
    assert bad.returncode == 2 and f"did you mean '{RUN}'" in bad.stderr and bad.stdout == ""


def test_the_environment_of_the_run_stays(home: Home, log: Path) -> None:
    record = put(home)
    made_by = make_environment(machine="elsewhere")
    spoil(record.model_copy(update={"environment": made_by}), home)
    rescore_run(home.run(RUN), log)
    found = load_record(home.run(RUN))
    assert (found.environment, found.created, found.cells) == (made_by, record.created, record.cells)
