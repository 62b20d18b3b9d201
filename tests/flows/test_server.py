"""The local server of a home: one is started however many ask, it is found again, and Prefect really works with it."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import httpx
import psutil
import pytest
from command import PATIENCE, ROOT, TINY, cogito
from command import environment as command_environment

from flows import prefect_api, server
from flows.prefect_api import ui_address
from flows.server import ensure_server, recorded_server, stop_server
from tasks.errors import UserError
from tasks.libraries import configure_libraries
from tasks.processes import birth
from tasks.store.files import read_json, write_json
from tasks.store.home import Home
from tasks.store.locks import active, end_lost_work
from tests.factories import make_home

ENSURE = """
from flows.server import ensure_server
from tasks.store.home import cogito_home
print(ensure_server(cogito_home()))
"""


def find_server(home: Home) -> str | None:
    """The API address of the home's own server if it runs and is healthy."""
    found = recorded_server(home)
    return found.api_url if found and found.answers() else None


@contextmanager
def kept_environment() -> Iterator[None]:
    """Put the process's environment back as it was; starts without any Prefect or Cogito setting."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("PREFECT_", "COGITO_")) or name.lower().endswith("_proxy") or name == "DO_NOT_TRACK":
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        server._refresh_settings()


@pytest.fixture
def environment() -> Iterator[None]:
    with kept_environment():
        yield


def start_python(home: Home, code: str, **settings: str) -> subprocess.Popen[str]:
    with kept_environment():
        clean = {**os.environ, "COGITO_HOME": str(home.root), "PYTHONPATH": str(ROOT), **settings}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=clean,
        cwd=home.root,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run_python(home: Home, code: str, **settings: str) -> tuple[str, str]:
    process = start_python(home, code, **settings)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out.strip(), err.strip()


def post(url: str, body: Any) -> tuple[int, Any]:
    with urlopen(Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"}), timeout=20) as answer:
        return answer.status, json.loads(answer.read())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def both_urls(home: Home) -> Iterator[list[str]]:
    """What two simultaneous callers got, in a home whose server.json names a dead process, with port 4200 taken."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    record = {"port": 4200, "pid": process.pid, "born": birth(process.pid)}
    process.wait()
    write_json(home.prefect / "server.json", record)
    with kept_environment(), closing(socket.socket()) as taken:
        try:
            taken.bind(("127.0.0.1", 4200))
            taken.listen()
        except OSError:
            pass  # someone else has it already, which serves as well
        fast = {"PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1"}
        callers = [start_python(home, ENSURE, **fast) for _ in range(2)]
        answers = [caller.communicate(timeout=PATIENCE) for caller in callers]
    yield [out.strip() or err for out, err in answers]
    with kept_environment():
        stop_server(home)


@pytest.fixture(scope="module")
def api_url(both_urls: list[str]) -> str:
    return both_urls[0]


