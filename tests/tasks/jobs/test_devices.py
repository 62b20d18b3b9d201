"""Leases: no two jobs hold a device at once, whoever asks and however its owner ends."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from command import ROOT
from filelock import FileLock, Timeout

from tasks.errors import Paused, StageError
from tasks.interruption import pausing, stopping
from tasks.jobs import devices, launch, leases
from tasks.jobs.devices import Device, usable_cores, visible_devices
from tasks.jobs.gpus import Gpu
from tasks.jobs.launch import DeviceLost, run_job, run_on_one_device
from tasks.jobs.leases import lease_devices, lease_for_training, lost_devices
from tasks.jobs.messages import Job
from tasks.store.home import Home
from tasks.store.records import AnalysisResult, Result

TWO = (Device("cpu", "0", 1), Device("cpu", "1", 1))

HOLD = """
import sys, time
from pathlib import Path
from tasks.jobs import leases
from tasks.jobs.devices import Device
from tasks.jobs.leases import lease_devices
from tasks.jobs.messages import Job
from tasks.store.home import Home
from tasks.store.records import AnalysisResult, Result

folder, rounds, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
leases.visible_devices = lambda: (Device("cpu", "0", 1), Device("cpu", "1", 1))
leases.POLL_SECONDS = 0.01
for round in range(rounds):
    with lease_devices(Home(folder)) as (device,):
        mark = folder / f"held-{device.index}"
        mark.touch(exist_ok=False)  # fails where another one holds it
        print(device.index, flush=True)
        time.sleep(seconds)
        mark.unlink()
"""


def start_holder(home: Home, rounds: int, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home.root), str(rounds), str(seconds)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def two_devices(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(leases, "visible_devices", lambda: TWO)
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.01)
    return home


def is_free(home: Home, device: Device) -> bool:
    return all(can_lock(lock) for lock in leases._locks(home, device))


@pytest.fixture(autouse=True)
def _host_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leases of this test are not those of the machine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def can_lock(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def test_processes_never_hold_the_same_device(two_devices: Home) -> None:
    holders = [start_holder(two_devices, rounds=12, seconds=0.01) for _ in range(3)]
    outputs = [holder.communicate(timeout=60) for holder in holders]
    assert [holder.returncode for holder in holders] == [0, 0, 0], outputs
    assert sum(len(out.split()) for out, _ in outputs) == 36
    assert all(is_free(two_devices, device) for device in TWO)


def test_a_device_is_free_again_when_its_owner_is_killed(two_devices: Home) -> None:
    holder = start_holder(two_devices, rounds=1, seconds=60)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "0"
    with lease_devices(two_devices) as held:
        assert held == [TWO[1]], "the other one is taken"
    holder.kill()
    holder.communicate(timeout=10)
    with lease_devices(two_devices, 2) as held:
        assert held == list(TWO)


def test_threads_of_one_process_wait_for_each_other_too(two_devices: Home) -> None:
    held: set[str] = set()
    clashes: list[str] = []
    rounds: list[str] = []

    def work() -> None:
        for _ in range(4):
            with lease_devices(two_devices) as (device,):
                clashes.extend({device.index} & held)
                held.add(device.index)
                rounds.append(device.index)
                time.sleep(0.005)
                held.remove(device.index)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not clashes and len(rounds) == 16


def test_a_job_that_needs_all_devices_waits_for_them_and_is_not_starved(two_devices: Home) -> None:
    order: list[str] = []

    def take(name: str, count: int) -> None:
        with lease_devices(two_devices, count):
            order.append(name)

    big = threading.Thread(target=take, args=("big", 2))
    small = threading.Thread(target=take, args=("small", 1))
    with lease_devices(two_devices):
        big.start()
        deadline = time.monotonic() + 10
        while not list(two_devices.leases.glob("*/*.ticket")):
            assert time.monotonic() < deadline, "the big one must stand in the line"
            time.sleep(0.01)
        small.start()
        small.join(0.2)
        assert order == [], "the small one stands behind the big one"
    for thread in (big, small):
        thread.join(30)
    assert order == ["big", "small"]


@pytest.mark.parametrize(("told", "error"), [(stopping, StageError), (pausing, Paused)])
def test_who_waits_for_a_device_hears_that_it_shall_end(
    two_devices: Home, told: threading.Event, error: type[Exception]
) -> None:
    """Also at the head of the queue, while another command holds what it needs."""
    timer = threading.Timer(0.2, told.set)
    try:
        with lease_devices(two_devices, 2), pytest.raises(error):
            timer.start()
            with lease_devices(two_devices):
                raise AssertionError("nothing is free")
    finally:
        told.clear()


@pytest.mark.parametrize("told", [stopping, pausing])
def test_a_job_that_was_done_when_it_was_ended_is_done(
    tmp_path: Path, told: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process may take seconds to go after its result lies there."""

    def found(folder: Path, identity: str, kind: type[Result]) -> Result:
        told.set()
        return RESULT

    monkeypatch.setattr(launch, "finished_result", found)
    try:
        assert run_job(tmp_path / "job", JOB, [TWO[0]]) == RESULT
    finally:
        told.clear()


