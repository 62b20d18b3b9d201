"""Finding or claiming the run of a spec: a spec that was run before continues its run, nothing is done twice.

A run id names a pretraining. A spec that differs only in evaluation or analysis reuses the pretraining and gets an
evaluation run of its own, with its row in the evaluation table.
"""

from pathlib import Path
from typing import Any, Literal

from models.variants import VARIANTS
from tasks.environment import describe_environment
from tasks.errors import UserError
from tasks.records import Checkpoint, RunRecord, load_record
from tasks.run_folder import Home, RunFolder, claim_run, content_hash, read_json, write_json
from tasks.specs import PYTHON_DOCS, ExperimentSpec, build_spec, check_head, evaluation_identity


def open_training_run(
    spec: ExperimentSpec, identity: str, home: Home, log: Path, *, fresh: bool = False
) -> tuple[RunFolder, RunRecord]:
    """The run of a pretraining identity: the one there is, or a new one.

    Args:
        identity: of data, model, objective and training.
        fresh: claim a new run even if there is one.
    """
    head = spec.evaluation.head or VARIANTS[spec.model.variant].default_head
    return _open("training", spec.run_prefix, spec, identity, home, log, head=head, fresh=fresh)


def open_evaluation_run(
    spec: ExperimentSpec, checkpoint: Checkpoint, home: Home, log: Path
) -> tuple[RunFolder, RunRecord]:
    """The evaluation run of a checkpoint under an evaluation section: the one there is, or a new one."""
    head = evaluation_head(spec, checkpoint)
    asked = [checkpoint.name, checkpoint.revision, checkpoint.weights_sha256, head, evaluation_identity(spec)]
    return _open("evaluation", head, spec, content_hash(asked), home, log, head=head, checkpoint=checkpoint)


def evaluation_head(spec: ExperimentSpec, checkpoint: Checkpoint) -> str:
    """The head that an evaluation uses: the one asked for, else the default of the checkpoint's variant."""
    head = spec.evaluation.head or VARIANTS[checkpoint.variant].default_head
    try:
        check_head(head, checkpoint.variant)
    except ValueError as error:
        raise UserError(f"evaluation.head: {error}") from None
    return head


def needs_evaluation_run(record: RunRecord, spec: ExperimentSpec) -> bool:
    """Whether a training run was already evaluated under another evaluation section."""
    return bool(record.scores or record.analysis) and record.evaluation_identity != evaluation_identity(spec)


def evaluation_spec(
    checkpoint: Checkpoint, tasks: list[str] | None, seeds: int | None, head: str | None, overrides: list[str]
) -> ExperimentSpec:
    """What is asked of a checkpoint: its own spec with another evaluation section where something else is asked.

    Raises:
        UserError: an unknown task or head, or pairs longer than the checkpoint's positions.
    """
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
    positions = read_json(checkpoint.folder / "config.json")["max_sequence_length"]
    if spec.evaluation.max_length > positions:
        raise UserError(
            f"evaluation.max_length: got {spec.evaluation.max_length}; {checkpoint.name} has {positions} positions; "
            f"fix: --set evaluation.max_length={positions}"
        )
    return spec


def own_spec(checkpoint: Checkpoint) -> ExperimentSpec:
    """The spec that a checkpoint was made by, from `experiment.json` in its folder; defaults when it has none."""
    path = checkpoint.folder / "experiment.json"
    if path.is_file():
        try:
            return ExperimentSpec.model_validate(read_json(path)["spec"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: is not a readable experiment: {error}") from None
    return ExperimentSpec.model_validate({"name": "evaluation", "data": {}, "model": {"variant": checkpoint.variant}})


def _open(
    kind: Literal["training", "evaluation"],
    prefix: str,
    spec: ExperimentSpec,
    identity: str,
    home: Home,
    log: Path,
    *,
    head: str,
    checkpoint: Checkpoint | None = None,
    fresh: bool = False,
) -> tuple[RunFolder, RunRecord]:
    index = home.root / "index" / f"{kind}-{identity}.json"
    with home.lock(f"run-{identity}"):
        if index.exists() and not fresh:
            run = home.run(read_json(index)["run_id"])
            record = load_record(run)
            evaluated = bool(record.scores or record.analysis)
            if not evaluated or record.evaluation_identity == evaluation_identity(spec):
                _ask_again(record, spec, head)
            return run, record
        run = claim_run(home, prefix)
        record = RunRecord(
            kind=kind,
            run_id=run.run_id,
            name=spec.name,
            spec=spec.model_dump(mode="json"),
            made_data=spec.data.dataset == PYTHON_DOCS or spec.evaluation.data == "made",
            pretraining_identity=identity,
            evaluation_identity=evaluation_identity(spec),
            environment=describe_environment(log),
            head=head,
            checkpoint=checkpoint,
        )
        record.save(run)
        write_json(index, {"run_id": run.run_id})
        return run, record


def _ask_again(record: RunRecord, spec: ExperimentSpec, head: str) -> None:
    """Take over what may change without a new run: publishing, tracking and, before anything is scored, evaluation."""
    record.spec = spec.model_dump(mode="json")
    record.evaluation_identity = evaluation_identity(spec)
    record.head = head
