"""`cogito runs`: what has been run, from the records on disk; no server is asked and torch is not loaded."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape

from flows.commands.options import AsJson, console, new_table, print_json
from tasks.runs.listing import Listed, list_runs
from tasks.store.home import cogito_home

AGES = (("d", 86_400), ("h", 3600), ("min", 60))
STYLES = {"complete": "green", "running": "cyan", "paused": "yellow", "stopped": "yellow"}


def runs(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Only those whose id or experiment has one of these texts.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List runs, evaluations and sweeps, the newest first: how they stand, their scores, how siblings differ."""
    home = cogito_home()
    listed = list_runs(home)
    lines = [line for line in listed if _has_one_of(texts or [""], line)]
    if as_json:
        print_json([line.as_json() for line in lines])
        return
    if not listed:
        print(f"no runs in {home.root} yet; `cogito run experiments/quickstart.yaml` makes one")
        return
    table = new_table("run", "experiment", "status", "scores", "age")
    now = datetime.now(UTC)
    for line in lines:
        style = STYLES.get(line.status, "red")
        status = f"[{style}]{escape(line.status)}[/]" + (f"\n{escape(line.stage)}" if line.stage else "")
        scores = "\n".join(f"{task} {text}" for task, text in line.scores.items())
        table.add_row(escape(line.id), escape(_experiment(line)), status, escape(scores), age(line.created, now))
    terminal = console()
    table.columns[0].min_width = min(max((len(line.id) for line in lines), default=0), terminal.width // 2)
    terminal.print(table)
    print(f"{len(lines)} of the {len(listed)} in {home.root}")


def _has_one_of(texts: list[str], line: Listed) -> bool:
    return any(text in name for text in texts for name in (line.id, line.name))


def _experiment(line: Listed) -> str:
    """What a line is about: the experiment, what kind of run, and what differs from its siblings."""
    if line.problem:
        return line.problem
    parts = [line.name if line.kind == "training" else f"{line.name} ({line.kind})"]
    parts += [f"{key}={value}" for key, value in line.differs.items()]
    return "\n".join([*parts, *line.runs])


def age(since: datetime, now: datetime) -> str:
    """How long ago a moment was, in its largest unit."""
    seconds = max(0.0, (now - since).total_seconds())
    return next((f"{seconds // size:.0f} {unit}" for unit, size in AGES if seconds >= size), f"{seconds:.0f} s")
