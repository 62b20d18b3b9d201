"""What is asked: the experiment spec and its defaults; `tasks/spec/reading.py` reads one from a YAML.

Example: `cogito check experiments/*.yaml`. A YAML states only what differs from the defaults below.
"""

import math
from collections.abc import Collection
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from models.family import CONCEPT_LOSSES, HEADS, LOSS_WEIGHTINGS, OBJECTIVES, VARIANTS
from tasks.errors import unknown_name
from tasks.spec.benchmarks import TASKS
from tasks.store.files import is_safe_name

PYTHON_DOCS = "builtin/python_docs"
# Tasks that have a generated stand-in, and those that may start from a model fine-tuned on MNLI.
MADE_TASKS = ("mrpc", "qqp", "mnli", "stsb", "paws")
FOLLOWERS = ("rte", "mrpc", "stsb")


def _member(kind: str, allowed: Collection[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(unknown_name(kind, value, allowed))
        return value

    return AfterValidator(check)


VariantName = Annotated[str, _member("variant", VARIANTS)]
TaskName = Annotated[str, _member("task", TASKS)]
LossName = Annotated[str, _member("concept loss", CONCEPT_LOSSES)]
WeightingName = Annotated[str, _member("loss weighting", LOSS_WEIGHTINGS)]
HeadName = Annotated[str, _member("head", HEADS)]
Share = Annotated[float, Field(gt=0, lt=1)]
# Far above anything that was ever trained: what lies beyond is a slip of the keyboard, and would ask for terabytes.
WIDEST, DEEPEST, MOST = 65_536, 1_000, 1_000_000
LONGEST = 1_000_000_000


class Spec(BaseModel):
    """Base of all parts of a spec: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads yes, no, on and off as true and false, which would then count as 1 and 0."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise ValueError(
                f"got {value}; YAML reads yes, no, on, off, true and false so; fix: quote it or use a number"
            )
        return value


class DataSpec(Spec):
    """The pretraining text and its tokenizer."""

    dataset: str = Field("JeanKaddour/minipile", description="Hub data set, or builtin/python_docs")
    config: str | None = Field(None, description="configuration of the data set, where it has several")
    revision: str | None = Field(None, description="Hub commit or tag; None takes the newest and records it")
    split: str = Field("train", description="split to train on")
    text_column: str = Field("text", description="column with the text")
    held_out_split: str | None = Field(None, description="split for the evaluation loss; None holds out a share")
    held_out_share: Share = Field(0.01, description="share of the documents held out when no split is named")
    max_documents: int | None = Field(
        None, ge=1, le=LONGEST, description="read only the first documents; None reads all"
    )
    tokenizer: str | None = Field(
        None, description="Hub tokenizer (default answerdotai/ModernBERT-base), unless one is trained"
    )
    train_tokenizer_vocab_size: int | None = Field(
        None, ge=300, le=500_000, description="train a byte-level BPE tokenizer of this size on the corpus"
    )
    blocks: Literal["concat", "document"] = Field(
        "concat", description="concat: documents joined into full blocks; document: documents never mixed"
    )
    block_tokens: int = Field(512, ge=8, le=1_000_000, description="tokens in a block")

    @model_validator(mode="after")
    def _one_tokenizer(self) -> "DataSpec":
        if self.tokenizer is not None and self.train_tokenizer_vocab_size is not None:
            raise ValueError("tokenizer and train_tokenizer_vocab_size exclude each other; fix: state one of them")
        return self

    @property
    def tokenizer_name(self) -> str:
        """The Hub tokenizer to load; only meaningful when none is trained."""
        return self.tokenizer or "answerdotai/ModernBERT-base"


class ModelSpec(Spec):
    """The shape of the model."""

    variant: VariantName = Field("perceiver_mlm", description="row of `cogito ls variants`")
    hidden_size: int = Field(512, ge=8, le=WIDEST, description="width H of concepts and layers")
    token_embedding_dim: int | None = Field(None, ge=4, le=WIDEST, description="width E of tokens; None: hidden_size")
    num_layers: int = Field(6, ge=1, le=DEEPEST, description="encoder layers L")
    num_concepts: int = Field(128, ge=1, le=WIDEST, description="concept vectors C")
    num_attention_heads: int | None = Field(None, ge=1, le=WIDEST, description="None: max(1, min(8, H // 64))")
    intermediate_size: int = Field(2048, ge=1, le=MOST, description="width I of the feed-forward layers")
    max_sequence_length: int | None = Field(None, ge=8, le=MOST, description="positions; None: data.block_tokens")
    hidden_dropout_prob: float = Field(0.1, ge=0, lt=1)
    attention_probs_dropout_prob: float = Field(0.1, ge=0, lt=1)
    concept_position_type: Literal["none", "sinusoidal", "learned"] = "none"
    use_bixt: bool = Field(False, description="tokens read the concepts back in every layer")
    recursive: bool = Field(False, description="one layer's weights are applied num_layers times")
    num_decoder_layers: int | None = Field(
        None, ge=1, le=DEEPEST, description="layers D of a diffusion decoder; None: 2"
    )
    initializer_range: float = Field(0.1, gt=0, le=1, description="standard deviation of new weights")
    tie_word_embeddings: bool | None = Field(None, description="None: the variant's own default")

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSpec":
        heads = self.attention_heads
        if self.hidden_size % heads:
            raise ValueError(f"num_attention_heads {heads} must divide hidden_size {self.hidden_size}")
        if self.token_embedding_dim is not None and self.token_embedding_dim > self.hidden_size:
            raise ValueError(
                f"token_embedding_dim {self.token_embedding_dim} must not exceed hidden_size {self.hidden_size}"
            )
        narrow = self.token_embedding_dim is not None and self.token_embedding_dim < self.hidden_size
        if self.num_decoder_layers is not None and not VARIANTS[self.variant].has_decoder_layers:
            layered = ", ".join(name for name, row in VARIANTS.items() if row.has_decoder_layers)
            raise ValueError(f"num_decoder_layers would be ignored by {self.variant}; allowed with: {layered}")
        if self.tie_word_embeddings and narrow:
            raise ValueError(
                "tie_word_embeddings needs token_embedding_dim equal to hidden_size; fix: drop one of them"
            )
        return self

    @property
    def attention_heads(self) -> int:
        return self.num_attention_heads or max(1, min(8, self.hidden_size // 64))

    @property
    def tied(self) -> bool:
        """Whether the LM head shares the token embedding, which needs E = H."""
        if self.tie_word_embeddings is not None:
            return self.tie_word_embeddings
        same_width = (self.token_embedding_dim or self.hidden_size) == self.hidden_size
        return VARIANTS[self.variant].tie_word_embeddings and same_width and not self.recursive

    @property
    def decoder_layers(self) -> int:
        return self.num_decoder_layers or 2

    @property
    def size_name(self) -> str:
        """The size as run ids write it: `H512L6C128`, with D2 for the layers of a diffusion decoder."""
        layers = f"D{self.decoder_layers}" if VARIANTS[self.variant].has_decoder_layers else ""
        return f"H{self.hidden_size}L{self.num_layers}C{self.num_concepts}{layers}"


class ObjectiveSpec(Spec):
    """How a batch is corrupted and which concept losses join the task loss."""

    mask_prob: Share = Field(0.15, description="MLM: share of the non-special tokens that are selected")
    whole_word: bool = Field(False, description="MLM: select all tokens of a word together")
    deletion_prob: Share = Field(0.6, description="denoising: share of the non-special tokens that are deleted")
    t_min: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="diffusion: least noise level; None: the variant's own"
    )
    elbo: bool = Field(False, description="diffusion: weigh every token by 1 / max(t, 0.1)")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="of the task loss in training; None: the variant's own"
    )
    concept_losses: dict[LossName, Annotated[float, Field(gt=0, le=MOST)]] = Field(
        default_factory=dict, description="concept losses and their weights under `fixed` weighting"
    )
    loss_weighting: WeightingName = Field("fixed", description="how the task loss and the concept losses are added up")

    @model_validator(mode="after")
    def _weighting_used(self) -> "ObjectiveSpec":
        if self.loss_weighting != "fixed" and not self.concept_losses:
            raise ValueError(f"loss_weighting {self.loss_weighting} would be ignored without concept_losses")
        return self


class TrainingSpec(Spec):
    """The optimisation of pretraining. The number of processes is no part of it: results do not depend on it."""

    epochs: float = Field(20, gt=0, le=MOST, description="passes over the corpus")
    max_steps: int | None = Field(None, ge=1, le=LONGEST, description="stop the schedule after this many steps")
    global_batch_size: int = Field(512, ge=1, le=MOST, description="sequences per optimiser step over all processes")
    per_device_batch_size: int = Field(32, ge=1, le=MOST, description="sequences per forward pass of one process")
    learning_rate: float = Field(3e-4, gt=0, le=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(1500, ge=0, le=LONGEST)
    weight_decay: float = Field(0.01, ge=0, le=MOST)
    max_grad_norm: float = Field(1.0, gt=0, le=LONGEST, description="gradient clipping by global norm")
    mixed_precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on a GPU, fp32 on a CPU")
    seed: int = Field(42, ge=0, lt=2**31)
    init_from: str | None = Field(
        None, description="warm start: a run id, folder or Hub id[@revision]; None: random weights"
    )
    eval_every_steps: int = Field(500, ge=1, le=LONGEST)
    max_eval_blocks: int = Field(2000, ge=1, le=LONGEST, description="held-out blocks that the evaluation loss reads")
    checkpoint_every_steps: int = Field(500, ge=1, le=LONGEST)
    keep_checkpoints: int = Field(2, ge=1, le=MOST, description="training checkpoints kept")


class PublishSpec(Spec):
    """Where the finished checkpoint goes."""

    store: Literal["auto", "hub", "local"] = Field(
        "auto", description="auto: the Hub when a token is set, else the directory store under COGITO_HOME"
    )
    repo: str | None = Field(None, description="Hub repository; None: your account and the run id")
    private: bool = True
    license: str | None = Field(None, description="licence that the model card states")


class TaskOverride(Spec):
    """What one task does differently from the rest of the evaluation section."""

    epochs: float | None = Field(None, gt=0, le=MOST)
    seeds: int | None = Field(None, ge=1, le=100)
    learning_rate: float | None = Field(None, gt=0, le=1)
    max_train_examples: int | None = Field(None, ge=50, le=LONGEST)
    start_from: Literal["mnli"] | None = Field(
        None, description="start from the model that was fine-tuned on MNLI; only rte, mrpc and stsb"
    )


class EvaluationSpec(Spec):
    """The fine-tuning fan-out: tasks x seeds."""

    tasks: tuple[TaskName, ...] = ("mrpc", "qqp", "mnli", "stsb", "paws")
    data: Literal["hub", "made"] = Field("hub", description="hub: the real tasks; made: small generated stand-ins")
    head: HeadName | None = Field(None, description="None: the default of the checkpoint's variant")
    seeds: int = Field(1, ge=1, le=100, description="number of seeds per task")
    first_seed: int = Field(42, ge=0, lt=2**31)
    epochs: float | None = Field(None, gt=0, le=MOST, description="None: the epochs of the task's row")
    global_batch_size: int = Field(96, ge=1, le=MOST)
    learning_rate: float = Field(1e-5, gt=0, le=1)
    warmup_share: float = Field(0.06, ge=0, lt=1, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(0.01, ge=0, le=MOST)
    max_length: int = Field(128, ge=8, le=MOST, description="tokens of a pair; the longer text is cut first")
    max_train_examples: int | None = Field(
        None, ge=50, le=LONGEST, description="a seeded part of train; None: all of it"
    )
    select_on: Literal["held_out", "dev"] = Field(
        "held_out", description="where the epoch is chosen; dev is the old, optimistic protocol"
    )
    random_start: bool = Field(False, description="also fine-tune a randomly initialised model, for comparison")
    zero_shot: bool = Field(
        False, description="also score the cosine of both texts' mean concepts, without fine-tuning: stsb and sick_r"
    )
    per_task: dict[TaskName, TaskOverride] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _tasks_consistent(self) -> "EvaluationSpec":
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks names a task twice: {', '.join(self.tasks)}")
        unused = sorted(set(self.per_task) - set(self.tasks))
        if unused:
            raise ValueError(f"per_task names {', '.join(unused)}, which tasks does not list; it would be ignored")
        followers = [name for name, own in self.per_task.items() if own.start_from]
        wrong = [name for name in followers if name not in FOLLOWERS]
        if wrong:
            raise ValueError(f"start_from of {', '.join(wrong)}: allowed for {', '.join(FOLLOWERS)}")
        if followers and "mnli" not in self.tasks:
            raise ValueError(f"start_from mnli of {', '.join(followers)} needs mnli among tasks; fix: add it")
        if self.zero_shot and not self.zero_shot_tasks:
            raise ValueError("zero_shot would be ignored: tasks has neither stsb nor sick_r; fix: add one, or drop it")
        unmade = [name for name in self.tasks if name not in MADE_TASKS]
        if self.data == "made" and unmade:
            raise ValueError(f"data made has no {', '.join(unmade)}; allowed: {', '.join(MADE_TASKS)}")
        single = [name for name in self.tasks if not TASKS[name].is_pair]
        if self.head == "sentence_pair" and single:
            raise ValueError(f"head sentence_pair compares two texts; {', '.join(single)} have one; fix: drop them")
        return self

    @property
    def zero_shot_tasks(self) -> list[str]:
        """The tasks that a cosine can answer: a similarity of two texts as a number."""
        return [name for name in self.tasks if TASKS[name].is_regression and TASKS[name].is_pair]

    def for_task(self, name: str) -> "CellProtocol":
        """The protocol of one task with its overrides applied."""
        own = self.per_task.get(name, TaskOverride())
        row = TASKS[name]
        return CellProtocol(
            epochs=own.epochs or self.epochs or row.epochs,
            seeds=tuple(range(self.first_seed, self.first_seed + (own.seeds or self.seeds))),
            learning_rate=own.learning_rate or self.learning_rate,
            max_train_examples=own.max_train_examples or self.max_train_examples,
            global_batch_size=self.global_batch_size,
            warmup_share=self.warmup_share,
            weight_decay=self.weight_decay,
            max_length=self.max_length,
            select_on=self.select_on,
            data=self.data,
            start_from=own.start_from,
            keep_model=any(other.start_from == name for other in self.per_task.values()),
        )


class CellProtocol(Spec):
    """All that decides how one task is fine-tuned and scored, but for head and start."""

    epochs: float
    seeds: tuple[int, ...]
    learning_rate: float
    max_train_examples: int | None
    global_batch_size: int
    warmup_share: float
    weight_decay: float
    max_length: int
    select_on: str
    data: str
    start_from: str | None = None
    keep_model: bool = False


class AnalysisSpec(Spec):
    """Concept geometry on held-out text."""

    max_samples: int = Field(1024, ge=2, le=MOST, description="held-out blocks that are encoded")
    live_samples: int = Field(
        32, ge=2, le=MOST, description="held-out blocks that every evaluation of pretraining encodes"
    )
    batch_size: int = Field(32, ge=1, le=MOST)


class TrackingSpec(Spec):
    """Weights & Biases."""

    wandb: Literal["offline", "online", "disabled"] = "offline"
    project: str = "cogito"
    entity: str | None = None


class ExperimentSpec(Spec):
    """A whole experiment, as `experiments/*.yaml` states it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    data: DataSpec
    model: ModelSpec = Field(default_factory=ModelSpec)
    objective: ObjectiveSpec = Field(default_factory=ObjectiveSpec)
    training: TrainingSpec = Field(default_factory=TrainingSpec)
    publish: PublishSpec = Field(default_factory=PublishSpec)
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec)
    analysis: AnalysisSpec = Field(default_factory=AnalysisSpec)
    tracking: TrackingSpec = Field(default_factory=TrackingSpec)

    @field_validator("name")
    @classmethod
    def _writable_everywhere(cls, name: str) -> str:
        """Names become parts of file names, on Windows too."""
        if not is_safe_name(name):
            raise ValueError(f"got {name!r}, which is no file name on Windows; fix: another name")
        return name

    @model_validator(mode="after")
    def _sections_fit(self) -> "ExperimentSpec":
        mistakes = []
        positions = self.max_sequence_length
        if positions < self.data.block_tokens:
            mistakes.append(
                f"model.max_sequence_length {positions} is smaller than data.block_tokens {self.data.block_tokens}"
            )
        if positions < self.evaluation.max_length:
            mistakes.append(
                f"evaluation.max_length {self.evaluation.max_length} exceeds the model's {positions} positions; "
                "fix: lower it, or raise data.block_tokens or model.max_sequence_length"
            )
        mistakes += self._ignored_objective_settings()
        if self.objective.concept_losses and self.model.num_concepts < 2:
            mistakes.append("objective.concept_losses compare concepts; fix: model.num_concepts of at least 2")
        if self.evaluation.head is not None:
            try:
                check_head(self.evaluation.head, self.model.variant)
            except ValueError as error:
                mistakes.append(f"evaluation.head: {error}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    @property
    def warnings(self) -> list[str]:
        """What is allowed and cannot go well: concept losses whose best value the shape of the model rules out."""
        count, width = self.model.num_concepts, self.model.hidden_size
        if count <= width:
            return []
        # No more than H vectors can be orthogonal; of more, some pair is at least this alike (Welch 1974).
        least = ((count - width) / (width * (count - 1))) ** 0.5
        bounds = {name: CONCEPT_LOSSES[name].max_cosine for name in self.objective.concept_losses}
        return [
            f"objective.concept_losses.{name}: of {count} concepts of width {width} some pair has a cosine of at least "
            f"{least:.2f}, above {bound}; the loss cannot reach 0"
            for name, bound in bounds.items()
            if bound is not None and least > bound
        ]

    def _ignored_objective_settings(self) -> list[str]:
        objective = VARIANTS[self.model.variant].objective
        changed = self.objective.model_dump(exclude_defaults=True)
        readable = {key for row in OBJECTIVES.values() for key in row.reads}
        ignored = sorted(readable & set(changed) - set(OBJECTIVES[objective].reads))
        return [
            f"objective.{key} would be ignored: variant {self.model.variant} reads "
            f"{', '.join(OBJECTIVES[objective].reads)}; fix: drop it"
            for key in ignored
        ]

    @property
    def label_smoothing(self) -> float:
        stated = self.objective.label_smoothing
        return VARIANTS[self.model.variant].label_smoothing if stated is None else stated

    @property
    def t_min(self) -> float:
        """The least noise level of diffusion; 0 where the objective knows none."""
        stated = self.objective.t_min
        return VARIANTS[self.model.variant].t_min or 0.0 if stated is None else stated

    @property
    def head(self) -> str:
        """The head that fine-tuning uses: the one stated, else the variant's own."""
        return self.evaluation.head or VARIANTS[self.model.variant].default_head

    @property
    def max_sequence_length(self) -> int:
        return self.model.max_sequence_length or self.data.block_tokens

    @property
    def run_prefix(self) -> str:
        """The run id without its timestamp: `perceiver_mlm_H512L6C128`, `tsdae_bixt_...`, `..._combined_fixed0.1`."""
        parts = [self.model.variant, *(["bixt"] if self.model.use_bixt else [])]
        parts += [*(["recursive"] if self.model.recursive else []), self.model.size_name]
        if losses := self.objective.concept_losses:
            weighting = self.objective.loss_weighting
            weights = ",".join(f"{weight:g}" for weight in losses.values()) if weighting == "fixed" else ""
            parts += [*losses, weighting + weights]
        return "_".join(parts)


def fitting_heads(variant: str) -> list[str]:
    """The heads that can read a variant's decoder."""
    decoder = VARIANTS[variant].decoder
    return [name for name, row in HEADS.items() if row.fits(decoder)]


def check_head(head: str, variant: str) -> None:
    """Refuse a head that cannot read the variant's decoder.

    Raises:
        ValueError: with the heads that can.
    """
    fitting = fitting_heads(variant)
    if head not in fitting:
        raise ValueError(f"head {head} does not fit variant {variant}; allowed: {', '.join(fitting)}")


def pretraining_part(spec: ExperimentSpec) -> dict[str, Any]:
    """The part of a spec that decides the pretrained weights: what a run id names.

    Defaults are left out, so that a key which a later version adds does not make old runs strangers.
    """
    return spec.model_dump(mode="json", include={"model", "objective", "training"}, exclude_defaults=True)


def training_steps(spec: ExperimentSpec, train_blocks: int) -> int:
    """Optimiser steps of a whole training."""
    steps = math.ceil(spec.training.epochs * train_blocks / spec.training.global_batch_size)
    return min(steps, spec.training.max_steps or steps)


def warmup_steps(spec: ExperimentSpec, steps: int) -> int:
    """Steps of a rising learning rate: those asked for, at most half of the training."""
    return min(spec.training.warmup_steps, steps // 2)
