"""The flows for scripts and notebooks: the same code without a Prefect server, and the run's record in return.

Each finds its inputs before Prefect is imported, which creates the home; so refused input leaves none.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from tasks.data.sources import resolve_data_root
from tasks.errors import PAUSED, Paused, StageError
from tasks.log.experiment_log import check_log_place, default_log
from tasks.runs.preflight import EvaluationInputs, Inputs, find_evaluation, find_inputs, hand_over
from tasks.runs.request import Request, check_hours
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.reading import load_spec
from tasks.store.home import StrPath, cogito_home
from tasks.store.records import RunRecord, load_record


def run_experiment(
    spec: ExperimentSpec | StrPath,
    *,
    log: StrPath | None = None,
    data_root: StrPath | None = None,
    processes: int | None = None,
    fresh: bool = False,
    max_hours: float | None = None,
) -> RunRecord:
    """Run, continue or reuse a whole experiment; returns the record of its run.

    Args:
        spec: a spec, or the path of an experiment file.
        log: the Master Experiment Log; default COGITO_LOG, else `master_experiment_log.md`.
        data_root: a mirror folder, searched before the Hub; default COGITO_DATA_ROOT.
        processes: training processes; default every GPU, or one on a CPU.
        fresh: start a new run even if this spec was run before.
        max_hours: save and pause after so many hours; None has no limit.

    Raises:
        UserError: the spec or one of its inputs is wrong.
        StageError: a stage failed; the record says which.
        Paused: the time was over; the same call continues the run.
    """
    check_hours(max_hours)
    if not isinstance(spec, ExperimentSpec):
        spec = load_spec(spec)
    request = _request(data_root, log, processes=processes, fresh=fresh)
    inputs = find_inputs(spec, request)
    arguments = {"spec": spec, "processes": processes, "fresh": fresh, "max_hours": max_hours}
    return _record("experiment", arguments, request, inputs)


def run_evaluation(
    checkpoint: StrPath,
    *,
    tasks: Sequence[str] | None = None,
    seeds: int | None = None,
    head: str | None = None,
    overrides: Sequence[str] = (),
    tokenizer: StrPath | None = None,
    log: StrPath | None = None,
    data_root: StrPath | None = None,
) -> RunRecord:
    """Fine-tune, score and analyse a checkpoint that exists; returns the record of the evaluation run.

    Args:
        checkpoint: run id, folder, or Hub id with an optional @revision.
        tasks: tasks to score; default those of the checkpoint's own run, else the log's protocol.
        seeds: number of seeds per task.
        head: head to fine-tune; default that of the checkpoint's variant.
        overrides: `key=value` changes of the spec, as `--set` takes them.
        tokenizer: Hub id or folder, for a checkpoint without one.
        log, data_root: as for `run_experiment`.

    Raises:
        UserError: there is no such checkpoint, or one of the inputs is wrong.
        StageError: a stage failed; the record says which.
    """
    changes: dict[str, Any] = {"tasks": None if tasks is None else list(tasks), "seeds": seeds, "head": head}
    changes |= {"tokenizer": None if tokenizer is None else str(tokenizer), "overrides": list(overrides) or None}
    request = _request(data_root, log)
    inputs = find_evaluation(str(checkpoint), request, **changes)
    return _record("evaluation", {"checkpoint": str(checkpoint), **changes}, request, inputs)


def _request(data_root: StrPath | None, log: StrPath | None, **options: Any) -> Request:
    return Request(cogito_home(), resolve_data_root(data_root), default_log(log), **options)


def _record(name: str, arguments: dict[str, Any], request: Request, inputs: Inputs | EvaluationInputs) -> RunRecord:
    """Run a flow, named as its file is, with the inputs that were found for it."""
    check_log_place(request.log)
    from flows.life_cycle import finished_run

    flow = getattr(import_module(f"flows.{name}"), name)
    mirror = request.data_root
    with hand_over(inputs):
        state = flow.fn(**arguments, data_root=str(mirror) if mirror else None, log=str(request.log))
    if state.name == PAUSED:
        raise Paused(state.message)
    run_id = finished_run(state)
    if not state.is_completed():
        raise StageError(state.message or "the run failed")
    return load_record(cogito_home().run(run_id))