@pytest.fixture
def web_server() -> Iterator[HTTPServer]:
    """A server that answers every GET with 200 and its `answer`: a web page, unless a test says otherwise."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(web.answer)  # type: ignore[attr-defined]

        def log_message(self, *_: object) -> None:
            pass

    web = HTTPServer(("127.0.0.1", 0), Handler)
    web.answer = b"<html></html>"  # type: ignore[attr-defined]
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield web
    web.shutdown()
    web.server_close()


@pytest.mark.prefect
def test_two_callers_start_one_server_in_place_of_a_dead_one(home: Home, both_urls: list[str]) -> None:
    assert both_urls[0] == both_urls[1]
    assert both_urls[0].startswith("http://127.0.0.1:42"), both_urls[0]
    servers = [
        process.pid
        for process in psutil.process_iter(["cmdline", "environ"])
        if "prefect" in (process.info["cmdline"] or [])
        and (process.info["environ"] or {}).get("PREFECT_HOME") == str(home.prefect)
    ]
    assert servers == [read_json(home.prefect / "server.json")["pid"]]


@pytest.mark.prefect
def test_a_running_server_is_found_at_once(home: Home, api_url: str, environment: None) -> None:
    start = time.monotonic()
    assert find_server(home) == api_url
    assert ensure_server(home) == api_url
    assert time.monotonic() - start < 2
    assert os.environ["PREFECT_API_URL"] == api_url


@pytest.mark.prefect
def test_a_recycled_pid_is_not_taken_for_the_server(home: Home, api_url: str) -> None:
    file = home.prefect / "server.json"
    record = read_json(file)
    write_json(file, {**record, "born": record["born"] - 100})
    try:
        assert find_server(home) is None
    finally:
        write_json(file, record)
    assert find_server(home) == api_url


@pytest.mark.prefect
def test_the_api_answers_null_fields(api_url: str) -> None:
    """With a too new FastAPI this is answered 422, and `prefect flow-run ls` crashes."""
    status, flows = post(f"{api_url}/flows/filter", {"flows": None, "flow_runs": None, "deployments": None})
    assert (status, type(flows)) == (200, list)


@pytest.mark.prefect
def test_the_ui_asks_the_api_under_its_own_address(api_url: str) -> None:
    """By default it asks port 4200, whatever port it was served from."""
    with urlopen(f"{ui_address(api_url)}/ui-settings", timeout=20) as answer:
        settings = json.loads(answer.read())
    assert (settings["api_url"], settings["default_ui"]) == ("/api", "v1")


@pytest.mark.prefect
def test_silent_runs_are_watched_once(home: Home, api_url: str) -> None:
    """One that an earlier version made is renewed."""
    mine = post(f"{api_url}/automations/filter", {})[1][0]
    old = {**prefect_api.SILENT_RUN_AUTOMATION}
    old["trigger"] = {**old["trigger"], "expect": ["prefect.flow-run.Completed"]}
    prefect_api.ask(f"{api_url}/automations/{mine['id']}", old, method="PUT")
    prefect_api.watch_silent_runs(api_url)
    prefect_api.watch_silent_runs(api_url)
    _, automations = post(f"{api_url}/automations/filter", {})
    assert [automation["name"] for automation in automations] == [prefect_api.SILENT_RUN_AUTOMATION["name"]]
    for key in ("expect", "match_related"):  # as they come back, or each start would renew them
        assert automations[0]["trigger"][key] == prefect_api.SILENT_RUN_AUTOMATION["trigger"][key]
    assert automations[0]["trigger"]["expect"] == ["prefect.flow-run.*"], "a run may end in a state of any name"


@pytest.mark.prefect
def test_the_run_of_a_killed_command_is_called_crashed(home: Home, api_url: str, environment: None) -> None:
    """A server that was killed too has forgotten the heartbeats, so the next start says it.

    A worker's flow run is known by its id; one of a command by its tag, from before it exists until after its end.
    """
    _, flow = post(f"{api_url}/flows/", {"name": "experiment"})

    def make(state: str, *tags: str) -> str:
        return post(f"{api_url}/flow_runs/", {"flow_id": flow["id"], "state": {"type": state}, "tags": tags})[1]["id"]

    gone, empty = "process-1-0a1b2c", "process-2-0a1b2c"
    by_id, done, pending, running = make("RUNNING"), make("COMPLETED"), make("PENDING", gone), make("RUNNING", gone)
    for name in (by_id, done, gone, empty):
        (home.locks / f"active-{name}.lock").touch()
    silent, tasks = make("CRASHED", gone), {}
    lost_tasks = (running, "RUNNING"), (running, "SCHEDULED"), (silent, "RUNNING")  # the second is to be tried again
    for run, state in lost_tasks:
        task = {"task_key": "publish", "dynamic_key": str(len(tasks)), "flow_run_id": run, "state": {"type": state}}
        tasks[post(f"{api_url}/task_runs/", task)[1]["id"]] = "CRASHED"
    with active(home) as name:
        alive, elsewhere = make("RUNNING", name), make("RUNNING", "process-3-0a1b2c")
        assert ensure_server(home) == api_url
        _, runs = post(f"{api_url}/flow_runs/filter", {"flow_runs": {"id": {"not_any_": []}}})
        states = {run["id"]: run["state_type"] for run in runs}
        expected = {by_id: "CRASHED", done: "COMPLETED", pending: "CRASHED", running: "CRASHED", alive: "RUNNING"}
        assert {run: states[run] for run in expected} == expected
        assert states[elsewhere] == "RUNNING", "no lock of this home speaks of it"
        _, ended = post(f"{api_url}/task_runs/filter", {"task_runs": {"id": {"any_": list(tasks)}}})
        assert {task["id"]: task["state_type"] for task in ended} == tasks
        assert [path.stem for path in home.locks.glob("active-*")] == [f"active-{name}"]


def test_an_error_leaves_its_lock_for_the_next_start(home: Home) -> None:
    """A server that was away when a flow run ended takes it for running."""
    with pytest.raises(OSError), active(home) as name:
        raise OSError
    asked: list[str] = []
    end_lost_work(home, lambda name: bool(asked.append(name)))
    end_lost_work(home, lambda name: asked.append(name) is None)
    end_lost_work(home, lambda name: asked.append(name) is None)
    assert asked == [name, name]
    with pytest.raises(OSError), active(home, "1f-2e"):
        raise OSError
    assert not list(home.locks.glob("active-*")), "a worker says how its flow run ended"


def test_a_run_that_no_server_answers_for_is_kept_for_later(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = home.locks / "active-process-1-0a1b2c.lock"
    lock.touch()
    server._crash_lost_runs(home, "http://127.0.0.1:9/api")
    assert lock.exists()
    monkeypatch.setattr(server, "ask", lambda *_: [])
    server._crash_lost_runs(home, "http://lab:4200/api", own=False)
    assert lock.exists(), "the server of PREFECT_API_URL does not know the runs of the home's own"
    server._crash_lost_runs(home, "http://127.0.0.1:9/api")
    assert not lock.exists()


@pytest.mark.prefect
def test_a_cron_deployment_yields_scheduled_runs(api_url: str) -> None:
    """With a too new SQLAlchemy the scheduler silently creates none."""
    _, flow = post(f"{api_url}/flows/", {"name": "nightly"})
    schedule = {"active": True, "schedule": {"cron": "0 3 * * *", "timezone": "UTC"}}
    post(f"{api_url}/deployments/", {"name": "nightly", "flow_id": flow["id"], "schedules": [schedule]})
    wanted = {"flows": {"id": {"any_": [flow["id"]]}}}
    deadline = time.monotonic() + 60
    runs: list[dict[str, Any]] = []
    while not runs and time.monotonic() < deadline:
        time.sleep(0.5)
        _, runs = post(f"{api_url}/flow_runs/filter", wanted)
    assert {run["state_type"] for run in runs} == {"SCHEDULED"}
    assert len({run["expected_start_time"] for run in runs}) >= 2


@pytest.mark.prefect
def test_an_already_imported_prefect_follows(home: Home, api_url: str) -> None:
    code = """
