"""The deployments as the lab uses them: deployed by Prefect's own command, run by a worker, ending with a row."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from command import ROOT, TINY, answer, cogito, environment

from flows.server import HEARTBEAT_SECONDS

FILE = ROOT / "deployments.yaml"
PREFECT = [sys.executable, "-m", "prefect"]


def test_worker_runs_send_heartbeats_as_often_as_the_server_expects() -> None:
    """The server calls a run crashed that is silent for long; Prefect's own default frequency is too low for that."""
    for deployment in yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]:
        variables = deployment["work_pool"]["job_variables"]["env"]
        assert variables["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT_SECONDS)


class Lab:
    """A server with the deployments, a worker and a tiny checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.log = folder / "log.md"
        (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
        self.settings: dict[str, str] = {}
        self.worker: subprocess.Popen[bytes] | None = None
        address = self.cogito("ui").stdout.strip()
        self.settings = {
            "PREFECT_API_URL": f"{address}/api",
            "PREFECT_HOME": str(folder / "user"),  # a user's own, not the server's
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "COGITO_LOG": str(self.log),
        }
        self.prefect("work-pool", "create", "cogito", "--type", "process")
        self.prefect("--no-prompt", "deploy", "--all", "--prefect-file", FILE.name)
        with (folder / "worker.log").open("wb") as log:
            self.worker = subprocess.Popen(
                [*PREFECT, "worker", "start", "--pool", "cogito", "--type", "process"],
                env=environment(self.home, **self.settings),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        overrides = ("training.max_steps=5", "evaluation.tasks=[mrpc]", "evaluation.epochs=0.1", "analysis.max_samples=8")
        changes = [word for override in overrides for word in ("--set", override)]
        self.checkpoint: str = answer(self.cogito("run", "tiny.yaml", "--json", *changes))["run_id"]

    def cogito(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = cogito(*arguments, home=self.home, **self.settings)
        assert done.returncode == 0, done.stderr
        return done

    def prefect(self, *arguments: str) -> str:
        done = subprocess.run(
            [*PREFECT, *arguments],
            env=environment(self.home, **self.settings),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            timeout=120,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def start_evaluation(self, tasks: list[str]) -> str:
        """Ask for an evaluation of the checkpoint; returns the id of the flow run."""
        parameters = json.dumps({"checkpoint": self.checkpoint, "tasks": tasks})
        shown = self.prefect("deployment", "run", "evaluation/evaluation", "--params", parameters)
        return shown.partition("UUID: ")[2].split()[0]

    def final_state(self, flow_run: str, timeout_seconds: float = 120) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_seconds
        while True:
            state: dict[str, Any] = self.ask(f"flow_runs/{flow_run}")["state"]
            if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return state
            assert time.monotonic() < deadline, f"the flow run is still {state['name']}"
            time.sleep(0.5)

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        address = f"{self.settings['PREFECT_API_URL']}/{path}"
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as reply:
            return json.loads(reply.read())

    def evaluations(self) -> list[dict[str, Any]]:
        """The rows of the log's evaluation table."""
        rows = answer(self.cogito("log", "show", "--json"))
        return [row for row in rows if row["table"] == "evaluation"]

    def close(self) -> None:
        if self.worker:
            family = [*psutil.Process(self.worker.pid).children(recursive=True), psutil.Process(self.worker.pid)]
            for process in family:
                process.terminate()
            _, alive = psutil.wait_procs(family, timeout=15)
            for process in alive:
                process.kill()
        self.cogito("ui", "--stop")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    ...
