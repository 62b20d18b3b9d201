"""Starting a job in processes of its own, hearing its progress, and leaving none behind.

JSON in (`job.json`), JSON out (`result.json`); what else the job prints goes to `log.txt` in its folder.
"""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tasks.errors import Paused, StageError
from tasks.interruption import pausing, stopping
from tasks.jobs.devices import Device, lease_devices, lost_devices
from tasks.jobs.messages import ERROR_MARK, PAUSABLE, PAUSE_ANSWER, PAUSE_WISH, PROGRESS_MARK, WARNING_MARK, OnProgress
from tasks.processes import own_mark
from tasks.secrets import environment_without_secrets, redact
from tasks.store.files import content_hash, read_json, write_json, writing
from tasks.store.home import Home
from tasks.store.locks import hold

log = logging.getLogger("cogito.launch")

LAST_LINES = 12
# How the launchers say that a process was ended by a signal; SIGTERM is how they end the others.
_KILLED_BY = re.compile(r"Signal \d+ \((SIG(?!TERM)\w+)\) received by PID|died with <Signals\.(SIG(?!TERM)\w+):")
# What a process says whose neighbour is gone.
_LOST_NEIGHBOUR = re.compile(r"gloo|NCCL|Connection (closed|reset)|TCPStore|ProcessGroup|barrier", re.IGNORECASE)
# Settings of glibc's allocator by which freed memory stays with a process.
KEPT_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=67108864"

# What a GPU that answers can do; in a process of its own, since one that met a lost GPU cannot use another any more.
GPU_PROBE = "import torch; torch.ones(8, device='cuda').sum().item()"
PROBE_SECONDS = 120


# Jobs of this process that are running: process id -> folder and kind.
_running: dict[int, tuple[Path, str]] = {}


def stop_all_jobs() -> None:
    """End every job of this process and start no other: it was interrupted or cancelled."""
    stopping.set()
    for pid in list(_running):
        end_process_tree(pid)


def pause_all_jobs(*, end_short_ones: bool = False) -> None:
    """Have trainings save where they are and end, and start no other job.

    Args:
        end_short_ones: end the other jobs at once, which begin anew next time; else they finish.
    """
    pausing.set()
    for pid, (folder, kind) in list(_running.items()):
        if kind in PAUSABLE:
            (folder / PAUSE_WISH).touch()
        elif end_short_ones:
            end_process_tree(pid)


def finished_result(folder: Path, identity: str) -> dict[str, Any] | None:
    """The result of a job that was done before with the same identity, else None."""
    try:
        result = read_json(folder / "result.json")
    except (OSError, ValueError):
        return None
    if result.pop("identity", None) != identity:
        return None
    return result


@contextmanager
def claimed_job(folder: Path, identity: str, home: Home) -> Iterator[dict[str, Any] | None]:
    """Hold a job's folder alone and yield its finished result, or None: then it is the holder's to run.

    A second command that asks for the same job waits here and finds it done.
    """
    done = finished_result(folder, identity)
    if done is not None:
        yield done
        return
    with hold(home.lock(f"job-{content_hash(str(folder))}"), f"{folder.parent.name}/{folder.name}"):
        yield finished_result(folder, identity)


class DeviceLost(StageError):
    """A job failed, and a device of it no longer answers."""


def run_on_one_device(
    folder: Path, job: dict[str, Any], home: Home, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Run a job on the next free device; anew on another one when its GPU is lost.

    Raises:
        StageError: the job failed, or no device is left.
        Paused: it was told to pause.
    """
    while True:
        with lease_devices(home) as devices:
            try:
                return run_job(folder, job, devices, on_progress=on_progress)
            except DeviceLost as error:
                log.warning("%s; begun again on another", error)


def run_job(
    folder: Path,
    job: dict[str, Any],
    devices: list[Device],
    *,
    launcher: bool = False,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Run one job to its end in child processes.

    Args:
        folder: the job's own folder.
        job: JSON-ready, with `kind` and `identity`; it is told the kind of its devices.
        devices: leased devices; with `launcher` one process per device.
        launcher: start by `accelerate launch`.
        on_progress: called with the figures of every progress line.

    Raises:
        StageError: the job failed; the message is that of the first rank that reported an error.
        DeviceLost: it failed, and a GPU of it no longer answers.
        Paused: it was told to pause, and saved where it is.
    """
    if stopping.is_set():
        raise StageError("interrupted")
    if pausing.is_set():
        raise Paused("before it began")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for stale in [*(folder / name for name in ("result.json", PAUSE_WISH, PAUSE_ANSWER)), *folder.glob("error-*.json")]:
        stale.unlink(missing_ok=True)
    job = {**job, "device": devices[0].kind}
    write_json(folder / "job.json", job)
    command = [sys.executable, *(_accelerate_arguments(devices) if launcher else [])]
    command += ["-m", "tasks.jobs.worker", str(folder / "job.json")]
    last_lines: deque[str] = deque(maxlen=LAST_LINES)
    signals: list[str] = []
    # By jobs that had no room for their error file; kept apart, since their launcher adds a long trace.
    told: list[str] = []
    with _job_log(folder / "log.txt") as keep:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=_environment(job, devices, folder),
            start_new_session=os.name == "posix",
        )
        _running[process.pid] = folder, str(job["kind"])
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if killed := _KILLED_BY.search(line):
                    signals.append(killed[1] or killed[2])
                if line.startswith(ERROR_MARK):
                    told.append(redact(line.removeprefix(ERROR_MARK).strip()))
                if line.startswith(WARNING_MARK):
                    log.warning("%s", line.removeprefix(WARNING_MARK).strip())
                if not (line.startswith(PROGRESS_MARK) and _heard(line, on_progress)):
                    last_lines.append(redact(line))
                    keep(last_lines[-1])
            process.wait()
        finally:
            end_process_tree(process.pid)
            process.wait()
            _running.pop(process.pid, None)
    result = finished_result(folder, job["identity"])
    if result is None and (folder / PAUSE_ANSWER).exists():
        raise Paused(f"after step {read_json(folder / PAUSE_ANSWER)['step']}")
    if result is None and pausing.is_set():
        raise Paused("before it was done")
    if result is not None and (stopping.is_set() or pausing.is_set()):
        return result  # it was done when it was ended
    if stopping.is_set():
        raise StageError("interrupted")
    if process.returncode != 0 or result is None:
        if process.returncode < 0 and process.returncode != -signal.SIGTERM:  # which ended it just now, if it hung
            signals.append(signal.Signals(-process.returncode).name)
        message = _failure_message(folder, process.returncode, last_lines, signals, told)
        if gone := [device for device in devices if device.kind == "cuda" and not _answers(device)]:
            lost_devices.update(gone)
            names = ", ".join(device.index for device in gone)
            raise DeviceLost(f"GPU {names} no longer answers, or has no memory left at all: {message.splitlines()[0]}")
        raise StageError(message)
    return result


