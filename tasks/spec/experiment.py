"""An experiment file as a whole: its sections, the rules between them, and the part that identifies a pretraining.

`tasks/spec/reading.py` reads one from YAML. A file states only what differs from the defaults.
Example: `cogito check experiments/*.yaml`
"""

import math
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from models.family import CONCEPT_LOSSES, HEADS, OBJECTIVES, VARIANTS
from tasks.spec.base import Spec
from tasks.spec.evaluation import AnalysisSpec, EvaluationSpec, TaskOverride
from tasks.spec.pretraining import DataSpec, ModelSpec, ObjectiveSpec, TrainingSpec
from tasks.spec.values import Flag, Text
from tasks.store.files import is_safe_name


class PublishSpec(Spec):
    """Where the finished checkpoint is published."""

    store: Literal["auto", "hub", "local"] = Field(
        "auto", description="auto: the Hub when a token is set, else the directory store under COGITO_HOME"
    )
    repo: Text | None = Field(None, description="Hub repository, account/name; null: your account and the run id")
    private: Flag = Field(True, description="whether a new Hub repository is private")
    license: Text | None = Field(None, description="licence that the model card states; null: none")
    language: Text | None = Field(
        None, description="language of the text, which the model card states, as a code: en; null: none"
    )


class TrackingSpec(Spec):
    """Tracking with Weights & Biases."""

    wandb: Literal["offline", "online", "disabled"] = Field(
        "offline", description="offline: files in the run's folder; online: W&B's server, which needs a login"
    )
    project: Text = Field("cogito", description="project in W&B")
    entity: Text | None = Field(None, description="account or team in W&B; null: that of the login")


class ExperimentSpec(Spec):
    """A whole experiment file and the rules between its sections."""

    name: Text = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        max_length=100,
        description="name of the experiment: letters, digits, `_`, `.` and `-`, 100 at most",
    )
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
        """The name becomes part of file names, on Windows too."""
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
        if self.training.compile == "on" and self.data.blocks != "concat":
            mistakes.append(
                f"training.compile on, data.blocks {self.data.blocks}: every length of a block would be compiled anew; "
                "fix: data.blocks concat, or training.compile auto"
            )
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
        """Concept losses that cannot reach 0 with this number and width of concepts; allowed, but worth knowing."""
        count, width = self.model.num_concepts, self.model.hidden_size
        if count <= width:
            return []
        # Of more than H vectors, some pair has at least this cosine (Welch 1974).
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
        """Label smoothing of the task loss in training: as stated, else the variant's default."""
        stated = self.objective.label_smoothing
        return VARIANTS[self.model.variant].label_smoothing if stated is None else stated

    @property
    def t_min(self) -> float:
        """The lowest noise level of diffusion: as stated, else the variant's default; 0 for other objectives."""
        stated = self.objective.t_min
        return VARIANTS[self.model.variant].t_min or 0.0 if stated is None else stated

    @property
    def head(self) -> str:
        """The head for fine-tuning: as stated, else the variant's default."""
        return self.evaluation.head or VARIANTS[self.model.variant].default_head

    @property
    def max_sequence_length(self) -> int:
        """Positions of the model: as stated, else the tokens of a block."""
        return self.model.max_sequence_length or self.data.block_tokens

    def settled(self) -> dict[str, Any]:
        """What the experiment does, however it is written: without its name, every default filled in."""
        stated: dict[str, Any] = self.model_dump(mode="json", exclude={"name"})
        stated["data"]["tokenizer"] = None if self.data.train_tokenizer_vocab_size else self.data.tokenizer_name
        stated["model"] |= {
            "token_embedding_dim": self.model.token_embedding_dim or self.model.hidden_size,
            "num_attention_heads": self.model.attention_heads,
            "max_sequence_length": self.max_sequence_length,
            "num_decoder_layers": self.model.decoder_layers,
            "tie_word_embeddings": self.model.tied,
        }
        stated["objective"] |= {"t_min": self.t_min, "label_smoothing": self.label_smoothing}
        cells = {name: self.evaluation.for_task(name).model_dump(mode="json") for name in self.evaluation.tasks}
        stated["evaluation"] |= {"tasks": sorted(cells), "head": self.head, "per_task": cells}
        for key in TaskOverride.model_fields.keys() & stated["evaluation"].keys():
            del stated["evaluation"][key]  # stated by task
        return stated

    @property
    def run_prefix(self) -> str:
        """A run id without its timestamp: `perceiver_mlm_H512L6C128`, `tsdae_bixt_...`, `..._combined_fixed0.1`."""
        parts = [self.model.variant, *(["bixt"] if self.model.use_bixt else [])]
        parts += [*(["recursive"] if self.model.recursive else []), self.model.size_name]
        if losses := self.objective.concept_losses:
            weighting = self.objective.loss_weighting
            weights = ",".join(f"{weight:g}" for weight in losses.values()) if weighting == "fixed" else ""
            parts += [*losses, weighting + weights]
        return "_".join(parts)


def fitting_heads(variant: str) -> list[str]:
    """The heads that fit a variant's decoder."""
    decoder = VARIANTS[variant].decoder
    return [name for name, row in HEADS.items() if row.fits(decoder)]


def check_head(head: str, variant: str) -> None:
    """Refuse a head that does not fit the variant's decoder.

    Raises:
        ValueError: it does not; the message names the heads that do.
    """
    fitting = fitting_heads(variant)
    if head not in fitting:
        raise ValueError(f"head {head} does not fit variant {variant}; allowed: {', '.join(fitting)}")


def pretraining_part(spec: ExperimentSpec) -> dict[str, Any]:
    """The part of a spec that determines the pretrained weights, for the identity of a pretraining.

    Defaults are left out, so that a key added by a later version does not change the identity of old runs.
    """
    return spec.model_dump(mode="json", include={"model", "objective", "training"}, exclude_defaults=True)


def training_steps(spec: ExperimentSpec, train_blocks: int) -> int:
    """Optimiser steps of a whole training on `train_blocks` blocks."""
    steps = math.ceil(spec.training.epochs * train_blocks / spec.training.global_batch_size)
    return min(steps, spec.training.max_steps or steps)


def warmup_steps(spec: ExperimentSpec, steps: int) -> int:
    """Steps with a rising learning rate: as stated, but at most half of the training."""
    return min(spec.training.warmup_steps, steps // 2)
