"""What can be known to be wrong before any work is done: missing data, tokenizers, checkpoints, tokens.

A start does this once. The command does it before it starts a server, and hands what it found over to the flow that it
calls; a flow that a deployment starts has nothing handed over and does it itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tasks.checkpoints.finding import resolve_checkpoint
from tasks.checkpoints.inputs import check_weights, find_evaluation_inputs, longest_text
from tasks.checkpoints.publishing import choose_store
from tasks.data.corpus import data_identity
from tasks.data.sources import Source, find_dataset, find_tokenizer
from tasks.data.task_data import find_task_source
from tasks.data.tokenizers import load_tokenizer
from tasks.errors import UserError, try_all
from tasks.jobs.devices import visible_devices
from tasks.pretraining.stage import check_continuation, count_processes, pretraining_identity
from tasks.pretraining.tracking import check_login
from tasks.runs.checkpoint_spec import evaluation_head, evaluation_spec
from tasks.runs.claiming import training_run
from tasks.runs.request import Request
from tasks.spec.benchmarks import TASKS
from tasks.spec.evaluation import EvaluationSpec
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.pretraining import DataSpec
from tasks.store.records import Checkpoint


@dataclass(frozen=True)
class Inputs:
    """Everything that an experiment reads.

    Attributes:
        spec: the experiment's, with a start that is named by its run id.
        corpus: the pretraining text.
        tasks: source of every task by name.
        data_identity: identity of text, tokenizer and data settings.
        init_from: the checkpoint that pretraining starts from; None: random weights.
    """

    spec: ExperimentSpec
    corpus: Source
    tasks: dict[str, Source]
    data_identity: str
    init_from: Checkpoint | None = None


@dataclass(frozen=True)
class EvaluationInputs:
    """Everything that an evaluation reads.

    Attributes:
        tokenizer: its folder.
        spec: the checkpoint's own with the requested changes.
        tasks: source of every task by name.
        corpus: the text that concepts are analysed on; None for a plain encoder, which has no concepts.
    """

    checkpoint: Checkpoint
    tokenizer: Path
    spec: ExperimentSpec
    tasks: dict[str, Source]
    corpus: Source | None


Found = TypeVar("Found", Inputs, EvaluationInputs)
_handed_over: ContextVar[Inputs | EvaluationInputs | None] = ContextVar("handed_over", default=None)


@contextmanager
def hand_over(inputs: Inputs | EvaluationInputs | None) -> Iterator[None]:
    """Give a flow that the block calls the inputs that were found for it; None: it shall find its own."""
    token = _handed_over.set(inputs)
    try:
        yield
    finally:
        _handed_over.reset(token)


def take_over(kind: type[Found]) -> Found | None:
    """The inputs that the caller of this flow found for it, if it did."""
    inputs = _handed_over.get()
    return inputs if isinstance(inputs, kind) else None


def find_inputs(spec: ExperimentSpec, request: Request) -> Inputs:
    """Find everything that an experiment reads.

    Raises:
        UserError: with one line for each thing that is missing or cannot be.
    """
    checks: dict[str, Callable[[], Any]] = {
        "publishing": partial(choose_store, spec.publish),
        "tracking": partial(check_login, spec.tracking),
        "processes": partial(count_processes, spec, request.processes),
        "corpus": partial(_find_corpus, spec.data, request),
        "tasks": partial(_find_tasks, spec.evaluation, request),
        "start": partial(_find_start, spec.training.init_from, request),
    }
    found = try_all(checks)
    corpus, identity = found["corpus"]
    spec = _with_start(spec, found["start"], request)
    if not request.fresh:
        pretraining = pretraining_identity(spec, identity, found["start"])
        run = training_run(pretraining, request.home, request.repeats)
        if run is not None:
            check_continuation(spec, run, request.processes)
    return Inputs(spec, corpus, found["tasks"], identity, found["start"])


def find_evaluation(
    checkpoint: str,
    request: Request,
    *,
    tasks: list[str] | None = None,
    seeds: int | None = None,
    head: str | None = None,
    tokenizer: str | None = None,
    overrides: list[str] | None = None,
) -> EvaluationInputs:
    """Find everything that an evaluation of a checkpoint reads.

    Args:
        checkpoint, tasks, seeds, head, tokenizer, overrides: as `flows.evaluation.evaluation` takes them.

    Raises:
        UserError: something is missing, or does not fit the checkpoint.
    """
    visible_devices()  # refuses GPUs that cannot be used
    found, folder = find_evaluation_inputs(checkpoint, tokenizer, request.home, request.data_root)
    changes: dict[str, Any] = {"tasks": tasks, "seeds": seeds, "head": head}
    spec = evaluation_spec(found, longest_text(found, folder), overrides or [], **changes)
    evaluation_head(spec, found)
    sources = _find_tasks(spec.evaluation, request)
    corpus = None
    if found.family == "concept":
        corpus = find_dataset(spec.data.dataset, request.home, request.data_root, spec.data.revision)
    return EvaluationInputs(found, folder, spec, sources, corpus)


def _with_start(spec: ExperimentSpec, start: Checkpoint | None, request: Request) -> ExperimentSpec:
    """The spec as its record keeps it: the run of a warm start by its id, whatever name was given for it today."""
    name = spec.training.init_from
    if start is None or name is None or start.origin != "run" or request.home.has_run(name):
        return spec
    return spec.model_copy(update={"training": spec.training.model_copy(update={"init_from": start.run_id})})


def _find_corpus(data: DataSpec, request: Request) -> tuple[Source, str]:
    """The pretraining text, and the identity of what is made of it."""
    corpus = find_dataset(data.dataset, request.home, request.data_root, data.revision)
    identity = data_identity(data, corpus, request.home, request.data_root)
    if data.train_tokenizer_vocab_size is None:
        load_tokenizer(find_tokenizer(data.tokenizer_name, request.home, request.data_root))  # raises if it is broken
    return corpus, identity


def _find_tasks(evaluation: EvaluationSpec, request: Request) -> dict[str, Source]:
    others = evaluation.data, request.home, request.data_root
    return try_all({name: partial(find_task_source, TASKS[name], *others) for name in evaluation.tasks}, "task {}: ")


def _find_start(name: str | None, request: Request) -> Checkpoint | None:
    if name is None:
        return None
    try:
        start = resolve_checkpoint(name, request.home, request.data_root)
        if start.family == "plain":
            raise UserError(f"{start.name} is a plain {start.variant}; allowed: a concept model")
        check_weights(start)
    except UserError as error:
        raise UserError(f"training.init_from: {error}") from None
    return start
