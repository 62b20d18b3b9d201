"""Evaluation of an existing checkpoint: fine-tuning fan-out and analysis -> a row in the evaluation table.

Example: `cogito evaluate perceiver_mlm_H64L2C16_20261123_101500 --tasks mrpc,stsb`
"""

from collections.abc import Iterable
from typing import Any

from flows.bookkeeping import finish_run
from flows.fan_out import Evaluation, evaluate_checkpoint, prepare_corpus, prepare_tasks
from flows.life_cycle import carry_out, task_runner
from tasks.data.sources import resolve_data_root
from tasks.log.experiment_log import check_log_place, default_log
from tasks.prefect_entry import State, flow
from tasks.runs.checkpoint_spec import evaluation_head
from tasks.runs.claiming import open_evaluation_run
from tasks.runs.preflight import EvaluationInputs, find_evaluation, take_over
from tasks.runs.request import Request
from tasks.store.home import cogito_home
from tasks.store.records import Checkpoint


@flow(flow_run_name="evaluation-{checkpoint}", task_runner=task_runner())
def evaluation(
    checkpoint: str,
    tasks: list[str] | None = None,
    seeds: int | None = None,
    head: str | None = None,
    tokenizer: str | None = None,
    data_root: str | None = None,
    log: str | None = None,
    overrides: list[str] | None = None,
    repeats: str | None = None,
) -> State:
    """Fine-tune, score and analyse a checkpoint that exists.

    Args:
        checkpoint: run id, folder, or Hub id with an optional @revision.
        tasks: tasks to score; default those of the checkpoint's own run, else the log's protocol.
        seeds: seeds per task.
        head: head to fine-tune; default that of the checkpoint's variant.
        tokenizer: Hub id or folder, for a checkpoint without one.
        data_root: a mirror folder, searched before the Hub; default COGITO_DATA_ROOT.
        log: the Master Experiment Log; default COGITO_LOG.
        overrides: `key=value` changes of the spec.
        repeats: the run that this one repeats, for `cogito reproduce`; the spec keeps its own run.
    """

    def work() -> State:
        request = Request(cogito_home(), resolve_data_root(data_root), default_log(log), repeats=repeats)
        check_log_place(request.log)
        changes: dict[str, Any] = {"tasks": tasks, "seeds": seeds, "head": head, "overrides": overrides}
        inputs = take_over(EvaluationInputs) or find_evaluation(checkpoint, request, tokenizer=tokenizer, **changes)
        spec, corpus = inputs.spec, None
        if inputs.corpus is not None:
            _, corpus = prepare_corpus(spec.data, inputs.corpus, request.data_root, inputs.tokenizer)
        prepared = prepare_tasks(spec, inputs.tasks, inputs.tokenizer, family=inputs.checkpoint.family)
        return evaluate_in_own_run(Evaluation(spec, corpus, prepared), inputs.checkpoint, request)

    return carry_out(work)


def evaluate_in_own_run(
    evaluation: Evaluation, checkpoint: Checkpoint, request: Request, after: Iterable[Any] = ()
) -> State:
    """Evaluate under an evaluation run, which has its own folder, record and row."""
    identity = evaluation.identity(evaluation_head(evaluation.spec, checkpoint))
    with open_evaluation_run(evaluation.spec, checkpoint, identity, request) as (run, record):
        record.corpus = evaluation.corpus
        evaluate_checkpoint(evaluation, checkpoint, record, run, after=after)
        return finish_run(record, run, request.log)
