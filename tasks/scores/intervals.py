"""95 % intervals of scores: bootstrap, paired and unpaired differences, and where an interval is unreliable.

scipy is imported where it is used, since importing it slows every command that only reads the constants.
"""

from collections.abc import Callable, Sequence
from functools import partial

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
    """95 % percentile interval, over examples, of the mean score over seeds.

    Args:
        metric: row of METRICS.
        references: [n].
        predictions: [n] of every seed; all seeds see the same resampled examples.

    Returns:
        Lower and upper end.
    """
    return _paired_bootstrap((references, *predictions), partial(_mean_score, metric))


def paired_difference_interval(
    metric: str, references: np.ndarray, predictions_a: Sequence[np.ndarray], predictions_b: Sequence[np.ndarray]
) -> tuple[float, float]:
    """95 % percentile interval, over examples, of the difference B - A between two mean scores over seeds.

    Args:
        metric: row of METRICS.
        references: [n].
        predictions_a, predictions_b: [n] of every seed; all seeds of both see the same resampled examples.
    """
    seeds_a = len(predictions_a)

    def difference(references: np.ndarray, *predictions: np.ndarray) -> np.ndarray:
        a, b = predictions[:seeds_a], predictions[seeds_a:]
        return _mean_score(metric, references, *b) - _mean_score(metric, references, *a)

    return _paired_bootstrap((references, *predictions_a, *predictions_b), difference)


def _mean_score(metric: str, references: np.ndarray, *predictions: np.ndarray) -> np.ndarray:
    """The mean over seeds of the score along the last axis."""
    return np.asarray(np.mean([METRICS[metric].vectorised(references, answers) for answers in predictions], axis=0))


def _paired_bootstrap(columns: tuple[np.ndarray, ...], statistic: Callable[..., np.ndarray]) -> tuple[float, float]:
    from scipy.stats import bootstrap

    result = bootstrap(
        columns,
        lambda *resampled, axis: statistic(*resampled),  # axis is always -1, as the columns have no other
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


def is_unreliable(metric: str, references: np.ndarray, predictions: Sequence[np.ndarray]) -> bool:
    """Whether an interval lies outside the region where simulations showed that intervals cover as often as they claim.

    In that region every cell of every seed's confusion table has MIN_CELL examples; with more than two classes, where
    the metric counts right and wrong answers alone, both counts do.
    """
    if not METRICS[metric].of_classes:
        return len(references) < CORRELATION_MIN_EXAMPLES
    if metric == "matthews" and len(references) < MATTHEWS_MIN_EXAMPLES:
        return True
    for answers in predictions:
        cells, kinds = (
            (2 * references + answers, 4) if max(references.max(), answers.max()) <= 1 else (references == answers, 2)
        )
        if np.bincount(cells, minlength=kinds).min() < MIN_CELL:
            return True
    return False


def interval_from_value(metric: str, value: float, n: int) -> tuple[float, float] | None:
    """95 % interval of a score from its value and n alone: Wilson's for an accuracy, Fisher's for a Pearson
    correlation. None where they do not determine one: an F1 does not determine its confusion table."""
    from scipy.stats import binomtest, norm

    if metric == "accuracy":
        low, high = binomtest(round(value * n), n).proportion_ci(CONFIDENCE, method="wilson")
        return float(low), float(high)
    if metric == "pearson" and abs(value) < 1:
        half = norm.ppf(0.5 + CONFIDENCE / 2) / np.sqrt(n - 3)
        return float(np.tanh(np.arctanh(value) - half)), float(np.tanh(np.arctanh(value) + half))
    return None


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of a mean over seeds by Student's t; None for a single seed."""
    if len(values) < 2:
        return None
    from scipy.stats import sem, t

    half = float(sem(values) * t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def unpaired_difference_interval(
    a: float, interval_a: tuple[float, float], b: float, interval_b: tuple[float, float]
) -> tuple[float, float]:
    """95 % interval of B - A from both intervals, as if on different examples (Newcombe 1998, Zou 2007).

    It ignores that the same examples are easy for both, so it is wider than a paired interval.
    """
    low = b - a - np.hypot(b - interval_b[0], interval_a[1] - a)
    high = b - a + np.hypot(interval_b[1] - b, a - interval_a[0])
    return float(low), float(high)
