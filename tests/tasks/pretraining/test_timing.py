"""Where a training's time goes: speeds count steps alone."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from factories import make_pretraining

from tasks.pretraining import loop, timing
from tasks.pretraining.timing import PEAK_TFLOPS, Clock, peak_flops
from tasks.pretraining.training import StepFigures
from tasks.store.records import PretrainingResult


def test_evaluations_and_checkpoints_are_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(timing.time, "monotonic", lambda: now)
    clock = Clock()
    now += 4.0
    with clock.spends_on("data_wait"):
        now += 1.0
    with clock.spends_on("evaluation"):
        now += 10.0
    with pytest.raises(OSError), clock.spends_on("checkpoints"):
        now += 5.0
        raise OSError
    spent = clock.timing()
    assert (spent.training, spent.evaluation, spent.checkpoints, spent.data_wait) == (5.0, 10.0, 5.0, 1.0)
    assert clock.total == 20.0


@pytest.mark.parametrize(
    ("device", "tflops"),
    [
        ("NVIDIA GeForce RTX 3090", 71.0),
        ("NVIDIA GeForce RTX 3090 Ti", 80.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA A10G", None),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40", None),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA H100 NVL", 835.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA RTX A1000 Laptop GPU", None),
        ("Tesla T4", None),
    ],
)
def test_the_peak_of_a_gpu_is_its_own_or_unknown(device: str, tflops: float | None) -> None:
    assert peak_flops(device, "bf16") == (tflops and tflops * 1e12)
    assert peak_flops(device, "fp32") is None


def test_no_peak_is_guessed() -> None:
    assert peak_flops("CPU", "bf16") is None and peak_flops("NVIDIA Quadro", "bf16") is None
    assert all(peak_flops(f"NVIDIA {name}", "bf16") == tflops * 1e12 for name, tflops in PEAK_TFLOPS.items())


def test_the_first_steps_foretell_the_whole() -> None:
    """Of the steps of this start: 100 were taken before it."""
    clock = SimpleNamespace(total=0.0, timing=lambda: SimpleNamespace(training=1.0))
    spec = SimpleNamespace(training=SimpleNamespace(global_batch_size=4))
    training: Any = SimpleNamespace(
        job=SimpleNamespace(spec=spec),
        blocks=range(9),
        resumed=100,
        steps=200,
        tokens=0,
        reported=1e9,
        forecast=None,
        curve=MagicMock(),
        tracking=MagicMock(),
        clock=clock,
    )
    for step, seconds, foretold in ((104, 2.0, None), (105, 3.0, 60.0), (150, 90.0, 60.0)):
        clock.total = seconds
        loop._report(training, StepFigures(step, {"total": 1.0, "task": 1.0}, 1.0, 1e-3, {}), None)
        assert training.forecast == foretold


def test_old_records_have_no_timing() -> None:
    old = make_pretraining().model_dump(mode="json", exclude_unset=True)
    assert PretrainingResult.model_validate(old).timing is None
    assert PretrainingResult.model_validate(old).forecast is None
