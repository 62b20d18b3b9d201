"""The local Prefect server of a COGITO_HOME: found when it runs, started when it does not, ended on request.

Prefect does not find a running server by itself: without PREFECT_API_URL every process starts a temporary one on the
same SQLite file. So `server.json` in the home records the port and the process of its server. Prefect's own
`--background` records a process id alone: it cannot tell a recycled id, a second home or a home that was moved.

    COGITO_SERVER=auto   find or start the home's server (the default)
    COGITO_SERVER=off    use none: the stages run in this process, and no UI shows them
    PREFECT_API_URL=...  use this server, as it is; none is started

Prefect itself is not imported here: that costs 1.5 s, and it reads these settings when it is imported.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from filelock import BaseFileLock, Timeout

from flows.prefect_api import (
    ALIVE,
    FIRST_PORT,
    ask,
    check_given,
    crash_flow_run,
    server_version,
    watch_silent_runs,
    why_unhealthy,
)
from tasks.errors import StageError, UserError, unknown_name
from tasks.libraries import LOOPBACK, configure_libraries
from tasks.processes import birth, lives
from tasks.secrets import environment_without_secrets, redact
from tasks.store.files import read_json, write_json
from tasks.store.home import Home
from tasks.store.locks import TAG, active_locks, end_lost_work

PORTS = 100

# A worker reports the final state of a flow run within this time after the flow function has returned.
FAREWELL_SECONDS = 3


@dataclass(frozen=True)
class LocalServer:
    """The server process that a home's `server.json` names; it may still be starting."""

    process: psutil.Process
    port: int

    @property
    def api_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/api"

    def answers(self) -> bool:
        """Whether this very process serves its port and is healthy: another server may have taken the port."""
        try:
            tree = [self.process, *self.process.children(recursive=True)]  # a Windows venv starts Python as a child
            serves = any(
                connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.port
                for process in tree
                for connection in process.net_connections("tcp")
            )
        except psutil.Error:
            return False
        return serves and why_unhealthy(self.api_url, 2) is None

    def seconds_worked(self) -> float | None:
        """The seconds of the CPU that the server has used so far; None once its process has ended."""
        try:
            if not self.process.is_running() or self.process.status() == psutil.STATUS_ZOMBIE:
                return None
            used = 0.0
            for process in (self.process, *self.process.children(recursive=True)):
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    used += times.user + times.system
            return used
        except psutil.Error:
            return None


