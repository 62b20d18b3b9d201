"""What can be known to be wrong before any work is done: missing data, tokenizers, checkpoints, tokens."""

from dataclasses import dataclass
from pathlib import Path

from tasks.benchmarks import TASKS
from tasks.checkpoint_source import resolve_checkpoint
from tasks.corpus import data_identity, load_tokenizer
from tasks.errors import UserError
from tasks.pretraining import check_processes, count_processes, pretraining_identity
from tasks.publishing import choose_store
from tasks.records import Checkpoint
from tasks.run_folder import Home, read_json
from tasks.runs import training_run
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
    )  # fmt: skip
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
            _check_weights(start)
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


def find_evaluation_inputs(
    name: str, tokenizer: str | None, home: Home, data_root: Path | None
) -> tuple[Checkpoint, Path]:
    """A checkpoint by name, and the folder of its tokenizer.

    Raises:
        UserError: there is no such checkpoint, it is corrupt, or it has no tokenizer and none is given.
    """
    checkpoint = resolve_checkpoint(name, home, data_root)
    folder = find_tokenizer(tokenizer, home, data_root) if tokenizer else checkpoint.folder
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"checkpoint {name}: has no tokenizer.json; fix: --tokenizer ID or DIR")
    _check_weights(checkpoint)
    vocabulary = read_json(checkpoint.folder / "config.json").get("vocab_size")
    if isinstance(vocabulary, int) and (size := len(load_tokenizer(folder))) > vocabulary:
        raise UserError(
            f"tokenizer: has {size} tokens, {checkpoint.name} knows {vocabulary}; "
            "fix: --tokenizer with the one that the checkpoint was trained with"
        )
    return checkpoint, folder


def _check_weights(checkpoint: Checkpoint) -> None:
    """Hold a checkpoint's weights against its config before a run is opened for it."""
    from models.checkpoints import CheckpointError, check_checkpoint
    from models.plain import check_plain

    try:
        (check_plain if checkpoint.family == "plain" else check_checkpoint)(checkpoint.folder)
    except CheckpointError as error:
        raise UserError(f"checkpoint {checkpoint.name}: corrupt: {error}; fix: copy or download it again") from None


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
