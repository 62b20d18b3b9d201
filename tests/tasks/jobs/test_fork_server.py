"""The fork server: a job is a process of its own, whatever happens to its neighbours or to the server."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from factories import job_without_inputs

from tasks.errors import Paused, StageError
from tasks.interruption import hurrying, pausing
from tasks.jobs import launch
from tasks.jobs.devices import Device
from tasks.jobs.fork_server import ForkedJob, ForkServer
from tasks.jobs.launch import job_file, run_job
from tasks.processes import own_mark

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux alone")

CPU = Device("cpu", "0", 1)


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    yield launch._fork_server


def waiting_job(folder: Path, server: ForkServer, threads: int = 1) -> ForkedJob:
    """A job that waits for the content of its file."""
    folder.mkdir(parents=True)
    os.mkfifo(folder / "job.json")
    return server.start(folder / "job.json", launch._environment(job_without_inputs("analysis", folder), [CPU]))


def end(job: ForkedJob, folder: Path) -> tuple[int, str]:
    """Give a waiting job a file that it cannot use; its exit code and what it wrote."""
    (folder / "job.json").write_text("{}")
    printed = job.stdout.read()
    return job.wait(), printed


def test_jobs_have_one_parent_and_an_end_each(tmp_path: Path, server: ForkServer) -> None:
    first, second, third = (waiting_job(tmp_path / name, server) for name in ("a", "b", "c d"))
    (parent,) = {psutil.Process(job.pid).ppid() for job in (first, second, third)}
    assert psutil.Process(parent).ppid() == os.getpid()
    os.kill(first.pid, signal.SIGKILL)
    assert first.stdout.read() == "" and first.wait() == first.returncode == -signal.SIGKILL
    code, printed = end(third, tmp_path / "c d")
    assert code == 1 and "ValidationError" in printed
    assert (tmp_path / "c d" / "error-0.json").exists() and not (tmp_path / "b" / "error-0.json").exists()
    assert end(second, tmp_path / "b")[0] == 1


def test_a_job_is_known_by_its_title_and_its_owner(tmp_path: Path, server: ForkServer) -> None:
    job = waiting_job(tmp_path / "my runs" / "mrpc", server)
    process = psutil.Process(job.pid)
    deadline = time.monotonic() + 30
    while job_file(process) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert job_file(process) == tmp_path / "my runs" / "mrpc" / "job.json"
    assert own_mark().items() <= process.environ().items()
    assert job_file(process.parent()) is None
    assert os.getsid(job.pid) == job.pid  # a signal to the command's group does not reach it
    end(job, tmp_path / "my runs" / "mrpc")


def test_a_title_is_there_whatever_comes_first_in_the_environment(tmp_path: Path) -> None:
    """As in `CUDA_VISIBLE_DEVICES=0 cogito run ...`; the title's place is found by the first variable."""
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "job.json")
    given = launch._environment(job_without_inputs("analysis", tmp_path), [CPU])
    first = {name: given.pop(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
    job = ForkServer().start(tmp_path / "a" / "job.json", {**first, **given})
    deadline = time.monotonic() + 30
    while job_file(psutil.Process(job.pid)) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert job_file(psutil.Process(job.pid)) == tmp_path / "a" / "job.json"
    end(job, tmp_path / "a")


def test_a_killed_server_costs_no_job(tmp_path: Path, server: ForkServer) -> None:
    job = waiting_job(tmp_path / "a", server)
    killed = psutil.Process(job.pid).parent()
    killed.kill()
    psutil.wait_procs([killed], timeout=10)
    code, printed = end(job, tmp_path / "a")
    assert code == 0 and "ValidationError" in printed  # nobody knows the code: its result or its error file tells
    other = waiting_job(tmp_path / "b", server)
    assert psutil.Process(other.pid).ppid() not in (killed.pid, 1)
    end(other, tmp_path / "b")


def test_another_environment_has_another_server(
    tmp_path: Path, server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = waiting_job(tmp_path / "a", server)
    monkeypatch.setenv("COGITO_MACHINE", "attic")
    second = waiting_job(tmp_path / "b", server)
    assert psutil.Process(first.pid).ppid() != psutil.Process(second.pid).ppid()
    assert psutil.Process(second.pid).environ()["COGITO_MACHINE"] == "attic"
    assert end(first, tmp_path / "a")[0] == end(second, tmp_path / "b")[0] == 1


def test_without_a_server_a_job_imports_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> ForkedJob:
        raise ConnectionError("it ended")

    monkeypatch.setattr(launch._fork_server, "start", refuse)
    with pytest.raises(StageError, match="gone"):
        run_job(tmp_path / "job", job_without_inputs("analysis", tmp_path), [CPU])
    assert "no fork server (it ended)" in caplog.text


class Started:
    """Stands for a process that has ended."""

    pid, returncode, stdout = 2**22 + 1, 0, ()

    def wait(self) -> int:
        return 0


@pytest.mark.parametrize("kind", ["pretraining", "finetuning"])
@pytest.mark.parametrize("hurry", [True, False])
def test_a_job_hears_of_a_pause_that_came_while_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, hurry: bool
) -> None:
    """The first job of a command waits seconds for the server: the time budget may be over in them."""
    ended: list[int] = []

    def start(*_: object) -> Started:
        launch.pause_all_jobs(end_short_ones=hurry)
        return Started()

    monkeypatch.setattr(launch, "_start_process", start)
    monkeypatch.setattr(launch, "end_process_tree", ended.append)
    try:
        with pytest.raises(Paused):
            run_job(tmp_path, job_without_inputs(kind, tmp_path), [CPU])
    finally:
        pausing.clear()
        hurrying.clear()
    assert (tmp_path / "pause").exists() == (kind == "pretraining")
    assert len(ended) == 1 + (kind == "finetuning" and hurry)  # at its end in any case