def _answers(gpu: Device) -> bool:
    """Whether a GPU can still be used. Asked after a failure only: a new process takes seconds."""
    environment = environment_without_secrets() | {"CUDA_VISIBLE_DEVICES": gpu.index}
    command = [sys.executable, "-c", GPU_PROBE]
    try:
        probe = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_SECONDS,
            start_new_session=os.name == "posix",  # what ends this command must not look like a lost GPU
        )
        return probe.returncode == 0
    except subprocess.TimeoutExpired:
        return False


@contextmanager
def _job_log(path: Path) -> Iterator[Callable[[str], None]]:
    """What keeps a job's lines in its log. A log without room is no reason to end a job: it is said, once."""
    lost = False
    with writing(path), path.open("ab", buffering=0) as file:

        def keep(line: str) -> None:
            nonlocal lost
            try:
                file.write(line.encode("utf-8", "replace"))
            except OSError as error:
                if not lost:
                    log.warning("%s: loses lines, the job goes on: %s", path, error.strerror)
                lost = True

        yield keep


def _heard(line: str, on_progress: OnProgress | None) -> bool:
    """Pass progress on. Whoever shows it may fail, and ranks may write into each other's lines: neither ends a job."""
    try:
        figures = json.loads(line.removeprefix(PROGRESS_MARK))
        if on_progress:
            on_progress(figures)
    except Exception as error:
        log.warning("progress could not be shown: %s", error)
        return False
    return True


def end_process_tree(pid: int) -> None:
    """End a process and all its descendants."""
    try:
        root = psutil.Process(pid)
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(family, timeout=5)
    for member in alive:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


def _accelerate_arguments(devices: list[Device]) -> list[str]:
    arguments = ["-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"]
    arguments += ["--dynamo_backend", "no", "--num_processes", str(len(devices))]
    if len(devices) > 1:
        # --multi_gpu starts one process per device on CPUs too; --cpu would silently start a single one.
        arguments += ["--multi_gpu", "--main_process_port", "0"]
    elif devices[0].kind == "cpu":
        arguments += ["--cpu"]
    return [*arguments, "--module"]


def _environment(job: dict[str, Any], devices: list[Device], folder: Path) -> dict[str, str]:
    # A job works on files alone; only a training that is tracked online has somebody to tell who it is.
    online = job["kind"] == "pretraining" and job["spec"]["tracking"]["wandb"] == "online"
    environment = environment_without_secrets(*(("WANDB_API_KEY", "*_PROXY") if online else ()))
    environment = {name: value for name, value in environment.items() if not name.startswith("ACCELERATE_")}
    environment |= own_mark() | {
        "OMP_NUM_THREADS": str(max(device.threads for device in devices)),
        # Threads that wait by spinning starve each other as soon as anything else runs: eleven times slower here.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        # A job reads nothing there; the user's own accelerate configuration would override the leased devices.
        "HF_HOME": str(folder / "no_hf_home"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
    }
    if devices[0].kind == "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(device.index for device in devices)
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ""
        # Large tensors are reused instead of being mapped and unmapped at every step.
        environment.setdefault("GLIBC_TUNABLES", KEPT_MEMORY)
    return environment


def _failure_message(folder: Path, exit_code: int, last_lines: deque[str], signals: list[str], told: list[str]) -> str:
    errors = [*(str(read_json(path)["message"]) for path in sorted(folder.glob("error-*.json"))), *told]
    own = [error for error in errors if not (signals and _LOST_NEIGHBOUR.search(error))]
    if own:
        return own[0]
    if signals:
        return (
            f"a process of the job was killed ({signals[0]}), by somebody or for want of memory; "
            "fix: run the same command again: it goes on from what is saved"
        )
    tail = " | ".join(line.strip() for line in last_lines if line.strip())
    return f"the process ended with code {exit_code} and no result; its last lines: {tail}"
