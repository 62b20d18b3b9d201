"""The deployments as the lab uses them: deployed by Prefect's own command, run by a worker, ending with a row."""

import json
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

from flows.prefect_api import SILENT_RUN_AUTOMATION

FILE = ROOT / "deployments.yaml"
SETTINGS = """
import json, os
from tasks.libraries import configure_libraries
configure_libraries()
print(json.dumps(dict(os.environ)))
"""
# A run under Prefect costs little beside this: five training steps, and a tenth of an epoch of one task.
SMALLEST = ("training.max_steps=5", "evaluation.tasks=[mrpc]", "evaluation.epochs=0.1", "analysis.max_samples=8")


class Lab:
    """A server, the two deployments, a worker and a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.worker: psutil.Popen | None = None
        self.settings: dict[str, str] = {"COGITO_LOG": str(folder / "log.md")}

    def open(self) -> None:
        address = self.cogito("ui").stdout.strip()
        self.settings |= {
            "PREFECT_API_URL": f"{address}/api",
            "PREFECT_HOME": str(self.folder / "user"),  # a user's own, not the server's
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        # A busy server may be asked twice by Prefect's client.
        self.prefect("work-pool", "create", "cogito", "--type", "process", "--overwrite")
        self.prefect("--no-prompt", "deploy", "--all", "--prefect-file", FILE.name)
        # The worker stands elsewhere and is not told where the project lies: the deployment has to say it.
        variables = environment(self.home, **self.settings)
        del variables["PYTHONPATH"]
        with (self.folder / "worker.log").open("wb") as log:
            self.worker = psutil.Popen(
                [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cogito", "--type", "process"],
                env=variables,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        (self.folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
        overrides = [word for override in SMALLEST for word in ("--set", override)]
        self.checkpoint: str = answer(self.cogito("run", "tiny.yaml", "--json", *overrides))["run_id"]

    def close(self) -> None:
        if self.worker is not None:
            family = [*self.worker.children(recursive=True), self.worker]
            for process in family:
                process.terminate()
            _, alive = psutil.wait_procs(family, timeout=15)
            for process in alive:
                process.kill()
        self.cogito("ui", "--stop")

    def cogito(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = cogito(*arguments, home=self.home, **self.settings)
        assert done.returncode == 0, done.stderr
        return done

    def prefect(self, *arguments: str) -> str:
        """What Prefect's own command answers, started in the checkout."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
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

    def ask(self, path: str, body: Any = None) -> Any:
        """What the server's API answers: to a GET, or to a POST of `body`."""
        data = None if body is None else json.dumps(body).encode()
        address = f"{self.settings['PREFECT_API_URL']}/{path}"
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as reply:
            return json.loads(reply.read())

    def evaluate(self, tasks: list[str], timeout_seconds: float = 120) -> dict[str, Any]:
        """Have the worker evaluate the checkpoint; returns the final state of the flow run."""
        parameters = json.dumps({"checkpoint": self.checkpoint, "tasks": tasks})
        shown = self.prefect("deployment", "run", "evaluation/evaluation", "--params", parameters)
        flow_run = shown.partition("UUID: ")[2].split()[0]
        deadline = time.monotonic() + timeout_seconds
        while True:
            state: dict[str, Any] = self.ask(f"flow_runs/{flow_run}")["state"]
            if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return state
            worker_log = (self.folder / "worker.log").read_text(encoding="utf-8", errors="replace")
            assert time.monotonic() < deadline, f"the flow run is still {state['name']}; the worker says:\n{worker_log}"
            time.sleep(0.5)

    def evaluations(self) -> list[dict[str, Any]]:
        """The rows of the log's evaluation table."""
        rows = answer(self.cogito("log", "show", "--json"))
        return [row for row in rows if row["table"] == "evaluation"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        lab.open()
        yield lab
    finally:
        lab.close()


def test_runs_of_a_worker_are_set_up_like_those_of_the_command(tmp_path: Path) -> None:
    """Above all their heartbeats: the server calls a run crashed that sends them as rarely as Prefect's default."""
    done = subprocess.run(
        [sys.executable, "-c", SETTINGS], env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    settings = json.loads(done.stdout)
    for deployment in yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]:
        variables = deployment["work_pool"]["job_variables"]["env"]
        assert "PREFECT_FLOWS_HEARTBEAT_FREQUENCY" in variables
        assert variables == {name: settings.get(name) for name in variables}


def test_the_server_watches_the_heartbeats_of_just_these_flows() -> None:
    """A flow of the user's own beats more rarely, and would be called crashed while it works."""
    deployments = yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]
    flows = {deployment["entrypoint"].partition(":")[2] for deployment in deployments}
    watched, tagged = SILENT_RUN_AUTOMATION["trigger"]["match_related"]
    assert watched["prefect.resource.role"] == "flow"
    # A sweep is started by the command alone, and has experiments under it.
    assert set(watched["prefect.resource.name"]) == {*flows, "sweep"}
    # On a server of several teams a flow of that name may be another's.
    tag = tagged["prefect.resource.id"].removeprefix("prefect.tag.")
    assert tagged["prefect.resource.role"] == "tag" and all(tag in deployment["tags"] for deployment in deployments)


@pytest.mark.prefect
@pytest.mark.end_to_end
def test_both_flows_are_deployed(lab: Lab) -> None:
    deployments = {deployment["name"]: deployment for deployment in lab.ask("deployments/filter", {})}
    assert set(deployments) == {"experiment", "evaluation"}
    for deployment in deployments.values():
        assert (deployment["work_pool_name"], deployment["work_queue_name"]) == ("cogito", "gpu")
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        assert [Path(next(iter(step.values()))["directory"]) for step in deployment["pull_steps"]] == [ROOT]
    (schedule,) = deployments["evaluation"]["schedules"]
    assert schedule["schedule"]["cron"] == "0 2 * * *" and schedule["schedule"]["timezone"] == "UTC"
    assert not schedule["active"], "no checkpoint is right everywhere, so nothing may start by itself"


@pytest.mark.prefect
@pytest.mark.end_to_end
def test_a_worker_evaluates_a_checkpoint_into_a_row(lab: Lab) -> None:
    state = lab.evaluate(["stsb"])
    assert state["type"] == "COMPLETED", state["message"]
    (row,) = lab.evaluations()
    assert lab.checkpoint in row["checkpoint"]
    assert state["message"].startswith(row["run_id"])
    assert set(row["scores"]) == {"stsb"}
    assert row["machine"] == "testbox"
    # The lease that limits a deployment to one run is on disk: a run ends when its lease is lost by a server's restart.
    assert (lab.home / "prefect" / "concurrency_leases").is_dir()


@pytest.mark.prefect
@pytest.mark.end_to_end
def test_an_unknown_task_fails_the_flow_with_one_message_and_no_row(lab: Lab) -> None:
    before = lab.evaluations()
    state = lab.evaluate(["stbs"])
    assert (state["type"], state["name"]) == ("FAILED", "Bad input")
    assert "unknown task 'stbs': did you mean 'stsb'?" in state["message"] and "\n" not in state["message"]
    assert lab.evaluations() == before


@pytest.mark.prefect
@pytest.mark.end_to_end
def test_our_own_lines_are_in_the_log_of_the_run(lab: Lab) -> None:
    """The command wrote this one at INFO while it made the checkpoint."""
    lines = lab.ask("logs/filter", {"limit": 200})
    assert any(line["name"] == "cogito.corpus" and "tokenizer" in line["message"] for line in lines)
