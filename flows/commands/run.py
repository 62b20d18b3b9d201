"""The commands that run a flow: `cogito run`, `sweep`, `evaluate`, `reproduce`.

Each finds its inputs before it starts a server, and hands them over to its flow. Whatever imports Prefect is imported
inside functions, after the server has started: Prefect reads its settings when it is imported.
"""

import sys
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from flows.commands.forecast import print_forecast
from flows.commands.listing import print_record, print_verdicts
from flows.commands.options import (
    AsJson,
    DataRoot,
    DeviceChoice,
    LogPath,
    Overrides,
    SpecPath,
    SpecPaths,
    Tokenizer,
    print_json,
)
from flows.prefect_api import OUR_TAG, ui_address
from flows.server import ensure_server
from tasks.data.sources import resolve_data_root
from tasks.errors import PAUSED, StageError, UserError, try_all
from tasks.interruption import commanded, interrupted
from tasks.log.experiment_log import check_log_place, default_log
from tasks.progress import DISPLAY
from tasks.review.comparisons import compare
from tasks.review.reproduction import agreements, plan_reproduction
from tasks.review.sides import find_side
from tasks.review.sweeps import comparison_table, read_comparison, sweep_folder
from tasks.runs.preflight import EvaluationInputs, Inputs, find_evaluation, find_inputs, hand_over
from tasks.runs.request import Request, check_hours
from tasks.scores.showing import show
from tasks.spec.grid import expand
from tasks.spec.reading import experiment_files
from tasks.store.home import cogito_home
from tasks.store.locks import active
from tasks.store.records import load_record

# What --json prints of a score.
SCORE_FACTS = (
    "task",
    "metric",
    "value",
    "n",
    "seed_values",
    "interval",
    "floor",
    "above_floor",
    "overlap_baseline",
    "start_from",
    "unreliable",
)
Processes = Annotated[
    int | None, typer.Option(min=1, help="Training processes of an experiment; default every GPU, or one on a CPU.")
]
Miniature = Annotated[
    bool, typer.Option("--miniature", help="Shrink to a few minutes on two cores: same variant and losses, made tasks.")
]


