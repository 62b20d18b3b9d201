"""The whole experiment as one DAG: data -> pretraining -> publishing -> fine-tuning fan-out and analysis -> row.

Order and names only; what a stage does stands in `tasks/<stage>.py`.
Example: `cogito run experiments/quickstart.yaml`
"""

import time
from typing import Any

from flows.bookkeeping import finish_run, note_stage, settle, skip_stages
from flows.evaluation import evaluate_in_own_run
from flows.fan_out import Evaluation, evaluate_checkpoint, prepare_corpus, prepare_tasks
from flows.life_cycle import carry_out, run_of, task_runner
from tasks import stages
from tasks.checkpoints.finding import resolve_checkpoint
from tasks.data.sources import resolve_data_root
from tasks.errors import RunFailed
from tasks.log.experiment_log import check_log_place, default_log
from tasks.prefect_entry import Failed, PrefectFuture, State, flow
from tasks.pretraining.stage import pretraining_identity
from tasks.runs.claiming import needs_evaluation_run, open_training_run
from tasks.runs.preflight import Inputs, find_inputs, take_over
from tasks.runs.request import Request
from tasks.spec.experiment import ExperimentSpec
from tasks.store.home import RunFolder, cogito_home
from tasks.store.records import Checkpoint, CorpusResult, RunRecord
from tasks.store.stage_table import recorded_stages


@flow(flow_run_name="experiment-{spec.name}", task_runner=task_runner())
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

    def work() -> State:
        mirror, path = resolve_data_root(data_root), default_log(log)
        check_log_place(path)
        return _experiment(spec, Request(cogito_home(), mirror, path, processes, fresh, repeats))

    return carry_out(work, max_hours)


def _experiment(spec: ExperimentSpec, request: Request) -> State:
    inputs = take_over(Inputs) or find_inputs(spec, request)
    spec = inputs.spec
    started = time.monotonic()
    data, corpus = prepare_corpus(spec.data, inputs.corpus, request.data_root)
    tasks = prepare_tasks(spec, inputs.tasks, corpus.tokenizer, after=[data])
    evaluation = Evaluation(spec, corpus, tasks)

    pretraining = pretraining_identity(spec, inputs.data_identity, inputs.init_from)
    with open_training_run(spec, pretraining, evaluation.identity(spec.head), request) as (run, record):
        note_stage(record, "data", started, corpus, None)
        record.corpus = corpus
        record.save(run)  # `cogito runs` tells from it that pretraining is under way
        training, unusable = _pretrain(spec, corpus, inputs.init_from, run, record, request.processes)
        if unusable is not None:
            order = recorded_stages("training")
            skip_stages(record, order[order.index("pretraining") + 1 :], unusable)
            return finish_run(record, run, request.log)
        return _publish_and_evaluate(evaluation, training, run, record, request)


def _pretrain(
    spec: ExperimentSpec,
    corpus: CorpusResult,
    init_from: Checkpoint | None,
    run: RunFolder,
    record: RunRecord,
    processes: int | None,
) -> tuple[PrefectFuture[Any], str | None]:
    """Pretrain; returns the stage, and why the later ones cannot use its model, if they cannot."""
    started = time.monotonic()
    training = stages.pretrain_model.submit(spec, corpus, run, processes, init_from)
    record.pretraining, problem = settle(training)
    note_stage(record, "pretraining", started, record.pretraining, problem)
    if record.pretraining is None:
        return training, "pretraining failed"
    if record.pretraining.diverged is not None:
        return training, f"pretraining diverged: {record.pretraining.diverged.reason}"
    record.save(run)
    return training, None


def _publish_and_evaluate(
    evaluation: Evaluation, training: PrefectFuture[Any], run: RunFolder, record: RunRecord, request: Request
) -> State:
    assert record.pretraining is not None
    started = time.monotonic()
    publishing = stages.publish_model.submit(
        record.pretraining.model, record, evaluation.spec.publish, wait_for=[training]
    )
    published, problem = settle(publishing)
    note_stage(record, "publishing", started, published, problem)
    record.publishing = published or record.publishing
    record.save(run)

    checkpoint = resolve_checkpoint(run.run_id, request.home)
    if needs_evaluation_run(record, evaluation.identity(evaluation.spec.head)):
        finish_run(record, run, request.log)
        state = evaluate_in_own_run(evaluation, checkpoint, request, after=[publishing])
        if problem is None:
            return state
        # A publishing that failed is no success, whatever came of the evaluation.
        message = f"{state.message}; publishing: {problem}"
        return Failed(message=message, data=RunFailed(message, run_of(state)))
    record.checkpoint = checkpoint
    evaluate_checkpoint(evaluation, checkpoint, record, run, after=[publishing])
    if problem is None:
        _renew_card(evaluation, run, record)
    return finish_run(record, run, request.log)


def _renew_card(evaluation: Evaluation, run: RunFolder, record: RunRecord) -> None:
    """Bring the scores into the published card; the next start of the run mends what fails here."""
    assert record.pretraining is not None
    record.save(run)
    started = time.monotonic()
    renewal = stages.renew_card.submit(record.pretraining.model, record, evaluation.spec.publish)
    renewed, problem = settle(renewal)
    note_stage(record, "publishing", started, renewed, problem)
