"""Where a training's time goes: speeds count steps alone."""

import pytest
from factories import make_pretraining

from tasks.pretraining import timing
from tasks.pretraining.timing import PEAK_TFLOPS, Clock, peak_flops
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


def test_old_records_have_no_timing() -> None:
    old = make_pretraining().model_dump(mode="json", exclude_unset=True)
    assert PretrainingResult.model_validate(old).timing is None
