"""W&B is for watching: a missing login is found before the work, and no fault of its server ends a training."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, environment

from tasks.errors import UserError
from tasks.jobs.messages import JobWarning, parse_line
from tasks.pretraining.tracking import Tracking, check_login
from tasks.runs.preflight import find_inputs
from tasks.runs.request import Request
from tasks.spec.evaluation import EvaluationSpec
from tasks.spec.experiment import ExperimentSpec, PublishSpec, TrackingSpec
from tasks.spec.pretraining import DataSpec
from tasks.store.home import Home

ONLINE = TrackingSpec(wandb="online")


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without a login; returns their netrc, which is not there yet."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    return tmp_path / "netrc"


def test_a_missing_login_is_found_before_the_work(nobody: Path, home: Home) -> None:
    spec = ExperimentSpec(
        name="test",
        data=DataSpec(dataset="builtin/python_docs", train_tokenizer_vocab_size=600),
        tracking=ONLINE,
        evaluation=EvaluationSpec(data="made", tasks=["mrpc"]),
        publish=PublishSpec(store="local"),
    )
    with pytest.raises(UserError, match=r"tracking\.wandb: got 'online'.* no W&B login for wandb\.example; fix: set W"):
        find_inputs(spec, Request(home, None, home.root / "log.md"))
    find_inputs(spec.model_copy(update={"tracking": TrackingSpec()}), Request(home, None, home.root / "log.md"))


def test_a_login_is_a_key_or_a_line_of_netrc(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody.write_text("machine other.example\n  login user\n  password word\n")
    nobody.chmod(0o600)
    with pytest.raises(UserError, match="no W&B login"):
        check_login(ONLINE)
    nobody.write_text("machine wandb.example\n  login user\n  password word\n")
    check_login(ONLINE)
    nobody.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    check_login(ONLINE)


class Failing:
    """A run of W&B whose service has died."""

    url = "https://wandb.example/run"

    def log(self, figures: dict[str, Any], step: int) -> None:
        raise ConnectionResetError("the service is gone")

    def finish(self) -> None:
        raise TimeoutError("still not sent")


def test_a_fault_in_mid_run_is_one_warning(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tracking = Tracking(Failing(), tmp_path)
    for step in range(3):
        tracking.log({"loss": 1.0}, step)
    assert tracking.finish() is None
    assert Tracking(Failing(), tmp_path).finish() == Failing.url
    warnings = list(map(parse_line, capsys.readouterr().out.splitlines()))
    assert all(isinstance(warning, JobWarning) for warning in warnings)
    assert [warning.message.split(";")[0] for warning in warnings] == [
        "W&B: the service is gone",
        "W&B: still not sent",
    ]


RUN = """
import sys
from types import SimpleNamespace
from pathlib import Path
from tasks.pretraining import tracking
from tasks.spec.experiment import ExperimentSpec, TrackingSpec
from tasks.spec.pretraining import DataSpec
tracking.FINISH_SECONDS = 3.0
spec = ExperimentSpec(name="test", data=DataSpec(), tracking=TrackingSpec(wandb="online", project="p"))
job = SimpleNamespace(spec=spec, run_id="tracked", tracking_folder=Path(sys.argv[1]))
run = tracking.start_tracking(job)
for step in range(3):
    run.log({"loss": 1.0}, step)
print("@url", run.finish())
"""


@pytest.fixture
def broken_server() -> Iterator[str]:
    """A W&B that answers everything with 500."""

    class Broken(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_error(500)

        do_GET = do_PUT = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_server_that_fails_leaves_an_offline_run(broken_server: str, tmp_path: Path) -> None:
    changes = {"WANDB_BASE_URL": broken_server, "WANDB_API_KEY": "k" * 40, "WANDB_INIT_TIMEOUT": "4"}
    changes["NO_PROXY"] = "127.0.0.1"
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "wandb")],
        env=environment(tmp_path, **changes),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    (warning,) = filter(None, map(parse_line, done.stdout.splitlines()))
    assert "cannot start online" in warning.message and "wandb sync" in warning.message, done.stdout
    assert "kkkk" not in done.stdout
    assert list((tmp_path / "wandb").rglob("*.wandb")), json.dumps(done.stdout)
    assert "@url None" in done.stdout
