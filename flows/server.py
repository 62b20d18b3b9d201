"""The local Prefect server of a COGITO_HOME: found when it runs, started when it does not, ended on request.

Prefect does not find a running server by itself: without PREFECT_API_URL every process starts a temporary one on the
same SQLite file. So `server.json` in the home records the port and the process of its server. Prefect's own
`--background` records a process id alone: it cannot tell a recycled id, a second home or a home that was moved.

    COGITO_SERVER=auto   find or start the home's server (the default)
    COGITO_SERVER=off    start none: Prefect uses its temporary server, and runs show in no UI
    PREFECT_API_URL=...  use this server, as it is; none is started

Prefect itself is not imported here: that costs 1.5 s, and it reads these settings when it is imported.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
from filelock import Timeout

from flows.prefect_api import (
    ALIVE,
    FIRST_PORT,
    HEARTBEAT_SECONDS,
    LOOPBACK,
    ask,
    check_given,
    crash_flow_run,
    watch_silent_runs,
    why_unhealthy,
)
from tasks.errors import StageError, UserError, unknown_name
from tasks.processes import OWNER_BORN, OWNER_PID, birth, lives, own_mark, owner_lives
from tasks.secrets import environment_without_secrets
from tasks.store.files import read_json, write_json
from tasks.store.home import Home
from tasks.store.locks import TAG, end_lost_work

# A word of the command line of the temporary server that Prefect starts where there is no other.
TEMPORARY_SERVER = "prefect.server.api.server:create_app"
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


def configure_prefect(home: Home) -> None:
    """Set Prefect's environment for a home; to be called before Prefect is imported.

    The user's own settings win, with one exception: PREFECT_HOME is the home's own folder unless PREFECT_API_URL is
    set too, since a local server shares its database with everything else in its PREFECT_HOME.
    """
    folder = str(home.prefect.resolve())
    if os.environ.get("PREFECT_API_URL"):
        os.environ.setdefault("PREFECT_HOME", folder)
    else:
        os.environ["PREFECT_HOME"] = folder
    if not os.environ.get("PREFECT_LOGGING_LEVEL"):
        # The terminal shows warnings only; the run's log in the UI keeps everything from INFO on.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
    for name, value in {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # The second UI asks an analytics host for its settings even with analytics off; it stays one click away.
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        # A run of a deployment with a limit ends when its lease is gone, so leases outlive a restart of the server.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        # Our own lines belong in the run's log too; outside a run there is nowhere to send them.
        "PREFECT_LOGGING_EXTRA_LOGGERS": "cogito",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }.items():
        os.environ.setdefault(name, value)
    if any(os.environ.get(name) for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")):
        # Prefect's client would ask the proxy even for this machine's own server.
        hosts = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")
        direct = ",".join(dict.fromkeys([*filter(None, hosts), LOOPBACK, "localhost"]))
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = direct
    os.environ.update(own_mark())  # a temporary server inherits it, so that it is found once this process has ended
    _refresh_settings()


def ensure_server(home: Home, timeout_seconds: float = 120) -> str | None:
    """Find or start the server to use, point Prefect at it and return its API address.

    Only one of several simultaneous callers starts a server; the others wait for it.

    Returns:
        The API address; None when COGITO_SERVER=off, or, after a warning, when no server could be started: then
        Prefect works with a temporary server that has no UI.

    Raises:
        UserError: the server of PREFECT_API_URL does not answer, or COGITO_SERVER is misspelt.
    """
    mode = os.environ.get("COGITO_SERVER") or "auto"
    if mode not in ("auto", "off"):
        raise UserError(unknown_name("value of COGITO_SERVER", mode, ("auto", "off")))
    configure_prefect(home)
    for lost in lost_servers(home):
        _signal(lost, "kill")
    given = os.environ.get("PREFECT_API_URL")
    server = recorded_server(home)
    if given and (mode == "off" or not server or given != server.api_url):
        return check_given(given)
    if mode == "off":
        return None
    deadline = time.monotonic() + timeout_seconds
    if not (server and server.answers()):
        try:
            with home.lock("server").acquire(timeout=timeout_seconds):
                server = recorded_server(home)
                # A server that lives but does not answer may be starting for another caller, or hang for good.
                if not (server and _wait_until_healthy(server, time.monotonic() + timeout_seconds / 2)):
                    server = _start_server(home, server, deadline)
        except Timeout:
            server = None
    if server is None:
        _warn(
            "the Prefect server did not become ready: going on with a temporary one, without UI; "
            f"its output: {home.logs / 'server.log'}; COGITO_SERVER=off starts none"
        )
        return None
    os.environ["PREFECT_API_URL"] = server.api_url
    _refresh_settings()
    _crash_lost_runs(home, server.api_url)
    return server.api_url


def lost_servers(home: Home) -> list[psutil.Process]:
    """Temporary servers of Prefect whose command, one of this home, has ended: nothing else would end them."""
    lost = []
    for process in psutil.process_iter():
        try:
            if TEMPORARY_SERVER not in process.cmdline():
                continue
            environment = process.environ()
            ours = environment.get("PREFECT_HOME") == str(home.prefect.resolve())
            if ours and not owner_lives(environment):
                lost.append(process)
        except psutil.Error:
            continue  # it ended meanwhile, or belongs to another user
    return lost


def _crash_lost_runs(home: Home, api_url: str) -> None:
    """Mark flow runs crashed whose process died: a server that was restarted has forgotten their heartbeats."""

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
            return True
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


def _start_server(home: Home, unhealthy: LocalServer | None, deadline: float) -> LocalServer | None:
    """Start a server and wait until it is healthy; ends an unhealthy one first. The caller holds the home's lock."""
    if unhealthy:
        _end_server(unhealthy)
    _end_moved_server(home)
    for port in _free_ports(home):
        process = _spawn(home, port)
        try:
            server = LocalServer(psutil.Process(process.pid), port)
            # Recorded at once, so that no second server is started should this process die while it waits.
            record = {"port": port, "pid": process.pid, "born": birth(process.pid), "home": str(home.root)}
            write_json(_record_file(home), record)
        except psutil.NoSuchProcess:
            return None
        except StageError:
            _end_server(server)  # without a record it would never be found again
            raise
        if _wait_until_healthy(server, deadline):
            try:
                watch_silent_runs(server.api_url)
            except (OSError, ValueError) as error:
                _warn(f"killed runs will stay Running in the UI: {error}")
            return server
        taken = not _is_free(port)  # another program took the port since we looked: try the next
        _end_server(server)
        _record_file(home).unlink(missing_ok=True)
        if not taken or time.monotonic() > deadline:
            return None
    return None


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
    for name in ("PREFECT_API_URL", OWNER_PID, OWNER_BORN):
        environment.pop(name, None)
    detached: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        detached = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    # -P: a file in the working directory that is named like a library must not be imported in its place.
    command = [sys.executable, "-P", "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(port)]
    with (home.logs / "server.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **detached)


def _wait_until_healthy(server: LocalServer, deadline: float) -> bool:
    while time.monotonic() < deadline:
        if server.answers():
            return True
        if not server.process.is_running() or server.process.status() == psutil.STATUS_ZOMBIE:
            return False
        time.sleep(0.2)
    return False


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


def _free_ports(home: Home) -> Iterator[int]:
    """The home's last port first, since bookmarks and running clients know it."""
    try:
        last = [int(read_json(_record_file(home))["port"])]
    except (OSError, ValueError, KeyError, TypeError):
        last = []
    return (port for port in dict.fromkeys(chain(last, range(FIRST_PORT, FIRST_PORT + PORTS))) if _is_free(port))


def _is_free(port: int) -> bool:
    try:
        with closing(socket.create_server((LOOPBACK, port))):
            return True
    except (OSError, OverflowError):
        return False


def _refresh_settings() -> None:
    """Let Prefect read its environment again where it is imported already: it does so only on import."""
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context  # heavy, see above

        refresh_global_settings_context()


def _signal(process: psutil.Process, action: str) -> None:
    with suppress(psutil.NoSuchProcess):
        getattr(process, action)()


def _warn(message: str) -> None:
    print(f"WARNING: {message}", file=sys.stderr, flush=True)
