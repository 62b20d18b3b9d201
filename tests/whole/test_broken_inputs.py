"""A shard of a data set that is broken, and a training that finds no memory: one message that says what to do."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from factories import job_without_inputs

from tasks.data.sources import find_dataset
from tasks.data.splits import open_split
from tasks.errors import StageError, UserError
from tasks.pretraining import loop as pretraining_loop
from tasks.pretraining import training as pretraining_set_up
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.pretraining import DataSpec, TrainingSpec
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


@pytest.mark.parametrize(
    "fail", [too_large, raising(torch.cuda.OutOfMemoryError(GPU)), raising(MemoryError())], ids=["CPU", "GPU", "Python"]
)
@pytest.mark.parametrize(("size", "fix"), [(48, "--set training.per_device_batch_size=24"), (1, "a smaller model")])
def test_no_memory_names_the_batch_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fail: Callable[..., None], size: int, fix: str
) -> None:
    training = TrainingSpec(global_batch_size=96, per_device_batch_size=size)
    spec = ExperimentSpec(name="test", data=DataSpec(), training=training)
    monkeypatch.setattr(pretraining_set_up, "Accelerator", on_a_cpu)
    monkeypatch.setattr(pretraining_set_up, "load_tokenizer", fail)
    job = job_without_inputs("pretraining", tmp_path).model_copy(update={"spec": spec})
    with pytest.raises(StageError) as caught:
        pretraining_loop.run_pretraining(job, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"out of memory with training.per_device_batch_size {size}: "), message
    assert f"fix: {fix} (a step still sees the 96 sequences of training.global_batch_size)" in message, message
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


def test_another_error_of_torch_stays_what_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pretraining_loop, "_train", raising(RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        pretraining_loop.run_pretraining(job_without_inputs("pretraining", tmp_path), tmp_path)
