"""The start of a server that is slow, deaf, dead or of another version: a run is never lost to it.

A stub stands for Prefect's server: it takes a port as that does, and answers what `flows.prefect_api` asks.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from test_server import kept_environment

from flows import server
from flows.commands.upkeep import ui
from flows.prefect_api import check_given
from flows.server import NoServer, Patience, ensure_server, find_or_start, recorded_server, stop_server
from tasks.errors import UserError
from tasks.store.files import read_json, write_json
from tasks.store.home import Home
from tasks.store.locks import active

STUB = """
import http.server, json, sys, time
port, version, wait, work = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]
print("stub starts", flush=True)
if work == "dies":
    sys.exit("Can't locate revision identified by 'c0ffee'")
if work in ("[Errno 98]", "[WinError 10048]"):
    reason = "address already in use" if "98" in work else "only one usage of each socket address"
    print(f"ERROR: {work} error while attempting to bind on address: {reason}")
    sys.exit("Server stopped!")
begun = time.monotonic()
while time.monotonic() - begun < wait:
    if work == "works":
        sum(range(10_000))
    else:
        time.sleep(0.05)
class Answer(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if work == "deaf":
            time.sleep(3600)
        kinds = {"/api/health": True, "/api/admin/version": version}
        self.send_response(500 if work == "broken" else 200)
        self.end_headers()
        self.wfile.write(json.dumps(kinds.get(self.path, [])).encode())
    do_GET = do_POST = answer
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""
QUICK = Patience(idle=3, most=20, line=0.5)
Stub = Callable[..., None]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    with kept_environment():
        yield home
        stop_server(home)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """Let a start of the server start a stub of a kind."""
    started: list[subprocess.Popen[bytes]] = []

    def choose(work: str = "works", wait: float = 0, runs: str = version("prefect")) -> None:
        def spawn(home: Home, port: int) -> subprocess.Popen[bytes]:
            words = [sys.executable, "-c", STUB, str(port), runs, str(wait), work]
            with (home.logs / "server.log").open("ab") as log:
                started.append(subprocess.Popen(words, stdout=log, stderr=log))
            return started[-1]

        monkeypatch.setattr(server, "_spawn", spawn)

    yield choose
    for process in started:
        process.kill()
        process.wait()


def test_a_slow_server_is_waited_for_as_long_as_it_works(
    home: Home, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    """Longer than an idle one is waited for: the clock that counts is that of its work."""
    stub("works", wait=4.5)
    url = ensure_server(home, QUICK)
    assert url == recorded_server(home).api_url == os.environ["PREFECT_API_URL"]  # type: ignore[union-attr]
    said = capsys.readouterr().err
    assert said.count("the Prefect server is starting, for") >= 3 and "WARNING" not in said


@pytest.mark.parametrize(
    ("work", "wait", "patience", "reason"),
    [
        ("dies", 0, QUICK, "its process ended; the last line of {log}: Can't locate revision identified by 'c0ffee'"),
        (
            "sleeps",
            3600,
            Patience(1, 20, 5),
            "its process lives, but did nothing for 1 s; the last line of {log}: stub",
        ),
        ("deaf", 0, Patience(20, 4, 5), "it did not answer within 4 s;"),
        ("works", 3600, Patience(20, 2, 5), "it did not answer within 2 s"),
        ("broken", 0, Patience(20, 2, 5), "it did not answer within 2 s;"),
    ],
)
def test_a_run_goes_on_without_a_server_that_cannot_be_had(
    home: Home, stub: Stub, capsys: pytest.CaptureFixture[str], work: str, wait: float, patience: Patience, reason: str
) -> None:
    stub(work, wait)
    assert ensure_server(home, patience) is None
    said = capsys.readouterr().err
    assert said.startswith("WARNING: THE PREFECT UI WILL NOT SHOW THIS RUN") and "`cogito ui` starts the server" in said
    assert reason.format(log=home.logs / "server.log") in said
    assert "PREFECT_API_URL" not in os.environ
    assert not (home.prefect / "server.json").exists(), "the next start begins anew"
    children = psutil.Process().children(recursive=True)
    assert not [child for child in children if STUB in child.cmdline()], "a server that was given up is ended"
    stub("works")
    assert ensure_server(home, QUICK) is not None, "nothing of it is in the way of the next start"


def test_the_ui_that_cannot_be_had_is_an_error(home: Home, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COGITO_HOME", str(home.root))
    stub("dies")
    with pytest.raises(NoServer, match="its process ended"):
        ui()
    monkeypatch.setenv("COGITO_SERVER", "off")
    with pytest.raises(UserError, match="got COGITO_SERVER=off, which starts no server; fix: unset it"):
        ui()


@pytest.mark.parametrize("broken", ["no place for its log", "no place for its record"])
def test_a_home_in_which_no_server_can_start(
    home: Home, broken: str, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub("works")
    file = home.logs / "server.log" if broken == "no place for its log" else home.prefect / "server.json"
    file.mkdir(parents=True)
    assert ensure_server(home, QUICK) is None
    assert not [child for child in psutil.Process().children() if STUB in child.cmdline()]
    file.rmdir()
    assert "THE PREFECT UI WILL NOT SHOW THIS RUN" in capsys.readouterr().err


def test_ports_of_foreign_programs_are_passed_over(
    home: Home, stub: Stub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PORTS", 3)
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        ports = [each.getsockname()[1] for each in taken]
        with socket.create_server(("127.0.0.1", 0)) as free:
            last = free.getsockname()[1]
        monkeypatch.setattr(server, "_candidates", lambda home: [*ports, last])
        stub("works")
        assert ensure_server(home, QUICK) == f"http://127.0.0.1:{last}/api"
        stop_server(home)
        monkeypatch.setattr(server, "_candidates", lambda home: ports)
        assert ensure_server(home, QUICK) is None
        assert "the ports from 4200 to 4202 are all taken" in capsys.readouterr().err


@pytest.mark.parametrize("error", ["[Errno 98]", "[WinError 10048]"])
def test_a_port_that_another_took_during_the_start_and_left_again_is_passed_over(
    home: Home, stub: Stub, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    """Prefect binds its port seconds after it looked: the server of another home may have held it in between."""
    stub("works")
    works, spawned = server._spawn, []

    def spawn(home: Home, port: int) -> subprocess.Popen[bytes]:
        spawned.append(port)
        if len(spawned) > 1:
            return works(home, port)
        with (home.logs / "server.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-c", STUB, str(port), "", "0", error], stdout=log, stderr=log)

    monkeypatch.setattr(server, "_spawn", spawn)
    home.logs.mkdir(parents=True, exist_ok=True)
    (home.logs / "server.log").write_text("address already in use, says a start of long ago\n", encoding="utf-8")
    url = ensure_server(home, QUICK)
    assert len(spawned) == 2 and url == f"http://127.0.0.1:{spawned[1]}/api" and spawned[0] != spawned[1]


def test_an_old_word_of_a_taken_port_excuses_no_server_that_dies(
    home: Home, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub("dies")
    home.logs.mkdir(parents=True, exist_ok=True)
    (home.logs / "server.log").write_text("address already in use, says a start of long ago\n", encoding="utf-8")
    assert ensure_server(home, QUICK) is None
    assert "its process ended; the last line of" in capsys.readouterr().err


def test_another_command_that_starts_the_server_is_waited_for(
    home: Home, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub("works")
    lock = FileLock(home.locks / "server.lock", thread_local=False)
    lock.acquire()
    release = threading.Timer(2, lock.release)
    release.start()
    assert ensure_server(home, QUICK) is not None
    assert "another command starts the Prefect server: waiting for it" in capsys.readouterr().err
    stop_server(home)
    with FileLock(home.locks / "server.lock"):
        assert ensure_server(home, Patience(1, 1, 0.5)) is None
    assert "another command has been starting it for 1 s" in capsys.readouterr().err


def test_a_server_of_another_version_is_started_anew_unless_it_is_in_use(
    home: Home, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub("works", runs="3.0.1")
    assert ensure_server(home, QUICK) is not None
    old = read_json(home.prefect / "server.json")["pid"]
    stub("works")
    with active(home):
        assert ensure_server(home, QUICK) is not None
        assert read_json(home.prefect / "server.json")["pid"] == old
        assert "runs Prefect 3.0.1, this is" in capsys.readouterr().err
    os.environ.pop("PREFECT_API_URL")
    assert ensure_server(home, QUICK) is not None
    assert read_json(home.prefect / "server.json")["pid"] != old and not psutil.pid_exists(old)


def test_a_foreign_prefect_on_the_recorded_port_is_not_used(home: Home, stub: Stub) -> None:
    """It would show the run among its own, in a database of another version."""
    stub("works", runs="2.20.0")
    theirs = find_or_start(home, QUICK)
    assert theirs is not None
    os.environ.pop("PREFECT_API_URL")
    other = Home(home.root.parent / "other")
    write_json(other.prefect / "server.json", {"port": int(theirs.split(":")[2][:-4]), "pid": os.getpid(), "born": 0})
    stub("works")
    ours = find_or_start(other, QUICK)
    assert ours is not None and ours != theirs
    stop_server(other)
    with pytest.raises(UserError, match=r"it runs Prefect 2\.20\.0, and this is Prefect 3") as caught:
        check_given(theirs)
    assert "PREFECT_API_URL" in str(caught.value) and "fix:" in str(caught.value)


def test_no_command_is_shown_where_the_server_is_off(home: Home, stub: Stub) -> None:
    stub("works")
    os.environ["COGITO_SERVER"] = "off"
    assert find_or_start(home) is None
    assert not (home.prefect / "server.json").exists()
    assert json.loads(os.environ["PREFECT_SERVER_EPHEMERAL_ENABLED"]) is False, "nor does Prefect start one by itself"
