"""The whole experiment as one DAG: data -> pretraining -> publishing -> fine-tuning fan-out and analysis -> row.

Order and names only; what a stage does stands in `tasks/<stage>.py`.
Example: `cogito run experiments/quickstart.yaml`
"""

import time
from pathlib import Path

from prefect import flow
from prefect.states import Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.evaluation import evaluate_in_own_run
from flows.fan_out import carry_out, evaluate_checkpoint, finish_run, note_stage, prepare_tasks, settle, workers
from tasks import stages
from tasks.checkpoints.finding import resolve_checkpoint
from tasks.data.sources import resolve_data_root
from tasks.data.task_data import PreparedTask
from tasks.errors import StageError
from tasks.log.experiment_log import default_log
from tasks.pretraining.stage import pretraining_identity
from tasks.runs.claiming import evaluation_identity, needs_evaluation_run, open_training_run
from tasks.runs.preflight import Inputs, find_inputs
from tasks.spec.experiment import ExperimentSpec
from tasks.store.home import RunFolder, cogito_home
from tasks.store.records import CorpusResult, RunRecord, StageRecord
from tasks.store.stage_table import recorded_stages


@flow(
    flow_run_name="experiment-{spec.name}",
    task_runner=ThreadPoolTaskRunner(max_workers=workers()),  # type: ignore[arg-type]
)
def experiment(
    spec: ExperimentSpec,
    data_root: str | None = None,
    log: str | None = None,
    processes: int | None = None,
    fresh: bool = False,
    repeats: str | None = None,
    max_hours: float | None = None,
) -> State:
    """Run, continue or reuse a whole experiment.

    Args:
        spec: the experiment.
        data_root: a mirror folder, searched before the Hub; default COGITO_DATA_ROOT.
        log: the Master Experiment Log; default COGITO_LOG.
        processes: training processes; default every GPU, or one on a CPU.
        fresh: start a new run even if this spec was run before.
        repeats: the run that this one repeats, for `cogito reproduce`; the spec keeps its own run.
        max_hours: save and pause after so many hours; None has no limit.
    """
    return carry_out(
        lambda: _experiment(spec, resolve_data_root(data_root), default_log(log), processes, fresh, repeats), max_hours
    )


def _experiment(
    spec: ExperimentSpec, data_root: Path | None, log: Path, processes: int | None, fresh: bool, repeats: str | None
) -> State:
    home = cogito_home()
    inputs = find_inputs(spec, home, data_root, processes, fresh=fresh, repeats=repeats)
    started = time.monotonic()
    data = stages.prepare_data.submit(spec.data, inputs.corpus, data_root)
    corpus, problem = settle(data)
    if problem is not None:
        raise StageError(f"data: {problem}")
    tasks = prepare_tasks(spec, inputs.tasks, corpus.tokenizer, after=[data])

    identity = pretraining_identity(spec, inputs.data_identity, inputs.init_from)
    asked = evaluation_identity(spec, spec.head, corpus, tasks)
    with open_training_run(spec, identity, asked, home, log, fresh=fresh, repeats=repeats) as (run, record):
        note_stage(record, "data", started, corpus, None)
        record.corpus = corpus
        return _train_and_evaluate(spec, inputs, corpus, tasks, asked, run, record, log, processes, repeats)


def _train_and_evaluate(
    spec: ExperimentSpec,
    inputs: Inputs,
    corpus: CorpusResult,
    tasks: dict[str, PreparedTask],
    asked: str,
    run: RunFolder,
    record: RunRecord,
    log: Path,
    processes: int | None,
    repeats: str | None,
) -> State:
    home = cogito_home()
    started = time.monotonic()
    training = stages.pretrain_model.submit(spec, corpus, run, processes, inputs.init_from)
    record.pretraining, problem = settle(training)
    note_stage(record, "pretraining", started, record.pretraining, problem)
    if problem is not None:
        return _stop_early(record, run, log, "pretraining failed")
    if record.pretraining.diverged is not None:
        return _stop_early(record, run, log, f"pretraining diverged: {record.pretraining.diverged.reason}")
    record.save(run)

    started = time.monotonic()
    publishing = stages.publish_model.submit(record.pretraining.model, record, spec.publish, wait_for=[training])
    published, problem = settle(publishing)
    note_stage(record, "publishing", started, published, problem)
    record.publishing = published or record.publishing
    record.save(run)

    checkpoint = resolve_checkpoint(run.run_id, home)
    if needs_evaluation_run(record, asked):
        finish_run(record, run, log)
        state = evaluate_in_own_run(spec, checkpoint, corpus, tasks, log, after=[publishing], repeats=repeats)
        # A publishing that failed is no success, whatever came of the evaluation.
        return state if problem is None else Failed(message=f"{state.message}; publishing: {problem}")
    record.checkpoint = checkpoint
    evaluate_checkpoint(spec, checkpoint, corpus, tasks, record, run, after=[publishing])
    return finish_run(record, run, log)


def _stop_early(record: RunRecord, run: RunFolder, log: Path, reason: str) -> State:
    """Later stages are skipped, and said to be; the row is written all the same."""
    for name in recorded_stages("training")[2:]:
        record.stages[name] = StageRecord(status="skipped", message=reason)
    return finish_run(record, run, log)
