"""The flows for scripts and notebooks: the same code without a Prefect server, and the run's record in return."""

from collections.abc import Sequence

from flows.evaluation import evaluation
from flows.experiment import experiment
from flows.life_cycle import finished_run
from tasks.errors import PAUSED, Paused, StageError
from tasks.prefect_entry import State
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
    if not isinstance(spec, ExperimentSpec):
        spec = load_spec(spec)
    return _record(experiment.fn(spec, _text(data_root), _text(log), processes, fresh, max_hours=max_hours))


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
    names = None if tasks is None else list(tasks)
    changes = list(overrides) or None
    paths = _text(tokenizer), _text(data_root), _text(log)
    return _record(evaluation.fn(str(checkpoint), names, seeds, head, *paths, changes))


def _text(path: StrPath | None) -> str | None:
    return None if path is None else str(path)


def _record(state: State) -> RunRecord:
    if state.name == PAUSED:
        raise Paused(state.message)
    run_id = finished_run(state)
    if not state.is_completed():
        raise StageError(state.message or "the run failed")
    return load_record(cogito_home().run(run_id))
