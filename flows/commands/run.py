"""The commands that run a flow: `cogito run`, `sweep`, `evaluate`, `reproduce`."""

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.options import AsJson, DataRoot, LogPath, Overrides, SpecPath, SpecPaths, Tokenizer, print_json
from tasks.errors import StageError, UserError

Miniature = Annotated[
    bool, typer.Option("--miniature", help="Shrink to a few minutes on two cores: same variant and losses, made tasks.")
]


def run(
    spec: SpecPath,
    fresh: Annotated[bool, typer.Option(help="Start a new run even if this spec was run before.")] = False,
    max_hours: Annotated[
        float | None, typer.Option(min=0.0, help="Save and pause after so many hours; the same command goes on.")
    ] = None,
    miniature: Miniature = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Training processes; default every GPU, or one on a CPU.")
    ] = None,
    data_root: DataRoot = None,
    log: LogPath = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run a whole experiment, or continue or reuse its run."""
    from tasks.data.sources import resolve_data_root
    from tasks.runs.preflight import find_inputs
    from tasks.spec.grid import expand
    from tasks.store.home import cogito_home

    (loaded,) = expand([spec], overrides or [], [], small=miniature)
    mirror = resolve_data_root(data_root)
    find_inputs(loaded, cogito_home(), mirror, processes, fresh=fresh)
    arguments = {"spec": loaded, "processes": processes, "fresh": fresh, "max_hours": max_hours}
    state, log_path = _run_flow("experiment", arguments, mirror, log)
    _report_outcome(state, log_path, as_json)


def sweep(
    specs: SpecPaths,
    grid: Annotated[
        list[str] | None, typer.Option(metavar="KEY=[A,B]", help="Run every value of a key, e.g. training.seed=[1,2].")
    ] = None,
    miniature: Miniature = False,
    processes: Annotated[int | None, typer.Option(min=1, help="Training processes of each experiment.")] = None,
    data_root: DataRoot = None,
    log: LogPath = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run several experiments, or a grid of one, in one flow: a row each and a comparison."""
    from tasks.data.sources import resolve_data_root
    from tasks.review.sweeps import comparison_table, read_comparison, sweep_folder
    from tasks.runs.preflight import find_inputs
    from tasks.spec.grid import expand
    from tasks.stages import PAUSED
    from tasks.store.home import cogito_home

    expanded = expand(specs, overrides or [], grid or [], small=miniature)
    home, mirror = cogito_home(), resolve_data_root(data_root)
    problems = []
    for one in expanded:
        try:
            find_inputs(one, home, mirror, processes)
        except UserError as error:
            problems += [line for line in str(error).splitlines() if line not in problems]
    if problems:
        raise UserError("\n".join(problems))
    arguments = {"specs": expanded, "count": len(expanded), "processes": processes}
    state, _ = _run_flow("sweep", arguments, mirror, log)
    if state.name == PAUSED:
        print(state.message)
        return
    rows = read_comparison(sweep_folder(expanded, home))
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
    tokenizer: Tokenizer = None,
    data_root: DataRoot = None,
    log: LogPath = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune, score and analyse an existing checkpoint: a row in the evaluation table."""
    from tasks.checkpoints.inputs import find_evaluation_inputs
    from tasks.data.sources import find_dataset, resolve_data_root
    from tasks.runs.claiming import evaluation_head, evaluation_spec
    from tasks.runs.preflight import find_task_sources
    from tasks.store.home import cogito_home

    home, mirror = cogito_home(), resolve_data_root(data_root)
    names = [name.strip() for name in tasks.split(",")] if tasks else None
    found, _ = find_evaluation_inputs(checkpoint, tokenizer, home, mirror)
    spec = evaluation_spec(found, names, seeds, head, overrides or [])
    evaluation_head(spec, found)
    find_task_sources(spec.evaluation, home, mirror)
    if found.family == "concept":
        find_dataset(spec.data.dataset, home, mirror, spec.data.revision)
    arguments = {
        "checkpoint": checkpoint,
        "tasks": names,
        "seeds": seeds,
        "head": head,
        "tokenizer": tokenizer,
        "overrides": overrides,
    }
    state, log_path = _run_flow("evaluation", arguments, mirror, log)
    _report_outcome(state, log_path, as_json)


def reproduce(
    row: Annotated[str, typer.Argument(help="A row as LOG.md#RUN_ID, or a run id of --log.")],
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the experiment and what it assumes; run nothing.")
    ] = False,
    miniature: Miniature = False,
    processes: Annotated[int | None, typer.Option(min=1, help="Training processes.")] = None,
    data_root: DataRoot = None,
    log: LogPath = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Repeat the run behind a row of a log and hold the new figures against it."""
    from tasks.data.sources import resolve_data_root
    from tasks.log.experiment_log import default_log
    from tasks.review.comparisons import compare
    from tasks.review.reproduction import agreements, plan_reproduction
    from tasks.review.sides import find_side
    from tasks.runs.preflight import find_inputs
    from tasks.stages import PAUSED
    from tasks.store.home import cogito_home

    path, _, run_id = row.rpartition("#")
    source = default_log(path or log)
    home, mirror = cogito_home(), resolve_data_root(data_root)
    experiments = sorted(Path("experiments").glob("*.yaml"))
    asked = plan_reproduction(source, run_id, home, experiments, overrides or [], small=miniature)
    if plan:
        import yaml

        spec = asked.spec.model_dump(mode="json", exclude_defaults=True)
        if as_json:
            print_json({**asked.facts(), "spec": spec})
        else:
            print(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), end="")
            print("\n".join(f"# {line}" for line in asked.lines()))
        return
    print("\n".join(asked.lines()), file=sys.stderr)
    find_inputs(asked.spec, home, mirror, processes, repeats=run_id)
    arguments = {"spec": asked.spec, "processes": processes, "repeats": run_id}
    state, log_path = _run_flow("experiment", arguments, mirror, log)
    if state.name == PAUSED:
        print(state.message)
        return
    again = _finished_run(state)
    first = run_id if asked.has_record else f"{source}#{run_id}"
    found = agreements(compare(find_side(first, home), find_side(again, home)))
    if as_json:
        print_json({**asked.facts(), "run_id": again, "verdicts": [one.model_dump(mode="json") for one in found]})
    else:
        from flows.commands.listing import print_verdicts

        print_verdicts(run_id, again, found, log_path)
    if not state.is_completed():
        raise StageError(state.message or "the repetition failed")


