"""Seeded corruption of token blocks. Every sample's noise is a pure function of (seed, epoch, sample).

A training can therefore be killed, resumed and spread over any number of processes, and sees the same masks.
A new objective is one function here and one row of `models.family.OBJECTIVES`.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .family import ELBO_MIN_T, IGNORE_INDEX


@dataclass(frozen=True)
class CorruptionSettings:
    """What a corruption needs from tokenizer and spec.

    Attributes:
        mask_prob, whole_word, deletion_prob, t_min, elbo: as in `tasks.spec.experiment.ObjectiveSpec`.
        word_starts: bool [V], whether a token begins a word; only whole-word masking reads it.
    """

    mask_prob: float
    mask_token_id: int
    vocab_size: int
    special_ids: tuple[int, ...]
    whole_word: bool = False
    deletion_prob: float = 0.6
    t_min: float = 0.1
    elbo: bool = False
    word_starts: np.ndarray | None = None


@dataclass(frozen=True)
class CorruptedSample:
    """One text as encoder, decoder and loss see it; all arrays [n].

    Attributes:
        input_ids: what the encoder reads.
        labels: token ids to predict, IGNORE_INDEX where there is nothing to predict.
        attention_mask: 1 = the encoder sees it; None: all.
        noisy_ids: what the decoder reads; None: what the encoder reads.
        t: noise level of diffusion.
        loss_weights: factor of every label; None: 1.
        padding_noise: the generator that masks padding too, which is then labelled; None: padding is left alone.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    attention_mask: np.ndarray | None = None
    noisy_ids: np.ndarray | None = None
    t: float | None = None
    loss_weights: np.ndarray | None = None
    padding_noise: np.random.Generator | None = None


# (ids [n], random generator, settings) -> sample
Corruption = Callable[[np.ndarray, np.random.Generator, CorruptionSettings], CorruptedSample]


def sample_generator(stream: int, seed: int, epoch: int, sample: int) -> np.random.Generator:
    """The random generator of one sample; `stream` keeps training (0), evaluation (1) and analysis (2) apart."""
    return np.random.default_rng((stream, seed, epoch, sample))


def uncorrupted(ids: np.ndarray) -> CorruptedSample:
    """A text as it is, with nothing to predict."""
    return CorruptedSample(ids, np.full(len(ids), IGNORE_INDEX))


def drop_tokens(
    ids: np.ndarray, generator: np.random.Generator, share: float, special_ids: Collection[int]
) -> np.ndarray:
    """A text without a share (rounded up) of its ordinary tokens; order, special tokens and one ordinary token stay."""
    ordinary = np.flatnonzero(~np.isin(ids, list(special_ids)))
    count = min(math.ceil(share * len(ordinary)), len(ordinary) - 1)  # one stays too
    return np.delete(ids, generator.choice(ordinary, count, replace=False)) if count > 0 else ids


def mask_tokens(ids: np.ndarray, generator: np.random.Generator, settings: CorruptionSettings) -> CorruptedSample:
    """Masked language modelling (Devlin et al. 2019): of the selected tokens 80 % mask, 10 % random, 10 % kept.

    At least one non-special token is always selected, so that a short text never has an empty loss. With
    `whole_word` all tokens of a word are selected together.
    """
    ordinary = ~np.isin(ids, settings.special_ids)
    draw, kind = generator.random((2, len(ids)))
    if settings.whole_word:
        assert settings.word_starts is not None
        begins = settings.word_starts[ids] | ~ordinary
        begins[:1] = True
        word = np.cumsum(begins) - 1
        draw = draw[begins][word]  # every token of a word has the draw of its first
    selected = ordinary & (draw < settings.mask_prob)
    if not selected.any() and ordinary.any():
        least = np.where(ordinary, draw, 2.0)
        selected = least == least.min()
    labels = np.where(selected, ids, IGNORE_INDEX)
    corrupted = np.where(selected & (kind < 0.8), settings.mask_token_id, ids)
    replaced = selected & (kind >= 0.8) & (kind < 0.9)
    corrupted[replaced] = generator.integers(settings.vocab_size, size=int(replaced.sum()))
    return CorruptedSample(corrupted, labels)


def delete_tokens(ids: np.ndarray, generator: np.random.Generator, settings: CorruptionSettings) -> CorruptedSample:
    """Denoising (TSDAE, Wang et al. 2021): tokens are hidden from the encoder, the decoder restores the whole text.

    A token is deleted by a zero in the attention mask, so the others keep their positions; at least one stays.
    """
    ordinary = ~np.isin(ids, settings.special_ids)
    draw = generator.random(len(ids))
    deleted = ordinary & (draw < settings.deletion_prob)
    if ordinary.any() and (deleted == ordinary).all():
        deleted[np.argmax(np.where(ordinary, draw, -1.0))] = False
    return CorruptedSample(ids, ids.copy(), attention_mask=(~deleted).astype(np.int64))


def add_mask_noise(ids: np.ndarray, generator: np.random.Generator, settings: CorruptionSettings) -> CorruptedSample:
    """Masked diffusion: the encoder reads the clean text, the decoder one with a share t ~ U(t_min, 1) masked."""
    t = generator.uniform(settings.t_min, 1.0)
    draw = generator.random(len(ids))
    masked = draw < t
    if not masked.any():
        masked[np.argmin(draw)] = True
    weights = np.full(len(ids), 1.0 / max(t, ELBO_MIN_T), dtype=np.float32) if settings.elbo else None
    labels, noisy = np.where(masked, ids, IGNORE_INDEX), np.where(masked, settings.mask_token_id, ids)
    return CorruptedSample(ids, labels, noisy_ids=noisy, t=t, loss_weights=weights)


def add_mask_noise_to_padding_too(
    ids: np.ndarray, generator: np.random.Generator, settings: CorruptionSettings
) -> CorruptedSample:
    """Masked diffusion that also masks and predicts padding: the mistake of the first diffusion runs."""
    return replace(add_mask_noise(ids, generator, settings), loss_weights=None, padding_noise=generator)


def word_starts(tokenizer: Any) -> np.ndarray:
    """Whether each token begins a word, from its own text: bool [V].

    WordPiece marks what continues a word (##); byte-level and sentence-piece tokenizers mark what follows a blank.
    There, letters and digits without that mark continue a word, and anything else, "##" too, stands for itself.
    """
    entries = tokenizer.get_vocab()
    pieces = [""] * (max(entries.values()) + 1)
    for piece, number in entries.items():
        pieces[number] = piece
    mark = getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
    if mark:
        return np.array([not piece.startswith(mark) for piece in pieces])
    return np.array([not piece[:1].isalnum() or piece[:1] in "ĠĊĉ" for piece in pieces])
