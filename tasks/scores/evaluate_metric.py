"""Our metrics behind the interface of `evaluate`, without a network.

Use `CogitoMetric(config_name="f1")`, or `evaluate.load(PATH_OF_THIS_FILE, "f1")`.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from tasks.scores.metrics import METRICS


class CogitoMetric(evaluate.Metric):
    """One row of `tasks.scores.metrics.METRICS`, chosen by `config_name`."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in METRICS:
            raise ValueError(f"unknown metric {self.config_name!r}; allowed: {', '.join(METRICS)}")
        kind = "int64" if METRICS[self.config_name].of_classes else "float64"
        return evaluate.MetricInfo(
            description="Accuracy, F1, Matthews and other correlations as scikit-learn and scipy define them.",
            citation="",
            inputs_description="predictions and references of equal length",
            features=datasets.Features({"predictions": datasets.Value(kind), "references": datasets.Value(kind)}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {self.config_name: METRICS[self.config_name].compute(np.asarray(references), np.asarray(predictions))}
