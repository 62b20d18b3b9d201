"""Finding or claiming the run of a spec: a spec that was run before continues its run, nothing is done twice.

A run is worked at by one command at a time; another one waits for it, and finds done what that did.

A run id names a pretraining. A spec that differs only in evaluation or analysis reuses the pretraining and gets an
evaluation run of its own, with its row in the evaluation table.
"""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from models.family import VARIANTS
from tasks.data.task_data import PreparedTask
from tasks.errors import Paused, RunPaused, UserError
from tasks.runs.environment import describe_environment
from tasks.spec.experiment import ExperimentSpec, check_head
from tasks.spec.pretraining import PYTHON_DOCS
from tasks.spec.reading import build_spec
from tasks.store.files import content_hash, read_json, remove_tree, write_json
from tasks.store.home import Home, RunFolder, claim_run
from tasks.store.locks import hold, work_lock
from tasks.store.records import Checkpoint, CorpusResult, RunRecord, first_mistake, load_record

# The head of a plain encoder, and what is known of a checkpoint that does not tell how it was made.
PLAIN_HEAD = "sequence_classification"
FOREIGN_SECTIONS = {"name", "data", "evaluation", "analysis"}

logger = logging.getLogger("cogito.runs")


def evaluation_identity(
    spec: ExperimentSpec, head: str, corpus: CorpusResult | None, tasks: dict[str, PreparedTask]
) -> str:
    """The identity of what is asked of a checkpoint: head, protocols, and the very texts and labels that are read."""
    protocols = {name: spec.evaluation.for_task(name).model_dump(mode="json", exclude_defaults=True) for name in tasks}
    data = {name: task.identity for name, task in tasks.items()}
    analysis = spec.analysis.model_dump(mode="json")
    zero_shot = ["zero_shot"] if spec.evaluation.zero_shot else []
    text = corpus.corpus_id if corpus else None
    return content_hash([head, protocols, data, spec.evaluation.random_start, analysis, text, *zero_shot])


def open_training_run(
    spec: ExperimentSpec,
    identity: str,
    asked: str,
    home: Home,
    log: Path,
    *,
    fresh: bool = False,
    repeats: str | None = None,
) -> AbstractContextManager[tuple[RunFolder, RunRecord]]:
    """Work at the run of a pretraining identity: the one there is, or a new one.

    The record says `running` until the block ends, and `paused` or `failed` where that is by an error; a finished run
    that is asked for again stays what it is.

    Args:
        identity: of data, model, objective and training.
        asked: identity of the evaluation.
        fresh: claim a new run even if there is one.
        repeats: a run that this one repeats: the repetition has an index of its own.

    Raises:
        RunPaused: the work, or the wait for another command, was told to pause.
    """
    run = _find_or_claim(
        "training", spec.run_prefix, spec, identity, asked, home, log, head=spec.head, fresh=fresh, repeats=repeats
    )
    return _work_at(run, spec, asked, spec.head, home)


def open_evaluation_run(
    spec: ExperimentSpec, checkpoint: Checkpoint, asked: str, home: Home, log: Path, repeats: str | None = None
) -> AbstractContextManager[tuple[RunFolder, RunRecord]]:
    """Work at the evaluation run of a checkpoint under an evaluation section, as `open_training_run` does.

    Args:
        repeats: a run that this one repeats: the repetition has an index of its own.
    """
    head = evaluation_head(spec, checkpoint)
    identity = content_hash([checkpoint.name, checkpoint.revision, checkpoint.weights_sha256, asked])
    run = _find_or_claim(
        "evaluation", head, spec, identity, asked, home, log, head=head, checkpoint=checkpoint, repeats=repeats
    )
    return _work_at(run, spec, asked, head, home)


def evaluation_head(spec: ExperimentSpec, checkpoint: Checkpoint) -> str:
    """The head that an evaluation uses: the one asked for, else the default of the checkpoint's variant."""
    if checkpoint.family == "plain":
        if spec.evaluation.head is not None or spec.evaluation.zero_shot:
            asked = f"head {spec.evaluation.head}" if spec.evaluation.head else "zero_shot"
            raise UserError(
                f"evaluation: got {asked}; {checkpoint.name} is a plain {checkpoint.variant} without concepts; "
                "fix: drop it, the encoder has a head of its own"
            )
        return PLAIN_HEAD
    head = spec.evaluation.head or VARIANTS[checkpoint.variant].default_head
    try:
        check_head(head, checkpoint.variant)
    except ValueError as error:
        raise UserError(f"evaluation.head: {error}") from None
    return head


