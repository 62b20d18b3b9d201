"""The results that stages pass on, and the record of a run, which collects them.

A result holds paths and figures, never tensors. `record.json` in a run's folder is rewritten in full at every change
of state; the row, the report and the model card are rendered from it alone.
"""

import math
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from tasks.errors import UserError
from tasks.secrets import redact_all
from tasks.store.files import is_safe_name, read_json, write_json
from tasks.store.home import RunFolder

SCHEMA_VERSION = 1
# The form of the row that a new run gets; the rows of earlier runs stay as they are.
ROW_FORM = 2
# The weights a cell begins with: pretrained, or random for comparison; `zero_shot` is not trained at all.
Start = Literal["checkpoint", "random", "zero_shot"]
# In what a model computes: its weights are fp32 in any case, autocast runs its matrix products in bf16.
Precision = Literal["fp32", "bf16 autocast"]


def _anchored(path: Path, info: ValidationInfo) -> Path:
    return info.context["base"] / path if info.context else path


def _relative(path: Path, info: SerializationInfo) -> str:
    base = (info.context or {}).get("base")
    return path.relative_to(base).as_posix() if base and path.is_relative_to(base) else str(path)


# A path stored relative to the folder `base` of the validation context and resolved under it, so a home can be moved.
StoredPath = Annotated[Path, AfterValidator(_anchored), PlainSerializer(_relative, when_used="json")]


class Result(BaseModel):
    """Base of all results: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reused: bool = Field(False, exclude=True, description="whether it was found finished; never stored")


class CorpusResult(Result):
    """A prepared corpus: token blocks and their tokenizer."""

    corpus_id: str
    folder: StoredPath
    tokenizer: StoredPath
    tokenizer_name: str
    dataset: str
    source_fingerprint: str
    blocks: str
    block_tokens: int
    vocab_size: int
    train_documents: int
    train_blocks: int
    train_tokens: int
    held_out_documents: int
    held_out_blocks: int
    held_out_tokens: int
    bytes_per_token: float
    unigram_entropy_nats: float = Field(description="loss of a model without context on the held-out text")
    special_token_ids: dict[str, int] = Field(default_factory=dict, description="pad, cls, sep and mask")
    warnings: list[str] = Field(default_factory=list, description="of held-out documents that are in train")
    seconds: float


class Divergence(Result):
    """Why and when the guards ended a training early, and which weights are kept."""

    reason: str
    step: int = Field(description="the step that was not taken, or the step of the evaluation that failed")
    kept_step: int = Field(description="the step of the kept weights: that of the best evaluation")
    loss: float
    gradient_norm: float
    learning_rate: float


class Timing(BaseModel):
    """Seconds of a training; where it was resumed, of its last start.

    Attributes:
        training: in steps, the wait for data included.
        data_wait: in steps, until the loader had their text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    training: float
    evaluation: float
    checkpoints: float
    data_wait: float


class PretrainingResult(Result):
    """A finished pretraining. Losses are in nats per labelled token; speeds count the time in steps alone."""

    model: StoredPath
    steps: int
    epochs: float
    train_loss: float
    eval_loss: float
    curve: StoredPath
    steps_per_second: float
    tokens_per_second: float
    processes: int
    device: str
    precision: str
    parameters: int
    wandb_url: str | None
    seconds: float
    forecast: float | None = Field(
        None, description="seconds that the first 5 % of the steps of this start foretold; None: not recorded"
    )
    timing: Timing | None = Field(None, description="None: not recorded, and speeds count evaluations too")
    flops_per_token: float | None = Field(None, description="floating-point operations for a token; None: not recorded")
    utilisation: float | None = Field(None, description="part of the devices' peak in bf16 (MFU); None: no known peak")
    peak_memory: int | None = Field(None, description="most bytes of tensors on a GPU of rank 0; None on a CPU")
    loaded_weights: int = Field(0, description="weights that a warm start loaded from its checkpoint")
    new_weights: list[str] = Field(default_factory=list, description="names of weights that a warm start initialised")
    diverged: Divergence | None = None
    warnings: list[str] = Field(default_factory=list, description="of collapse and leakage during training")


