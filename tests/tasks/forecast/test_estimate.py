"""What `cogito show` estimates: memory against real steps, time against past trainings, and warnings that name keys."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import make_pretraining, make_record
from fake_gpus import FakeGpus

from flows.commands.spec import show
from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.family import VARIANTS
from models.pretraining_step import PretrainingStep
from tasks.forecast import estimate
from tasks.forecast.estimate import LAB_GPU, Machine, Room, estimates
from tasks.forecast.history import achieved_flops
from tasks.jobs.devices import visible_devices
from tasks.pretraining.cost import StepMemory, _Memory, random_batch, step_memory
from tasks.pretraining.stage import model_config
from tasks.runs.environment import machine_name
from tasks.spec.experiment import ExperimentSpec
from tasks.store.home import Home, claim_run

SIZES = {"hidden_size": 16, "num_concepts": 6, "intermediate_size": 24, "num_attention_heads": 2, "num_layers": 2}
BATCH = {"global_batch_size": 4, "per_device_batch_size": 4}
CPU = Machine("cpu", "this CPU", 1, 8 * 10**9)


def a_spec(variant: str = "perceiver_mlm", model: dict[str, Any] | None = None, **training: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate(
        {
            "name": "estimated",
            "data": {"dataset": "builtin/made_text", "train_tokenizer_vocab_size": 600, "block_tokens": 32},
            "model": {"variant": variant, **SIZES, **(model or {})},
            "training": {**BATCH, **training},
            "evaluation": {"max_length": 32},
        }
    )


def config_of(spec: ExperimentSpec) -> dict[str, Any]:
    return model_config(spec, 600, None, {})


ROWS = [(variant, {}) for variant in VARIANTS]
ROWS += [
    ("perceiver_mlm", {"recursive": True}),
    ("tsdae", {"use_bixt": True}),
    ("weighted_mlm", {"share_token_kv": True}),
]


@pytest.mark.parametrize(("variant", "model"), ROWS, ids=str)
def test_memory_is_that_of_real_steps(variant: str, model: dict[str, Any]) -> None:
    """To the byte: what is made without memory is what is made with it."""
    spec = a_spec(variant, model)
    built, memory = ConceptConfig(**config_of(spec)), _Memory()
    batch = random_batch(spec, built, 4)
    with memory:
        step = PretrainingStep(ConceptModelForMaskedLM(built), {}, "fixed")
        optimizer = torch.optim.AdamW(step.parameters(), fused=True)
        inputs = {
            name: value if value is None else torch.utils._pytree.tree_map(torch.clone, value)
            for name, value in batch.items()
        }
        for _ in range(2):
            step(**inputs, num_items_in_batch=1.0, share=1.0)["total"].backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    assert step_memory(spec, config_of(spec), "cpu", 1).total == pytest.approx(memory.peak, rel=0.01)


def test_the_parts_of_memory() -> None:
    spec = a_spec()
    weights = 4 * ConceptModelForMaskedLM.count_parameters(ConceptConfig(**config_of(spec)))
    alone = step_memory(spec, config_of(spec), "cpu", 1)
    assert (alone.weights, alone.gradients) == (weights, 0)
    assert 2 * weights <= alone.optimizer < 2.1 * weights
    cut = step_memory(a_spec(per_device_batch_size=2), config_of(spec), "cpu", 1)  # two micro-batches: gradients stay
    assert cut.gradients == weights and cut.working < alone.working
    assert step_memory(a_spec(global_batch_size=8), config_of(spec), "cpu", 2).gradients == weights  # DDP
    larger = step_memory(a_spec(global_batch_size=8, per_device_batch_size=8), config_of(spec), "cpu", 1)
    assert 1.5 * alone.working < larger.working < 2.1 * alone.working
    half = step_memory(a_spec(mixed_precision="bf16"), config_of(spec), "cpu", 1)
    assert half.working != alone.working


def test_a_micro_batch_that_is_too_large_to_count_is_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = a_spec(global_batch_size=64, per_device_batch_size=64)
    whole = step_memory(spec, config_of(spec), "cpu", 1)
    monkeypatch.setattr("tasks.pretraining.cost.COUNTED_TOKENS", 16 * 32)
    assert step_memory(spec, config_of(spec), "cpu", 1).total == pytest.approx(whole.total, rel=0.2)


@pytest.mark.parametrize(
    ("memory", "key"), [(500, None), (250, "training.per_device_batch_size"), (120, "model.hidden_size")]
)
def test_a_warning_names_what_to_lower(memory: int, key: str | None) -> None:
    gpu = Machine("cuda", "NVIDIA GeForce RTX 3090", 1, memory * 10**6)
    room = Room(gpu, StepMemory(50 * 10**6, 0, 100 * 10**6, 200 * 10**6))
    assert room.needed == 350 * 10**6
    if key is None:
        assert room.warning is None
    else:
        assert key in str(room.warning) and f"needs about 350 MB; NVIDIA GeForce RTX 3090 has {memory} MB" in str(
            room.warning
        )


def add_training(home: Home, **figures: Any) -> None:
    run = claim_run(home, "past")
    record = make_record(run_id=run.run_id, pretraining=make_pretraining(**figures))
    environment = record.environment.model_copy(update={"machine": machine_name()})
    record.model_copy(update={"environment": environment}).save(run)


def test_time_is_that_of_past_trainings(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, like = a_spec(max_steps=1000), {"device": "CPU", "precision": "fp32", "processes": 1}
    monkeypatch.setattr(estimate, "this_machine", lambda: CPU)
    before, lab = estimates(spec, config_of(spec), 1e6, home)
    assert "assuming 15% to 80% of what its matrix products reach now" in before.source
    assert lab.source == "assuming 10% to 45% of its dense peak, 71 TFLOP/s" and lab.precision == "bf16"
    assert lab.seconds == pytest.approx((128_000e6 / 71e12 / 0.45, 128_000e6 / 71e12 / 0.10))
    add_training(home, **like, flops_per_token=1.5e6, tokens_per_second=1e3)
    add_training(home, **like, flops_per_token=1e6, tokens_per_second=2e3)
    for other in (
        {"flops_per_token": 9e6},
        {"device": "NVIDIA H200"},
        {"precision": "bf16"},
        {"flops_per_token": None},
    ):
        add_training(home, **{**like, "flops_per_token": 1e6, **other}, tokens_per_second=7e9)
    known = estimates(spec, config_of(spec), 1e6, home)[0]
    assert known.tokens == 1000 * 4 * 32 and known.source == "as 2 past trainings of this home"
    assert known.seconds == pytest.approx((128_000e6 / 2e9, 128_000e6 / 1.5e9))
    assert achieved_flops(home, "another", "CPU", "fp32", 1e6) == []  # a home on a disk that several share


@pytest.mark.skipif(os.name != "posix", reason="the made nvidia-smi is a shell script")
def test_on_a_machine_of_the_lab_there_is_one_estimate(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all of its GPUs: four processes take a quarter of the time, and keep their gradients."""
    FakeGpus(4, tmp_path / "smi").show(monkeypatch)
    visible_devices.cache_clear()
    try:
        spec = a_spec(max_steps=1000)
        (only,) = estimates(spec, config_of(spec), 1e6, home)
    finally:
        visible_devices.cache_clear()
    assert only.room.machine == replace(LAB_GPU, processes=4)
    assert only.precision == "bf16" and only.room.tensors.gradients == only.room.tensors.weights
    assert only.seconds == pytest.approx((128_000e6 / 71e12 / 0.45 / 4, 128_000e6 / 71e12 / 0.10 / 4))
    assert only.lines()[0].startswith("4 x NVIDIA GeForce RTX 3090, bf16: ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5 s"), (89, "89 s"), (90, "1.5 min"), (5_399, "90 min"), (5_400, "1.5 h"), (18e6, "210 days")],
)
def test_a_time_has_two_digits_and_its_unit(seconds: float, text: str) -> None:
    assert estimate.time_text(seconds) == text


def test_show_tells_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COGITO_HOME", str(tmp_path / "home"))
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps(a_spec().model_dump(exclude_defaults=True, mode="json")), encoding="utf-8")
    monkeypatch.setattr(estimate, "this_machine", lambda: CPU)
    show(path)
    assert "memory: " not in capsys.readouterr().err
    monkeypatch.setattr(estimate, "this_machine", lambda: Machine("cpu", "this CPU", 1, 10**8))
    show(path)
    assert f"{path}: warning: memory: a training step needs about" in capsys.readouterr().err
    show(path, as_json=True)
    here, lab = json.loads(capsys.readouterr().out)["estimates"]
    assert here["room"]["machine"]["kind"] == "cpu" and here["room"]["warning"] and here["tokens"] is None
    assert lab["room"]["machine"]["device"] == LAB_GPU.device and lab["room"]["warning"] is None
    assert not (tmp_path / "home").exists()