def needs_evaluation_run(record: RunRecord, asked: str) -> bool:
    """Whether a training run was already evaluated in another way or on other data."""
    return bool(record.scores or record.analysis) and record.evaluation_identity != asked


def evaluation_spec(
    checkpoint: Checkpoint, tasks: list[str] | None, seeds: int | None, head: str | None, overrides: list[str]
) -> ExperimentSpec:
    """What is asked of a checkpoint: its own spec with another evaluation section where something else is asked.

    Raises:
        UserError: an unknown task or head, or pairs longer than the checkpoint's positions.
    """
    foreign = [key for key in overrides if key.partition(".")[0] not in ("evaluation", "analysis", "data")]
    if foreign:
        raise UserError(
            f"--set {foreign[0]}: would be ignored, the checkpoint is trained; "
            "allowed: keys of evaluation, analysis and data"
        )
    raw = own_spec(checkpoint).model_dump(mode="json")
    evaluation: dict[str, Any] = raw["evaluation"]
    if tasks:
        evaluation["tasks"] = tasks
        evaluation["per_task"] = {name: own for name, own in evaluation["per_task"].items() if name in tasks}
    if seeds is not None:
        evaluation["seeds"] = seeds
        for own in evaluation["per_task"].values():
            own["seeds"] = None
    if head is not None:
        evaluation["head"] = head
    spec = build_spec(raw, overrides, "evaluation")
    positions = _positions(read_json(checkpoint.folder / "config.json"))
    if spec.evaluation.max_length > positions:
        raise UserError(
            f"evaluation.max_length: got {spec.evaluation.max_length}; {checkpoint.name} has {positions} positions; "
            f"fix: --set evaluation.max_length={positions}"
        )
    return spec


def own_spec(checkpoint: Checkpoint) -> ExperimentSpec:
    """The spec that a checkpoint was made by, from `experiment.json` in its folder.

    Where there is none the model section tells the checkpoint's own shape and all else is the default.
    """
    path = checkpoint.folder / "experiment.json"
    if path.is_file():
        try:
            return ExperimentSpec.model_validate(read_json(path)["spec"])
        except (ValueError, KeyError, TypeError) as error:
            reason = first_mistake(error) if isinstance(error, ValueError) else repr(error)
            raise UserError(f"{path}: is not a readable experiment: {reason}; fix: remove the file") from None
    config = read_json(checkpoint.folder / "config.json")
    try:
        return _spec_of(checkpoint, config)
    except (ValueError, TypeError, OverflowError) as error:
        reason = first_mistake(error) if isinstance(error, ValueError) else str(error)
        raise UserError(
            f"checkpoint {checkpoint.name}: its config.json describes no model of ours: {reason}; "
            "fix: copy or download it again"
        ) from None


def _spec_of(checkpoint: Checkpoint, config: dict[str, Any]) -> ExperimentSpec:
    """The defaults with the shape of a checkpoint."""
    positions = _positions(config)
    names = {"num_concepts": ("num_concepts", "concept_num"), "num_layers": ("num_layers", "num_hidden_layers")}
    shared = (
        "hidden_size",
        "token_embedding_dim",
        "num_attention_heads",
        "intermediate_size",
        "max_sequence_length",
        "concept_position_type",
        "use_bixt",
    )
    stated = {key: config[key] for key in shared if config.get(key) is not None}
    stated |= {key: config[old] for key, both in names.items() for old in both if config.get(old) is not None}
    return ExperimentSpec.model_validate(
        {
            "name": "evaluation",
            "data": {"block_tokens": min(512, positions)},
            "model": {} if checkpoint.family == "plain" else {**stated, "variant": checkpoint.variant},
            "evaluation": {"max_length": min(128, positions)},
        }
    )


def _positions(config: dict[str, Any]) -> int:
    """The longest text in tokens, as the configuration of a concept model or of a plain encoder says."""
    return int(config.get("max_sequence_length") or config.get("max_position_embeddings") or 512)


def uses_made_data(spec: ExperimentSpec) -> bool:
    """Whether corpus or tasks are stand-ins, which every table must say."""
    return spec.data.dataset == PYTHON_DOCS or spec.evaluation.data == "made"