class PublishResult(Result):
    """Where a checkpoint was published."""

    store: Literal["hub", "local"]
    location: str = Field(description="Hub repository or folder")
    revision: str | None = Field(description="Hub commit; None for the directory store")
    url: str | None
    weights_sha256: str

    @field_validator("location")
    @classmethod
    def _location_here(cls, location: str, info: ValidationInfo) -> str:
        return str(_anchored(Path(location), info)) if info.data.get("store") == "local" else location

    @field_serializer("location", when_used="json")
    def _location_to_store(self, location: str, info: SerializationInfo) -> str:
        return _relative(Path(location), info) if self.store == "local" else location


class Checkpoint(Result):
    """A checkpoint on this machine and its origin."""

    name: str = Field(description="run id, Hub id or folder name, as the log shows it")
    folder: StoredPath
    origin: Literal["run", "local", "hub"]
    revision: str | None = Field(None, description="resolved Hub commit")
    weights_sha256: str
    config_sha256: str = Field(
        "", description="of config.json, without which weights mean nothing; empty: not recorded"
    )
    variant: str = Field(description="row of the variants; the model_type of a plain encoder")
    family: Literal["concept", "plain"] = "concept"
    run_id: str | None = None

    @property
    def model_hashes(self) -> list[str]:
        """What stands for the model in an identity: the same weights under another config are another model."""
        return [self.weights_sha256, self.config_sha256]


class CellResult(Result):
    """The result of one fine-tuning cell: task x seed x start."""

    task: str
    seed: int
    start: Start
    status: Literal["complete", "failed"]
    error: str | None = None
    predictions: dict[str, StoredPath] = Field(default_factory=dict, description="score label -> Parquet file")
    history: list[dict[str, float]] = Field(default_factory=list, description="per epoch: loss, selection metric")
    best_epoch: float | None = None
    train_examples: int = 0
    loaded_weights: int = 0
    new_weights: list[str] = Field(default_factory=list, description="names of newly initialised weights")
    dropped_weights: list[str] = Field(default_factory=list, description="names of unused weights of the checkpoint")
    stored_precision: str | None = Field(None, description="of the checkpoint's file; None: not recorded")
    notes: list[str] = Field(default_factory=list, description="what else to know of how the weights were stored")
    precision: Precision | None = Field(None, description="None: not recorded")
    start_from: str | None = Field(None, description="the task whose fine-tuned model this one started from")
    model: StoredPath | None = Field(None, description="the fine-tuned model, if another task starts from it")
    seconds: float = 0.0
    peak_memory: int | None = Field(None, description="most bytes of a GPU that torch held; None: not recorded")


class Score(Result):
    """A metric of one split with everything needed to judge it. Values are fractions, correlations from -1 to 1."""

    task: str = Field(description="label of the scored split: `mnli-m`")
    metric: str
    primary: bool
    start: Start
    value: float | None = Field(description="mean over seeds; None when every seed failed")
    interval: tuple[float, float] | None = Field(description="95 % bootstrap interval over examples")
    n: int
    seed_values: dict[int, float]
    sd: float | None = Field(description="standard deviation over seeds; None for one seed")
    floor: float = Field(description="the best trivial baseline of this split")
    floor_name: str
    overlap_baseline: float | None = Field(description="regression on word-overlap features")
    above_floor: bool = Field(description="the interval's lower end lies above the floor")
    failed_seeds: list[int] = Field(default_factory=list)
    start_from: str | None = Field(None, description="the task whose fine-tuned model this one started from")
    precision: Precision | None = Field(None, description="of the cells; None: not recorded")
    unreliable: bool = Field(
        False, description="too few examples, in all or in a cell of the table, for a reliable interval"
    )


class AnalysisResult(Result):
    """Concept geometry of a checkpoint on held-out text."""

    figures: dict[str, float]
    samples: int
    num_concepts: int
    precision: Precision | None = Field(None, description="None: not recorded")
    plots: dict[str, StoredPath]
    seconds: float


class Environment(Result):
    """The machine, the versions and the code state of a run."""

    machine: str
    platform: str
    python: str
    gpus: list[str]
    git_commit: str | None
    git_dirty: bool | None
    git_tag: str | None
    versions: dict[str, str]


class StageRecord(Result):
    """The outcome of one stage."""

    status: Literal["complete", "failed", "skipped"]
    seconds: float = 0.0
    message: str = ""


