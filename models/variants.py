"""The named variants: which objective, decoder and head make one model. A new variant is one row here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One row of the family.

    Attributes:
        objective: key of `models.objectives.OBJECTIVES`: how a batch is corrupted.
        decoder: key of `models.decoders.DECODERS`.
        default_head: key of `models.heads.HEADS` that fine-tuning uses unless told otherwise.
        tie_word_embeddings: default for new models; whether the LM head shares the token embedding.
        summary: one line for `cogito ls variants`.
        label_smoothing: default of the task loss in training.
        t_min: default lower end of the noise level; None where the objective has none.
        has_decoder_layers: whether the number of decoder layers can be chosen.
    """

    name: str
    objective: str
    decoder: str
    default_head: str
    tie_word_embeddings: bool
    summary: str
    label_smoothing: float = 0.0
    t_min: float | None = None
    has_decoder_layers: bool = False


# Heads by name, and the decoders that each can read; None fits all. The classes are rows of `models.heads.HEADS`.
HEAD_DECODERS: dict[str, tuple[str, ...] | None] = {
    "via_decoder": ("perceiver", "perceiver_posonly"),
    "weighted_decoder": ("weighted",),
    "weighted_pooling": None,
    "cls_query": None,
    "sentence_pair": None,
}

VARIANTS: dict[str, Variant] = {
    row.name: row
    for row in [
        Variant(
            "perceiver_mlm",
            "mlm",
            "perceiver",
            "via_decoder",
            True,
            "masked LM; decoder queries are masked tokens + positions",
        ),
        Variant(
            "perceiver_posonly_mlm",
            "mlm",
            "perceiver_posonly",
            "via_decoder",
            True,
            "masked LM; decoder queries are positions only",
        ),
        Variant(
            "weighted_mlm",
            "mlm",
            "weighted",
            "weighted_decoder",
            False,
            "masked LM; every position mixes the concepts with fixed learned weights",
        ),
        Variant(
            "tsdae",
            "denoising",
            "perceiver_posonly",
            "via_decoder",
            True,
            "denoising autoencoder: from a text with tokens deleted back to all of it, by positions only",
        ),
        Variant(
            "diffusion",
            "masked_diffusion",
            "diffusion",
            "weighted_pooling",
            False,
            "masked diffusion; the decoder reads concepts by cross-attention alone, AdaLN-Zero",
            label_smoothing=0.1,
            t_min=0.1,
            has_decoder_layers=True,
        ),
        Variant(
            "diffusion_selfattn",
            "masked_diffusion_with_padding",
            "diffusion_selfattn",
            "weighted_pooling",
            False,
            "masked diffusion with self-attention in the decoder; kept to reproduce its failure",
            t_min=0.05,
            has_decoder_layers=True,
        ),
    ]
}
