"""What can be known to be wrong before any work is done: missing data, tokenizers, checkpoints, tokens."""

from dataclasses import dataclass
from pathlib import Path

from tasks.benchmarks import TASKS
from tasks.checkpoint_source import resolve_checkpoint
from tasks.corpus import data_identity
from tasks.errors import UserError
from tasks.publishing import choose_store
from tasks.records import Checkpoint
from tasks.run_folder import Home
from tasks.sources import Source, find_dataset, find_tokenizer
from tasks.specs import EvaluationSpec, ExperimentSpec
from tasks.task_data import find_task_source
from tasks.tracking import check_login


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


def find_inputs(spec: ExperimentSpec, home: Home, data_root: Path | None) -> Inputs:
    """Find everything an experiment reads.

    Raises:
        UserError: with one line per thing that is missing.
    """
    problems: list[str] = []
    corpus: Source | None = None
    identity = ""
    for check in (lambda: choose_store(spec.publish), lambda: check_login(spec.tracking)):
        try:
            check()
        except UserError as error:
            problems.append(str(error))
    try:
        corpus = find_dataset(spec.data.dataset, home, data_root, spec.data.revision)
        identity = data_identity(spec.data, corpus, home, data_root)
    except UserError as error:
        problems.append(str(error))
    tasks = _find_tasks(spec.evaluation, home, data_root, problems)
    start: Checkpoint | None = None
    if spec.training.init_from is not None:
        try:
            start = resolve_checkpoint(spec.training.init_from, home, data_root)
            if start.family == "plain":
                raise UserError(f"{start.name} is a plain {start.variant}; allowed: a concept model")
        except UserError as error:
            problems.append(f"training.init_from: {error}")
    if problems:
        raise UserError("\n".join(problems))
    assert corpus is not None
    return Inputs(corpus, tasks, identity, start)


def find_evaluation_inputs(
    name: str, tokenizer: str | None, home: Home, data_root: Path | None
) -> tuple[Checkpoint, Path]:
    """A checkpoint by name, and the folder of its tokenizer.

    Raises:
        UserError: there is no such checkpoint, it is corrupt, or it has no tokenizer and none is given.
    """
    checkpoint = resolve_checkpoint(name, home, data_root)
    if tokenizer:
        return checkpoint, find_tokenizer(tokenizer, home, data_root)
    if not (checkpoint.folder / "tokenizer.json").is_file():
        raise UserError(f"checkpoint {name}: has no tokenizer.json; fix: --tokenizer ID or DIR")
    return checkpoint, checkpoint.folder


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