class RunRecord(BaseModel):
    """The full record of a run."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    kind: Literal["training", "evaluation"]
    run_id: str
    name: str
    status: Literal["running", "complete", "failed", "diverged", "paused"] = "running"
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    finished: datetime | None = None
    spec: dict[str, Any]
    made_data: bool = Field(False, description="whether corpus or tasks are generated stand-ins")
    pretraining_identity: str
    evaluation_identity: str
    environment: Environment
    stages: dict[str, StageRecord] = Field(default_factory=dict)
    forecast: dict[str, float] = Field(
        default_factory=dict, description="seconds of a stage by past ones of the home, written before it began"
    )
    head: str = ""
    row_form: int = Field(1, description="form of its row in the log; from 2 on it names the experiment")
    checkpoint: Checkpoint | None = None
    corpus: CorpusResult | None = None
    pretraining: PretrainingResult | None = None
    publishing: PublishResult | None = None
    task_warnings: list[str] = Field(
        default_factory=list,
        description="of the data of its tasks: examples of a scored split that are in train, and the like",
    )
    cells: list[CellResult] = Field(default_factory=list)
    scores: list[Score] = Field(default_factory=list)
    analysis: AnalysisResult | None = None

    @field_validator("run_id")
    @classmethod
    def _names_a_folder(cls, run_id: str) -> str:
        if not is_safe_name(run_id):
            raise ValueError("is no name of a run")
        return run_id

    def save(self, folder: RunFolder) -> None:
        """Write `record.json` in full, without secrets and with paths relative to the home, unless it says the same."""
        content = redact_all(self.model_dump(mode="json", context={"base": _home_of(folder.record)}))
        with suppress(OSError, ValueError):
            if read_json(folder.record) == content:
                return
        write_json(folder.record, content)

    @property
    def warnings(self) -> list[str]:
        """What makes its figures too good or odd: of its own corpus and training, and of the data of its tasks."""
        trained = self.pretraining if self.kind == "training" else None
        of_corpus = self.corpus.warnings if trained and self.corpus else []
        return [*of_corpus, *(trained.warnings if trained else []), *self.task_warnings]

    def foretold(self, stage: str) -> float | None:
        """The seconds that a stage was forecast to take; None where nothing could tell, or an earlier version ran."""
        done = self.pretraining if stage == "pretraining" else None
        return done.forecast if done else self.forecast.get(stage)

    @property
    def bits_per_byte(self) -> float | None:
        """The held-out loss in bits per byte of text, which is comparable across tokenizers; None without a loss."""
        if self.pretraining is None or self.corpus is None or self.corpus.bytes_per_token <= 0:
            return None
        return self.pretraining.eval_loss / math.log(2) / self.corpus.bytes_per_token

    def primary_scores(self, start: str = "checkpoint") -> list[Score]:
        """The scores of every split in its primary metric, from one start."""
        return [score for score in self.scores if score.primary and score.start == start]


def _home_of(record: Path) -> Path:
    """The home of `runs/RUN_ID/record.json`; of a record copied elsewhere, just the folder three levels up."""
    return record.absolute().parent.parent.parent


def load_record(folder: RunFolder) -> RunRecord:
    """The record of a run.

    Raises:
        UserError: it does not exist or cannot be read.
    """
    return read_record(folder.record)


def read_record(path: Path) -> RunRecord:
    """The record in a file, inside a home or elsewhere.

    Raises:
        UserError: it does not exist or cannot be read.
    """
    try:
        raw = read_json(path)
        version = raw.get("schema_version", SCHEMA_VERSION) if isinstance(raw, dict) else SCHEMA_VERSION
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise UserError(
                f"{path}: has schema version {version}, known are up to {SCHEMA_VERSION}; fix: update Cogito"
            )
        return RunRecord.model_validate(raw, context={"base": _home_of(path)})
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); fix: name a run's record.json") from None
    except ValueError as error:
        raise UserError(
            f"{path}: is not a readable record: {first_mistake(error)}; fix: name the record.json of a run"
        ) from None


def first_mistake(error: ValueError) -> str:
    """One line for an error of pydantic, JSON or UTF-8."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())[:300]
    first, *others = error.errors(include_url=False, include_input=False, include_context=False)
    place = ".".join(map(str, first["loc"]))[:200]
    return f"{place}: {first['msg']}" + (f" (and {len(others)} more)" if others else "")
