"""The commands that read what runs left: `cogito compare`, `rescore`, `report`."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.listing import print_changes, print_comparison
from flows.commands.options import RUN_HELP, AsJson, LogPath, print_json
from tasks.errors import UserError
from tasks.log.experiment_log import default_log
from tasks.report.writing import write_report
from tasks.review.comparisons import compare_all
from tasks.review.rendering import updated_baselines
from tasks.review.rescoring import rescore_run
from tasks.store.home import cogito_home
from tasks.store.run_names import find_run


def compare(
    runs: Annotated[list[str], typer.Argument(help="Baseline, then others: run ids, record.json, LOG.md#RUN_ID.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="The log's table of updated baselines.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what differs between runs and which differences of their figures are more than noise."""
    if markdown and as_json:
        raise UserError("compare: got --markdown and --json; fix: drop one of them")
    comparisons = compare_all(runs, cogito_home())
    if as_json:
        print_json([one.model_dump(mode="json") for one in comparisons])
        return
    for one in comparisons:
        if markdown:
            print(updated_baselines(one))
        else:
            print_comparison(one)


def rescore(run: Annotated[str, typer.Argument(help=RUN_HELP)], log: LogPath = None, as_json: AsJson = False) -> None:
    """Score a run again from its stored predictions with today's code; updates its record and row."""
    folder, log_path = find_run(run, cogito_home()), default_log(log)
    changes = rescore_run(folder, log_path)
    if as_json:
        facts = {"run_id": folder.run_id, "changes": [change.model_dump(mode="json") for change in changes]}
        print_json({**facts, "record": str(folder.record), "log": str(log_path)})
    else:
        print_changes(changes, folder, log_path)


def report(
    run: Annotated[str, typer.Argument(help="A run, or the id of a sweep, or the folder of either.")],
    baseline: Annotated[str | None, typer.Option(metavar="RUN", help="Id or folder of a run to compare with.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder; default that of the run.")] = None,
) -> None:
    """Write report.md and report.html of a run or a sweep from its records."""
    for path in write_report(run, cogito_home(), baseline=baseline, output=output):
        print(path)
