"""`cogito doctor`, `clean` and `ui`: what is wrong and what was left behind, what may go to free disk, the server."""

import os
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from flows.commands.options import AsJson, console, print_json
from tasks.errors import StageError

STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}
FLOWS = ("experiment", "evaluation", "sweep")


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Clear what was left behind.")] = False, as_json: AsJson = False
) -> None:
    """Look for leftovers and for what keeps runs from working; changes nothing without --fix.

    Exit code 1 when something is a problem.
    """
    from tasks.store.home import cogito_home
    from tasks.upkeep import examine

    home = cogito_home()
    findings = [*examine(home), *_server(home), *_lost_servers(home)]
    cleared = set()
    if fix:
        for number, one in enumerate(findings):
            if one.clear is not None:
                one.clear()
                cleared.add(number)
    problems = sum(one.status == "problem" and number not in cleared for number, one in enumerate(findings))
    if as_json:
        rows = [{**one.as_json(), "cleared": number in cleared} for number, one in enumerate(findings)]
        print_json(rows)
    else:
        _print(findings, cleared)
    raise typer.Exit(1 if problems else 0)


def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    keep: Annotated[int, typer.Option(min=0, help="Training states that stay with a finished run.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Remove old training states of finished runs, caches that can be built again and half-written files.

    Never records, predictions, published models, corpora or logs; not while a run is active.
    """
    from tasks.store.home import cogito_home
    from tasks.upkeep import find_waste, remove

    home = cogito_home()
    waste = find_waste(home, keep)
    freed = 0 if dry_run else remove(waste)
    size = sum(one.size for one in waste)
    if as_json:
        print_json({"removed": [one.as_json() for one in waste], "bytes": size, "freed": freed})
        return
    for one in waste:
        print(f"{one.size:>15,}  {one.path.relative_to(home.root).as_posix()}: {one.why}")
    print(f"{size:,} bytes would be freed" if dry_run else f"{freed:,} bytes freed")
    if not dry_run and freed < size:
        raise StageError("not everything could be removed; fix: look at the rights of what is left")


def ui(stop: Annotated[bool, typer.Option("--stop", help="End the server of this COGITO_HOME.")] = False) -> None:
    """Start or find the local Prefect server and print the address of its UI."""
    from flows.prefect_api import ui_address
    from flows.server import ensure_server, stop_server
    from tasks.store.home import cogito_home

    if stop:
        print("stopped" if stop_server(cogito_home()) else "no server was running")
        return
    url = ensure_server(cogito_home())
    if url is None:
        raise StageError("no server could be started; see logs/server.log under COGITO_HOME")
    print(ui_address(url))


def _server(home: Any) -> list[Any]:
    """The server of this home, or the one that PREFECT_API_URL names, and flow runs on it that nobody works at."""
    from flows.prefect_api import ALIVE, LOOPBACK, ask, why_unhealthy
    from flows.server import recorded_server, stop_server
    from tasks.store.locks import active_locks
    from tasks.upkeep import Finding

    given = os.environ.get("PREFECT_API_URL")
    own = None if given else recorded_server(home)
    if own is not None and not own.answers():
        found = f"process {own.process.pid} is the server of this home and does not answer on port {own.port}"
        return [Finding("server", "problem", found, "`cogito ui --stop`", partial(stop_server, home))]
    url = given or (own.api_url if own else None)
    if url is None:
        return [Finding("server", "ok", "none runs; the next run starts one")]
    parts = urlsplit(url)
    if (reason := why_unhealthy(url.rstrip("/"), 4)) is not None:
        return [
            Finding("server", "problem", f"no Prefect server at {parts.hostname}: {reason}", "unset PREFECT_API_URL")
        ]
    elsewhere = parts.hostname not in (LOOPBACK, "localhost", "::1")
    secured = any(os.environ.get(name) for name in ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY"))
    if elsewhere and (parts.scheme != "https" or not secured):
        return [
            Finding(
                "server",
                "warning",
                f"{parts.hostname} is used without TLS or without a password",
                "https and PREFECT_API_AUTH_STRING: see SECURITY.md",
            )
        ]
    findings = [Finding("server", "ok", f"healthy at {parts.hostname}")]
    if elsewhere or active_locks(home):
        return findings  # others may work at its runs
    query = {"flow_runs": {"state": {"type": {"any_": list(ALIVE)}}}, "flows": {"name": {"any_": list(FLOWS)}}}
    try:
        runs = ask(f"{url}/flow_runs/filter", query)
    except (OSError, ValueError) as error:
        return [*findings, Finding("flow runs", "warning", f"not to be read: {error}", "`cogito ui --stop`")]
    for run in runs:
        if run["state_type"] == "PENDING" and run["deployment_id"]:
            continue  # a worker may be about to start it
        findings.append(
            Finding(
                "flow runs",
                "warning",
                f"{run['name']} is {run['state_name']}, and nobody works at it",
                "`cogito doctor --fix`",
                partial(_crash, url, run["id"]),
            )
        )
    return findings


def _lost_servers(home: Any) -> list[Any]:
    from flows.server import lost_servers
    from tasks.upkeep import Finding

    return [
        Finding(
            "server",
            "problem",
            f"process {process.pid} is a temporary server of a command that is gone",
            f"kill {process.pid}",
            process.kill,
        )
        for process in lost_servers(home)
    ]


def _crash(url: str, run: str) -> None:
    from flows.prefect_api import crash_flow_run

    crash_flow_run(url, run, "Its process is gone. Called so by cogito doctor.")


def _print(findings: list[Any], cleared: set[int]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("what", "status", "found", "fix")
    statuses = ["cleared" if number in cleared else one.status for number, one in enumerate(findings)]
    for one, status in zip(findings, statuses, strict=True):
        table.add_row(one.name, f"[{STYLES.get(status, 'green')}]{status}[/]", escape(one.found), escape(one.fix))
    console().print(table)
    counted = [*STYLES, *(["cleared"] if cleared else [])]
    print(", ".join(f"{statuses.count(status)} {status}" for status in counted))
