"""A process that imports torch and transformers once and forks the jobs of a command from itself.

The imports cost about 4 CPU-seconds a job, much beside a short cell, so every job of one process is forked. Such a job
is a process like any other: its memory and its GPU are its own, and its crash hurts no other job. Linux alone:
elsewhere a job imports for itself.

A request carries the job's file, what its environment has of its own, and two pipes: one for what the job prints, one
on which the server answers with the pid and, at the end, the exit code.
"""

import gc
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO

from tasks.jobs.messages import AnalysisJob, FinetuningJob, PretrainingJob
from tasks.jobs.worker import main

# What most jobs import late, since the commands that import their modules do not need it.
LATE = ("pandas", "scipy.stats", "sklearn.metrics")
# Variables that are read after the fork, so that a job may have another value than the server imported with.
_OF_A_JOB = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
# The title by which ps and nvidia-smi know a job lies where its command line was, which therefore needs the room.
_ROOM_FOR_TITLE = " " * 1000


class ForkedJob:
    """A running job, with as much of `subprocess.Popen` as the launch side uses."""

    def __init__(self, pid: int, stdout: IO[str], answer: IO[str]) -> None:
        self.pid, self.stdout, self._answer = pid, stdout, answer
        self.returncode = 0

    def wait(self) -> int:
        """Wait for the end; the exit code, negative for a signal, and 0 where the server ended before it could tell."""
        if not self._answer.closed:
            with self.stdout, self._answer:
                self.returncode = int(self._answer.readline() or 0)
        return self.returncode


class ForkServer:
    """The launch side of the server: starts it at the first job, and anew when it ended or the environment changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._environment: dict[str, str] = {}

    def start(self, job_file: Path, environment: dict[str, str]) -> ForkedJob:
        """Fork a job.

        Raises:
            OSError: the server cannot be started, or ended before it answered.
        """
        own = {name: environment[name] for name in _OF_A_JOB}
        read_output, output = os.pipe()
        read_answer, answer = os.pipe()
        stdout = os.fdopen(read_output, encoding="utf-8", errors="replace")
        answers = os.fdopen(read_answer, encoding="utf-8")
        try:
            with self._lock:
                connection = self._connect({**environment, **dict.fromkeys(_OF_A_JOB, "")})
                socket.send_fds(connection, [json.dumps([str(job_file), own]).encode()], [output, answer])
        finally:
            os.close(output)
            os.close(answer)
        pid = answers.readline()
        if not pid:
            raise ConnectionError("it ended")
        return ForkedJob(int(pid), stdout, answers)

    def _connect(self, environment: dict[str, str]) -> socket.socket:
        if self._process is None or self._process.poll() is not None or environment != self._environment:
            if self._connection is not None:
                self._connection.close()  # ends the server; its jobs go on
            self._connection, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "tasks.jobs.fork_server", str(theirs.fileno()), _ROOM_FOR_TITLE],
                    env=environment
                    | {"OMP_NUM_THREADS": "1", "SPT_NOENV": "1"},  # a title leaves the environment legible
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            self._environment = environment
        assert self._connection is not None
        return self._connection


def serve(connection: socket.socket) -> Path | None:
    """Fork a job at every request until the connection and then the jobs end; returns in each job, with its file."""
    for job in (PretrainingJob, FinetuningJob, AnalysisJob):
        pkgutil.resolve_name(job.loop)
    for name in LATE:
        import_module(name)
    gc.freeze()  # a collection in a job would copy the pages of all that was imported
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    answers: dict[int, int] = {}
    heard: list[int | socket.socket] = [woken, connection]
    while connection in heard or answers:
        ready = select.select(heard, [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            _answer_ended(answers)
        if connection not in ready:
            continue
        request, pipes, _, _ = socket.recv_fds(connection, 65536, 2)
        if not request:
            heard.remove(connection)
            continue
        file, own = json.loads(request)
        output, answer = pipes
        if (pid := os.fork()) == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in (woken, wake, answer, *answers.values()):
                os.close(other)
            connection.close()
            _become_job(file, own, output)
            return Path(file)
        os.close(output)
        answers[pid] = answer
        _tell(answer, pid)
    return None


def _answer_ended(answers: dict[int, int]) -> None:
    for pid in list(answers):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            answer = answers.pop(pid)
            _tell(answer, os.waitstatus_to_exitcode(status))
            os.close(answer)


def _tell(answer: int, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody waits for this job any more
        os.write(answer, f"{number}\n".encode())


def _become_job(file: str, own: dict[str, str], output: int) -> None:
    """Take over the output, the environment and the title of a job."""
    import torch
    from setproctitle import getproctitle, setproctitle

    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    getproctitle()  # finds its place by the environment, which may move when it changes
    os.environ.update(own)
    torch.set_num_threads(int(own["OMP_NUM_THREADS"]))
    setproctitle(f"{sys.executable} -P -m tasks.jobs.worker {file}")


if __name__ == "__main__":
    job_file = serve(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(0 if job_file is None else main(str(job_file)))
