"""The life of a run: whoever asks it to end, it ends in the state that was asked for, and the same command goes on.

A training that would take hours is asked to end in every way, one after the other. Each time the flow run ends in its
state, no process is left, no device is leased, the state of the training is saved, and the next start continues it.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from command import PATIENCE, TINY, cogito, environment

from flows.prefect_api import OUR_TAG
from tasks.store.home import Home
from tasks.store.locks import active_locks

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.prefect,
    pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals"),
]

ENDLESS = ["training.max_steps=1000000", "training.epochs=100000", "training.checkpoint_every_steps=100000"]
# Seconds within which a run has ended, whoever asked.
PROMISED = 30.0


class Life:
    """One run that is started again and again."""

    def __init__(self, folder: Path, processes: int) -> None:
        self.processes = processes
        self.home = Home(folder / "home")
        self.folder = folder
        (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
        self.api = cogito("ui", home=self.home.root).stdout.strip() + "/api"
        self.steps = 0  # at which the training was last saved
        self.known: set[str] = set()

    def start(self) -> None:
        """Start the command; returns once it has trained further than it was saved."""
        words = ["run", "tiny.yaml", "--log", "log.md", "--processes", str(self.processes)]
        overrides = [word for override in (*ENDLESS, "tracking.wandb=disabled") for word in ("--set", override)]
        self.said = self.folder / "said.txt"
        with self.said.open("wb") as errors:
            self.command = psutil.Popen(
                [sys.executable, "-m", "flows.cli", *words, *overrides],
                env=environment(self.home.root),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        self.wait_for(lambda: self.trained() > self.steps, "training")
        (self.flow_run,) = {run["id"] for run in self.flow_runs()} - self.known
        assert OUR_TAG in self.ask(f"flow_runs/{self.flow_run}")["tags"], (
            "else the watch over silent runs knows nothing of it"
        )
        self.known.add(self.flow_run)

    def trained(self) -> int:
        """The last step in the curve of the run."""
        for curve in (self.home.root / "runs").glob("*/pretraining/curve.jsonl"):
            if lines := curve.read_text(encoding="utf-8").splitlines():
                return int(json.loads(lines[-1])["step"])
        return 0

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.api}/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as reply:
            return json.loads(reply.read())

    def flow_runs(self) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = self.ask("flow_runs/filter", {})
        return runs

    def set_state(self, kind: str, name: str) -> None:
        """Do as a button of the UI."""
        self.ask(f"flow_runs/{self.flow_run}/set_state", {"state": {"type": kind, "name": name}})

    def wait_for(self, what: Callable[[], bool], name: str, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert self.command.poll() is None, self.said.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, f"no {name} within {seconds} s"
            time.sleep(0.1)

    def leftovers(self, family: list[psutil.Process]) -> list[str]:
        """Processes and locks that outlive the command."""
        _, alive = psutil.wait_procs(family, timeout=5)
        return [str(process) for process in alive] + [path.name for path in active_locks(self.home)]


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Life]]:
    """A run for each number of processes."""
    lives = {}
    try:
        yield lives
    finally:
        for life in lives.values():
            cogito("ui", "--stop", home=life.home.root)


def send(number: str) -> Callable[[Life], None]:
    return lambda life: life.command.send_signal(getattr(signal, number))


def button(kind: str, name: str) -> Callable[[Life], None]:
    return lambda life: life.set_state(kind, name)


WAYS: dict[str, tuple[Callable[[Life], None], tuple[str, str], int]] = {
    "SIGTERM": (send("SIGTERM"), ("COMPLETED", "Paused"), 0),
    "SIGHUP": (send("SIGHUP"), ("COMPLETED", "Paused"), 0),
    "Ctrl-C": (send("SIGINT"), ("COMPLETED", "Paused"), 130),
    "Suspend": (button("PAUSED", "Suspended"), ("COMPLETED", "Paused"), 0),
    "Cancel": (button("CANCELLING", "Cancelling"), ("CANCELLED", "Cancelled"), 1),
}


QUICK = ("Ctrl-C", "Cancel")
CASES = [
    pytest.param(way, count, marks=() if way in QUICK and count == 1 else pytest.mark.long)
    for count in (1, 2)
    for way in WAYS
]


@pytest.mark.parametrize(("way", "processes"), CASES)
def test_whoever_asks_the_run_ends_and_goes_on(
    lives: dict[int, Life], tmp_path: Path, way: str, processes: int
) -> None:
    act, (kind, name), code = WAYS[way]
    if processes not in lives:
        lives[processes] = Life(tmp_path, processes)
    life = lives[processes]
    life.start()
    family = life.command.children(recursive=True)
    assert len([child for child in family if "worker" in " ".join(child.cmdline())]) >= processes
    begun = time.monotonic()
    act(life)
    assert life.command.wait(timeout=PATIENCE) == code, life.said.read_text(encoding="utf-8")
    took = time.monotonic() - begun
    print(f"{way} with {processes} processes: {took:.1f} s")
    assert life.leftovers(family) == []
    state = life.ask(f"flow_runs/{life.flow_run}")["state"]
    assert (state["type"], state["name"]) == (kind, name), state
    assert "paused after step" in state["message"]
    assert took < PROMISED
    (record,) = (life.home.root / "runs").glob("*/record.json")
    assert json.loads(record.read_text(encoding="utf-8"))["status"] == "paused"
    states = [path.name for path in record.parent.glob("pretraining/checkpoints/step-*")]
    saved = max(int(name.partition("-")[2]) for name in states)
    assert saved > life.steps, "the next start continues where this one was ended"
    life.steps = saved
    words = life.said.read_text(encoding="utf-8")
    assert "Traceback" not in words and not (life.folder / "log.md").exists(), words
