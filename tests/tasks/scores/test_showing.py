"""One score in every medium: the same value, interval, floor and marks everywhere."""

from pathlib import Path

import pytest
from factories import make_record, make_score

from tasks.log.experiment_log import read_log, write_row
from tasks.log.rows import render_row
from tasks.review.comparisons import compare
from tasks.review.rendering import delta_text
from tasks.review.sides import run_side
from tasks.scores.showing import FloorMark, artifact_row, floor_mark, log_cell, score_table, shared_mark, show
from tasks.store.home import Home


def test_every_medium_shows_the_same_score() -> None:
    score = make_score(seed_values={43: 0.81, 42: 0.834}, sd=0.017, failed_seeds=[44], unreliable=True)
    assert log_cell(score) == (
        "82.2% (79.2 to 84.2, **at floor 81.2**, n 408, 2 seeds, interval unreliable, 1 of 3 seeds failed)"
    )
    titles, (row,) = score_table([score, make_score(value=0.9, start="random")])
    assert dict(zip(titles, row, strict=True)) == {
        "task": "mrpc",
        "metric": "f1",
        "score": "0.822 (at floor)",
        "95 % interval": "0.792 to 0.842 (unreliable)",
        "floor": "0.812",
        "random start": "0.900",
        "n": "408",
        "seeds": "2",
    }
    cells = artifact_row(score)
    assert (cells["value"], cells["95 % interval"], cells["mark"]) == (
        "0.822",
        "0.792 to 0.842",
        "at floor, interval unreliable",
    )
    assert cells["floor"] == "0.812 (majority)"
    assert show(score).seeds == {42: "0.834", 43: "0.810", 44: "failed"}


@pytest.mark.parametrize("value, text", [(None, "failed"), (float("nan"), "undefined")])
def test_a_score_without_a_figure_is_named_and_not_shown_as_a_number(value: float | None, text: str) -> None:
    score = make_score(value=value)
    assert log_cell(score) == show(score).value == artifact_row(score)["value"] == text
    assert score_table([score])[1][0][2].startswith(text)


@pytest.mark.parametrize(
    "interval, mark",
    [
        ((0.60, 0.70), "above floor"),
        ((0.50, 0.60), "at floor"),  # its lower end is the floor
        ((0.40, 0.60), "at floor"),
        ((0.40, 0.50), "at floor"),  # its upper end is the floor
        ((0.40, 0.49), "below floor"),
        (None, "at floor"),
    ],
)
def test_the_whole_interval_decides_on_which_side_of_the_floor_a_score_lies(
    interval: tuple[float, float] | None, mark: FloorMark
) -> None:
    score = make_score(value=0.45, floor=0.5, interval=interval, above_floor=True)
    assert floor_mark(score) == mark
    assert floor_mark(make_score("stsb", -0.4, 0.0)) == "below floor", "a correlation of the wrong sign is an error"
    assert floor_mark(make_score(value=float("nan"), interval=None)) == "at floor"


def test_below_floor_is_said_in_every_medium(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from flows.commands.listing import print_record

    score = make_score("mrpc", 0.36, 0.684, metric="accuracy")
    record = make_record(scores=[score, make_score("stsb", 0.6, 0.0)], analysis=None)
    assert log_cell(score) == "36.0% (33.0 to 38.0, **below floor 68.4**, n 408)"
    assert score_table([score])[1][0][2] == "0.360 (below floor)"
    assert artifact_row(score)["mark"] == "below floor"
    conclusion = render_row(record)["Conclusion / Takeaway"]
    assert "1 of 2 scores above their floor. Below floor: MRPC: worse than the trivial answer" in conclusion
    assert "Below floor" not in render_row(make_record())["Conclusion / Takeaway"], "at floor is no error"
    print_record(record, home.run("x"), tmp_path / "log.md")
    assert "mrpc accuracy below floor: worse than the trivial answer" in " ".join(capsys.readouterr().out.split())
    side = run_side(record, home.run("x"))
    text = delta_text(next(figure for figure in compare(side, side).figures if figure.task == "mrpc"))
    assert text.endswith("A and B below floor)")
    write_row(tmp_path / "log.md", record)
    (row,) = read_log(tmp_path / "log.md")["training"].to_dict("records")
    assert row["scores"] == {"mrpc": 0.36, "stsb": 0.6}


@pytest.mark.parametrize(
    "marks, shared",
    [
        ([], ""),
        (["above floor", "below floor"], ""),
        (["at floor", "below floor"], "at floor"),
        (["below floor", "below floor"], "below floor"),
    ],
)
def test_several_scores_are_below_their_floor_when_all_are(marks: list[FloorMark], shared: str) -> None:
    assert shared_mark(marks) == shared