def training_run(identity: str, home: Home, repeats: str | None = None) -> RunFolder | None:
    """The run that a pretraining identity would go on with, if there is one.

    Args:
        repeats: the run that is repeated, as for `open_training_run`.
    """
    index = _index("training", identity, repeats, home)
    try:
        run_id = read_json(index)["run_id"]
    except FileNotFoundError:
        return None
    return home.run(run_id) if home.has_run(run_id) else None


def _index(kind: Literal["training", "evaluation"], identity: str, repeats: str | None, home: Home) -> Path:
    """What leads from an identity to its run; a repetition has one of its own."""
    key = content_hash([identity, repeats]) if repeats and _is_kind(repeats, kind, home) else identity
    return home.root / "index" / f"{kind}-{key}.json"


@contextmanager
def _work_at(
    run: RunFolder, spec: ExperimentSpec, asked: str, head: str, home: Home
) -> Iterator[tuple[RunFolder, RunRecord]]:
    try:
        with hold(work_lock(home, run.run_id), run.run_id):
            record = load_record(run)
            if not needs_evaluation_run(record, asked):
                _ask_again(record, spec, asked, head)
            with _keeping_status(record, run):
                yield run, record
    except RunPaused:  # also of the evaluation in a run of its own that follows a training
        raise
    except Paused as error:
        raise RunPaused(f"{run.run_id}: paused {error}; the same command goes on") from None


@contextmanager
def _keeping_status(record: RunRecord, run: RunFolder) -> Iterator[None]:
    def leave(status: Literal["failed", "paused"]) -> None:
        try:
            if load_record(run).status == "running":
                record.status, record.finished = status, datetime.now(UTC) if status == "failed" else None
                record.save(run)
        except Exception as error:  # what ended the work is what must be told
            logger.warning("%s: its record goes on saying running: %s", run.run_id, error)

    try:
        if record.status in ("failed", "paused"):
            record.status, record.finished = "running", None
            record.save(run)
        yield
    except Paused:
        leave("paused")
        raise
    except Exception:
        leave("failed")
        raise
    except BaseException:  # interrupted, or cancelled from the UI
        leave("paused")
        raise


def _find_or_claim(
    kind: Literal["training", "evaluation"],
    prefix: str,
    spec: ExperimentSpec,
    identity: str,
    asked: str,
    home: Home,
    log: Path,
    *,
    head: str,
    checkpoint: Checkpoint | None = None,
    fresh: bool = False,
    repeats: str | None = None,
) -> RunFolder:
    index = _index(kind, identity, repeats, home)
    with home.lock(f"run-{index.stem.partition('-')[2]}"):
        known = index.exists() and home.has_run(read_json(index)["run_id"])
        if index.exists() and not known:
            logger.warning("the run of this spec is gone from %s: starting a new one", home.runs)
        if known and not fresh:
            return home.run(read_json(index)["run_id"])
        run = claim_run(home, prefix)
        record = RunRecord(
            kind=kind,
            run_id=run.run_id,
            name=spec.name,
            spec=spec.model_dump(mode="json", include=None if _spec_is_known(checkpoint) else FOREIGN_SECTIONS),
            made_data=uses_made_data(spec),
            pretraining_identity=identity,
            evaluation_identity=asked,
            environment=describe_environment(log),
            head=head,
            checkpoint=checkpoint,
        )
        try:
            record.save(run)
            write_json(index, {"run_id": run.run_id})
        except BaseException:
            remove_tree(run.root)  # a run that no index leads to would never be found again
            raise
        return run


def _is_kind(run_id: str, kind: str, home: Home) -> bool:
    """Whether a run that is repeated is of this kind; an old one without a record stands for its training."""
    return (load_record(home.run(run_id)).kind if home.has_run(run_id) else "training") == kind


def _spec_is_known(checkpoint: Checkpoint | None) -> bool:
    return checkpoint is None or (checkpoint.folder / "experiment.json").is_file()


def _ask_again(record: RunRecord, spec: ExperimentSpec, asked: str, head: str) -> None:
    """Take over what may change without a new run: publishing, tracking and, before anything is scored, evaluation."""
    record.name = spec.name
    record.made_data = uses_made_data(spec)
    record.spec = spec.model_dump(mode="json", include=None if _spec_is_known(record.checkpoint) else FOREIGN_SECTIONS)
    record.evaluation_identity = asked
    record.head = head
