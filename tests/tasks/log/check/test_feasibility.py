"""Figures of a log: how they are read, and which of them no set of predictions can have."""

import subprocess
import sys
from fractions import Fraction

import pytest
from command import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.log.check.document import SPLITS, Place, scores_in
from tasks.log.check.feasibility import (
    Rounded,
    accuracy_and_f1_are_possible,
    accuracy_and_matthews_are_possible,
    accuracy_is_possible,
    f1_is_possible,
    quotient_is_possible,
)
from tasks.scores.metrics import METRICS
from tasks.spec.benchmarks import TASKS

# Feasibility


def matrix_figures(tp: int, fp: int, positive: int, negative: int) -> tuple[Fraction, Fraction]:
    errors = positive - tp + fp
    f1 = Fraction(2 * tp, 2 * tp + errors) if tp else Fraction(0)
    return 1 - Fraction(errors, positive + negative), f1


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.integers(0, 3))
def test_what_a_confusion_matrix_gives_is_possible(
    positive: int, negative: int, hit: float, wrong: float, digits: int
) -> None:
    tp, fp = round(hit * positive), round(wrong * negative)
    accuracy, f1 = matrix_figures(tp, fp, positive, negative)
    texts = [f"{float(100 * value):.{digits}f}" for value in (accuracy, f1)]
    a, f = (Rounded.of(text, percent=True) for text in texts)
    assert accuracy_is_possible(a, positive + negative)
    assert f1_is_possible(f, positive, negative)
    assert accuracy_and_f1_are_possible(a, f, positive, negative)
    fn, tn = positive - tp, negative - fp
    below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    matthews = (tp * tn - fp * fn) / below**0.5 if below else 0.0
    assert accuracy_and_matthews_are_possible(a, Rounded.of(f"{matthews:.3f}"), positive, negative)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 100), st.floats(0, 100), st.integers(0, 2))
def test_feasibility_agrees_with_trying_every_matrix(
    positive: int, negative: int, accuracy: float, f1: float, digits: int
) -> None:
    a, f = (Rounded.of(f"{value:.{digits}f}", percent=True) for value in (accuracy, f1))
    tried = [matrix_figures(tp, fp, positive, negative) for tp in range(positive + 1) for fp in range(negative + 1)]
    assert accuracy_is_possible(a, positive + negative) == any(one in a for one, _ in tried)
    assert f1_is_possible(f, positive, negative) == any(one in f for _, one in tried)
    assert accuracy_and_f1_are_possible(a, f, positive, negative) == any(x in a and y in f for x, y in tried)


def test_the_impossible_baseline_and_means_over_seeds() -> None:
    a, f = (Rounded.of(text, percent=True) for text in ("74.26", "81.33"))
    assert not accuracy_and_f1_are_possible(a, f, 279, 129)
    assert accuracy_and_f1_are_possible(a, Rounded.of("81.35", percent=True), 279, 129)
    assert not accuracy_is_possible(Rounded.of("82.2", percent=True), 408)
    assert accuracy_is_possible(Rounded.of("82.2", percent=True), 408, runs=3)
    assert quotient_is_possible("15.9", "128", "12.5") == (False, True)
    assert quotient_is_possible("122", "128", "95.5") == (False, True)
    assert quotient_is_possible("64", "128", "50") == (True, True)


def test_the_class_counts_are_those_of_their_tasks() -> None:
    for task in TASKS.values():
        for split in task.eval_splits:
            assert len(split.class_counts) == max(len(task.labels), 1)
    assert SPLITS["mrpc"][1].class_counts == (129, 279)
    always = 2 * 279 / (2 * 279 + 129)
    assert round(100 * always, 1) == 81.2 and set(METRICS) >= {"accuracy", "f1"}


# Reading figures


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**MRPC:** 82.2%", [("mrpc", None, "82.2%")]),
        ("**STS-B P:** 0.650", [("stsb", "pearson", "0.650")]),
        ("MRPC F1/Acc: 84.2/78.4", [("mrpc", "f1", "84.2"), ("mrpc", "accuracy", "78.4")]),
        ("MRPC: F1 84.2%, accuracy 78.4%", [("mrpc", "f1", "84.2%"), ("mrpc", "accuracy", "78.4%")]),
        ("MRPC: 84.2% F1, 78.4% accuracy", [("mrpc", "f1", "84.2%"), ("mrpc", "accuracy", "78.4%")]),
        ("MNLI-mm: 60.90% (ep2)", [("mnli-mm", None, "60.90%")]),
        ("MNLI (matched) 59.1", [("mnli-m", None, "59.1")]),
        ("CoLA MCC 0.41 <br> SST-2 89.1%", [("cola", "matthews", "0.41"), ("sst2", None, "89.1%")]),
        ("SICK-R: −0.01", [("sick_r", None, "-0.01")]),
        ("QQP: +0.85%", []),
        ("MRPC failed", []),
    ],
)
def test_scores_are_read(text: str, expected: list[tuple[str, str | None, str]]) -> None:
    figures = scores_in(text, Place(1))
    assert [(one.task, one.metric, one.shown) for one in figures] == expected


def test_a_mean_over_seeds_and_a_split_of_its_own_are_understood() -> None:
    (one,) = scores_in("**RTE:** 61.5% (58.0 to 65.0, floor 52.7, n 277, 2 seeds)", Place(1))
    assert (one.examples, one.evaluations, one.says_floor) == (277, 2, True)
    (mean,) = scores_in("RTE: 61.5 (mean over seeds)", Place(1))
    assert mean.evaluations is None


NEW_ROWS = """
from dataclasses import replace
from tasks.scores.metrics import METRICS
from tasks.spec.benchmarks import TASKS, Split
METRICS["kappa"] = replace(METRICS["matthews"], name="kappa", log_names=("k",))
TASKS["boolq"] = replace(
    TASKS["mrpc"],
    name="boolq",
    metrics=("accuracy", "kappa"),
    eval_splits=(Split("validation", "boolq", "Bool-Q", (9, 21)),)
)
from tasks.log.check.document import Place, scores_in
from tasks.log.check.meaning import floor_of
from tasks.log.experiment_log import stated_scores
for text in ("**Bool-Q:** 70.0%", "**BoolQ** accuracy 70.0% k 0.1"):
    for figure in scores_in(text, Place(1)):
        print(figure.task, figure.likely_metric, figure.value, floor_of(figure))
print(list(stated_scores("**Bool-Q:** 70.0%")))
"""


def test_a_new_task_and_a_new_metric_are_read_without_an_edit_of_the_log() -> None:
    done = subprocess.run([sys.executable, "-c", NEW_ROWS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "boolq accuracy 0.7 0.7",
        "boolq accuracy 0.7 0.7",
        "boolq kappa 0.1 0.0",
        "[('boolq', '', 0.7)]",
    ]
