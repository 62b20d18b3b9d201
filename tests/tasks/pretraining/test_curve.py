"""The training curve on disk."""

import math
from pathlib import Path

from tasks.pretraining.curve import Curve, last_train_loss


def test_a_training_that_took_no_step_has_no_loss(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.jsonl", 0)
    assert math.isnan(last_train_loss(tmp_path / "curve.jsonl"))
    curve.add({"step": 1, "task_loss": 3.0})
    assert last_train_loss(tmp_path / "curve.jsonl") == 3.0
