"""The tables of the model family: every variant, objective, decoder, head, concept loss and loss weighting by name.

A new member is one row here and one function or class in the module that the row names; nothing else lists them.
Nothing heavy is imported, so that the command can list and check names in no time: `Row.load` imports the code.
This file travels with published checkpoints.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, TypeVar

MODEL_TYPE = "concept_autoencoder"
# Checkpoints of the lab's earlier code, which `models.legacy` translates.
LEGACY_MODEL_TYPES = ("concept_encoder", "recursive_concept_encoder")

# Label of a position without anything to predict, as in torch's cross-entropy.
IGNORE_INDEX = -100
# The ELBO of masked diffusion weighs a token by 1 / t; below this t the weight stays at 1 / ELBO_MIN_T.
ELBO_MIN_T = 0.1
# The |cosine| up to which soft orthogonality costs nothing.
SOFT_MARGIN = 0.1


@dataclass(frozen=True)
class Row:
    """One member of the family.

    Attributes:
        module: where the code of all rows of its table lies, within this package.
        name: as experiment files and config.json write it.
        code: its function or class.
        summary: one line for `cogito ls`.
    """

    module: ClassVar[str]
    name: str
    code: str
    summary: str

    def load(self) -> Any:
        """Import the function or class."""
        return getattr(import_module(f".{self.module}", __package__), self.code)


@dataclass(frozen=True)
class Objective(Row):
    """How a batch is corrupted; the code is a `models.objectives.Corruption`.

    Attributes:
        reads: keys of the objective section of an experiment file that it uses; any other would be ignored.
        contract: raised when the same spec would train other weights with this objective alone.
    """

    module = "objectives"
    reads: tuple[str, ...]
    contract: int = 1


@dataclass(frozen=True)
class Decoder(Row):
    """How concepts become token states; the code is a `models.decoders.Decoder`.

    Attributes:
        diffusion: it has `num_decoder_layers` layers, reads a noise level, and can fill masks.
    """

    module = "decoders"
    diffusion: bool = False


@dataclass(frozen=True)
class Head(Row):
    """How concepts become class logits; the code is a `models.heads.Head`.

    Attributes:
        log_pattern: regular expression of its name in hand-written log rows.
        decoders: the decoders that it can run; empty: it runs none, so it fits every model.
    """

    module = "heads"
    log_pattern: str
    decoders: tuple[str, ...] = ()

    def fits(self, decoder: str) -> bool:
        """Whether it can be put on a model that was pretrained with this decoder."""
        return not self.decoders or decoder in self.decoders


@dataclass(frozen=True)
class ConceptLoss(Row):
    """A loss against collapse: concepts [B, C, H] -> scalar.

    Attributes:
        max_cosine: |cosine| up to which a pair of concepts costs nothing, where the loss is of that kind.
    """

    module = "concept_losses"
    max_cosine: float | None = None


@dataclass(frozen=True)
class LossWeighting(Row):
    """How the task loss and the concept losses are added up; the code is a `models.loss_weighting.LossWeighting`."""

    module = "loss_weighting"


@dataclass(frozen=True)
class Variant:
    """A named composition for pretraining.

    Attributes:
        objective, decoder: rows of OBJECTIVES and DECODERS.
        default_head: row of HEADS for fine-tuning.
        summary: one line for `cogito ls variants`.
        tied: default; whether the LM head shares the token embedding.
        label_smoothing: default of the task loss in training, as a share of the probability.
        t_min: default lower end of the noise level; None where the objective has none.
    """

    name: str
    objective: str
    decoder: str
    default_head: str
    summary: str
    tied: bool = True
    label_smoothing: float = 0.0
    t_min: float | None = None

    @property
    def fills_masks(self) -> bool:
        """Whether it was trained to predict the masks in what its encoder reads."""
        return self.objective == "mlm"

    @property
    def has_decoder_layers(self) -> bool:
        """Whether the number of decoder layers can be chosen."""
        return DECODERS[self.decoder].diffusion


AnyRow = TypeVar("AnyRow", Objective, Decoder, Head, ConceptLoss, LossWeighting, Variant)


def _by_name(*rows: AnyRow) -> dict[str, AnyRow]:
    return {row.name: row for row in rows}


OBJECTIVES = _by_name(
    Objective("mlm", "mask_tokens", "masked LM: 80 % mask, 10 % random, 10 % kept (BERT)", ("mask_prob", "whole_word")),
    Objective(
        "denoising", "delete_tokens", "TSDAE: tokens are hidden, the whole text is restored", ("deletion_prob",), 2
    ),
    Objective(
        "masked_diffusion", "add_mask_noise", "the decoder reads a text with t ~ U(t_min, 1) masked", ("t_min", "elbo")
    ),
    Objective(
        "masked_diffusion_with_padding",
        "add_mask_noise_to_padding_too",
        "masked diffusion that also masks and predicts padding: the mistake of the first diffusion runs",
        ("t_min",),
    ),
)

DECODERS = _by_name(
    Decoder("perceiver", "PerceiverDecoder", "one cross-attention layer; queries: masked tokens + positions"),
    Decoder("perceiver_posonly", "PositionPerceiverDecoder", "one cross-attention layer; queries: positions only"),
    Decoder("weighted", "WeightedDecoder", "each position mixes the concepts with its own learned weights"),
    Decoder("diffusion", "DiffusionDecoder", "D cross-attention layers over noisy tokens, AdaLN-Zero by t", True),
    Decoder("diffusion_selfattn", "SelfAttentionDiffusionDecoder", "diffusion + self-attention; it explodes", True),
)

HEADS = _by_name(
    Head(
        "via_decoder",
        "ViaDecoder",
        "pretrained decoder at every position, LN, mean over the text",
        r"via[\W_]?decoder|perceiver_decoder",
        ("perceiver", "perceiver_posonly"),
    ),
    Head(
        "weighted_decoder",
        "WeightedDecoderHead",
        "pretrained weighted decoder at every position, mean over the text",
        r"weighted[\W_]?decoder",
        ("weighted",),
    ),
    Head(
        "weighted_pooling",
        "WeightedPooling",
        "learned softmax over the concepts, LN",
        r"weighted[\W_](?:concept[\W_])?pooling",
    ),
    Head("cls_query", "ClsQuery", "one learned query reads the concepts", r"cls[\W_]?query"),
    Head("sentence_pair", "PairHead", "two texts, compared; zero-shot by their cosine", r"sentence[\W_]pair"),
)

CONCEPT_LOSSES = _by_name(
    ConceptLoss("orthogonality", "orthogonality", "mean squared cosine; cannot reach zero when C > H", 0.0),
    ConceptLoss(
        "soft_orthogonality", "soft_orthogonality", f"squared excess of |cosine| over {SOFT_MARGIN}", SOFT_MARGIN
    ),
    ConceptLoss("uniformity", "uniformity", "mean of exp(-2 d^2) over pairs (after Wang & Isola 2020)"),
    ConceptLoss("variance", "variance", "hinge on the std of every dimension (Bardes et al. 2022)"),
    ConceptLoss("covariance", "covariance", "squared covariances of dimensions (Bardes et al. 2022)"),
    ConceptLoss("vicreg", "vicreg", "variance + covariance"),
    ConceptLoss("combined", "combined", "variance + uniformity"),
    ConceptLoss("t_regs_mst", "t_regs_mst", "minus the mean distance to the nearest other concept"),
    ConceptLoss("spanning_tree", "spanning_tree", "minus the mean edge of the minimum spanning tree"),
)

LOSS_WEIGHTINGS = _by_name(
    LossWeighting("fixed", "FixedWeighting", "each loss times its stated weight"),
    LossWeighting("learnable", "LearnableWeighting", "softmax over raw parameters that start at zero"),
    LossWeighting("kendall_gal", "KendallGalWeighting", "learned log variances (Kendall, Gal & Cipolla 2018)"),
)

VARIANTS = _by_name(
    Variant("perceiver_mlm", "mlm", "perceiver", "via_decoder", "masked LM; queries: masked tokens + positions"),
    Variant("perceiver_posonly_mlm", "mlm", "perceiver_posonly", "via_decoder", "masked LM; queries: positions only"),
    Variant("weighted_mlm", "mlm", "weighted", "weighted_decoder", "masked LM; learned mixing weights", tied=False),
    Variant("tsdae", "denoising", "perceiver_posonly", "via_decoder", "denoising (TSDAE), by positions only"),
    Variant(
        "diffusion",
        "masked_diffusion",
        "diffusion",
        "weighted_pooling",
        "masked diffusion; the decoder reads concepts by cross-attention alone, AdaLN-Zero",
        tied=False,
        label_smoothing=0.1,
        t_min=0.1,
    ),
    Variant(
        "diffusion_selfattn",
        "masked_diffusion_with_padding",
        "diffusion_selfattn",
        "weighted_pooling",
        "masked diffusion with self-attention in the decoder; kept to reproduce its failure",
        tied=False,
        t_min=0.05,
    ),
)
