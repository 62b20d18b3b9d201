"""What a run prints at its end, in terminals of several widths and through a pipe."""

import re
from pathlib import Path

import pytest
from factories import make_record, make_score
from rich.console import Console

from flows.commands import listing
from tasks.scores.showing import score_table
from tasks.store.home import Home
from tasks.store.records import Score

BELOW = make_score("mrpc", 0.723, 0.783, interval=(0.680, 0.764), unreliable=True, overlap_baseline=0.783)
OTHER = make_score("mrpc", 0.71, 0.644, metric="accuracy", primary=False, overlap_baseline=0.644)
AT = make_score("stsb", 0.01, 0.0, interval=(-0.1, 0.1), n=40_430, overlap_baseline=-0.005)
RANDOM = [make_score(one.task, 0.5, 0.6, metric=one.metric, start="random", n=one.n) for one in (BELOW, OTHER, AT)]
ZERO = make_score("stsb", 0.652, 0.0, start="zero_shot")
SCORES = [BELOW, OTHER, AT, *RANDOM]


def printed(
    scores: list[Score], width: int, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """The lines about a record's scores in a terminal of so many columns."""
    monkeypatch.setattr(listing, "console", lambda **settings: Console(width=width, **settings))
    record = make_record(scores=scores, pretraining=None, analysis=None)
    listing.print_record(record, home.run("x"), Path("log.md"))
    return capsys.readouterr().out.split("mrpc f1 below floor")[0].splitlines()


@pytest.mark.parametrize("scores", [SCORES, [*SCORES, ZERO]], ids=["random", "zero-shot"])
@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_score_table_is_whole_in_every_terminal(
    width: int, scores: list[Score], home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    title, *lines = printed(scores, width, home, monkeypatch, capsys)
    assert title.startswith("perceiver_mlm_H512L6C128_20260301_120000: complete")
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)
    head, body = lines[: lines.index("─" * len(lines[2]))], lines[lines.index("─" * len(lines[2])) + 1 :]
    titles, rows = score_table(scores)
    for name in titles:
        assert all(any(word in line for line in head) for word in name.replace("-", " ").split()), name
    starts = [number for number, line in enumerate(body) if line[:1].strip()]
    assert len(starts) == len(rows) == 3, "a row begins with its task"
    for start, row in zip(starts, rows, strict=True):
        figures = [re.sub(r" \(.*\)", "", cell) for cell in row]
        line = re.sub(r" \([a-z ]+\)", "", body[start]).strip()
        assert re.split(r"  +| (?!to\b)(?<! to )", line) == figures, "figures stand in one line, whole"
    text = " ".join("\n".join(body).split())
    for mark in ("below", "at", "unreliable"):
        assert mark in text


def test_marks_stand_below_their_figures_where_there_is_little_room(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wide, middle, narrow = ("\n".join(printed(SCORES, w, home, monkeypatch, capsys)) for w in (200, 100, 80))
    assert "0.723 (below floor)" in wide and "0.680 to 0.764 (unreliable)" in wide
    assert re.search(r"0\.723 +0\.680 to 0\.764.*\n +below floor +unreliable", middle)
    assert re.search(r"0\.723 +0\.680 to 0\.764.*\n +below +unreliable.*\n +floor", narrow)


def test_a_column_that_holds_nothing_is_left_out() -> None:
    assert "zero-shot" not in score_table(SCORES)[0] and "zero-shot" in score_table([*SCORES, ZERO])[0]
    alone = [one.model_copy(update={"overlap_baseline": None}) for one in (BELOW, OTHER)]
    assert score_table(alone)[0] == ["task", "metric", "score", "95 % interval", "floor", "n", "seeds"]
    assert [row[-2] for row in score_table([*SCORES, ZERO])[1]] == ["408", "408", "40430"]
    assert [row[7] for row in score_table([*SCORES, ZERO])[1]] == ["--", "--", "0.652"]


def test_a_run_without_scores_has_no_table(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    title, following, *_ = printed([], 80, home, monkeypatch, capsys)
    assert title.endswith(": complete") and following.startswith("record: ")


def test_off_a_terminal_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    from flows.commands.options import console

    table = Table("run", "scores")
    table.add_row(f"a_run_{'x' * 150}", "word " * 100)
    console().print(table)
    out = capsys.readouterr().out
    assert f"a_run_{'x' * 150} │ {'word ' * 100}" in out and len(out.splitlines()) == 5


def test_what_makes_figures_odd_is_said_at_the_end_too(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    record = make_record(task_warnings=["task mrpc: 3 of 408 test examples stand in train, too"])
    listing.print_record(record, home.run("x"), Path("log.md"))
    assert "warning: task mrpc: 3 of 408 test examples stand in train, too" in capsys.readouterr().out
