"""The check of a machine: what it finds wrong, what it writes, and that it needs the rank side alone."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import ROOT, cogito
from factories import make_pretraining
from fake_cuda import build_device_guard, fake_cuda, move
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

from models.loss_weighting import LearnableWeighting
from tasks.errors import StageError
from tasks.gpu_check import checking, numerics, speed, work
from tasks.gpu_check.checking import run_checks
from tasks.gpu_check.numerics import CheckFailed
from tasks.jobs import leases
from tasks.jobs.devices import Device
from tasks.jobs.messages import PretrainingJob, Progress
from tasks.pretraining.cost import random_batch
from tasks.store.home import Home

# What a machine that only trains may lack.
ABSENT = ("prefect", "datasets", "evaluate", "wandb", "typer")
CHECKS = ("training", "processes", "kill and resume", "fine-tuning", "zero-shot", "analysis", "out of memory")
CHECKS += ("attention", "model family", "speed")


@pytest.mark.end_to_end
def test_a_machine_without_a_gpu_runs_what_it_can_with_the_rank_side_alone(tmp_path: Path) -> None:
    """Whole, since it is what a lab runs once: 50 CPU-seconds of real jobs."""
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    for name in ABSENT:
        (lacking / f"{name}.py").write_text(f"raise ImportError('{name} is not installed')\n", encoding="utf-8")
    path = f"{lacking}{os.pathsep}{ROOT}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COGITO_")}
    command = [sys.executable, "-m", "tasks.gpu_check", "out.json"]
    environment = kept | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("no GPU on this machine")
    written = json.loads((tmp_path / "out.json").read_text())
    outcomes = {outcome["name"]: outcome for outcome in written["checks"]}
    assert tuple(outcomes) == CHECKS and written["gpus"] == "" and written["torch"] == torch.__version__
    assert {name for name, outcome in outcomes.items() if outcome["status"] != "ok"} == {"out of memory"}
    assert all(f"{name:16} {outcome['status']}" in done.stdout for name, outcome in outcomes.items())
    figures = {name: outcome["figures"] for name, outcome in outcomes.items()}
    assert figures["training"]["held-out loss"] < figures["training"]["first loss"]
    assert figures["processes"]["processes"] == 2 and figures["processes"]["largest difference of the loss"] < 1e-5
    assert figures["kill and resume"]["weights and curve"] == "the same bytes"
    assert figures["speed"]["tokens/s"] > 0 and figures["fine-tuning"]["precision"] == "fp32"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lacking", "out.json"], "nothing else is left behind"


@pytest.mark.gpu
def test_the_gpus_of_this_machine_work(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")
    lines: list[str] = []
    assert run_checks(tmp_path / "out.json", lines.append), "\n".join(lines)
    print("\n".join(lines))


@pytest.fixture
def bench(tmp_path: Path) -> work.Bench:
    return work.Bench(Home(tmp_path / "home"), (Device("cpu", "0", 1),))


def wrong(_: Any) -> numerics.Figures:
    raise CheckFailed("a kernel is wrong\nby far")


@pytest.mark.parametrize(
    ("check", "status", "found"),
    [
        (lambda _: {"figure": 1.0}, "ok", ""),
        (lambda _: {"skipped": "not here"}, "skipped", "not here"),
        (wrong, "failed", "a kernel is wrong by far"),
        (lambda _: 1 / 0, "failed", "ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_check_comes_to_is_shown_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, check: Callable[[Any], Any], status: str, found: str
) -> None:
    monkeypatch.setattr(
        checking, "_checks", lambda bench, device: {"one": lambda: check(bench), "two": lambda: {"a": 2}}
    )
    lines: list[str] = []
    assert run_checks(tmp_path / "new" / "out.json", lines.append) is (status != "failed")
    one, two = json.loads((tmp_path / "new" / "out.json").read_text())["checks"]
    assert (one["status"], one["found"], two["status"]) == (status, found, "ok"), "the others go on"
    assert lines[1].startswith(f"one              {status}") and found in lines[1]


def test_no_check_begins_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checking, "LAST_BEGIN_SECONDS", -1)
    assert not run_checks(tmp_path / "out.json", lambda line: None)
    checks = json.loads((tmp_path / "out.json").read_text())["checks"]
    assert len(checks) == len(CHECKS) and all("no time was left" in check["found"] for check in checks)


def test_a_kernel_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = numerics.scaled_dot_product_attention

    def attention(q: torch.Tensor, *others: torch.Tensor, **more: Any) -> torch.Tensor:
        answer = right(q, *others, **more)
        return answer if q.dtype == torch.float64 else answer * 1.05

    figures = numerics.check_attention("cpu")
    assert len(figures) == len(numerics.KERNELS) * 2 * len(numerics.SHAPES)
    assert all(isinstance(figures[f"math {dtype} padded"], float) for dtype in numerics.DTYPES)
    monkeypatch.setattr(numerics, "scaled_dot_product_attention", attention)
    with pytest.raises(CheckFailed, match="attention by math fp32 tokens is wrong by"):
        numerics.check_attention("cpu")


def test_a_member_that_computes_otherwise_in_bf16_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that fp32 does not show: the losses of the step are weighed in autocast only."""
    right = LearnableWeighting.coefficients

    def coefficients(self: LearnableWeighting) -> torch.Tensor:
        return right(self) * (2 if torch.is_autocast_enabled("cpu") else 1)

    monkeypatch.setattr(LearnableWeighting, "coefficients", coefficients)
    with pytest.raises(CheckFailed, match=r"all losses, learnable in bf16: loss 1e\+00"):
        numerics.check_family("cpu")