def run(
    spec: SpecPath,
    fresh: Annotated[bool, typer.Option(help="Start a new run even if this spec was run before.")] = False,
    max_hours: Annotated[
        float | None, typer.Option(help="Save and pause after so many hours; the same command goes on.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Forecast time, memory and disk by a few real steps; keep nothing.")
    ] = False,
    miniature: Miniature = False,
    processes: Processes = None,
    device: DeviceChoice = None,
    data_root: DataRoot = None,
    log: LogPath = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run a whole experiment, or continue or reuse its run."""
    check_hours(max_hours)
    if dry_run and max_hours is not None:
        raise UserError("run: got --dry-run and --max-hours, which it would ignore; fix: drop one of them")
    (loaded,) = expand([spec], overrides or [], [], small=miniature)
    request = _request(data_root, log, processes=processes, fresh=fresh)
    inputs = find_inputs(loaded, request)
    if dry_run:
        check_log_place(request.log)
        print_forecast(inputs, request, as_json)
        return
    arguments = {"spec": loaded, "processes": processes, "fresh": fresh, "max_hours": max_hours}
    _report_outcome(_run_flow("experiment", arguments, request, inputs), request.log, as_json)


def sweep(
    specs: SpecPaths,
    grid: Annotated[
        list[str] | None, typer.Option(metavar="KEY=[A,B]", help="Run every value of a key, e.g. training.seed=[1,2].")
    ] = None,
    miniature: Miniature = False,
    processes: Processes = None,
    device: DeviceChoice = None,
    data_root: DataRoot = None,
    log: LogPath = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run several experiments, or a grid of one, in one flow: a row each and a comparison."""
    expanded = expand(specs, overrides or [], grid or [], small=miniature)
    request = _request(data_root, log, processes=processes)
    try_all({number: partial(find_inputs, spec, request) for number, spec in enumerate(expanded)})
    arguments = {"specs": expanded, "count": len(expanded), "processes": processes}
    state = _run_flow("sweep", arguments, request)
    if state.name == PAUSED:
        print(state.message)
        return
    rows = read_comparison(sweep_folder(expanded, request.home))
    if as_json:
        print_json(rows)
    else:
        print(comparison_table(rows), end="")
    if not state.is_completed():
        raise StageError(state.message or "the sweep failed")


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Run id, folder or Hub id[@revision]; plain encoders too.")],
    tasks: Annotated[str | None, typer.Option(help="Comma-separated rows of `cogito ls tasks`.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, max=100, help="Seeds per task.")] = None,
    head: Annotated[str | None, typer.Option(help="Row of `cogito ls heads`; default the variant's own.")] = None,
    device: DeviceChoice = None,
    tokenizer: Tokenizer = None,
    data_root: DataRoot = None,
    log: LogPath = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune, score and analyse an existing checkpoint: a row in the evaluation table."""
    names = [name.strip() for name in tasks.split(",")] if tasks else None
    changes: dict[str, Any] = {"tasks": names, "seeds": seeds, "head": head}
    changes |= {"tokenizer": tokenizer, "overrides": overrides}
    request = _request(data_root, log)
    inputs = find_evaluation(checkpoint, request, **changes)
    state = _run_flow("evaluation", {"checkpoint": checkpoint, **changes}, request, inputs)
    _report_outcome(state, request.log, as_json)


def reproduce(
    row: Annotated[
        str,
        typer.Argument(help="A row as LOG.md#RUN, or a run of --log: its id, the beginning of it, or its experiment."),
    ],
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the experiment and what it assumes; run nothing.")
    ] = False,
    miniature: Miniature = False,
    processes: Processes = None,
    device: DeviceChoice = None,
    data_root: DataRoot = None,
    log: LogPath = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Repeat the run behind a row of a log and hold the new figures against it."""
    path, _, name = row.rpartition("#")
    source = default_log(path or log)
    request = _request(data_root, log, processes=processes)
    planned = plan_reproduction(source, name, request.home, experiment_files(), overrides or [], small=miniature)
    run_id = planned.run_id
    request = replace(request, repeats=run_id)
    if plan:
        spec = planned.spec.model_dump(mode="json", exclude_defaults=True)
        if as_json:
            print_json({**planned.facts(), "spec": spec})
        else:
            print(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), end="")
            print("\n".join(f"# {line}" for line in planned.lines()))
        return
    print("\n".join(planned.lines()), file=sys.stderr)
    inputs = find_inputs(planned.spec, request)
    arguments = {"spec": planned.spec, "processes": processes, "repeats": run_id}
    state = _run_flow("experiment", arguments, request, inputs)
    if state.name == PAUSED:
        print(state.message)
        return
    from flows.life_cycle import finished_run

    again = finished_run(state)
    first = run_id if planned.has_record else f"{source}#{run_id}"
    outcomes = agreements(compare(find_side(first, request.home), find_side(again, request.home)))
    if as_json:
        answer = [verdict.model_dump(mode="json") for verdict in outcomes]
        print_json({**planned.facts(), "run_id": again, "verdicts": answer})
    else:
        print_verdicts(run_id, again, outcomes, request.log)
    if not state.is_completed():
        raise StageError(state.message or "the repetition failed")


def _request(data_root: Path | None, log: Path | None, **options: Any) -> Request:
    return Request(cogito_home(), resolve_data_root(data_root), default_log(log), **options)


def _run_flow(
    name: str, arguments: dict[str, Any], request: Request, inputs: Inputs | EvaluationInputs | None = None
) -> Any:
    """Run a flow, shown by the home's server where there is one; returns its final state.

    Args:
        name: of the flow and of its file.
        inputs: what was found for it; None: it finds its own.
    """
    check_log_place(request.log)
    url = ensure_server(request.home)  # before Prefect is imported, which then reads its settings
    if url is not None:
        print(f"Prefect UI: {ui_address(url)}", file=sys.stderr)
    from flows.life_cycle import call
    from tasks.prefect_entry import tags

    flow = getattr(import_module(f"flows.{name}"), name)
    mirror = request.data_root
    arguments |= {"data_root": str(mirror) if mirror else None, "log": str(request.log)}
    interrupted.clear()
    commanded.set()
    try:
        # The mark exists before Prefect knows the flow run and after it has ended, so that a kill at any moment
        # leaves it to be found.
        with active(request.home) as mark, tags(mark, OUR_TAG), hand_over(inputs), DISPLAY.on_terminal():
            state = call(flow, arguments, shown=url is not None)
        if interrupted.is_set():
            raise KeyboardInterrupt  # whatever was to come after this command is not to come
        if state.is_cancelled():
            raise StageError(f"cancelled in the UI: {state.message}")
        return state
    except KeyboardInterrupt:
        print("cogito: interrupted; what is done is saved, and the same command goes on", file=sys.stderr)
        raise
    finally:
        commanded.clear()


def _report_outcome(state: Any, log_path: Path, as_json: bool) -> None:
    from flows.life_cycle import finished_run, run_of

    if state.name == PAUSED:
        if as_json:
            print_json({"run_id": run_of(state), "status": "paused"})
        else:
            print(state.message)
        return
    folder = cogito_home().run(finished_run(state))
    record = load_record(folder)
    if as_json:
        scores = {
            key: [
                {name: getattr(score, name) for name in SCORE_FACTS} | {"mark": show(score).floor_mark}
                for score in record.scores
                if score.start == start
            ]
            for key, start in (("scores", "checkpoint"), ("random_start", "random"), ("zero_shot", "zero_shot"))
        }
        files = {"record": str(folder.record), "log": str(log_path)}
        print_json({"run_id": record.run_id, "status": record.status, **scores, **files})
    else:
        print_record(record, folder, log_path)
    if not state.is_completed():
        raise StageError(state.message or "the flow failed")
