"""Metrics, their floors and their intervals. A new metric is one row of METRICS.

The value comes from scikit-learn or scipy through `evaluate` (see `tasks.finetuning.metric`); the bootstrap needs the
same figure for thousands of resamples at once, which each row gives in vectorised form (the tests compare the two).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
# With fewer examples, in all or in a cell of the confusion table, a bootstrap interval can hold less often than it says
# (`docs/benchmarks.md`, coverage of the intervals).
MATTHEWS_MIN_EXAMPLES = 408
CORRELATION_MIN_EXAMPLES = 150
MIN_CELL = 10
RESAMPLES = 2_000
# (references [..., n], predictions [..., n]) -> figures [...]
AlongLastAxis = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _accuracy(references: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    return (references == predictions).mean(axis=-1)


def _f1(references: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    hits = ((references == 1) & (predictions == 1)).sum(axis=-1)
    total = (references == 1).sum(axis=-1) + (predictions == 1).sum(axis=-1)
    return np.divide(2.0 * hits, total, out=np.zeros(np.shape(total)), where=total > 0)


def _pearson(references: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    x = references - references.mean(axis=-1, keepdims=True)
    y = predictions - predictions.mean(axis=-1, keepdims=True)
    scale = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    # A constant prediction has no correlation; it counts as 0, its floor.
    return np.divide((x * y).sum(axis=-1), scale, out=np.zeros(np.shape(scale)), where=scale > 1e-12)


def _spearman(references: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return _pearson(rankdata(references, axis=-1), rankdata(predictions, axis=-1))


def _matthews(references: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Of classes 0 and 1 the correlation of Pearson, which is what Matthews' is there (Matthews 1975)."""
    return _pearson(references.astype(np.float64), predictions.astype(np.float64))


def _sklearn_matthews(references: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(references, predictions))


def _sklearn_accuracy(references: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(references, predictions))


def _sklearn_f1(references: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, zero_division=0))


