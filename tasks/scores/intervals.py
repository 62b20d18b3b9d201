"""95 % intervals of scores: bootstrap, paired and unpaired differences, and where an interval is unreliable.

scipy is imported where it is used, since importing it slows every command that only reads the constants.
"""

from collections.abc import Callable, Sequence

import numpy as np

from tasks.scores.metrics import METRICS

CONFIDENCE = 0.95
RESAMPLES = 2_000
# With fewer examples, in total or in a cell of the confusion table, a bootstrap interval may cover the true value less
# often than it claims (`docs/benchmarks.md`, coverage of the intervals).
MATTHEWS_MIN_EXAMPLES = 408
CORRELATION_MIN_EXAMPLES = 150
MIN_CELL = 10


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
