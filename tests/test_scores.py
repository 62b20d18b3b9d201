"""Metrics, their floors and intervals: our vectorised figures against the libraries', and what an interval promises."""

import socket

import evaluate
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from tasks import metric as metric_module
from tasks.benchmarks import TASKS
from tasks.metric import CogitoMetric
from tasks.scores import METRICS, bootstrap_interval, overlap_baseline, overlap_features

binary = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=40)
ternary = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=40)
# Eighths are exact in binary, so a library's last digit does not decide whether something is constant.
graded = st.lists(st.tuples(st.integers(0, 40), st.integers(-40, 40)), min_size=3, max_size=40)

# Dev MRPC: 279 paraphrases of 408.
MRPC_DEV = np.repeat([1, 0], [279, 129])


def columns(pairs: list[tuple[int, int]], scale: float = 1) -> tuple[np.ndarray, np.ndarray]:
    references, predictions = (np.array(side) for side in zip(*pairs, strict=True))
    return (references / scale, predictions / scale) if scale != 1 else (references, predictions)


# --- one figure, three ways ---


def check(name: str, references: np.ndarray, predictions: np.ndarray, expected: float) -> None:
    """The library's figure, ours along an axis, and the one through `evaluate`."""
    row = METRICS[name]
    assert row.compute(references, predictions) == pytest.approx(expected, abs=1e-12)
    repeated = np.stack([references, references[::-1]]), np.stack([predictions, predictions[::-1]])
    assert row.vectorised(*repeated) == pytest.approx([expected, expected], abs=1e-9)
    assert row.vectorised(references, predictions) == pytest.approx(expected, abs=1e-9)


@given(ternary)
def test_accuracy_is_that_of_sklearn(pairs: list[tuple[int, int]]) -> None:
    references, predictions = columns(pairs)
    check("accuracy", references, predictions, sklearn_metrics.accuracy_score(references, predictions))


@given(binary)
def test_f1_is_that_of_sklearn(pairs: list[tuple[int, int]]) -> None:
    references, predictions = columns(pairs)
    check("f1", references, predictions, sklearn_metrics.f1_score(references, predictions, zero_division=0))


@given(binary)
def test_matthews_is_that_of_sklearn(pairs: list[tuple[int, int]]) -> None:
    references, predictions = columns(pairs)
    check("matthews", references, predictions, sklearn_metrics.matthews_corrcoef(references, predictions))


@pytest.mark.parametrize(("name", "library"), [("pearson", stats.pearsonr), ("spearman", stats.spearmanr)])
@given(pairs=graded)
def test_correlations_are_those_of_scipy(name: str, library: object, pairs: list[tuple[int, int]]) -> None:
    references, predictions = columns(pairs, 8)
    assume(np.ptp(references) > 0 and np.ptp(predictions) > 0)
    check(name, references, predictions, library(references, predictions).statistic)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_constant_answer_has_no_correlation(name: str) -> None:
    references = np.array([0.5, 2.0, 4.5, 3.0])
    check(name, references, np.full(4, 2.7), 0.0)
    check(name, np.full(4, 2.7), references, 0.0)


def test_vectorised_figures_are_one_per_row() -> None:
    generator = np.random.default_rng(0)
    for name, row in METRICS.items():
        shape = (6, 3, 50)
        if row.of_classes:
            references, predictions = generator.integers(0, 2, shape), generator.integers(0, 2, shape)
        else:
            references, predictions = generator.normal(size=shape), generator.normal(size=shape)
        figures = row.vectorised(references, predictions)
        assert figures.shape == (6, 3), name
        assert figures[4, 1] == pytest.approx(row.compute(references[4, 1], predictions[4, 1])), name


def test_the_metric_behind_the_interface_of_evaluate() -> None:
    references, predictions = [1, 0, 1, 1], [1, 0, 0, 1]
    assert CogitoMetric(config_name="f1").compute(predictions=predictions, references=references) == {"f1": 0.8}
    assert CogitoMetric(config_name="accuracy").compute(predictions=predictions, references=references) == {
        "accuracy": 0.75
    }
    graded_answers = CogitoMetric(config_name="spearman").compute(predictions=[0.1, 2.5, 2.4], references=[1, 5, 4.5])
    assert graded_answers == {"spearman": pytest.approx(1.0)}
    with pytest.raises(ValueError, match="unknown metric 'rouge'; allowed: accuracy"):
        CogitoMetric(config_name="rouge")


