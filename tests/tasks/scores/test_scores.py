"""Metrics, their floors and intervals: our vectorised figures against the libraries', and what an interval promises."""

import socket
from collections.abc import Callable
from functools import partial

import evaluate
import interval_coverage as simulated
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from tasks.data.task_data import overlap_features
from tasks.scores import evaluate_metric as metric_module
from tasks.scores import intervals as intervals_module
from tasks.scores.evaluate_metric import CogitoMetric
from tasks.scores.intervals import (
    CORRELATION_MIN_EXAMPLES,
    MIN_CELL,
    bootstrap_interval,
    interval_from_value,
    is_unreliable,
    paired_difference_interval,
    unpaired_difference_interval,
)
from tasks.scores.metrics import METRICS, overlap_baseline
from tasks.spec.benchmarks import TASKS

binary = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=40)
ternary = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=40)
# Eighths are exact in binary, so a library's last digit does not decide whether something is constant.
graded = st.lists(st.tuples(st.integers(0, 40), st.integers(-40, 40)), min_size=3, max_size=40)

LIBRARY: dict[str, Callable[..., float]] = {
    "accuracy": sklearn_metrics.accuracy_score,
    "f1": partial(sklearn_metrics.f1_score, zero_division=0),
    "matthews": sklearn_metrics.matthews_corrcoef,
    "pearson": lambda x, y: stats.pearsonr(x, y).statistic,
    "spearman": lambda x, y: stats.spearmanr(x, y).statistic,
}

# Dev MRPC: 279 paraphrases of 408.
MRPC_DEV = np.repeat([1, 0], [279, 129])


def columns(pairs: list[tuple[int, int]], scale: float = 1) -> tuple[np.ndarray, np.ndarray]:
    references, predictions = (np.array(side) for side in zip(*pairs, strict=True))
    return (references / scale, predictions / scale) if scale != 1 else (references, predictions)


# --- one figure, three ways ---


def check(name: str, references: np.ndarray, predictions: np.ndarray, expected: float) -> None:
    """The library's figure, and ours along an axis."""
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


@pytest.mark.parametrize("name", METRICS)
@given(rows=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=3, max_size=30))
@settings(max_examples=10)
def test_the_figure_through_evaluate_is_the_librarys(name: str, rows: list[tuple[int, int]]) -> None:
    references, predictions = columns(rows)
    assume(np.ptp(references) > 0 and np.ptp(predictions) > 0)
    found = CogitoMetric(config_name=name, keep_in_memory=True).compute(predictions=predictions, references=references)
    assert found == {name: pytest.approx(LIBRARY[name](references, predictions), abs=1e-12)}


def test_every_metric_is_held_against_a_library() -> None:
    assert LIBRARY.keys() == METRICS.keys()


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


# --- how often intervals hold ---


@pytest.mark.parametrize("name", [*simulated.TABLE_METRICS, "pearson"])
def test_the_fast_intervals_are_those_of_the_code(name: str) -> None:
    generator = np.random.default_rng(5)
    if name == "pearson":
        x, y = simulated.normal(0.4, (3, 408), generator)
        fast, pairs = simulated.pearson_intervals(x, y), list(zip(x, y, strict=True))
    else:
        made = simulated.made_tables(simulated.TABLES["as CoLA"], 408, 3, generator)
        fast = simulated.table_intervals(made)[name]
        pairs = [(np.isin(one, (0, 2)).astype(int), np.isin(one, (0, 1)).astype(int)) for one in made]
    for place, (references, predictions) in enumerate(pairs):
        assert bootstrap_interval(name, references, [predictions]) == pytest.approx(fast[:, place], abs=1e-5)


def assert_holds(shares: dict[str, float]) -> None:
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


@pytest.mark.parametrize("n", simulated.SIZES)
@pytest.mark.parametrize("case", ["as MRPC, near its floor", "10 false alarms, 10 misses"])
def test_intervals_hold_as_often_as_they_say(case: str, n: int) -> None:
    assert_holds(simulated.table_coverage(simulated.TABLES[case], n, 2000))


