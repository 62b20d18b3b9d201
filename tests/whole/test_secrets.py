"""No secret is shown: one function, and every way out of the process goes through it."""

import base64
import json
import logging
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest
from command import ROOT, TINY, cogito, environment
from factories import job_without_inputs
from hypothesis import given
from hypothesis import strategies as st

from flows import prefect_api, server
from tasks.checkpoints.card import render_card
from tasks.errors import StageError, UserError
from tasks.jobs.devices import Device
from tasks.jobs.launch import run_job
from tasks.log.experiment_log import write_row
from tasks.report.writing import write_report
from tasks.secrets import SECRETS, environment_without_secrets, redact, redact_all, redact_logs
from tasks.store.files import write_json
from tasks.store.home import Home
from tasks.store.records import CellResult, StageRecord, load_record
from tests.factories import make_environment, make_record

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"
SHOWN_AS_SECRET = {
    f"401 for {TOKEN}.": TOKEN,
    "at https://user:pa55word@host/x": "user:pa55word",
    "at postgresql+asyncpg://prefect:pa55word@db/x": "pa55word",
    "WANDB_API_KEY=0123456789abcdef0123456789abcdef01234567": "0123456789abcdef",
    "password: s3cret-value, next": "s3cret-value",
    '{"api_key": "quoted-value"}': "quoted-value",
    "Authorization: Bearer bear.er": "bear.er",
    "Authorization: Basic YWRtaW46cGFzcw==": "YWRtaW46",
    "'authorization': 'token abc.def'": "abc.def",
    "PREFECT_SERVER_API_AUTH_STRING=admin:pass": "admin:pass",
    "https://host/x?token=abcdef&y=1": "abcdef",
    "https://host/x?X-Amz-Signature=abcdef0123&y=1": "abcdef0123",
    "ghp_abcdefghijklmnopqrstuvwx": "ghp_abc",
    "pnu_abcdefghijklmnopqrstuvwx": "pnu_abc",
}
NO_SECRET = (
    "commit 54ee870c0ffee0123456789abcdef0123456789a",
    "perceiver_mlm_H512L6C128_20260208_211633",
    "tokens: 5,120",
    "answerdotai/ModernBERT-base, 50,368 tokens",
    "https://huggingface.co/a/b@main",
    "hf_hub_download",
    "basic training",
    "F1 0.812, n 408",
    "/srv/data/nyu-mll/glue",
    "no Hugging Face token is set; fix: set HF_TOKEN or run `hf auth login`",
)


@pytest.mark.parametrize("text", SHOWN_AS_SECRET)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    assert SHOWN_AS_SECRET[text] not in redact(text) and "***" in redact(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("text", NO_SECRET)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("name", SECRETS)
def test_the_secrets_of_this_process_are_hidden_in_every_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "of no known/form")
    coded = base64.b64encode(b"of no known/form").decode()
    for form in ("of no known/form", "of%20no%20known%2Fform", coded):
        assert form not in redact(f"it says {form} here") and "it says" in redact(f"it says {form} here")


def test_texts_inside_lists_and_mappings() -> None:
    assert redact_all({"a": [TOKEN, 1], TOKEN: (TOKEN, None)}) == {"a": ["***", 1], "***": ("***", None)}


@given(st.text())
def test_any_text_is_redacted_once_and_for_all(text: str) -> None:
    assert redact(redact(text)) == redact(text)


# --- every way out ---


def of_errors(home: Home, folder: Path) -> str:
    return f"{UserError(TOKEN)} {StageError(TOKEN)}"


def of_a_record(home: Home, folder: Path) -> str:
    record = make_record(
        spec={"data": {"dataset": f"https://a:{TOKEN}@host/x"}},
        status="failed",
        environment=make_environment(machine=TOKEN),
        stages={"publishing": StageRecord(status="failed", message=TOKEN)},
        cells=[CellResult(task="mrpc", seed=1, start="checkpoint", status="failed", error=TOKEN)],
    )
    record.save(home.run(record.run_id))
    return home.run(record.run_id).record.read_text()


def of_a_row(home: Home, folder: Path) -> str:
    log = folder / "log.md"
    write_row(log, make_record(environment=make_environment(machine=TOKEN, git_tag=TOKEN)))
    return log.read_text()


def of_a_card(home: Home, folder: Path) -> str:
    return render_card(make_record(spec={"data": {"dataset": "a/b", "config": TOKEN}, "training": {TOKEN: TOKEN}}))


def of_a_report(home: Home, folder: Path) -> str:
    record = make_record(stages={"publishing": StageRecord(status="failed", message=TOKEN)}, status="failed")
    write_json(home.run(record.run_id).record, record.model_dump(mode="json"))  # of an earlier version
    paths = write_report(record.run_id, home, output=folder)
    return "".join(path.read_text(encoding="utf-8") for path in paths)


def of_an_artifact(home: Home, folder: Path) -> str:
    from tasks.artifacts import FlowRunContext, show

    shown: list[Any] = []
    with patch.object(FlowRunContext, "get", return_value=object()):  # outside a flow run nothing is shown
        show(lambda *args, **kwargs: shown.append((args, kwargs)), [{"figure": TOKEN}], description=TOKEN)
    assert shown
    return str(shown)


