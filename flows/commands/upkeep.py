"""`cogito doctor`, `clean` and `ui`: what is wrong, what may go to free disk, and the local server.

The check of the GPU loads torch, so it is imported when it is asked for.
"""

import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.markup import escape

from flows.commands.options import AsJson, console, new_table, print_json
from flows.prefect_api import ALIVE, ask, crash_flow_run, ui_address, why_unhealthy
from flows.server import find_or_start, recorded_server, stop_server
from tasks.errors import StageError, UserError
from tasks.libraries import LOOPBACK
from tasks.store.files import read_json
from tasks.store.home import Home, cogito_home
from tasks.store.locks import active_locks
from tasks.upkeep import FIX, Finding, examine, find_waste, remove

STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}
FLOWS = ("experiment", "evaluation", "sweep")


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Clear what dead processes left behind.")] = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="Prove by real jobs that this machine trains rightly.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look for leftovers and for what keeps runs from working; changes nothing without --fix.

    With --gpu: attention, every variant and loss against the CPU, trainings on one and on all GPUs, a kill, a lack of
    memory, a fine-tuning and an analysis, and what a step costs; at most 8 minutes, no download. Exit code 1 when
    something is a problem.
    """
    home = cogito_home()
    if gpu:
        if fix:
            raise UserError("cogito doctor: got --gpu and --fix; fix: drop one of them")
        raise typer.Exit(0 if _check_gpu(home, as_json) else 1)
    findings = [*examine(home), *_server(home)]
    cleared = {number for number, finding in enumerate(findings) if fix and finding.clear is not None}
    for number in sorted(cleared):
        if (clear := findings[number].clear) is not None:
            clear()
    if as_json:
        print_json([{**finding.as_json(), "cleared": number in cleared} for number, finding in enumerate(findings)])
    else:
        _print(findings, cleared)
    left = [finding for number, finding in enumerate(findings) if number not in cleared]
    raise typer.Exit(1 if any(finding.status == "problem" for finding in left) else 0)


def _check_gpu(home: Home, as_json: bool) -> bool:
    from tasks.gpu_check.checking import run_checks

    home.create()
    target = home.root / "gpu_check.json"
    passed = run_checks(target, lambda line: print(line, file=sys.stderr if as_json else sys.stdout, flush=True))
    if as_json:
        print_json(read_json(target))
    return passed


def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    keep: Annotated[int, typer.Option(min=0, help="Training states that stay with a finished run.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Remove old training states of finished runs, caches that can be built again and half-written files.

    Never records, predictions, published models, corpora or logs; not while a run is active.
    """
    home = cogito_home()
    waste = find_waste(home, keep)
    freed = 0 if dry_run else remove(waste)
    size = sum(item.size for item in waste)
    if as_json:
        print_json({"removed": [item.as_json() for item in waste], "bytes": size, "freed": freed})
        return
    for item in waste:
        print(f"{item.size:>15,}  {item.path.relative_to(home.root).as_posix()}: {item.why}")
    print(f"{size:,} bytes would be freed" if dry_run else f"{freed:,} bytes freed")
    if not dry_run and freed < size:
        raise StageError("not everything could be removed; fix: look at the permissions of what is left")


def ui(stop: Annotated[bool, typer.Option("--stop", help="End the server of this COGITO_HOME.")] = False) -> None:
    """Start or find the local Prefect server and print the address of its UI."""
    if stop:
        print("stopped" if stop_server(cogito_home()) else "no server was running")
        return
    url = find_or_start(cogito_home())
    if url is None:
        raise UserError("cogito ui: got COGITO_SERVER=off, which starts no server; fix: unset it")
    print(ui_address(url))


def _server(home: Home) -> Iterator[Finding]:
    """The server of this home, or the one of PREFECT_API_URL, and the flow runs there that lost their process."""
    given = os.environ.get("PREFECT_API_URL")
    own = None if given else recorded_server(home)
    url = given or (own.api_url if own else None)
    if url is None:
        yield Finding("server", "ok", "none runs; the next run starts one")
        return
    if own is not None and not own.answers():
        found = f"process {own.process.pid} is the server of this home and does not answer on port {own.port}"
        yield Finding("server", "problem", found, "`cogito ui --stop`", partial(stop_server, home))
        return
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]  # with its port, without an account
    if (reason := why_unhealthy(url.rstrip("/"), 4)) is not None:
        found = f"no Prefect server at {place}: {reason}"
        yield Finding("server", "problem", found, "unset PREFECT_API_URL")
        return
    elsewhere = parts.hostname not in (LOOPBACK, "localhost", "::1")
    secured = any(os.environ.get(name) for name in ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY"))
    if elsewhere and (parts.scheme != "https" or not secured):
        found = f"{place} is used without TLS or without a password"
        yield Finding("server", "warning", found, "https and PREFECT_API_AUTH_STRING: see SECURITY.md")
        return
    yield Finding("server", "ok", f"healthy at {place}")
    if not (elsewhere or active_locks(home)):  # else the processes of its runs may be on another machine, or at work
        yield from _lost_flow_runs(url)


def _lost_flow_runs(url: str) -> Iterator[Finding]:
    query = {"flow_runs": {"state": {"type": {"any_": list(ALIVE)}}}, "flows": {"name": {"any_": list(FLOWS)}}}
    try:
        runs = ask(f"{url}/flow_runs/filter", query)
    except (OSError, ValueError) as error:
        yield Finding("flow runs", "warning", f"cannot be read: {error}", "`cogito ui --stop`")
        return
    for run in runs:
        if run["state_type"] == "PENDING" and run["deployment_id"]:
            continue  # a worker may be about to start it
        found = f"{run['name']} is {run['state_name']}, but its process has ended"
        message = "Its process has ended. Marked by cogito doctor."
        yield Finding("flow runs", "warning", found, FIX, partial(crash_flow_run, url, run["id"], message))


def _print(findings: list[Finding], cleared: set[int]) -> None:
    table = new_table("what", "status", "found", "fix")
    statuses = ["cleared" if number in cleared else finding.status for number, finding in enumerate(findings)]
    for finding, status in zip(findings, statuses, strict=True):
        style = STYLES.get(status, "green")
        table.add_row(finding.name, f"[{style}]{status}[/]", escape(finding.found), escape(finding.fix))
    console().print(table)
    counted = [*STYLES, *(["cleared"] if cleared else [])]
    print(", ".join(f"{statuses.count(status)} {status}" for status in counted))
