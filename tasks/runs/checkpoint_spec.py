"""The spec of a checkpoint: the one it was made by, and what an evaluation of it changes."""

from typing import Any

from models.family import VARIANTS
from tasks.errors import UserError
from tasks.spec.base import MILLION
from tasks.spec.experiment import ExperimentSpec, check_head
from tasks.spec.reading import build_spec
from tasks.store.files import read_json
from tasks.store.records import Checkpoint, first_mistake

# The head of a plain encoder.
PLAIN_HEAD = "sequence_classification"
# What is known of a checkpoint that does not state how it was made.
FOREIGN_SECTIONS = {"name", "data", "evaluation", "analysis"}


def evaluation_head(spec: ExperimentSpec, checkpoint: Checkpoint) -> str:
    """The head that an evaluation uses: the requested one, else the default of the checkpoint's variant.

    Raises:
        UserError: the head does not fit the variant, or a plain encoder shall have one.
    """
    if checkpoint.family == "plain":
        if spec.evaluation.head is not None or spec.evaluation.zero_shot:
            got = f"head {spec.evaluation.head}" if spec.evaluation.head else "zero_shot"
            raise UserError(
                f"evaluation: got {got}; {checkpoint.name} is a plain {checkpoint.variant} without concepts; "
                "fix: drop it, the encoder has a head of its own"
            )
        return PLAIN_HEAD
    head = spec.evaluation.head or VARIANTS[checkpoint.variant].default_head
    try:
        check_head(head, checkpoint.variant)
    except ValueError as error:
        raise UserError(f"evaluation.head: {error}") from None
    return head


def evaluation_spec(
    checkpoint: Checkpoint,
    longest: int | None,
    overrides: list[str],
    *,
    tasks: list[str] | None = None,
    seeds: int | None = None,
    head: str | None = None,
) -> ExperimentSpec:
    """The spec of an evaluation: the checkpoint's own with the requested changes.

    Args:
        longest: as `tasks.checkpoints.inputs.longest_text` gives it.

    Raises:
        UserError: an unknown task or head, or pairs longer than the checkpoint reads.
    """
    foreign = [key for key in overrides if key.partition(".")[0] not in ("evaluation", "analysis", "data")]
    if foreign:
        raise UserError(
            f"--set {foreign[0]}: would be ignored, the checkpoint is trained; "
            "allowed: keys of evaluation, analysis and data"
        )
    raw = own_spec(checkpoint, longest).model_dump(mode="json")
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
    # Its length is judged by what the checkpoint reads, since no setting can raise the positions of a trained model.
    any_length = {"model": {**raw["model"], "max_sequence_length": MILLION}}
    wanted = build_spec(raw | any_length, overrides, f"the evaluation of {checkpoint.name}").evaluation.max_length
    if longest is not None and wanted > longest:
        raise UserError(
            f"evaluation.max_length: got {wanted}; {checkpoint.name} reads at most {longest} tokens; "
            f"fix: --set evaluation.max_length={longest}"
        )
    return build_spec(raw, overrides, f"the evaluation of {checkpoint.name}")


def stored_spec(spec: ExperimentSpec, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """A spec as a record stores it: of a foreign checkpoint only the sections that are known.

    Args:
        checkpoint: the one that is evaluated; None for a training.
    """
    known = checkpoint is None or (checkpoint.folder / "experiment.json").is_file()
    return spec.model_dump(mode="json", include=None if known else FOREIGN_SECTIONS)


def own_spec(checkpoint: Checkpoint, longest: int | None) -> ExperimentSpec:
    """The spec that a checkpoint was made by, from `experiment.json` in its folder.

    Without that file the model section has the shape that `config.json` states, texts are no longer than it reads, and
    all else is the default.

    Raises:
        UserError: one of the files is not readable.
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
        return _spec_of(checkpoint, config, longest)
    except (ValueError, TypeError, OverflowError) as error:
        reason = first_mistake(error) if isinstance(error, ValueError) else str(error)
        raise UserError(
            f"checkpoint {checkpoint.name}: its config.json describes no model of ours: {reason}; "
            "fix: copy or download it again"
        ) from None


def _spec_of(checkpoint: Checkpoint, config: dict[str, Any], longest: int | None) -> ExperimentSpec:
    """The defaults with the shape of a checkpoint."""
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
            "data": {"block_tokens": min(512, longest or 512)},
            # A plain encoder is none of ours: this section says nothing of it, and `longest` is its limit.
            "model": {"max_sequence_length": MILLION}
            if checkpoint.family == "plain"
            else {**stated, "variant": checkpoint.variant},
            "evaluation": {"max_length": min(128, longest or 128)},
        }
    )
