"""What can be known to be wrong before any work is done: missing data, tokenizers, checkpoints, tokens."""

from dataclasses import dataclass
from pathlib import Path

from tasks.checkpoints.finding import resolve_checkpoint
from tasks.checkpoints.inputs import check_weights
from tasks.checkpoints.publishing import choose_store
from tasks.data.corpus import data_identity, load_tokenizer
from tasks.data.sources import Source, find_dataset, find_tokenizer
from tasks.data.task_data import find_task_source
from tasks.errors import UserError
from tasks.pretraining.stage import check_processes, count_processes, pretraining_identity
from tasks.pretraining.tracking import check_login
from tasks.runs.claiming import training_run
from tasks.spec.benchmarks import TASKS
from tasks.spec.evaluation import EvaluationSpec
from tasks.spec.experiment import ExperimentSpec
from tasks.store.home import Home
from tasks.store.records import Checkpoint


@dataclass(frozen=True)
class Inputs:
    """All inputs of an experiment, found.

    Attributes:
        corpus: the pretraining text.
        tasks: source of every task by name.
        data_identity: identity of text, tokenizer and data settings.
        init_from: the checkpoint that pretraining starts from; None: random weights.
    """

    corpus: Source
    tasks: dict[str, Source]
    data_identity: str
    init_from: Checkpoint | None = None


def find_inputs(
    spec: ExperimentSpec,
    home: Home,
    data_root: Path | None,
    processes: int | None = None,
    *,
    fresh: bool = False,
    repeats: str | None = None,
) -> Inputs:
    """Find everything an experiment reads.

    Args:
        processes, fresh, repeats: as `flows.experiment.experiment` takes them.

    Raises:
        UserError: with one line per thing that is missing or cannot be.
    """
    problems: list[str] = []
    corpus: Source | None = None
    identity = ""
    checks = (
        lambda: choose_store(spec.publish),
        lambda: check_login(spec.tracking),
        lambda: count_processes(spec, processes),
    )
    for check in checks:
        try:
            check()
        except UserError as error:
            problems.append(str(error))
    try:
        corpus = find_dataset(spec.data.dataset, home, data_root, spec.data.revision)
        identity = data_identity(spec.data, corpus, home, data_root)
        if spec.data.train_tokenizer_vocab_size is None:
            load_tokenizer(find_tokenizer(spec.data.tokenizer_name, home, data_root))  # a broken one is found now
    except UserError as error:
        problems.append(str(error))
    tasks = _find_tasks(spec.evaluation, home, data_root, problems)
    start: Checkpoint | None = None
    if spec.training.init_from is not None:
        try:
            start = resolve_checkpoint(spec.training.init_from, home, data_root)
            if start.family == "plain":
                raise UserError(f"{start.name} is a plain {start.variant}; allowed: a concept model")
            check_weights(start)
        except UserError as error:
            problems.append(f"training.init_from: {error}")
    if not (problems or fresh):
        run = training_run(pretraining_identity(spec, identity, start), home, repeats)
        if run is not None:
            check_processes(spec, run, processes)
    if problems:
        raise UserError("\n".join(problems))
    assert corpus is not None
    return Inputs(corpus, tasks, identity, start)


def find_task_sources(evaluation: EvaluationSpec, home: Home, data_root: Path | None) -> dict[str, Source]:
    """The source of every task of an evaluation section.

    Raises:
        UserError: with one line per task whose data is missing.
    """
    problems: list[str] = []
    found = _find_tasks(evaluation, home, data_root, problems)
    if problems:
        raise UserError("\n".join(problems))
    return found


def _find_tasks(
    evaluation: EvaluationSpec, home: Home, data_root: Path | None, problems: list[str]
) -> dict[str, Source]:
    found = {}
    for name in evaluation.tasks:
        try:
            found[name] = find_task_source(TASKS[name], evaluation.data, home, data_root)
        except UserError as error:
            problems.append(f"task {name}: {error}")
    return found
