"""A process is told from another of the same pid, and is still itself when the clock is set."""

import os
import subprocess
import sys
from collections.abc import Callable

import psutil
import pytest

from tasks.processes import birth, lives


def test_a_process_lives_until_it_ends() -> None:
    assert lives(os.getpid(), birth(os.getpid()))
    assert not lives(os.getpid(), birth(os.getpid()) - 10), "another one had this pid"
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = birth(process.pid)
    assert lives(process.pid, born)
    process.kill()
    if psutil.POSIX:
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        assert not lives(process.pid, born), "dead, though nobody has asked for its exit code yet"
    process.wait()
    assert not lives(process.pid, born)
    with pytest.raises(psutil.NoSuchProcess):
        birth(process.pid)


@pytest.mark.skipif(not psutil.LINUX, reason="the moment of the machine's start moves with the clock on Linux alone")
@pytest.mark.parametrize("seconds", [-86_400.0, -5.0, 5.0, 3_600.0])
def test_a_clock_that_is_set_ends_no_process(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    import psutil._pslinux as linux

    born, created = birth(os.getpid()), psutil.Process().create_time()
    before: Callable[[], float] = linux.boot_time
    monkeypatch.setattr(linux, "boot_time", lambda: before() + seconds)  # what the kernel says after a clock was set
    assert abs(psutil.Process().create_time() - created - seconds) < 1.5
    assert lives(os.getpid(), born)