@pytest.mark.parametrize("n", simulated.SIZES)
def test_the_interval_of_pearson_holds_as_often_as_it_says(n: int) -> None:
    assert_holds(
        {make.__name__: simulated.pearson_coverage(make, 0.6, n, 2000) for make in (simulated.normal, simulated.graded)}
    )


@pytest.mark.long
@pytest.mark.parametrize("n", simulated.SIZES)
def test_intervals_hold_as_often_as_they_say_in_every_case(n: int) -> None:
    for case, cells in simulated.TABLES.items():
        assert simulated.expected(cells, n).min() >= MIN_CELL - 1e-9
        assert_holds({f"{case}: {name}": share for name, share in simulated.table_coverage(cells, n, 4000).items()})


@pytest.mark.long
@pytest.mark.parametrize("n", [CORRELATION_MIN_EXAMPLES, *simulated.SIZES])
def test_the_interval_of_pearson_holds_as_often_as_it_says_in_every_case(n: int) -> None:
    for make in (simulated.normal, simulated.graded):
        assert_holds(
            {f"{make.__name__} {r}": simulated.pearson_coverage(make, r, n, 4000) for r in simulated.CORRELATIONS}
        )


def test_the_interval_of_a_paired_difference_holds_as_often_as_it_says() -> None:
    # Of two that are equally good, and of one that is better by 5 points; most examples are right or wrong for both.
    assert_holds(
        {
            "equal": simulated.paired_coverage(0.6, 0.1, 0.1, 408, 2000),
            "better": simulated.paired_coverage(0.6, 0.05, 0.1, 408, 2000),
        }
    )


# --- where they need not ---


def made_table(hits: int, alarms: int, misses: int, rejections: int) -> tuple[np.ndarray, np.ndarray]:
    counts = (hits, alarms, misses, rejections)
    return np.repeat([1, 0, 1, 0], counts), np.repeat([1, 1, 0, 0], counts)


@pytest.mark.parametrize(
    ("case", "name"), [("2 misses, 2 rejections", "matthews"), ("2 hits", "f1"), ("5 wrong", "accuracy")]
)
def test_where_an_interval_holds_too_rarely_it_is_marked(case: str, name: str) -> None:
    cells = simulated.SMALL_TABLES[case]
    assert simulated.table_coverage(cells, 408, 2000)[name] < 0.93
    marked = [
        is_unreliable(name, np.isin(one, (0, 2)).astype(int), [np.isin(one, (0, 1)).astype(int)])
        for one in simulated.made_tables(cells, 408, 500, np.random.default_rng(2))
    ]
    assert np.mean(marked) > 0.95


@pytest.mark.parametrize("name", simulated.TABLE_METRICS)
@pytest.mark.parametrize("cell", range(4))
def test_a_small_cell_marks_the_interval(name: str, cell: int) -> None:
    table = [150] * 4
    for least, marked in ((10, False), (9, True)):
        table[cell] = least
        references, predictions = made_table(*table)
        assert is_unreliable(name, references, [predictions]) is marked
    references, predictions = made_table(150, 150, 150, 150)
    assert not is_unreliable(name, references, [predictions, predictions])
    assert is_unreliable(name, references, [predictions, np.ones_like(predictions)]), "one seed is enough"


def test_matthews_needs_more_examples() -> None:
    for n, marked in ((407, True), (408, False)):
        assert is_unreliable("matthews", *_one(made_table(100, 100, 100, n - 300))) is marked
        assert not is_unreliable("f1", *_one(made_table(100, 100, 100, n - 300)))