def of_a_log(home: Home, folder: Path) -> str:
    redact_logs()
    path = folder / "log.txt"
    logger = logging.getLogger("somebody.elses")
    handler = logging.FileHandler(path)
    logger.addHandler(handler)
    try:
        logger.warning("it is %s", TOKEN)
        try:
            raise ValueError(TOKEN)
        except ValueError:
            logger.exception("and %s", {"a": TOKEN})
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert "ValueError" in path.read_text()
    return path.read_text()


WAYS: list[Callable[[Home, Path], str]] = [
    of_errors,
    of_a_record,
    of_a_row,
    of_a_card,
    of_a_report,
    of_an_artifact,
    of_a_log,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_way_out_shows_a_secret(way: Callable[[Home, Path], str], home: Home, tmp_path: Path) -> None:
    text = way(home, tmp_path)
    assert TOKEN not in text and "***" in text


def test_a_stage_that_fails_unexpectedly_shows_no_secret(home: Home) -> None:
    from tasks.stages import stage

    @stage("data", "x")
    def leaky() -> None:
        raise RuntimeError(f"refused {TOKEN}")

    with pytest.raises(StageError, match=r"RuntimeError: refused \*\*\*"):
        leaky.fn()


def test_what_a_job_prints_is_kept_without_secrets(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.jobs import launch

    code = f"import os, sys; print({TOKEN!r}); print(dict(os.environ)); sys.exit(1)"
    start = subprocess.Popen
    monkeypatch.setattr(
        launch.subprocess, "Popen", lambda command, **kwargs: start([sys.executable, "-c", code], **kwargs)
    )
    for name in SECRETS:
        monkeypatch.setenv(name, f"value of {name}")
    with pytest.raises(StageError) as caught:
        launch.run_job(tmp_path / "job", job_without_inputs("analysis", tmp_path), [Device("cpu", "0", 1)])
    text = (tmp_path / "job" / "log.txt").read_text() + str(caught.value)
    assert TOKEN not in text and "***" in text
    for name in SECRETS:
        assert name not in text, "a job is not even given it"


# Variables that hold a secret under a name or in a form of somebody else's.
STRANGE = {
    "GITHUB_TOKEN": "anything",
    "AWS_SECRET_ACCESS_KEY": "anything",
    "OPENAI_API_KEY": "anything",
    "PREFECT_API_URL": "http://ada:pa55word@127.0.0.1:9/api",
    "https_proxy": "http://ada:pa55word@127.0.0.1:9",
    "NOTE": f"it is {TOKEN}",
}
HARMLESS = {"TOKENIZERS_PARALLELISM": "false", "MAX_TOKENS": "5", "HTTP_PROXY": "http://127.0.0.1:9"}


def test_another_process_is_handed_only_the_secrets_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = {name: f"value of {name}" for name in SECRETS} | STRANGE
    for name, value in (secret | HARMLESS).items():
        monkeypatch.setenv(name, value)
    whole, bare = dict(os.environ), environment_without_secrets()
    assert not bare.keys() & secret.keys() and HARMLESS.items() <= bare.items()
    assert whole.items() >= bare.items() and "PATH" in bare
    given = environment_without_secrets("WANDB_API_KEY", "*_PROXY")
    assert given.keys() - bare.keys() == {"WANDB_API_KEY", "https_proxy"}


def environments_below(pid: int) -> Iterator[tuple[str, dict[str, str]]]:
    """The command line and the environment of every process below one, as the system tells them."""
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for process in below:
        with suppress(psutil.Error):
            yield " ".join(process.cmdline()), process.environ()


reads_environments = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads others' environments")


@reads_environments
@pytest.mark.parametrize(
    ("kind", "tracked", "needed"),
    [
        ("finetuning", "online", set()),
        ("analysis", "online", set()),
        ("pretraining", "offline", set()),
        ("pretraining", "online", {"WANDB_API_KEY", "https_proxy"}),
    ],
)
def test_a_started_job_holds_only_the_secrets_that_it_needs(
    kind: str, tracked: str, needed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = {name: f"value of {name}" for name in SECRETS} | STRANGE
    for name, value in secret.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / kind
    # Real up to its work: it fails for want of anything to work on.
    job = job_without_inputs(kind, tmp_path, wandb=tracked)
    failed: list[Exception] = []
    ranks = 2 if kind == "pretraining" else 1  # several are started by a launcher

    def start() -> None:
        try:
            run_job(folder, job, [Device("cpu", str(number), 1) for number in range(ranks)])
        except Exception as error:
            failed.append(error)

    runner = threading.Thread(target=start)
    runner.start()
    held: dict[str, set[str]] = {}
    while runner.is_alive():
        for words, inside in environments_below(os.getpid()):
            if str(folder) in words:
                part = "launcher" if "accelerate" in words else "worker"
                held.setdefault(part, set()).update(inside.keys() & secret.keys())
        runner.join(0.05)
    assert failed and held.keys() == {"worker", *(["launcher"] if kind == "pretraining" else [])}
    assert all(names == needed for names in held.values()), held


@reads_environments
@pytest.mark.end_to_end
@pytest.mark.prefect
def test_below_a_command_only_a_training_that_is_tracked_online_holds_a_secret(tmp_path: Path) -> None:
    """Every process of a whole run, the server of the home among them."""
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    secret = {name: f"value-of-{name}" for name in SECRETS if not name.startswith("PREFECT_")}
    settings = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "2"}
    with (tmp_path / "said.txt").open("wb") as said:
        command = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flows.cli",
                "run",
                "tiny.yaml",
                "--log",
                "log.md",
                "--set",
                "tracking.wandb=online",
                "--set",
                "evaluation.tasks=[mrpc]",
            ],
            env=environment(tmp_path / "home", **secret | settings),
            cwd=tmp_path,
            stdout=said,
            stderr=said,
        )
    held: dict[str, set[str]] = {}
    try:
        while command.poll() is None:
            for words, inside in environments_below(command.pid):
                kinds = [kind for kind in ("pretraining", "finetuning", "analysis") if f"/{kind}/" in words]
                for kind in kinds or ["server"] * ("prefect server" in words):
                    held.setdefault(kind, set()).update(inside.keys() & set(SECRETS))
            time.sleep(0.2)
        assert command.returncode == 0, (tmp_path / "said.txt").read_text(encoding="utf-8")
    finally:
        command.kill()
        cogito("ui", "--stop", home=tmp_path / "home")
    assert held == {"server": set(), "pretraining": {"WANDB_API_KEY"}, "finetuning": set(), "analysis": set()}


