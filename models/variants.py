"""The named variants: which objective, decoder and head make one model. A new variant is one row here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One row of the family.

    Attributes:
        objective: key of `tasks.corruption.OBJECTIVES`: how a batch is corrupted.
        decoder: key of `models.decoders.DECODERS`.
        default_head: key of `models.heads.HEADS` that fine-tuning uses unless told otherwise.
        tie_word_embeddings: default for new models; whether the LM head shares the token embedding.
        summary: one line for `cogito ls variants`.
    """

    name: str
    objective: str
    decoder: str
    default_head: str
    tie_word_embeddings: bool
    summary: str


# Heads by name, and the decoders that each can read; None fits all. The classes are rows of `models.heads.HEADS`.
HEAD_DECODERS: dict[str, tuple[str, ...] | None] = {
    "via_decoder": ("perceiver", "perceiver_posonly"),
    "weighted_decoder": ("weighted",),
    "weighted_pooling": None,
}

VARIANTS: dict[str, Variant] = {
    row.name: row
    for row in [
        Variant(
            "perceiver_mlm", "mlm", "perceiver", "via_decoder", True,
            "masked LM; decoder queries are masked tokens + positions",
        ),
        Variant(
            "perceiver_posonly_mlm", "mlm", "perceiver_posonly", "via_decoder", True,
            "masked LM; decoder queries are positions only",
        ),
        Variant(
            "weighted_mlm", "mlm", "weighted", "weighted_decoder", False,
            "masked LM; every position mixes the concepts with fixed learned weights",
        ),
    ]
}  # fmt: skip