def test_a_training_that_learns_nothing_or_is_not_killed_is_found(
    bench: work.Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    curve = tmp_path / "curve.jsonl"
    curve.write_text('{"task_loss": 5.0}\n{"task_loss": 5.0}\n', encoding="utf-8")
    result = make_pretraining(curve=curve, eval_loss=5.0, steps=2)
    monkeypatch.setattr(work.Bench, "train", lambda *_, **__: result)
    with pytest.raises(CheckFailed, match=r"the loss went from 5\.000 to 5\.000"):
        work.check_training(bench)
    with pytest.raises(CheckFailed, match="that was to be killed came to its end"):
        work.check_resume(bench)


def test_a_job_that_hangs_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(CheckFailed, match="no end within 1 seconds"), work.limited(1):
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        sleeper.wait(30)
        raise StageError("it was ended")
    assert time.monotonic() - began < 25


def test_only_the_processes_of_the_job_are_killed(tmp_path: Path) -> None:
    code = "import time; time.sleep(60)"
    names = (tmp_path / "job.json", tmp_path / "other.json")
    words = [sys.executable, "-c", code, "-m", "tasks.jobs.worker"]
    job, other = (subprocess.Popen([*words, str(name)]) for name in names)
    try:
        kill = work._kill_at(5, tmp_path)
        kill(Progress(step=4, steps=9))
        assert job.poll() is None
        kill(Progress(step=5, steps=9))
        assert job.wait(10) != 0 and other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_speed_counts_the_products_of_a_step() -> None:
    figures = speed.check_speed("cpu")
    assert figures["tokens/s"] > 0 and 0 < figures["TFLOP/s"] < 100  # type: ignore[operator]
    assert sum(name.startswith("time in ") for name in figures) == speed.KERNELS


# As on a machine with GPUs


@pytest.fixture
def library(tmp_path: Path) -> Path | None:
    built = None if torch.cuda.is_available() else build_device_guard(tmp_path)
    if built is None and not torch.cuda.is_available():
        pytest.skip("no C++ compiler, which makes the pretended device")
    return built


def test_the_checks_run_on_fake_cuda_tensors(library: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their numbers mean nothing there, but nothing of them is on a wrong device."""
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: move(module))
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA GeForce RTX 3090")
    monkeypatch.setattr(speed, "_profile", lambda step, device: {})
    monkeypatch.setattr(speed, "flops_per_token", lambda spec, config: 94e6)

    def real_batch(*arguments: Any, **more: Any) -> Any:
        with _disable_current_modes():  # the loader's work, on real tensors of the CPU
            batch = random_batch(*arguments, **more)
        return tree_map_only(torch.Tensor, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype), batch)

    monkeypatch.setattr(numerics, "random_batch", real_batch)
    monkeypatch.setattr(speed, "random_batch", real_batch)
    monkeypatch.setattr(speed, "TIMED", 1)
    monkeypatch.setattr(speed, "WARM", 1)
    with fake_cuda(library):
        for name in ("perceiver_mlm", "tsdae"):
            _, gradient = numerics._step("cuda", "bf16", {"model.variant": name})
            assert gradient.numel() > 10_000
        for padded in (True, False):
            assert numerics._attention_error("cuda", "MATH", "bf16", 16, 16, padded) is not None
    with fake_cuda(library):
        figures = speed.check_speed("cuda")
    assert figures["model"] == "H512L6C128" and figures["peak memory GB"] == 5.0
    assert figures["MFU"] == pytest.approx(figures["TFLOP/s"] / 71)  # type: ignore[operator]


@pytest.mark.parametrize("count", [1, 3])
def test_the_jobs_of_a_gpu_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """H512 L6 with the lab's vocabulary on one GPU, the short training on all of them, and a batch for none."""
    gpus = tuple(Device("cuda", str(number), 1) for number in range(count))
    started: dict[str, tuple[PretrainingJob, int]] = {}
    curve = tmp_path / "curve.jsonl"
    curve.write_text('{"task_loss": 5.0}\n', encoding="utf-8")

    def run(folder: Path, job: PretrainingJob, devices: list[Device], **_: Any) -> Any:
        started[job.run_id] = job, len(devices)
        if job.run_id == "too_large":
            raise StageError("out of memory with training.per_device_batch_size 8192: CUDA out of memory; fix: smaller")
        return make_pretraining(curve=curve, eval_loss=4.0, steps=200)

    monkeypatch.setattr(work, "run_job", run)
    monkeypatch.setattr(work, "_nccl_alone", lambda: "works")
    monkeypatch.setattr(leases, "visible_devices", lambda: gpus)
    monkeypatch.setattr(leases.tempfile, "tempdir", str(tmp_path))
    bench = work.Bench(Home(tmp_path / "home"), gpus)
    assert work.check_training(bench)["steps"] == 200
    assert work.check_processes(bench)["processes"] == count
    assert "out of memory" in str(work.check_memory(bench)["told"])
    large, one = started["large"]
    assert (large.config["vocab_size"], large.spec.training.max_steps, one) == (50_368, 200, 1)
    assert large.spec.model.size_name == "H512L6C128" and large.spec.data.block_tokens == 512
    assert started["short"][1] == 1 and started["short"][0].spec.training.deterministic
    assert ("parallel" in started) == (count > 1) and started.get("parallel", (None, count))[1] == count
    assert started["too_large"][0].spec.training.per_device_batch_size == work.TOO_MANY


def test_the_command_takes_one_of_its_two_ways(home: Home) -> None:
    done = cogito("doctor", "--gpu", "--fix", home=home.root)
    assert done.returncode == 2 and "drop one of them" in done.stderr