def test_a_lease_ends_with_its_block_even_by_an_error(two_devices: Home) -> None:
    with pytest.raises(RuntimeError), lease_devices(two_devices, 2):
        assert not any(is_free(two_devices, device) for device in TWO)
        raise RuntimeError
    assert all(is_free(two_devices, device) for device in TWO)


def test_training_on_a_cpu_takes_all_of_it_and_shares_it_out(two_devices: Home) -> None:
    with lease_for_training(two_devices, 3) as shares:
        assert [share.index for share in shares] == ["0", "1", "2"]
        assert all(share.kind == "cpu" and share.threads == max(1, usable_cores() // 3) for share in shares)
        assert not any(is_free(two_devices, device) for device in TWO)


def test_training_on_gpus_takes_one_each(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = tuple(Device("cuda", str(index), 4) for index in range(3))
    monkeypatch.setattr(leases, "visible_devices", lambda: gpus)
    with lease_for_training(home, 2) as leased:
        assert leased == list(gpus[:2]) and is_free(home, gpus[2])


def test_devices_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "usable_cores", lambda: 9)
    for gpus, kind, threads in (([], "cpu", [2, 2, 2, 2]), (["2", "5"], "cuda", [4, 4])):
        monkeypatch.setattr(
            devices, "find_gpus", lambda gpus=gpus: [Gpu(index, f"GPU-{index}", "T4") for index in gpus]
        )
        visible_devices.cache_clear()
        found = visible_devices()
        assert {device.kind for device in found} == {kind}
        assert [device.threads for device in found] == threads
        assert [device.index for device in found] == (gpus or ["0", "1", "2", "3"])
    visible_devices.cache_clear()


def test_tests_are_shown_no_gpu() -> None:
    """What they assert are the figures of a CPU, on a GPU server too."""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "" and not torch.cuda.is_available()
    assert visible_devices()[0].kind == "cpu"


# GPUs that vanish

GPUS = (Device("cuda", "0", 1), Device("cuda", "1", 1))


class NoJob(Job[AnalysisResult]):
    """Fails in its process: there is no such kind."""

    kind: Literal["none"] = "none"
    result = AnalysisResult


JOB = NoJob(identity="x")
RESULT = AnalysisResult(figures={}, samples=1, num_concepts=1, plots={}, seconds=0.0)


@pytest.fixture
def two_gpus(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(leases, "visible_devices", lambda: GPUS)
    yield home
    lost_devices.clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has GPUs that answer")
def test_a_job_whose_gpus_are_all_gone_fails_with_one_message(
    two_gpus: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is feigned here: each job fails in its process, and each GPU is asked in vain."""
    with pytest.raises(StageError, match=r"GPU 0, 1 no longer responds, and 0 of the 1 needed are left") as caught:
        run_on_one_device(tmp_path / "job", JOB, two_gpus)
    assert not isinstance(caught.value, DeviceLost) and "\n" not in str(caught.value)
    said = [record.getMessage() for record in caplog.records if "starts again" in record.getMessage()]
    assert [message[:5] for message in said] == ["GPU 0", "GPU 1"]
    assert all(is_free(two_gpus, gpu) for gpu in GPUS)
    with pytest.raises(StageError, match="0 of the 2 needed are left"), lease_for_training(two_gpus, 2):
        pass


def test_a_lost_gpu_takes_no_second_job(two_gpus: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free at once after its failure, it would draw every job that waits, and fail it too."""
    used: list[str] = []

    def run(folder: Path, job: NoJob, devices: list[Device], **_: Any) -> list[Device]:
        used.append(devices[0].index)
        if devices[0] == GPUS[0]:
            lost_devices.add(GPUS[0])
            raise DeviceLost("GPU 0 no longer responds")
        return devices

    monkeypatch.setattr(launch, "run_job", run)
    for _ in range(3):
        assert run_on_one_device(tmp_path, JOB, two_gpus) == [GPUS[1]]
    assert used == ["0", "1", "1", "1"]


def test_a_job_that_fails_on_a_gpu_that_answers_is_not_begun_again(
    two_gpus: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "GPU_PROBE", "")
    with pytest.raises(StageError, match="none") as caught:
        run_on_one_device(tmp_path / "job", JOB, two_gpus)
    assert not isinstance(caught.value, DeviceLost) and not lost_devices


def test_a_gpu_that_says_nothing_is_lost(two_gpus: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GPU_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(launch, "PROBE_SECONDS", 1)
    with pytest.raises(DeviceLost, match="GPU 0, 1 no longer responds"):
        run_job(tmp_path / "job", JOB, list(GPUS))
    assert lost_devices == set(GPUS)