def test_evaluate_loads_the_metric_by_its_path_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("no network in this test")

    for owner, name in ((socket.socket, "connect"), (socket, "create_connection"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, refuse)
    metric = evaluate.load(metric_module.__file__, "f1")
    assert metric.compute(predictions=[1, 0, 1], references=[1, 1, 1]) == {"f1": 0.8}


def test_every_metric_of_a_task_is_a_row() -> None:
    for name, task in TASKS.items():
        assert name == task.name and set(task.metrics) <= set(METRICS)
        assert all(METRICS[metric].of_classes is not task.is_regression for metric in task.metrics)


# --- floors ---


def test_the_floors_of_dev_mrpc() -> None:
    assert METRICS["f1"].floor(MRPC_DEV) == pytest.approx(0.8122, abs=5e-5)
    assert METRICS["f1"].floor(MRPC_DEV) == pytest.approx(sklearn_metrics.f1_score(MRPC_DEV, np.ones(408)))
    assert METRICS["accuracy"].floor(MRPC_DEV) == pytest.approx(0.6838, abs=5e-5)
    assert METRICS["pearson"].floor(MRPC_DEV) == METRICS["spearman"].floor(MRPC_DEV) == 0.0
    assert (METRICS["f1"].floor_name, METRICS["accuracy"].floor_name) == ("always positive", "majority class")


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_no_constant_answer_beats_a_floor(labels: list[int]) -> None:
    references = np.array(labels)
    constants = [METRICS["accuracy"].compute(references, np.full(len(labels), answer)) for answer in range(4)]
    assert METRICS["accuracy"].floor(references) == pytest.approx(max(constants))
    positive = (references > 1).astype(int)
    constants = [METRICS["f1"].compute(positive, np.full(len(labels), answer)) for answer in range(2)]
    assert METRICS["f1"].floor(positive) == pytest.approx(max(constants))


# --- intervals ---


def make_answers(name: str, seed: int, n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    if METRICS[name].of_classes:
        references = generator.integers(0, 2, n)
        return references, np.where(generator.random(n) < 0.75, references, 1 - references)
    references = generator.normal(size=n)
    return references, references + generator.normal(size=n)


@pytest.mark.parametrize("name", METRICS)
def test_an_interval_holds_its_value_and_comes_out_the_same_again(name: str) -> None:
    references, predictions = make_answers(name, 1)
    low, high = bootstrap_interval(name, references, [predictions])
    assert low < METRICS[name].compute(references, predictions) < high
    np.random.default_rng().random(10)
    assert bootstrap_interval(name, references, [predictions]) == (low, high)


def test_an_interval_is_as_wide_as_the_normal_one() -> None:
    references = np.zeros(400, dtype=int)
    predictions = np.repeat([0, 1], [300, 100])
    low, high = bootstrap_interval("accuracy", references, [predictions])
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert low == pytest.approx(0.75 - half, abs=0.005) and high == pytest.approx(0.75 + half, abs=0.005)


def test_seeds_share_their_resamples() -> None:
    """Where one seed is right exactly when the other is wrong, their mean is one half on any examples."""
    references, first = make_answers("accuracy", 2)
    second = np.where(first == references, 1 - references, references)
    assert bootstrap_interval("accuracy", references, [first, second]) == (0.5, 0.5)
    # The same answers twice say no more than once.
    assert bootstrap_interval("accuracy", references, [first, first]) == pytest.approx(
        bootstrap_interval("accuracy", references, [first])
    )


@pytest.mark.parametrize("name", METRICS)
def test_perfect_and_trivial_answers_have_an_interval_too(name: str) -> None:
    references, _ = make_answers(name, 3, 50)
    assert bootstrap_interval(name, references, [references]) == pytest.approx((1.0, 1.0))
    low, high = bootstrap_interval(name, references, [np.ones_like(references)])
    assert np.isfinite([low, high]).all() and low <= METRICS[name].floor(references) <= high


# --- the word-overlap baseline ---


def test_overlap_features_by_hand() -> None:
    # Words {a, b, c} and {b, c, d, e}: 2 in common, 5 in all; four words against five.
    assert overlap_features("a B c c", "b C d e e") == (2 / 5, 2 / 3, 2.0, 1.0)
    assert overlap_features("", "") == (0.0, 0.0, 0.0, 0.0)
    assert overlap_features("The cat", "the CAT")[:3] == (1.0, 1.0, 2.0)


def test_the_overlap_baseline_finds_what_overlap_tells_and_nothing_else() -> None:
    generator = np.random.default_rng(0)
    features = generator.random((600, 4))
    told, untold = (features[:, 0] > 0.5).astype(int), generator.integers(0, 2, 600)

    def baseline(labels: np.ndarray) -> float:
        return overlap_baseline(
            "accuracy", (features[:400], labels[:400]), (features[400:], labels[400:]), regression=False
        )

    assert baseline(told) > 0.95
    assert 0.4 < baseline(untold) < 0.6
    scores = 3 * features[:, 1] + 0.1 * generator.normal(size=600)
    found = overlap_baseline("pearson", (features[:400], scores[:400]), (features[400:], scores[400:]), regression=True)
    assert found > 0.98
