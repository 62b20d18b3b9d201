"""Several cells on one GPU: who may join whom, what memory says, and what becomes of one that takes more."""

import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_gpus import FakeGpus
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import StageError
from tasks.finetuning import loop
from tasks.jobs import devices, launch, leases
from tasks.jobs.devices import Device, most_jobs, visible_devices
from tasks.jobs.history import Past, Work, judge
from tasks.jobs.launch import CONTEXT_BYTES, run_on_one_device
from tasks.jobs.leases import lease_devices
from tasks.jobs.messages import Job
from tasks.jobs.waiting import Need, may_join
from tasks.store.files import write_json
from tasks.store.home import Home
from tests.factories import job_without_inputs

GB = 10**9
TOTAL = 24576 * 2**20  # of each GPU here, of which nine tenths may be stated: 23.19 GB


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(leases, "LOOK_SECONDS", 1e-6)
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(devices, "usable_cores", lambda: 8)
    visible_devices.cache_clear()
    yield
    visible_devices.cache_clear()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    """Two GPUs, with four cores for each."""
    made = FakeGpus(2, tmp_path / "smi")
    made.show(monkeypatch)
    return made


class Jobs:
    """Jobs that lease a device in threads, and hold it until they are told to end."""

    def __init__(self, home: Home) -> None:
        self.home, self.on = home, dict[str, Device]()
        self._end: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def start(self, name: str, need: Need, count: int = 1, *, waits: bool = False) -> None:
        """Start a job, which gets its device at once or `waits`."""
        ending, begun = threading.Event(), threading.Event()

        def work() -> None:
            with lease_devices(self.home, count, lambda: need) as held:
                self.on[name] = held[0]
                begun.set()
                ending.wait(20)
            del self.on[name]

        self._end[name] = ending
        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()
        assert begun.wait(0.4 if waits else 20) != waits

    def end(self, *names: str, then: str = "") -> None:
        """End jobs, and wait until they are gone and another one has begun."""
        for name in names:
            self._end[name].set()
        deadline = time.monotonic() + 20
        while set(names) & self.on.keys() or (then and then not in self.on):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def places(self) -> dict[str, str]:
        return {name: device.index for name, device in sorted(self.on.items())}


@pytest.fixture
def jobs(home: Home) -> Iterator[Jobs]:
    made = Jobs(home)
    yield made
    made.end(*made._end)
    for thread in made._threads:
        thread.join(20)
        assert not thread.is_alive()


def test_cells_take_free_gpus_first_and_share_while_memory_allows(host: FakeGpus, jobs: Jobs) -> None:
    for name in "abc":
        jobs.start(name, Need(60, 9 * GB))
    assert jobs.places() == {"a": "0", "b": "1", "c": "0"}
    assert jobs.on["c"].share == 9 * GB
    jobs.start("large", Need(60, 15 * GB), waits=True)
    jobs.start("small", Need(30, 5 * GB))
    assert jobs.places() == {"a": "0", "b": "1", "c": "0", "small": "1"}
    jobs.end("small", "b", then="large")
    assert jobs.places() == {"a": "0", "c": "0", "large": "1"}


def test_who_wants_a_gpu_alone_has_it_alone(host: FakeGpus, jobs: Jobs) -> None:
    jobs.start("alone", Need(60))
    jobs.start("cell", Need(60, 1 * GB))
    jobs.start("another", Need(60, 1 * GB))
    assert jobs.places() == {"alone": "0", "another": "1", "cell": "1"}
    jobs.start("second", Need(60), waits=True)
    jobs.end("cell")
    assert "second" not in jobs.on
    jobs.end("another", then="second")
    assert jobs.places() == {"alone": "0", "second": "1"}
    jobs.start("late", Need(1, 1 * GB), waits=True)


def test_a_cell_joins_no_gpu_that_a_waiting_training_would_get_later(host: FakeGpus, jobs: Jobs) -> None:
    jobs.start("a", Need(60, 1 * GB))
    jobs.start("training", Need(), count=2, waits=True)
    jobs.start("longer", Need(600, 1 * GB), waits=True)
    jobs.start("unknown", Need(None, 1 * GB), waits=True)
    jobs.start("short", Need(30, 1 * GB))
    assert jobs.places() == {"a": "0", "short": "1"}
    jobs.start("shorter", Need(20, 1 * GB))
    jobs.start("shortest", Need(10, 1 * GB))
    assert set(jobs.places()) == {"a", "short", "shorter", "shortest"}
    jobs.end("a", "short", "shorter")
    assert "training" not in jobs.on
    jobs.end("shortest", then="training")


def test_memory_that_others_take_is_not_counted_on(host: FakeGpus, jobs: Jobs) -> None:
    """A program came to a GPU where a cell is: what it takes is gone, whatever the cell stated."""
    jobs.start("a", Need(60, 1 * GB))
    jobs.start("b", Need(60, 1 * GB))
    host.memory([20_000, 22_000])  # MiB
    jobs.start("c", Need(60, 2 * GB))
    assert jobs.places() == {"a": "0", "b": "1", "c": "0"}
    host.memory([22_000, 22_000])
    jobs.start("d", Need(60, 2 * GB), waits=True)
    host.memory([0, 0])


