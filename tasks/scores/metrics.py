"""Metrics and their floors. A new metric is one row of METRICS.

The value comes from scikit-learn or scipy, through the interface of `evaluate` (`tasks.scores.evaluate_metric`). The
bootstrap computes the same metric on thousands of resamples at once, so each row also has a vectorised form; the tests
compare the two. scipy and scikit-learn are imported where they are used: the log and the command line need only the
table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# A loss closer than this to the unigram entropy is at its floor: the model may have learned nothing from context.
UNIGRAM_MARGIN_NATS = 0.2

# (references [..., n], predictions [..., n]) -> scores [...]
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
    # The correlation of a constant prediction is undefined; it counts as 0, its floor.
    return np.divide((x * y).sum(axis=-1), scale, out=np.zeros(np.shape(scale)), where=scale > 1e-12)


def _spearman(references: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return _pearson(rankdata(references, axis=-1), rankdata(predictions, axis=-1))


def _matthews(references: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Matthews' correlation, which for classes 0 and 1 equals Pearson's (Matthews 1975)."""
    return _pearson(references.astype(np.float64), predictions.astype(np.float64))


def _sklearn(name: str, **options: Any) -> Callable[[np.ndarray, np.ndarray], float]:
    def compute(references: np.ndarray, predictions: np.ndarray) -> float:
        from sklearn import metrics

        return float(getattr(metrics, name)(references, predictions, **options))

    return compute


def _scipy(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    def compute(references: np.ndarray, predictions: np.ndarray) -> float:
        from scipy import stats

        if np.ptp(predictions) < 1e-12 or np.ptp(references) < 1e-12:
            return 0.0
        return float(getattr(stats, name)(references, predictions).statistic)

    return compute


@dataclass(frozen=True)
class Metric:
    """A metric, its vectorised form and its floor.

    Attributes:
        compute: (references, predictions) -> score, by the library.
        vectorised: the same along the last axis, for the bootstrap.
        floor_name: the trivial answer that sets the floor.
        floor: references -> the score of that answer.
        is_percent: whether the log shows it as a percentage.
        of_classes: whether it takes class numbers rather than values.
        log_names: what hand-written logs call it beside its name.
    """

    name: str
    compute: Callable[[np.ndarray, np.ndarray], float]
    vectorised: AlongLastAxis
    floor_name: str
    floor: Callable[[np.ndarray], float]
    is_percent: bool
    of_classes: bool
    log_names: tuple[str, ...] = ()


def _majority(references: np.ndarray) -> float:
    return float(np.unique(references, return_counts=True)[1].max() / len(references))


def _always_positive_f1(references: np.ndarray) -> float:
    return float(_f1(references, np.ones_like(references)))


def _zero(_: np.ndarray) -> float:
    return 0.0


METRICS: dict[str, Metric] = {
    row.name: row
    for row in [
        Metric("accuracy", _sklearn("accuracy_score"), _accuracy, "majority class", _majority, True, True, ("acc",)),
        Metric("f1", _sklearn("f1_score", zero_division=0), _f1, "always positive", _always_positive_f1, True, True),
        Metric("matthews", _sklearn("matthews_corrcoef"), _matthews, "constant", _zero, False, True, ("mcc",)),
        Metric("pearson", _scipy("pearsonr"), _pearson, "constant", _zero, False, False, ("p", "r")),
        Metric("spearman", _scipy("spearmanr"), _spearman, "constant", _zero, False, False, ("s", "rho")),
    ]
}


def overlap_baseline(
    metric: str, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], *, regression: bool
) -> float:
    """The score of a linear model that sees word-overlap features alone.

    Args:
        train, test: features [n, f] and labels [n].
    """
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model: Any = LinearRegression() if regression else LogisticRegression(max_iter=1000)
    fitted = make_pipeline(StandardScaler(), model).fit(*train)
    return METRICS[metric].compute(test[1], fitted.predict(test[0]))