import prefect
from flows.server import ensure_server
from tasks.store.home import cogito_home
ensure_server(cogito_home())
@prefect.flow(name="follower", flow_run_name="follower-1")
def follower():
    return str(prefect.get_client().api_url)
print(follower())
"""
    assert run_python(home, code)[0].rstrip("/") == api_url
    _, runs = post(f"{api_url}/flow_runs/filter", {"flow_runs": {"name": {"any_": ["follower-1"]}}})
    assert [run["state_type"] for run in runs] == ["COMPLETED"]


@pytest.mark.prefect
def test_stop_ends_the_server_and_a_lost_one_comes_back_on_its_port(
    home: Home, api_url: str, environment: None
) -> None:
    record = read_json(home.prefect / "server.json")
    os.environ["PREFECT_API_URL"] = api_url
    assert stop_server(home)
    assert not psutil.pid_exists(record["pid"])
    assert find_server(home) is None
    assert "PREFECT_API_URL" not in os.environ
    assert not stop_server(home)
    write_json(home.prefect / "server.json", record)  # what a killed server leaves behind
    assert run_python(home, ENSURE)[0] == api_url


def test_another_server_on_the_port_is_not_taken_for_ours(tmp_path: Path, web_server: HTTPServer) -> None:
    web_server.answer = b"true"  # type: ignore[attr-defined]
    home = make_home(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        other = {"port": web_server.server_port, "pid": process.pid, "born": birth(process.pid)}
        write_json(home.prefect / "server.json", other)
        assert find_server(home) is None
        write_json(home.prefect / "server.json", {"port": web_server.server_port, "pid": os.getpid(), "born": 0})
        assert find_server(home) is None
        mine = birth(os.getpid())
        write_json(home.prefect / "server.json", {"port": web_server.server_port, "pid": os.getpid(), "born": mine})
        assert find_server(home) == f"http://127.0.0.1:{web_server.server_port}/api"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"port": 1}', '{"pid": "x", "port": 4200, "born": 1}'])
def test_a_broken_record_is_no_server(tmp_path: Path, content: str, environment: None) -> None:
    home = make_home(tmp_path)
    (home.prefect / "server.json").write_text(content)
    assert find_server(home) is None
    assert not stop_server(home)
    assert not (home.prefect / "server.json").exists()


def test_a_given_server_is_used_as_it_is(tmp_path: Path, web_server: HTTPServer, environment: None) -> None:
    web_server.answer = b"true"  # type: ignore[attr-defined]
    given = f"http://127.0.0.1:{web_server.server_port}/api"
    os.environ |= {"PREFECT_API_URL": given, "PREFECT_HOME": "/somewhere"}
    assert ensure_server(make_home(tmp_path)) == given
    assert os.environ["PREFECT_HOME"] == "/somewhere"
    assert not (tmp_path / "prefect" / "server.json").exists()


def test_a_given_address_that_is_no_api_is_an_error(tmp_path: Path, web_server: HTTPServer, environment: None) -> None:
    """Prefect's own UI answers every path with 200 and a page: the `/api` was forgotten."""
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{web_server.server_port}"
    with pytest.raises(UserError, match="not as a Prefect API"):
        ensure_server(make_home(tmp_path))