def test_nothing_is_shared_where_memory_is_unknown(host: FakeGpus, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert most_jobs() == 8
    visible_devices.cache_clear()
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert most_jobs() == 2
    for name in "ab":
        jobs.start(name, Need(60, 1 * GB))
    jobs.start("c", Need(60, 1 * GB), waits=True)
    assert jobs.places() == {"a": "0", "b": "1"} and jobs.on["a"].share is None


def test_a_gpu_is_shared_by_no_more_jobs_than_cores_feed(
    host: FakeGpus, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "usable_cores", lambda: 4)
    for name in "abcd":
        jobs.start(name, Need(60, 1 * GB))
    jobs.start("e", Need(60, 1 * GB), waits=True)
    assert sorted(jobs.places().values()) == ["0", "0", "1", "1"]


def test_a_job_that_needs_nearly_all_of_a_gpu_has_it_alone_and_whole(host: FakeGpus, jobs: Jobs) -> None:
    jobs.start("huge", Need(60, 24 * GB))
    assert jobs.on["huge"].share is None
    jobs.start("a", Need(60, 1 * GB))
    jobs.start("b", Need(60, 1 * GB))
    assert jobs.places() == {"a": "1", "b": "1", "huge": "0"}


@given(
    st.floats(0, 100),
    st.lists(st.floats(0, 100), min_size=1, max_size=4),
    st.integers(0, 3),
    st.lists(st.integers(1, 6), max_size=3),
    st.data(),
)
def test_who_joins_delays_nobody(seconds: float, ends: list[float], free: int, ahead: list[int], data: Any) -> None:
    """Compared by trying: when does the first one ahead that waits begin, with and without?"""
    end = data.draw(st.sampled_from(ends))

    def begins(moments: list[float]) -> float | None:
        left = free
        for needed in ahead:
            if needed > left:
                ready = [0.0] * left + sorted(moments)
                return ready[needed - 1] if needed <= len(ready) else None
            left -= needed
        return -1.0

    joined = list(ends)
    joined[joined.index(end)] = max(end, seconds)
    before, after = begins(ends), begins(joined)
    assert may_join(seconds, end, free, ahead, ends) == (before is not None and after == before)


# What is known of memory


def past(task: str, memory: int | None, **changes: Any) -> Past:
    fields = {"kind": "finetuning", "size": 4_000_000, "tokens": 1e6, "task": task, "head": "cls", "batch": 96 * 128}
    return Past(Work(**fields | changes), "cuda", 10.0, memory)


def test_memory_is_that_of_the_same_task_head_size_and_batch() -> None:
    asked = past("mrpc", None).work
    known = [past("mrpc", 3 * GB), past("mrpc", 4 * GB), past("mrpc", None), past("qqp", 9 * GB)]
    known += [past("mrpc", 9 * GB, batch=999), past("mrpc", 9 * GB, head="other"), past("mrpc", 9 * GB, size=9)]
    assert judge(asked, "cuda", known).memory == 4 * GB
    assert judge(asked, "cuda", known[3:]).memory is None
    assert judge(asked, "cpu", known).memory is None


# A cell that takes more than it stated


class Cells:
    """Stands for `run_job`: fails by lack of memory where the cell shares its GPU, or always."""

    def __init__(self, always: bool = False) -> None:
        self.shares: list[int | None] = []
        self.always = always

    def __call__(self, folder: Path, job: Job[Any], held: list[Device], **_: Any) -> str:
        self.shares.append(held[0].share)
        if self.always or held[0].share is not None:
            raise StageError("out of memory with evaluation.global_batch_size 96: CUDA out of memory; fix: smaller")
        return "done"


def cell_with_history(home: Home, folder: Path) -> Job[Any]:
    work = past("mrpc", None).work
    earlier = home.run("before").cell("mrpc", 1, "checkpoint")
    earlier.mkdir(parents=True)
    write_json(earlier / "job.json", {"identity": "x", "device": "cuda", "work": work.model_dump()})
    write_json(earlier / "result.json", {"identity": "x", "seconds": 10.0, "peak_memory": 2 * GB})
    return job_without_inputs("finetuning", folder).model_copy(update={"work": work})


def test_a_cell_that_runs_out_of_its_share_runs_again_alone(
    host: FakeGpus, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, job = Cells(), cell_with_history(home, tmp_path)
    monkeypatch.setattr(launch, "run_job", run)
    assert run_on_one_device(tmp_path / "mrpc-seed42-checkpoint", job, home) == "done"
    assert run.shares == [round(1.1 * 2 * GB) + CONTEXT_BYTES, None]
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said.startswith("mrpc-seed42-checkpoint ran out of the 3.0 GB of GPU 0") and "again, alone" in said


@pytest.mark.parametrize("known", [True, False])
def test_a_cell_that_runs_out_of_a_whole_gpu_fails(
    host: FakeGpus, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    run = Cells(always=True)
    job = cell_with_history(home, tmp_path) if known else job_without_inputs("finetuning", tmp_path)
    monkeypatch.setattr(launch, "run_job", run)
    with pytest.raises(StageError, match="out of memory with"):
        run_on_one_device(tmp_path / "job", job, home)
    assert [share is None for share in run.shares] == ([False, True] if known else [True])


def test_another_failure_of_a_shared_cell_is_its_own(
    host: FakeGpus, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def run(*_: Any, **__: Any) -> None:
        tried.append(1)
        raise StageError("the loss is not finite at step 3")

    monkeypatch.setattr(launch, "run_job", run)
    with pytest.raises(StageError, match="not finite"):
        run_on_one_device(tmp_path / "job", cell_with_history(home, tmp_path), home)
    assert tried == [1]


def test_a_cell_can_take_no_more_than_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would take the memory of those beside it."""
    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=24 * GB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    job = job_without_inputs("finetuning", tmp_path)
    for memory in (None, 3 * GB):
        with pytest.raises(Exception, match="gone"):
            loop.run_finetuning(job.model_copy(update={"memory": memory, "device": "cuda"}), tmp_path)  # type: ignore[arg-type]
    assert limits == [0.125]
