"""The tables of the model family: every variant, objective, decoder, head, concept loss and loss weighting by name.

A new member is one row here and one function or class in the module that the row names; nothing else lists them.
Nothing heavy is imported, so that the command can list and check names in no time: `Row.load` imports the code.
This file travels with published checkpoints.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

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
        name: as experiment files and config.json write it.
        code: its function or class, as `module.name` within this package.
        summary: one line for `cogito ls`.
    """

    name: str
    code: str
    summary: str

    def load(self) -> Any:
        """Import the function or class."""
        module, _, attribute = self.code.partition(".")
        return getattr(import_module(f".{module}", __package__), attribute)


@dataclass(frozen=True)
class Objective(Row):
    """How a batch is corrupted; the code is a `models.objectives.Corruption`.

    Attributes:
        reads: keys of the objective section of an experiment file that it uses; any other would be ignored.
    """

    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decoder(Row):
    """How concepts become token states; the code is a `models.decoders.Decoder`.

    Attributes:
        diffusion: it has `num_decoder_layers` layers, reads a noise level, and can fill masks.
    """

    diffusion: bool = False


@dataclass(frozen=True)
class Head(Row):
    """How concepts become class logits; the code is a `models.heads.Head`.

    Attributes:
        decoders: the decoders that it can run; empty: it runs none, so it fits every model.
        log_pattern: regular expression of its name in hand-written log rows; empty: its name.
    """

    decoders: tuple[str, ...] = ()
    log_pattern: str = ""

    def fits(self, decoder: str) -> bool:
        """Whether it can be put on a model that was pretrained with this decoder."""
        return not self.decoders or decoder in self.decoders


@dataclass(frozen=True)
class ConceptLoss(Row):
    """A loss against collapse: concepts [B, C, H] -> scalar.

    Attributes:
        max_cosine: |cosine| up to which a pair of concepts costs nothing, where the loss is of that kind.
    """

    max_cosine: float | None = None


@dataclass(frozen=True)
class Variant:
    """A named composition for pretraining.

    Attributes:
        objective, decoder: rows of OBJECTIVES and DECODERS.
        default_head: row of HEADS for fine-tuning.
        summary: one line for `cogito ls variants`.
        tie_word_embeddings: default; whether the LM head shares the token embedding.
        label_smoothing: default of the task loss in training, as a share of the probability.
        t_min: default lower end of the noise level; None where the objective has none.
    """

    name: str
    objective: str
    decoder: str
    default_head: str
    summary: str
    tie_word_embeddings: bool = True
    label_smoothing: float = 0.0
    t_min: float | None = None

    @property
    def has_decoder_layers(self) -> bool:
        """Whether the number of decoder layers can be chosen."""
        return DECODERS[self.decoder].diffusion


AnyRow = TypeVar("AnyRow", Objective, Decoder, Head, ConceptLoss, Variant, Row)


def _by_name(*rows: AnyRow) -> dict[str, AnyRow]:
    return {row.name: row for row in rows}


OBJECTIVES = _by_name(
    Objective(
        "mlm",
        "objectives.mask_tokens",
        "masked language modelling (Devlin et al. 2019): of the selected tokens 80 % mask, 10 % random, 10 % kept",
        reads=("mask_prob", "whole_word"),
    ),
    Objective(
        "denoising",
        "objectives.delete_tokens",
        "denoising (TSDAE, Wang et al. 2021): tokens are hidden from the encoder, the decoder restores the whole text",
        reads=("deletion_prob",),
    ),
    Objective(
        "masked_diffusion",
        "objectives.add_mask_noise",
        "masked diffusion: the encoder reads the clean text, the decoder one with a share t ~ U(t_min, 1) masked",
        reads=("t_min", "elbo"),
    ),
    Objective(
        "masked_diffusion_with_padding",
        "objectives.add_mask_noise_to_padding_too",
        "masked diffusion that also masks and predicts padding: the mistake of the first diffusion runs",
        reads=("t_min",),
    ),
)

DECODERS = _by_name(
    Decoder("perceiver", "decoders.PerceiverDecoder", "one cross-attention layer; queries: masked tokens + positions"),
    Decoder(
        "perceiver_posonly",
        "decoders.PositionPerceiverDecoder",
        "one cross-attention layer; queries: positions only (Perceiver IO, Jaegle et al. 2021)",
    ),
    Decoder("weighted", "decoders.WeightedDecoder", "each position mixes the concepts with its own learned weights"),
    Decoder(
        "diffusion",
        "decoders.DiffusionDecoder",
        "D cross-attention layers over noisy tokens, under AdaLN-Zero by the noise level t",
        diffusion=True,
    ),
    Decoder(
        "diffusion_selfattn",
        "decoders.SelfAttentionDiffusionDecoder",
        "diffusion with N x N self-attention, kept to reproduce its failure; it decodes every position",
        diffusion=True,
    ),
)