def test_an_unreachable_given_server_is_an_error_without_its_password(tmp_path: Path, environment: None) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    os.environ["PREFECT_API_URL"] = f"http://ada:hunter2@127.0.0.1:{port}/api"
    with pytest.raises(UserError, match="fix: ") as caught:
        ensure_server(make_home(tmp_path))
    assert f"127.0.0.1:{port}/api" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_error_of_the_server_is_told_from_one_of_the_hub() -> None:
    def refused(url: str, **headers: str) -> httpx.ConnectError:
        return httpx.ConnectError("refused", request=httpx.Request("POST", url, headers=headers))

    prefects = refused("http://ada:hunter2@127.0.0.1:4200/api/flow_runs/1/set_state", **{"X-PREFECT-API-VERSION": "1"})
    outer = RuntimeError("cannot create")
    outer.__cause__ = prefects
    # The server of another home has taken the port, and knows no such run.
    stranger = httpx.HTTPStatusError("404 Not Found", request=prefects.request, response=httpx.Response(404))
    unknown = LookupError("None")
    unknown.__cause__ = stranger
    for error in (prefects, outer, stranger, unknown):
        message = str(prefect_api.lost_server(error))
        assert "the Prefect server at http://127.0.0.1:4200" in message and message.count("fix:") == 1
        assert "hunter2" not in message and "Hub" not in message
    others = [refused("https://huggingface.co/api"), httpx.ConnectError("no request"), OSError("no"), ValueError("no")]
    assert [prefect_api.lost_server(error) for error in others] == [None] * len(others)