@pytest.mark.end_to_end
def test_the_command_shows_no_secret(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    dataset = f"https://me:{TOKEN}@host/text"
    done = cogito("run", "tiny.yaml", "--set", f"data.dataset={dataset}", home=tmp_path / "home")
    assert done.returncode == 2 and TOKEN not in done.stderr + done.stdout and "***" in done.stderr


def test_nothing_else_looks_for_secrets() -> None:
    """One place: who adds a pattern or a name of a secret adds it there."""
    for path in (path for part in ("flows", "tasks", "models") for path in (ROOT / part).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.name != "secrets.py":
            assert "github_pat" not in text and 'getenv("HF_TOKEN' not in text and "bearer" not in text, path


# --- files and the server ---


@pytest.mark.skipif(os.name != "posix", reason="Windows has other rights")
def test_the_home_is_for_its_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        home = Home(tmp_path / "home")
        home.create()
        folders = [home.logs, home.prefect, home.runs, home.root]
    finally:
        os.umask(old)
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


def test_the_server_listens_on_this_machine_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the settings say: who wants another host starts a server of their own."""
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setenv("PREFECT_SERVER_API_HOST", "0.0.0.0")
    monkeypatch.setattr(
        server.subprocess, "Popen", lambda command, env, **_: started.append((command, env)) or "a process"
    )
    server._spawn(home, 4242)
    ((command, environment),) = started
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert environment["PREFECT_SERVER_API_HOST"] == "127.0.0.1" == prefect_api.LOOPBACK


def test_a_server_with_a_password_is_asked_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Opener:
        def open(self, request: Any, timeout: float) -> Any:
            asked.append(request)
            raise OSError("enough")

    monkeypatch.setattr(prefect_api, "build_opener", lambda *_: Opener())
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:pass")
    for url in ("http://127.0.0.1:4200/api", "http://elsewhere:4200/api"):
        with pytest.raises(OSError, match="enough"):
            prefect_api._request(url, 1)
    with pytest.raises(OSError, match="enough"):
        prefect_api.ask("http://elsewhere:4200/api/automations/", {})
    own, other, known = asked
    told = "Basic " + base64.b64encode(b"admin:pass").decode()
    assert own.get_header("Authorization") == known.get_header("Authorization") == told
    assert not other.has_header("Authorization"), "another host is not told before it is known"
    assert not {"Authorization"} & {*own.headers, *known.headers}, "urllib repeats these wherever it is redirected"


def test_the_threat_model_is_written_down() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for part in ("Assets", "Trust boundaries", "What is refused", "What is not covered", "How to report"):
        assert f"## {part}" in text
    for name in ("PREFECT_SERVER_API_AUTH_STRING", "trust_remote_code", "weights_only", "0700"):
        assert name in text
    assert "PREFECT_SERVER_API_AUTH_STRING" in (ROOT / "docs/deployments.md").read_text(encoding="utf-8")


def test_records_read_back_as_they_were(home: Home) -> None:
    record = make_record()
    record.save(home.run(record.run_id))
    here = {"base": home.root}
    read = load_record(home.run(record.run_id))
    assert read.model_dump(mode="json", context=here) == record.model_dump(mode="json", context=here)
    assert json.loads(home.run(record.run_id).record.read_text())["environment"]["git_commit"] in str(record)


def test_a_hint_is_no_secret() -> None:
    for text in ("unknown key 'block_token': did you mean 'block_tokens'?", "unknown column 'token': allowed: text"):
        assert redact(text) == text
    assert redact("'token': abcdefgh") == "'token': ***" and redact("token=didyoumean") == "token=***"
