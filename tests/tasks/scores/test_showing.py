"""One score in every medium: the same value, interval, floor and marks everywhere."""

import pytest
from factories import make_score

from tasks.scores.showing import COLUMNS, artifact_row, console_rows, log_cell, show


def test_every_medium_shows_the_same_score() -> None:
    score = make_score(seed_values={43: 0.81, 42: 0.834}, sd=0.017, failed_seeds=[44], unreliable=True)
    assert log_cell(score) == (
        "82.2% (79.2 to 84.2, **at floor 81.2**, n 408, 2 seeds, interval unreliable, 1 of 3 seeds failed)"
    )
    (row,) = console_rows([score, make_score(value=0.9, start="random")])
    assert dict(zip(COLUMNS, row, strict=True)) == {
        "task": "mrpc",
        "metric": "f1",
        "score": "0.822 (at floor) (interval unreliable)",
        "95 % interval": "0.792 to 0.842",
        "floor": "0.812",
        "word overlap": "--",
        "random start": "0.900",
        "zero-shot": "--",
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
    assert console_rows([score])[0][2].startswith(text)