class NoServer(StageError):
    """No server became ready; the message says why."""


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for, in seconds.

    Attributes:
        idle: while its process lives, but uses less than a hundredth of this time of the CPU.
        most: in all; a start of seconds has taken minutes on a machine whose cores were all busy.
        line: from one line that says so to the next.
    """

    idle: float = 90
    most: float = 900
    line: float = 15


PATIENCE = Patience()


def ensure_server(home: Home, patience: Patience = PATIENCE) -> str | None:
    """Find or start the server that shows a run; returns its API address.

    Returns:
        The API address; None when COGITO_SERVER=off, or, after a warning, when no server can be had: the stages then
        run in this process, and no UI shows them.

    Raises:
        UserError: the server of PREFECT_API_URL does not answer, or COGITO_SERVER is misspelt.
    """
    try:
        return find_or_start(home, patience)
    except (StageError, OSError, psutil.Error) as error:
        # No run is lost to the thing that only shows it.
        os.environ.pop("PREFECT_API_URL", None)
        _say(
            f"WARNING: THE PREFECT UI WILL NOT SHOW THIS RUN: no server could be had: {error}. The run goes on without "
            "one: its record, its row and its report are as ever. Fix: `cogito ui` starts the server and says what is "
            "wrong; once it prints an address, the same command is shown there"
        )
        return None


def find_or_start(home: Home, patience: Patience = PATIENCE) -> str | None:
    """Find or start the server to use, point Prefect at it and return its API address; None when COGITO_SERVER=off.

    Only one of several simultaneous callers starts a server; the others wait for it.

    Raises:
        UserError: the server of PREFECT_API_URL does not answer, or COGITO_SERVER is misspelt.
        NoServer: none became ready.
        OSError, StageError, psutil.Error: none could be started.
    """
    mode = os.environ.get("COGITO_SERVER") or "auto"
    if mode not in ("auto", "off"):
        raise UserError(unknown_name("value of COGITO_SERVER", mode, ("auto", "off")))
    configure_libraries(home.root)
    _refresh_settings()
    given = os.environ.get("PREFECT_API_URL")
    server = recorded_server(home)
    if given and (mode == "off" or not server or given != server.api_url):
        api_url = check_given(given).rstrip("/")
        _watch_runs(api_url)
        _crash_lost_runs(home, api_url, own=False)
        return given
    if mode == "off":
        return None
    if not (server and server.answers() and not _is_outdated(server, home)):
        with _alone(home.lock("server"), patience):
            server = recorded_server(home)  # by now perhaps another caller's
            if not (server and _why_not_ready(server, patience) is None and not _is_outdated(server, home)):
                server = _start_server(home, server, patience)
    os.environ["PREFECT_API_URL"] = server.api_url
    _refresh_settings()
    _crash_lost_runs(home, server.api_url)
    return server.api_url


def _is_outdated(server: LocalServer, home: Home) -> bool:
    """Whether a server was started by another version of Prefect than this one, and nobody works with it."""
    theirs, ours = server_version(server.api_url), version("prefect")
    if theirs in (None, ours):
        return False
    if active_locks(home):
        _say(f"the Prefect server of this home runs Prefect {theirs}, this is {ours}: it is kept, as a run uses it")
        return False
    _say(f"the Prefect server of this home runs Prefect {theirs}, this is {ours}: starting it anew")
    return True


@contextmanager
def _alone(lock: BaseFileLock, patience: Patience) -> Iterator[None]:
    """Hold the lock of whoever starts the server of this home while the block runs.

    Raises:
        NoServer: another command holds it for too long.
    """
    begun = time.monotonic()
    while True:
        try:
            lock.acquire(timeout=patience.line)
            break
        except Timeout:
            if time.monotonic() - begun > patience.most:
                raise NoServer(f"another command has been starting it for {patience.most:.0f} s") from None
            _say("another command starts the Prefect server: waiting for it")
    try:
        yield
    finally:
        lock.release()


def _watch_runs(api_url: str) -> None:
    try:
        watch_silent_runs(api_url)
    except (OSError, ValueError, KeyError, TypeError) as error:
        _say(f"WARNING: killed runs will stay Running in the UI: {error}")


def _crash_lost_runs(home: Home, api_url: str, *, own: bool = True) -> None:
    """Mark flow runs crashed whose process died: a server that was restarted has forgotten their heartbeats.

    Args:
        own: the server is the home's; one that does not know a run leaves it to the home's.
    """

    def end(name: str) -> bool:
        tagged = name.startswith(TAG)
        by: dict[str, Any] = {"tags": {"any_": [name]}} if tagged else {"id": {"any_": [name]}}
        # CRASHED too: the automation for silent flow runs marks the flow run, but not its tasks.
        by["state"] = {"type": {"any_": [*ALIVE, "CRASHED"]}}
        try:
            runs = ask(f"{api_url}/flow_runs/filter", {"flow_runs": by})
            if runs and not tagged:
                time.sleep(FAREWELL_SECONDS)
            for run in runs:
                crash_flow_run(api_url, run["id"], "Its process has ended.")
            return own or bool(runs)
        except (OSError, ValueError):
            return False

    end_lost_work(home, end)


def stop_server(home: Home) -> bool:
    """End the home's server with all its processes; False when none was running."""
    with home.lock("server"):
        server = recorded_server(home)
        moved = _end_moved_server(home)
        if server:
            _end_server(server)
            if os.environ.get("PREFECT_API_URL") == server.api_url:
                del os.environ["PREFECT_API_URL"]
                _refresh_settings()
        _record_file(home).unlink(missing_ok=True)
    return server is not None or moved


def _record_file(home: Home) -> Path:
    return home.prefect / "server.json"


def recorded_server(home: Home) -> LocalServer | None:
    """The server of `server.json`, if that very process still lives: a pid alone may have been given to another.

    When a home is moved or copied, its server goes on writing to the old place: it does not belong to the new one.
    """
    server, place = _living_server(home)
    return server if place in (None, str(home.root)) else None


def _living_server(home: Home) -> tuple[LocalServer | None, str | None]:
    """The process that `server.json` names, if it lives, and the home that it was started for, if recorded."""
    try:
        record = read_json(_record_file(home))
        same = lives(record["pid"], record["born"])
        server = LocalServer(psutil.Process(record["pid"]), record["port"]) if same else None
        return server, record.get("home")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, psutil.Error):
        return None, None


def _end_moved_server(home: Home) -> bool:
    """End the server that this home had before it was moved; the server of a home that was copied is left alone."""
    server, place = _living_server(home)
    if server is None or place in (None, str(home.root)):
        return False
    try:
        if read_json(Path(str(place)) / "prefect" / "server.json")["pid"] == server.process.pid:
            return False
    except (OSError, ValueError, KeyError, TypeError):
        pass
    _end_server(server)
    return True