def test_a_server_that_is_away_is_not_waited_for_at_every_artifact(
    web_server: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's client tries for a minute; a job that nobody hears meanwhile would stand still."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tasks import artifacts

    asked: list[str] = []

    def create(name: str) -> str:
        asked.append(name)
        if name == "lost":
            raise httpx.ConnectError("refused")
        return name

    monkeypatch.setattr(artifacts, "_unseen", threading.Event())
    monkeypatch.setattr(artifacts.FlowRunContext, "get", lambda: object())  # outside a flow run nothing is shown
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        assert [artifacts.show(create, name) for name in ("first", "lost", "skipped")] == ["first", None, None]
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{web_server.server_port}/api"}):
        assert [artifacts.show(create, name) for name in ("back", "again")] == ["back", "again"]
    assert asked == ["first", "lost", "back", "again"]


@pytest.mark.long
@pytest.mark.prefect
@pytest.mark.end_to_end
@pytest.mark.parametrize("comes_back", [False, True])
def test_a_server_that_goes_away_in_mid_run(tmp_path: Path, comes_back: bool) -> None:
    """The work and its row do not need it. One that is back in time was never missed; else a warning says it."""
    home, log = make_home(tmp_path / "home"), tmp_path / "log.md"
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    words = [
        "run",
        "tiny.yaml",
        "--log",
        "log.md",
        "--json",
        "--set",
        "evaluation.tasks=[mrpc]",
        "--set",
        "tracking.wandb=disabled",
    ]
    with kept_environment():
        # Prefect's own patience, of more than a minute for every call, is not what is looked at when nobody comes back.
        patience = {} if comes_back else {"PREFECT_CLIENT_MAX_RETRIES": "1"}
        try:
            assert run_python(home, ENSURE)[0] != "None"  # so that it is there before the command
            command = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *words],
                cwd=tmp_path,
                text=True,
                env=command_environment(home.root, **patience),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            while command.poll() is None and not list(home.runs.glob("*/pretraining/curve.jsonl")):
                time.sleep(0.1)
            assert command.poll() is None, "it ended before its server was lost"
            kill_server(home)
            if comes_back:
                assert run_python(home, ENSURE)[0] != "None"
            output, errors = command.communicate(timeout=PATIENCE)
            (run,) = home.runs.iterdir()
            assert read_json(run / "record.json")["status"] == "complete", errors
            assert log.read_text(encoding="utf-8").count(f"`{run.name}`") == 1
            if comes_back:
                assert command.returncode == 0, errors
                assert json.loads(output)["run_id"] == run.name
                return
            assert command.returncode == 0 and json.loads(output)["run_id"] == run.name, errors
            (said,) = [line for line in errors.splitlines() if "THE PREFECT UI DOES NOT SHOW THE END" in line]
            assert "the Prefect server at http://127.0.0.1:" in said and "Hub" not in said
            row = log.read_bytes()
            again = cogito(*words, home=home.root)
            assert again.returncode == 0, again.stderr
            assert json.loads(again.stdout)["run_id"] == run.name and log.read_bytes() == row
        finally:
            stop_server(home)


def kill_server(home: Home) -> None:
    process = psutil.Process(read_json(home.prefect / "server.json")["pid"])
    for one in [process, *process.children(recursive=True)]:
        one.kill()


def test_a_misspelt_mode_is_an_error(tmp_path: Path, environment: None) -> None:
    os.environ["COGITO_SERVER"] = "of"
    with pytest.raises(UserError, match="did you mean 'off'"):
        ensure_server(make_home(tmp_path))


def test_what_the_user_set_stays(tmp_path: Path, environment: None) -> None:
    os.environ |= {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "45", "PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_HOME": "/old"}
    configure_libraries(tmp_path)
    assert os.environ["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "45"
    assert "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL" not in os.environ
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert "no_proxy" not in os.environ


def test_a_proxy_is_not_asked_for_this_machine(tmp_path: Path, environment: None) -> None:
    os.environ |= {"HTTP_PROXY": "http://proxy.example:3128", "NO_PROXY": "intranet.example,localhost"}
    configure_libraries(tmp_path)
    configure_libraries(tmp_path)
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "intranet.example,localhost,127.0.0.1"


@pytest.mark.parametrize(
    ("api", "ui"),
    [
        ("http://127.0.0.1:4201/api", "http://127.0.0.1:4201"),
        ("http://127.0.0.1:4201/api/", "http://127.0.0.1:4201"),
        ("https://prefect.example/team/api", "https://prefect.example/team"),
        ("https://api.prefect.cloud/api/accounts/1/workspaces/2", "https://app.prefect.cloud/account/1/workspace/2"),
    ],
)
def test_the_address_of_the_ui(api: str, ui: str) -> None:
    assert ui_address(api) == ui


def test_importing_the_module_does_not_import_prefect() -> None:
    code = "import sys, flows.server; print([name for name in ('prefect', 'httpx', 'torch') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
