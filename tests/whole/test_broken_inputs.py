"""A shard of a data set that is broken, and a training that finds no memory: one message that says what to do."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from factories import job_without_inputs

from tasks.data.sources import find_dataset
from tasks.data.splits import open_split
from tasks.errors import StageError, UserError
from tasks.jobs import worker
from tasks.pretraining import loop as pretraining_loop
from tasks.pretraining import training as pretraining_set_up
from tasks.spec.experiment import ExperimentSpec, pretraining_part
from tasks.spec.pretraining import DataSpec, TrainingSpec
from tasks.store.files import read_json, write_json
from tasks.store.home import Home


def parquet(path: Path) -> None:
    pq.write_table(pa.table({"text": [f"text {number} of {path.name} " * 3 for number in range(2000)]}), path)


def json_lines(path: Path) -> None:
    path.write_text("".join(f'{{"text": "text {number}"}}\n' for number in range(200)))


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def holed(content: bytes) -> bytes:
    third = len(content) // 3
    return content[:third] + bytes(400) + content[third + 400 :]


BROKEN: dict[str, tuple[Callable[[Path], None], str, Callable[[bytes], bytes]]] = {
    "cut Parquet": (parquet, ".parquet", cut),
    "Parquet with a hole": (parquet, ".parquet", holed),
    "empty Parquet": (parquet, ".parquet", lambda content: b""),
    "cut JSON lines": (json_lines, ".jsonl", lambda content: content[:-9]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_shard_is_named(home: Home, tmp_path: Path, case: str) -> None:
    write, suffix, damage = BROKEN[case]
    folder = tmp_path / "mirror/lab/texts"
    folder.mkdir(parents=True)
    for number in range(3):
        write(folder / f"train-{number}{suffix}")
    broken = folder / f"train-1{suffix}"
    content = broken.read_bytes()
    broken.write_bytes(damage(content))

    def load() -> int:
        source = find_dataset("lab/texts", home, tmp_path / "mirror")
        return sum(1 for _ in open_split(source, None, "train", ["text"], home))

    with pytest.raises(UserError) as caught:
        load()
    message = str(caught.value)
    assert (
        message.startswith(f"data set 'lab/texts': {broken}") and message.count("fix:") == 1 and "\n" not in message
    ), message
    assert "An error occurred" not in message
    broken.write_bytes(content)
    assert load() == (6000 if write is parquet else 600), "mended, it is read, and nothing half is remembered"


def too_large(*_: Any) -> None:
    torch.empty(2**60)


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: Any) -> None:
        raise error

    return fail


def on_a_cpu(**_: Any) -> SimpleNamespace:
    return SimpleNamespace(num_processes=1, device=torch.device("cpu"))


GPU = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which"


NO_MEMORY = {
    "CPU": too_large,
    "Python": raising(MemoryError()),
    "numpy": lambda *_: np.empty(2**50),
    "C++": raising(RuntimeError("std::bad_alloc")),
    "system": raising(OSError(12, "Cannot allocate memory")),
    "GPU": raising(torch.cuda.OutOfMemoryError(GPU)),
    "CUDA": raising(RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`")),
    "cuBLAS": raising(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
    "handle": raising(RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")),
    "cuDNN": raising(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")),
}
BATCHES = {
    "pretraining": ("training.per_device_batch_size 32", "--set training.per_device_batch_size=16 (a step still sees"),
    "finetuning": ("evaluation.global_batch_size 96", "--set evaluation.global_batch_size=48 (another protocol"),
    "analysis": ("analysis.batch_size 1", "a smaller model"),
}


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("fail", NO_MEMORY.values(), ids=list(NO_MEMORY))
def test_no_memory_names_the_batch_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fail: Callable[..., None], kind: str
) -> None:
    monkeypatch.setattr(worker.pkgutil, "resolve_name", lambda name: fail)
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    write_json(tmp_path / "job.json", job_without_inputs(kind, tmp_path).model_dump(mode="json"))
    assert worker.main(str(tmp_path / "job.json")) == 1
    message = read_json(tmp_path / "error-0.json")["message"]
    got, fix = BATCHES[kind]
    assert message.startswith(f"out of memory with {got}: ") and f"; fix: {fix}" in message, message
    assert "\n" not in message and len(message) < 400


def test_a_training_that_leased_a_gpu_does_not_go_on_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """accelerate takes the CPU where it finds no GPU, and says nothing."""
    spec = ExperimentSpec(name="test", data=DataSpec())
    monkeypatch.setattr(pretraining_set_up, "Accelerator", on_a_cpu)
    job = job_without_inputs("pretraining", tmp_path).model_copy(update={"spec": spec, "device": "cuda"})
    with pytest.raises(StageError, match="requested cuda, found cpu"):
        pretraining_loop.run_pretraining(job, tmp_path)


@pytest.mark.parametrize(
    ("device", "asked", "told"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_a_deterministic_training_asks_the_gpu_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: Literal["cpu", "cuda"], asked: bool, told: bool
) -> None:
    training = TrainingSpec(deterministic=asked)
    spec = ExperimentSpec(name="test", data=DataSpec(), training=training)
    job = job_without_inputs("pretraining", tmp_path).model_copy(update={"spec": spec, "device": device})
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    found = SimpleNamespace(num_processes=1, device=torch.device(device))
    monkeypatch.setattr(pretraining_set_up, "Accelerator", lambda **_: found)
    try:
        assert pretraining_set_up._start_accelerator(job) is found
        assert torch.are_deterministic_algorithms_enabled() is told
        assert (os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None) == ":4096:8") is told
    finally:
        torch.use_deterministic_algorithms(False)
    without = pretraining_part(ExperimentSpec(name="test", data=DataSpec()))
    assert (pretraining_part(spec) == without) is not asked, "other bits are another training; its absence is not"


def test_another_error_of_torch_stays_what_it_is(tmp_path: Path) -> None:
    job = job_without_inputs("pretraining", tmp_path)
    assert worker.explanation(RuntimeError("shapes do not fit"), job) == "RuntimeError: shapes do not fit"
    assert worker.explanation(StageError("out of memory"), job) == "out of memory"
    assert worker.explanation(ValueError("allocate: no such key"), job) == "ValueError: allocate: no such key"