def _start_server(home: Home, before: LocalServer | None, patience: Patience) -> LocalServer:
    """Start a server and wait until it is ready; ends the one before it first. The caller holds the home's lock.

    Raises:
        NoServer: it did not become ready.
    """
    if before:
        _end_server(before)
    _end_moved_server(home)
    for port in filter(_is_free, _candidates(home)):
        begun = _log_size(home)
        process = _spawn(home, port)
        try:
            server = LocalServer(psutil.Process(process.pid), port)
            # Recorded at once, so that no second server is started should this process die while it waits.
            record = {"port": port, "pid": process.pid, "born": birth(process.pid), "home": str(home.root)}
            write_json(_record_file(home), record)
        except (StageError, OSError):
            _end_server(server)  # without a record it would never be found again
            raise
        if (reason := _why_not_ready(server, patience)) is None:
            _watch_runs(server.api_url)
            return server
        _end_server(server)
        _record_file(home).unlink(missing_ok=True)
        said = _words_since(home, begun)
        # Another program took the port since we looked, and may have left it again: try the next.
        if _is_free(port) and not re.search(r"already in use|\b10048\b", said):
            raise NoServer(f"{reason}{_last_words(home, said)}")
    raise NoServer(f"the ports from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are all taken")


def _spawn(home: Home, port: int) -> subprocess.Popen[bytes]:
    """Start Prefect's server so that it outlives this process and its terminal."""
    environment = {
        **environment_without_secrets("PREFECT_*"),  # it outlives this process and needs neither the Hub nor W&B
        "PREFECT_HOME": str(home.prefect.resolve()),
        # The UI asks the API under its own address, so that it also works through a tunnel to another machine.
        "PREFECT_SERVER_UI_API_URL": os.environ.get("PREFECT_SERVER_UI_API_URL") or "/api",
        "PREFECT_SERVER_API_HOST": LOOPBACK,
        "PREFECT_SERVER_API_PORT": str(port),
    }
    environment.pop("PREFECT_API_URL", None)
    detached: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        detached = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    # -P: a file in the working directory that is named like a library must not be imported in its place.
    command = [sys.executable, "-P", "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(port)]
    with (home.logs / "server.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **detached)


def _why_not_ready(server: LocalServer, patience: Patience) -> str | None:
    """Wait until a server is ready, as long as its process lives and works; None once it is, else the reason."""
    begun = worked = said = time.monotonic()
    work = 0.0
    while True:
        if server.answers():
            return None
        now, done = time.monotonic(), server.seconds_worked()
        if done is None:
            return "its process ended"
        if done - work > patience.idle / 100:
            work, worked = done, now
        if now - worked > patience.idle:
            return f"its process lives, but did nothing for {patience.idle:.0f} s"
        if now - begun > patience.most:
            return f"it did not answer within {patience.most:.0f} s"
        if now - said > patience.line:
            said = now
            _say(f"the Prefect server is starting, for {now - begun:.0f} s now: this machine is busy; waiting for it")
        time.sleep(min(0.3, patience.idle))


def _log_size(home: Home) -> int:
    """The bytes that servers of this home have logged so far."""
    path = home.logs / "server.log"
    return path.stat().st_size if path.is_file() else 0


def _words_since(home: Home, begun: int) -> str:
    """What a server has logged since the log had `begun` bytes."""
    return (home.logs / "server.log").read_bytes()[begun:].decode("utf-8", errors="replace")


def _last_words(home: Home, said: str) -> str:
    """Where a server writes, and the last line there, for a message."""
    last = next((redact(line.strip())[:300] for line in reversed(said.splitlines()) if line.strip()), "nothing")
    return f"; the last line of {home.logs / 'server.log'}: {last}"


def _end_server(server: LocalServer) -> None:
    try:
        tree = [server.process, *server.process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        _signal(process, "terminate")
    _, alive = psutil.wait_procs(tree, timeout=10)
    for process in alive:
        _signal(process, "kill")
    psutil.wait_procs(alive, timeout=5)


def _candidates(home: Home) -> list[int]:
    """The ports to try: the home's last one first, since bookmarks and running clients know it."""
    try:
        last = [int(read_json(_record_file(home))["port"])]
    except (OSError, ValueError, KeyError, TypeError):
        last = []
    return list(dict.fromkeys([*last, *range(FIRST_PORT, FIRST_PORT + PORTS)]))


def _is_free(port: int) -> bool:
    try:
        with closing(socket.create_server((LOOPBACK, port))):
            return True
    except (OSError, OverflowError):
        return False


def _refresh_settings() -> None:
    """Let Prefect read its environment again where it is imported already: it does so only on import."""
    if "prefect" in sys.modules:
        from tasks.prefect_entry import refresh_global_settings_context  # heavy, see above

        refresh_global_settings_context()


def _signal(process: psutil.Process, action: str) -> None:
    with suppress(psutil.NoSuchProcess):
        getattr(process, action)()


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
