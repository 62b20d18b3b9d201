"""The launch side of a job: starts its processes, passes on what they report, and leaves none of them behind.

Messages are those of `tasks.jobs.messages`; everything else that a job prints goes to `log.txt` in its folder.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tasks.errors import Paused, StageError
from tasks.interruption import go_on, hurrying, pausing, stopping
from tasks.jobs.devices import Device, visible_devices
from tasks.jobs.fork_server import ForkedJob, ForkServer
from tasks.jobs.history import expect
from tasks.jobs.leases import lease_devices, lost_devices
from tasks.jobs.messages import (
    OUT_OF_MEMORY,
    PAUSE_REQUEST,
    Job,
    OnProgress,
    R,
    clear_answers,
    finished_result,
    paused_step,
)
from tasks.jobs.output import JobOutput, failure_message, job_log
from tasks.jobs.waiting import Need
from tasks.libraries import COMPILER, compiler_folder
from tasks.processes import own_mark
from tasks.secrets import environment_without_secrets
from tasks.store.files import content_hash, write_json, writing
from tasks.store.home import Home
from tasks.store.locks import hold

log = logging.getLogger("cogito.launch")

ROOT = Path(__file__).resolve().parents[2]
# Settings of glibc's allocator that keep freed memory in the process.
KEPT_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=67108864"

# Shows whether a GPU works. Runs in a new process: one that has met a lost GPU cannot use any other GPU.
GPU_PROBE = "import torch; torch.ones(8, device='cuda').sum().item()"
PROBE_SECONDS = 120
# By how much a job may take longer, and more memory, than those before it; what CUDA takes besides torch's tensors.
MARGIN, MEMORY_MARGIN, CONTEXT_BYTES = 1.5, 1.1, 768 * 2**20

Process = subprocess.Popen[str] | ForkedJob
_fork_server = ForkServer()
# Running jobs of this process: process id -> folder and job.
_running: dict[int, tuple[Path, Job[Any]]] = {}


class DeviceLost(StageError):
    """A job failed, and one of its devices no longer responds."""


def stop_all_jobs() -> None:
    """End every job of this process and start no other: the command was interrupted or cancelled."""
    stopping.set()
    end_all_jobs()


def end_all_jobs() -> None:
    """End every running job of this process."""
    for pid in list(_running):
        end_process_tree(pid)


def pause_all_jobs(*, end_short_ones: bool = False) -> None:
    """Make pausable jobs save their state and end, and start no other job.

    Args:
        end_short_ones: end the other jobs at once, to be run again next time; otherwise they may finish.
    """
    if end_short_ones:
        hurrying.set()
    pausing.set()
    for pid, (folder, job) in list(_running.items()):
        _pause(pid, folder, job)


def _pause(pid: int, folder: Path, job: Job[Any]) -> None:
    if job.pausable:
        (folder / PAUSE_REQUEST).touch()
    elif hurrying.is_set():
        end_process_tree(pid)


@contextmanager
def claimed_job(folder: Path, identity: str, home: Home, kind: type[R]) -> Iterator[R | None]:
    """Hold a job's folder alone; yields its finished result, or None if the holder has to run the job.

    A second command with the same job waits here until the first has finished it.
    """
    done = finished_result(folder, identity, kind, reused=True)
    if done is not None:
        yield done
        return
    with hold(home.lock(f"job-{content_hash(str(folder))}"), f"{folder.parent.name}/{folder.name}"):
        yield finished_result(folder, identity, kind, reused=True)


def run_on_one_device(folder: Path, job: Job[R], home: Home, on_progress: OnProgress | None = None) -> R:
    """Run a job on the next free device, or beside others on a GPU where its memory is known and fits.

    It runs again if its GPU is lost, on another one, and alone if it ran out of its part of a shared one.

    Raises:
        StageError: the job failed, or no device is left.
        Paused: a pause was requested.
    """

    alone = False
    while True:
        with lease_devices(home, asked=partial(_need, job, home, alone=alone)) as devices:
            try:
                return run_job(folder, job, devices, on_progress=on_progress)
            except DeviceLost as error:
                log.warning("%s; the job starts again on another device", error)
            except StageError as error:
                if devices[0].share is None or not str(error).startswith(OUT_OF_MEMORY):
                    raise
                alone = True
                log.warning(
                    "%s ran out of the %.1f GB of GPU %s that earlier jobs like it took: it runs again, alone on a GPU",
                    folder.name,
                    devices[0].share / 1e9,
                    devices[0].index,
                )


def _need(job: Job[Any], home: Home, *, alone: bool) -> Need:
    """What a job needs of a device, by the finished ones of its home."""
    if job.work is None:
        return Need()
    found = expect(job.work, visible_devices()[0].kind, home)
    memory = None if alone or found.memory is None else round(MEMORY_MARGIN * found.memory) + CONTEXT_BYTES
    return Need(MARGIN * found.seconds if found.measured else None, memory)


def run_job(folder: Path, job: Job[R], devices: list[Device], *, on_progress: OnProgress | None = None) -> R:
    """Run one job to its end in child processes.

    Args:
        folder: the job's own folder.
        devices: leased devices, each for a process; several are started with `accelerate launch`.
        on_progress: called with every progress message.

    Raises:
        StageError: the job failed; the message is that of the first rank that reported an error.
        DeviceLost: the job failed, and one of its GPUs no longer responds.
        Paused: a pause was requested, and the state is saved.
    """
    go_on()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    clear_answers(folder)
    share = devices[0].share
    memory = None if share is None else max(0, share - CONTEXT_BYTES)
    job = job.model_copy(update={"device": devices[0].kind, "memory": memory})
    write_json(folder / "job.json", job.model_dump(mode="json"))
    output = JobOutput(on_progress)
    process = _start_process(folder / "job.json", _environment(job, devices), len(devices))
    exit_code = _read_to_end(process, folder, job, output)
    result: R | None = finished_result(folder, job.identity, job.result)
    if result is None and (step := paused_step(folder)) is not None:
        raise Paused(f"after step {step}")
    if result is None and pausing.is_set():
        raise Paused("before it was done")
    if result is not None and (exit_code == 0 or stopping.is_set() or pausing.is_set()):
        return result  # perhaps ended by force, but only after its result was there
    if stopping.is_set():
        raise StageError("interrupted")
    if exit_code < 0 and exit_code != -signal.SIGTERM:  # SIGTERM came from `_read_to_end`, for a process that hung
        output.signals.append(signal.Signals(-exit_code).name)
    message = failure_message(folder, exit_code, output)
    # A GPU that is shared may just be full.
    alone = [device for device in devices if device.kind == "cuda" and device.share is None]
    if gone := [device for device in alone if not _responds(device)]:
        lost_devices.update(gone)
        names = ", ".join(device.index for device in gone)
        raise DeviceLost(f"GPU {names} no longer responds, or has no free memory at all: {message.splitlines()[0]}")
    raise StageError(message)


def _start_process(job_file: Path, environment: dict[str, str], count: int) -> Process:
    """Start a job: a single process, or several by `accelerate launch`."""
    if count == 1 and sys.platform == "linux":
        try:
            return _fork_server.start(job_file, environment)
        except OSError as error:
            log.warning("no fork server (%s): the job imports its libraries itself", error)
    # -P: without it Python would import a user's models.py or tasks.py from the working directory.
    command = [sys.executable, "-P", *(_accelerate_arguments(count) if count > 1 else [])]
    return subprocess.Popen(
        [*command, "-m", "tasks.jobs.worker", str(job_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        start_new_session=os.name == "posix",
    )


def _read_to_end(process: Process, folder: Path, job: Job[Any], output: JobOutput) -> int:
    """Read what a job writes until it ends; returns its exit code."""
    with job_log(folder / "log.txt") as keep:
        _running[process.pid] = folder, job
        try:
            if stopping.is_set():  # while it started, which takes seconds where a fork server starts first
                end_process_tree(process.pid)
            elif pausing.is_set():
                _pause(process.pid, folder, job)
            assert process.stdout is not None
            for line in process.stdout:
                if (kept := output.add(line)) is not None:
                    keep(kept)
            process.wait()
        finally:
            end_process_tree(process.pid)
            process.wait()
            _running.pop(process.pid, None)
    return process.returncode


def _responds(gpu: Device) -> bool:
    """Whether a GPU still works. Checked only after a failure, since a new process takes seconds."""
    environment = environment_without_secrets() | _shown([gpu])
    try:
        probe = subprocess.run(
            [sys.executable, "-P", "-c", GPU_PROBE],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_SECONDS,
            start_new_session=os.name == "posix",  # a signal to this command must not look like a lost GPU
        )
        return probe.returncode == 0
    except subprocess.TimeoutExpired:
        return False


def job_file(process: psutil.Process) -> Path | None:
    """The file of the job that a process works on, by its command line or title; None for any other process.

    Raises:
        psutil.Error: it ended, or belongs to another user.
    """
    file = " ".join(process.cmdline()).rstrip().partition(" -m tasks.jobs.worker ")[2]
    return Path(file) if file else None


def end_process_tree(pid: int) -> None:
    """End a process and all its descendants."""
    try:
        root = psutil.Process(pid)
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    for member in psutil.wait_procs(family, timeout=5)[1]:
        with suppress(psutil.NoSuchProcess):
            member.kill()


def _accelerate_arguments(count: int) -> list[str]:
    arguments = ["-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"]
    # --multi_gpu starts one process per device on CPUs too; --cpu would silently start a single one.
    arguments += ["--dynamo_backend", "no", "--num_processes", str(count), "--multi_gpu", "--main_process_port", "0"]
    return [*arguments, "--module"]


def _environment(job: Job[Any], devices: list[Device]) -> dict[str, str]:
    environment = environment_without_secrets(*job.secrets)
    environment = {name: value for name, value in environment.items() if not name.startswith("ACCELERATE_")}
    environment |= own_mark() | {
        COMPILER: compiler_folder(),
        "OMP_NUM_THREADS": str(max(device.threads for device in devices)),
        # Threads that wait by spinning starve each other as soon as anything else runs: eleven times slower here.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        # A job reads nothing there; the user's own accelerate configuration would override the leased devices.
        "HF_HOME": str(ROOT / "no_hf_home"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONSAFEPATH": "1",  # -P for the ranks that a launcher starts
    }
    if ROOT.name not in ("site-packages", "dist-packages"):  # a checkout, perhaps found by its folder
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    if devices[0].kind == "cpu":
        # Large tensors are reused instead of being mapped and unmapped at every step.
        environment.setdefault("GLIBC_TUNABLES", KEPT_MEMORY)
    return environment | _shown(devices)


def _shown(devices: list[Device]) -> dict[str, str]:
    """Environment variables that show a process its leased GPUs and no others."""
    keys = ",".join(device.key for device in devices if device.kind == "cuda")
    return {"CUDA_VISIBLE_DEVICES": keys, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