def _one(pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    return pair[0], [pair[1]]


def test_of_more_classes_right_and_wrong_count_and_values_need_some_examples() -> None:
    references = np.arange(300) % 3
    assert not is_unreliable("accuracy", references, [np.zeros(300, dtype=int)]), "one answer only: 100 are right"
    wrong = np.where(np.arange(300) < 9, 2 - references, references)  # of the middle class it is right
    assert is_unreliable("accuracy", references, [wrong])
    generator = np.random.default_rng(0)
    for n, marked in ((149, True), (150, False)):
        values = generator.normal(size=n)
        assert is_unreliable("pearson", values, [values]) is marked
    assert not is_unreliable("f1", MRPC_DEV, []), "where every seed failed there is no interval"


# --- differences ---

pairs_of_answers = st.lists(st.tuples(*[st.integers(0, 1)] * 4), min_size=12, max_size=60)


@pytest.mark.parametrize("name", METRICS)
@given(rows=pairs_of_answers)
@settings(max_examples=15)
def test_a_paired_difference_is_antisymmetric_and_zero_of_the_same(name: str, rows: list[tuple[int, ...]]) -> None:
    references, a, b, c = (np.array(column) for column in zip(*rows, strict=True))
    low, high = paired_difference_interval(name, references, [a], [b, c])
    assert paired_difference_interval(name, references, [b, c], [a]) == pytest.approx((-high, -low), abs=1e-12)
    assert low <= high
    assert paired_difference_interval(name, references, [b, c], [b, c]) == (0, 0)
    assert paired_difference_interval(name, references, [b, c], [c, b]) == pytest.approx((0, 0), abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_paired_difference_is_that_of_scipys_bootstrap(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals_module, "RESAMPLES", 100)
    references, a = make_answers(name, 1)
    b = make_answers(name, 2)[1] if METRICS[name].of_classes else references + np.random.default_rng(9).normal(size=120)
    c = np.roll(a, 1)

    def difference(x: np.ndarray, *answers: np.ndarray) -> float:
        figures = [LIBRARY[name](x, each) for each in answers]
        return float(np.mean(figures[1:]) - figures[0])

    ends = stats.bootstrap(
        (references, a, b, c),
        difference,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=100,
        batch=100,
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = paired_difference_interval(name, references, [a], [b, c])
    assert found == pytest.approx((ends.low, ends.high), abs=1e-9)


def test_pairing_makes_a_difference_surer() -> None:
    """Two that err on the same examples differ by little for sure; the same accuracies of unlike errors do not."""
    references = np.ones(400, dtype=int)
    a = np.repeat([0, 1], [100, 300])
    like, unlike = np.repeat([0, 1], [90, 310]), np.repeat([1, 0], [310, 90])
    low, high = paired_difference_interval("accuracy", references, [a], [like])
    assert 0 < low < 0.025 < high
    low, high = paired_difference_interval("accuracy", references, [a], [unlike])
    assert low < 0 < high


def test_an_interval_from_a_value_alone() -> None:
    low, high = interval_from_value("accuracy", 0.8, 100)  # type: ignore[misc]
    # Wilson (1927) of 80 of 100
    assert (low, high) == pytest.approx((0.7112, 0.8666), abs=1e-4)
    generator = np.random.default_rng(0)
    x = generator.normal(size=200)
    fit = stats.pearsonr(x, x + generator.normal(size=200))
    assert interval_from_value("pearson", float(fit.statistic), 200) == pytest.approx(tuple(fit.confidence_interval()))
    assert interval_from_value("f1", 0.8, 100) is None and interval_from_value("pearson", 1.0, 100) is None


def test_an_unpaired_difference_is_newcombes() -> None:
    """Newcombe (1998), table II, case a, method 10: 56 of 70 less 48 of 80."""
    a, b = 48 / 80, 56 / 70
    ends = interval_from_value("accuracy", a, 80), interval_from_value("accuracy", b, 70)
    assert unpaired_difference_interval(a, ends[0], b, ends[1]) == pytest.approx((0.0524, 0.3339), abs=1e-4)  # type: ignore[arg-type]


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