def _scipy_correlation(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    def correlation(references: np.ndarray, predictions: np.ndarray) -> float:
        from scipy import stats

        if np.ptp(predictions) < 1e-12 or np.ptp(references) < 1e-12:
            return 0.0
        return float(getattr(stats, name)(references, predictions).statistic)

    return correlation


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        compute: (references, predictions) -> figure, by the library.
        vectorised: the same along the last axis, for the bootstrap.
        floor_name: the trivial answer that sets the floor.
        floor: references -> what that answer scores.
        is_percent: shown as a percentage rather than as a plain figure.
        of_classes: of class numbers rather than of values.
    """

    name: str
    compute: Callable[[np.ndarray, np.ndarray], float]
    vectorised: AlongLastAxis
    floor_name: str
    floor: Callable[[np.ndarray], float]
    is_percent: bool
    of_classes: bool


def _majority_share(references: np.ndarray) -> float:
    return float(np.unique(references, return_counts=True)[1].max() / len(references))


def _always_positive_f1(references: np.ndarray) -> float:
    return float(_f1(references, np.ones_like(references)))


def _zero(references: np.ndarray) -> float:
    return 0.0


METRICS: dict[str, Metric] = {
    row.name: row
    for row in [
        Metric("accuracy", _sklearn_accuracy, _accuracy, "majority class", _majority_share, True, True),
        Metric("f1", _sklearn_f1, _f1, "always positive", _always_positive_f1, True, True),
        Metric("matthews", _sklearn_matthews, _matthews, "constant", _zero, False, True),
        Metric("pearson", _scipy_correlation("pearsonr"), _pearson, "constant", _zero, False, False),
        Metric("spearman", _scipy_correlation("spearmanr"), _spearman, "constant", _zero, False, False),
    ]
}


def bootstrap_interval(metric: str, references: np.ndarray, predictions: Sequence[np.ndarray]) -> tuple[float, float]:
    """95 % percentile interval over examples of the metric's mean over seeds.

    Args:
        metric: row of METRICS.
        references: [n].
        predictions: one [n] per seed; every seed sees the same resampled examples.

    Returns:
        Lower and upper end.
    """
    vectorised = METRICS[metric].vectorised

    def mean_over_seeds(*resampled: np.ndarray) -> np.ndarray:
        return np.mean([vectorised(resampled[0], one) for one in resampled[1:]], axis=0)

    return _paired_bootstrap((references, *predictions), mean_over_seeds)


def is_unreliable(metric: str, references: np.ndarray, predictions: Sequence[np.ndarray]) -> bool:
    """Whether an interval lies outside of where intervals were shown to hold as often as they say.

    That is where every cell of every seed's confusion table has some examples; of more than two classes, where the
    metric counts right and wrong answers alone, both of these.
    """
    if not METRICS[metric].of_classes:
        return len(references) < CORRELATION_MIN_EXAMPLES
    if metric == "matthews" and len(references) < MATTHEWS_MIN_EXAMPLES:
        return True
    for answers in predictions:
        if max(references.max(), answers.max()) > 1:
            cells = np.bincount(references == answers, minlength=2)
        else:
            cells = np.bincount(2 * references + answers, minlength=4)
        if cells.min() < MIN_CELL:
            return True
    return False


def paired_difference_interval(
    metric: str, references: np.ndarray, predictions_a: Sequence[np.ndarray], predictions_b: Sequence[np.ndarray]
) -> tuple[float, float]:
    """95 % percentile interval over examples of what B scores more than A, each the mean over its seeds.

    Args:
        metric: row of METRICS.
        references: [n].
        predictions_a, predictions_b: one [n] per seed; every seed of both sees the same resampled examples.
    """
    vectorised, seeds_a = METRICS[metric].vectorised, len(predictions_a)

    def difference(*resampled: np.ndarray) -> np.ndarray:
        figures = [vectorised(resampled[0], one) for one in resampled[1:]]
        return np.asarray(np.mean(figures[seeds_a:], axis=0) - np.mean(figures[:seeds_a], axis=0))

    return _paired_bootstrap((references, *predictions_a, *predictions_b), difference)


def _paired_bootstrap(columns: tuple[np.ndarray, ...], statistic: Callable[..., np.ndarray]) -> tuple[float, float]:
    from scipy.stats import bootstrap

    def along_last_axis(*resampled: np.ndarray, axis: int) -> np.ndarray:
        assert axis == -1
        return statistic(*resampled)

    result = bootstrap(
        columns,
        along_last_axis,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=RESAMPLES,
        batch=100,
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return float(low), float(high)


def interval_from_value(metric: str, value: float, n: int) -> tuple[float, float] | None:
    """95 % interval of a figure of which nothing but its value and n is left: Wilson's of an accuracy, Fisher's of a
    correlation of Pearson; None where they do not determine one (an F1 leaves its table open)."""
    from scipy.stats import binomtest, norm

    if metric == "accuracy":
        low, high = binomtest(round(value * n), n).proportion_ci(CONFIDENCE, method="wilson")
        return float(low), float(high)
    if metric == "pearson" and abs(value) < 1:
        half = norm.ppf(0.5 + CONFIDENCE / 2) / np.sqrt(n - 3)
        return float(np.tanh(np.arctanh(value) - half)), float(np.tanh(np.arctanh(value) + half))
    return None


def unpaired_difference_interval(
    a: float, interval_a: tuple[float, float], b: float, interval_b: tuple[float, float]
) -> tuple[float, float]:
    """95 % interval of B - A from both intervals, as if of different examples (Newcombe 1998, Zou 2007).

    It leaves out that the same examples are easy for both, so it is wider than a paired one.
    """
    low = b - a - np.hypot(b - interval_b[0], interval_a[1] - a)
    high = b - a + np.hypot(interval_b[1] - b, a - interval_a[0])
    return float(low), float(high)


def overlap_baseline(
    metric: str, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], *, regression: bool
) -> float:
    """What a linear model on word-overlap features alone reaches.

    Args:
        train, test: features [n, f] and labels [n].
    """
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model: Any = LinearRegression() if regression else LogisticRegression(max_iter=1000)
    fitted = make_pipeline(StandardScaler(), model).fit(*train)
    return METRICS[metric].compute(test[1], fitted.predict(test[0]))