def _run_flow(name: str, arguments: dict[str, Any], mirror: Path | None, log: Path | None) -> tuple[Any, Path]:
    """Run a flow against the home's server; its final state and the path of the log."""
    from flows.prefect_api import ui_address
    from flows.server import ensure_server
    from tasks.log.experiment_log import check_log_place, default_log
    from tasks.progress import DISPLAY
    from tasks.store.home import cogito_home

    log_path = default_log(log)
    check_log_place(log_path)  # found before the work, not after it
    url = ensure_server(cogito_home())
    if url is not None:
        print(f"Prefect UI: {ui_address(url)}", file=sys.stderr)
    from importlib import import_module

    from tasks.interruption import pause_on_sigterm
    from tasks.jobs.launch import stop_all_jobs

    pause_on_sigterm.set()

    def interrupt(number: int, frame: Any) -> None:
        # The jobs end here, whatever code the interrupt falls into and whether that lets it pass.
        stop_all_jobs()
        raise KeyboardInterrupt

    from prefect import tags

    from tasks.store.locks import active

    flow = getattr(import_module(f"flows.{name}"), name)
    arguments |= {"data_root": str(mirror) if mirror else None, "log": str(log_path)}
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        # Known before Prefect knows the flow run and after it has ended: a kill at any moment leaves it to be found.
        with active(cogito_home()) as mark, tags(mark), DISPLAY.on_terminal():
            return flow(**arguments, return_state=True), log_path
    except KeyboardInterrupt:
        print("cogito: interrupted; what is done is saved, and the same command goes on", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _finished_run(state: Any) -> str:
    """The run id of a flow that came as far as having a run."""
    from tasks.stages import BAD_INPUT
    from tasks.store.home import cogito_home

    message = state.message or ""
    if state.name == BAD_INPUT:
        raise UserError(message)
    run_id: str = message.partition(":")[0]
    if not cogito_home().has_run(run_id):
        raise StageError(message or f"the flow ended as {state.name}")
    return run_id


def _report_outcome(state: Any, log_path: Path, as_json: bool) -> None:
    from tasks.stages import PAUSED
    from tasks.store.home import cogito_home
    from tasks.store.records import load_record

    if state.name == PAUSED:
        if as_json:
            print_json({"run_id": state.message.partition(":")[0], "status": "paused"})
        else:
            print(state.message)
        return
    folder = cogito_home().run(_finished_run(state))
    record = load_record(folder)
    if as_json:
        print_json(
            {
                "run_id": record.run_id,
                "status": record.status,
                "scores": [_score_facts(score) for score in record.scores if score.start == "checkpoint"],
                "random_start": [_score_facts(score) for score in record.scores if score.start == "random"],
                "zero_shot": [_score_facts(score) for score in record.scores if score.start == "zero_shot"],
                "record": str(folder.record),
                "log": str(log_path),
            }
        )
    else:
        from flows.commands.listing import print_record

        print_record(record, folder, log_path)
    if not state.is_completed():
        raise StageError(state.message or "the flow failed")


def _score_facts(score: Any) -> dict[str, Any]:
    facts = (
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
    return {name: getattr(score, name) for name in facts}
