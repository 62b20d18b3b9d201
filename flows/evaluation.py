"""Evaluation of an existing checkpoint: fine-tuning fan-out and analysis -> a row in the evaluation table.

Example: `cogito evaluate perceiver_mlm_H64L2C16_20261123_101500 --tasks mrpc,stsb`
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.fan_out import carry_out, evaluate_checkpoint, finish_run, prepare_tasks, settle, workers
from tasks import stages
from tasks.checkpoints.inputs import find_evaluation_inputs
from tasks.data.sources import find_dataset, resolve_data_root
from tasks.data.task_data import PreparedTask
from tasks.errors import StageError
from tasks.log.experiment_log import default_log
from tasks.runs.claiming import evaluation_head, evaluation_identity, evaluation_spec, open_evaluation_run
from tasks.runs.preflight import find_task_sources
from tasks.spec.experiment import ExperimentSpec
from tasks.store.home import cogito_home
from tasks.store.records import Checkpoint, CorpusResult


@flow(
    flow_run_name="evaluation-{checkpoint}",
    task_runner=ThreadPoolTaskRunner(max_workers=workers()),  # type: ignore[arg-type]
)
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
    return carry_out(lambda: _evaluation(checkpoint, tasks, seeds, head, tokenizer, data_root, log, overrides, repeats))


def _evaluation(
    checkpoint: str,
    tasks: list[str] | None,
    seeds: int | None,
    head: str | None,
    tokenizer: str | None,
    data_root: str | None,
    log: str | None,
    overrides: list[str] | None,
    repeats: str | None,
) -> State:
    home, mirror = cogito_home(), resolve_data_root(data_root)
    found, tokenizer_folder = find_evaluation_inputs(checkpoint, tokenizer, home, mirror)
    spec = evaluation_spec(found, tasks, seeds, head, overrides or [])
    sources = find_task_sources(spec.evaluation, home, mirror)
    corpus = None
    if found.family == "concept":  # the text is for the analysis of concepts
        corpus_source = find_dataset(spec.data.dataset, home, mirror, spec.data.revision)
        data = stages.prepare_data.submit(spec.data, corpus_source, mirror, tokenizer_folder)
        corpus, problem = settle(data)
        if problem is not None:
            raise StageError(f"data: {problem}")
    prepared = prepare_tasks(spec, sources, tokenizer_folder)
    return evaluate_in_own_run(spec, found, corpus, prepared, default_log(log), repeats=repeats)


def evaluate_in_own_run(
    spec: ExperimentSpec,
    checkpoint: Checkpoint,
    corpus: CorpusResult | None,
    tasks: dict[str, PreparedTask],
    log: Path,
    after: Iterable[Any] = (),
    repeats: str | None = None,
) -> State:
    """Evaluate under an evaluation run, which has its own folder, record and row."""
    asked = evaluation_identity(spec, evaluation_head(spec, checkpoint), corpus, tasks)
    with open_evaluation_run(spec, checkpoint, asked, cogito_home(), log, repeats) as (run, record):
        record.corpus = corpus
        evaluate_checkpoint(spec, checkpoint, corpus, tasks, record, run, after=after)
        return finish_run(record, run, log)
