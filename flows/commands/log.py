"""Read, check and write the Master Experiment Log."""

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.commands.options import AsJson, LogPath, console, new_table, print_json
from tasks.log.check import check_log
from tasks.log.experiment_log import add_record, default_log, export_log, show_log

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


@app.command()
def show(log: LogPath = None, as_json: AsJson = False) -> None:
    """Show the rows of the log."""
    path = default_log(log)
    rows = show_log(path)
    if as_json:
        print_json(rows)
        return

    table = new_table("table", "run", "checkpoint", "scores", title=str(path))
    for row in rows:
        # the text of the cell, because it says which scores are at their floor
        scores = next((row[name] for name in ("key_glue_scores", "key_scores") if row.get(name)), None)
        other = row["checkpoint"] if row["checkpoint"] != row["run_id"] else None  # a training is its own
        table.add_row(row["table"], row["run_id"], other, _readable(scores or ""))
    console().print(table)


@app.command()
def add(
    record: Annotated[Path, typer.Argument(help="The record.json of a run's folder.")], log: LogPath = None
) -> None:
    """Write the row of a run's record: inserted, or its machine-written cells renewed."""
    path = default_log(log)
    changed = add_record(record, path)
    print(f"{path}: {'row written' if changed else 'the row is already there'}")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Any Markdown log, ours or hand-typed.")],
    against: Annotated[Path | None, typer.Option(help="Another version of the same log.")] = None,
    reports: Annotated[Path | None, typer.Option(help="A folder of Markdown files that state the same runs.")] = None,
    git: Annotated[Path | None, typer.Option(help="A checkout with the log's tags and commits.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find what a log states that cannot be, contradicts itself or means too little; changes nothing.

    Exit code 1 when there are errors.
    """
    findings = check_log(file, against=against, reports=reports, repository=git)
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        print_json([finding.as_json() for finding in findings])
        raise typer.Exit(1 if errors else 0)

    table = new_table("line", "row, column", "severity", "rule", "finding", title=str(file))
    for finding in findings:
        place = ", ".join(filter(None, (finding.row, finding.column)))
        line = f"{Path(finding.file).name}:{finding.line}" if finding.file else str(finding.line)
        sure = f"[{STYLES[finding.severity]}]{finding.severity}[/] {finding.confidence:.0%}"
        table.add_row(line, escape(place), sure, finding.rule, escape(finding.message))
    if findings:
        console().print(table)
    counts = ", ".join(f"{sum(finding.severity == name for finding in findings)} {name}s" for name in STYLES)
    print(f"{file}: {counts}")
    raise typer.Exit(1 if errors else 0)


@app.command()
def export(
    output: Annotated[Path, typer.Argument(help="A .csv, .json or .html file; replaced if it exists.")],
    log: LogPath = None,
) -> None:
    """Write the rows of both tables with typed columns as CSV, JSON or HTML."""
    print(f"{output}: {export_log(default_log(log), output)} rows")


def _readable(cell: str) -> str:
    return escape(re.sub(r"\s*<br\s*/?>\s*", "\n", cell.replace("**", "").replace("`", "")))