HEADS = _by_name(
    Head(
        "via_decoder",
        "heads.ViaDecoder",
        "pretrained decoder at every position, LN, mean over the text",
        decoders=("perceiver", "perceiver_posonly"),
        log_pattern=r"via[\W_]?decoder|perceiver_decoder",
    ),
    Head(
        "weighted_decoder",
        "heads.WeightedDecoderHead",
        "pretrained weighted decoder at every position, mean over the text",
        decoders=("weighted",),
        log_pattern=r"weighted[\W_]?decoder",
    ),
    Head(
        "weighted_pooling",
        "heads.WeightedPooling",
        "learned softmax over the concepts, LN",
        log_pattern=r"weighted[\W_](?:concept[\W_])?pooling",
    ),
    Head("cls_query", "heads.ClsQuery", "one learned query reads the concepts", log_pattern=r"cls[\W_]?query"),
    Head(
        "sentence_pair",
        "heads.PairHead",
        "two texts encoded apart, compared; zero-shot by their cosine",
        log_pattern=r"sentence[\W_]pair",
    ),
)

CONCEPT_LOSSES = _by_name(
    ConceptLoss(
        "orthogonality",
        "concept_losses.orthogonality",
        "mean squared cosine; zero only for orthogonal concepts, impossible when C > H",
        max_cosine=0.0,
    ),
    ConceptLoss(
        "soft_orthogonality",
        "concept_losses.soft_orthogonality",
        f"mean squared excess of |cosine| over {SOFT_MARGIN}",
        max_cosine=SOFT_MARGIN,
    ),
    ConceptLoss("uniformity", "concept_losses.uniformity", "mean of exp(-2 d^2) over pairs (after Wang & Isola 2020)"),
    ConceptLoss("variance", "concept_losses.variance", "hinge on the std of every dimension (Bardes et al. 2022)"),
    ConceptLoss("covariance", "concept_losses.covariance", "squared covariances of dimensions (Bardes et al. 2022)"),
    ConceptLoss("vicreg", "concept_losses.vicreg", "variance + covariance"),
    ConceptLoss("combined", "concept_losses.combined", "variance + uniformity"),
    ConceptLoss("t_regs_mst", "concept_losses.t_regs_mst", "minus the mean distance to the nearest other concept"),
    ConceptLoss("spanning_tree", "concept_losses.spanning_tree", "minus the mean edge of the minimum spanning tree"),
)

# How the task loss and the concept losses are added up; the code is a `models.loss_weighting.LossWeighting`.
LOSS_WEIGHTINGS = _by_name(
    Row("fixed", "loss_weighting.FixedWeighting", "each loss times its stated weight"),
    Row("learnable", "loss_weighting.LearnableWeighting", "softmax over raw parameters that start at zero"),
    Row("kendall_gal", "loss_weighting.KendallGalWeighting", "learned log variances (Kendall, Gal & Cipolla 2018)"),
)

VARIANTS = _by_name(
    Variant(
        "perceiver_mlm", "mlm", "perceiver", "via_decoder", "masked LM; decoder queries are masked tokens + positions"
    ),
    Variant(
        "perceiver_posonly_mlm",
        "mlm",
        "perceiver_posonly",
        "via_decoder",
        "masked LM; decoder queries are positions only",
    ),
    Variant(
        "weighted_mlm",
        "mlm",
        "weighted",
        "weighted_decoder",
        "masked LM; every position mixes the concepts with fixed learned weights",
        tie_word_embeddings=False,
    ),
    Variant(
        "tsdae",
        "denoising",
        "perceiver_posonly",
        "via_decoder",
        "denoising autoencoder: from a text with tokens deleted back to all of it, by positions only",
    ),
    Variant(
        "diffusion",
        "masked_diffusion",
        "diffusion",
        "weighted_pooling",
        "masked diffusion; the decoder reads concepts by cross-attention alone, AdaLN-Zero",
        tie_word_embeddings=False,
        label_smoothing=0.1,
        t_min=0.1,
    ),
    Variant(
        "diffusion_selfattn",
        "masked_diffusion_with_padding",
        "diffusion_selfattn",
        "weighted_pooling",
        "masked diffusion with self-attention in the decoder; kept to reproduce its failure",
        tie_word_embeddings=False,
        t_min=0.05,
    ),
)
