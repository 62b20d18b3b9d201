"""One engine: `cogito compare`, `cogito report --baseline` and a sweep give the same verdicts on the same two runs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from factories import make_record, make_score, put_scored_run

from tasks.report.baseline import against
from tasks.report.rendering import to_markdown
from tasks.report.run import run_report
from tasks.review.comparisons import Figure, Verdict, compare_all
from tasks.review.sides import find_side, pooled
from tasks.review.sweeps import compare_runs, comparison_table
from tasks.store.home import Home

Put = Callable[[Home], None]


def put(
    home: Home, run_id: str, right: float, *, n: int = 408, seed: int = 0, stored: bool = True, made: bool = False
) -> None:
    """A run with two fine-tuning seeds of which a share is right."""
    generator = np.random.default_rng([ord(run_id[0]), seed])
    references = (np.random.default_rng(0).random(n) < 0.6).astype(int)
    answers = {each: np.where(generator.random(n) < right, references, 1 - references) for each in (42, 43)}
    spec = make_record().spec
    spec["training"]["seed"] = seed
    spec["model"]["num_layers"] = ord(run_id[0])
    spec["evaluation"]["data"] = "made" if made else "hub"
    record = put_scored_run(home, run_id, references, answers, spec=spec, corpus=None)
    for cell in record.cells if not stored else ():
        (home.run(run_id).predictions(cell.predictions["mrpc"])).unlink()


def put_from_values(home: Home, run_id: str, value: float) -> None:
    """A run of another time: its record names no predictions."""
    make_record(run_id=run_id, name=run_id, corpus=None, scores=[make_score(value=value)]).save(home.run(run_id))


def put_diverged(home: Home, run_id: str) -> None:
    make_record(run_id=run_id, name=run_id, status="diverged", corpus=None, scores=[]).save(home.run(run_id))


CASES: dict[str, tuple[Put, Put, Verdict, str]] = {
    "paired, better": (lambda h: put(h, "a", 0.6), lambda h: put(h, "b", 0.9), "better", ""),
    "paired, worse": (lambda h: put(h, "a", 0.9), lambda h: put(h, "b", 0.6), "worse", ""),
    "paired, alike": (lambda h: put(h, "a", 0.8), lambda h: put(h, "b", 0.8), "within noise", ""),
    "predictions missing": (
        lambda h: put(h, "a", 0.6),
        lambda h: put(h, "b", 0.9, stored=False),
        "better",
        "unpaired, better, no predictions of B",
    ),
    "no predictions named": (
        lambda h: put_from_values(h, "a", 0.822),
        lambda h: put_from_values(h, "b", 0.83),
        "within noise",
        "unpaired, within noise, no predictions of A and B",
    ),
    "another split": (
        lambda h: put(h, "a", 0.8),
        lambda h: put(h, "b", 0.8, n=300),
        "not comparable",
        "other examples: n is 408 and 300",
    ),
    "made data": (
        lambda h: put(h, "a", 0.8),
        lambda h: put(h, "b", 0.8, made=True),
        "not comparable",
        "B is of made data, which is another task",
    ),
    "diverged": (lambda h: put(h, "a", 0.8), lambda h: put_diverged(h, "b"), "not comparable", "B has no such score"),
}


@pytest.mark.parametrize("case", CASES)
def test_three_doors_give_the_same_verdict(case: str, home: Home, tmp_path: Path) -> None:
    put_a, put_b, verdict, words = CASES[case]
    put_a(home)
    put_b(home)
    (comparison,) = compare_all(["a", "b"], home)
    compared = {figure.name: figure for figure in comparison.figures if figure.metric}
    assert compared["MRPC F1"].verdict == verdict

    baseline = find_side("a", home)
    reported = against(find_side("b", home), baseline)
    assert {pair.figure.name: pair.figure for pair in [*reported["compared"], *reported["refused"]]} == compared

    _, row = compare_runs([("first", "a", ""), ("second", "b", "")], home, tmp_path)
    for judged in row["verdicts"]:
        figure = compared[judged["figure"]]
        assert (judged["verdict"], judged["delta"], judged["interval"]) == (
            figure.verdict,
            figure.delta,
            figure.interval,
        )
        assert judged["against"] == "first" and words in judged["text"]
    assert [judged["figure"] for judged in row["verdicts"]] == ["MRPC F1"], "the primary scores of the checkpoint"
    page = to_markdown(run_report(home.run("b"), baseline))
    assert words in page and words in (tmp_path / "comparison.md").read_text()


def test_the_seeds_of_a_configuration_are_judged_together(home: Home, tmp_path: Path) -> None:
    for seed in (1, 2):
        put(home, f"a{seed}", 0.7, seed=seed)
        put(home, f"b{seed}", 0.74, seed=seed)
    outcomes = [(f"{name}_seed{seed}", f"{name}{seed}", "") for name in "ab" for seed in (1, 2)]
    first, second = compare_runs(outcomes, home, tmp_path)
    assert "verdicts" not in first and first["seeds"] == second["seeds"] == 2
    (judged,) = second["verdicts"]
    together = [pooled([find_side(f"{name}{seed}", home) for seed in (1, 2)]) for name in "ab"]
    means = [side.entries["mrpc", "f1", "checkpoint"].value for side in together]
    assert judged["delta"] == pytest.approx(means[1] - means[0])  # type: ignore[operator]
    alone = [compare_all([f"a{seed}", f"b{seed}"], home)[0].figures for seed in (1, 2)]
    width = judged["interval"][1] - judged["interval"][0]
    for figures in alone:
        (figure,) = [each for each in figures if each.name == "MRPC F1"]
        assert figure.interval and width < figure.interval[1] - figure.interval[0], "more answers are surer"
    text = comparison_table([first, second])
    assert f"| b | a | MRPC F1 | {judged['text']} |" in text
    assert "verdicts" not in compare_runs(outcomes, home, tmp_path, verdicts=False)[1]


def test_runs_of_different_examples_are_no_configuration(home: Home) -> None:
    put(home, "a1", 0.8)
    put(home, "a2", 0.8, n=300)
    entry = pooled([find_side("a1", home), find_side("a2", home)]).entries["mrpc", "f1", "checkpoint"]
    assert entry.n is None, "so that nothing is compared with it"


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.01, 0.1), "better"), ((-0.1, -0.01), "worse"), ((-0.1, 0.1), "within noise"), (None, "undecided")],
)
def test_a_verdict_follows_from_the_interval(interval: tuple[float, float] | None, verdict: Verdict) -> None:
    assert Figure(name="x", metric="f1", a=0.5, b=0.6, delta=0.1, interval=interval).verdict == verdict
    assert Figure(name="x", a=0.5, b=0.6, interval=interval, refused="other examples").verdict == "not comparable"
