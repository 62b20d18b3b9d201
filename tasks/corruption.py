"""Seeded corruption of token blocks. Every sample's noise is a pure function of (seed, epoch, sample).

So training can be killed, resumed and spread over any number of processes, and sees the same masks.
A new objective is one function and one row of OBJECTIVES.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

IGNORE_INDEX = -100


@dataclass(frozen=True)
class CorruptionSettings:
    """What a corruption needs to know of tokenizer and spec."""

    mask_prob: float
    mask_token_id: int
    vocab_size: int
    special_ids: tuple[int, ...]


# (ids [N], random generator, settings) -> (corrupted ids [N], labels [N])
Corruption = Callable[[np.ndarray, np.random.Generator, CorruptionSettings], tuple[np.ndarray, np.ndarray]]


def sample_generator(stream: int, seed: int, epoch: int, sample: int) -> np.random.Generator:
    """The random generator of one sample; `stream` keeps training (0) and evaluation (1) apart."""
    return np.random.default_rng((stream, seed, epoch, sample))


def mask_tokens(
    ids: np.ndarray, generator: np.random.Generator, settings: CorruptionSettings
) -> tuple[np.ndarray, np.ndarray]:
    """BERT's masked language modelling (Devlin et al. 2019): of the selected tokens 80 % mask, 10 % random, 10 % kept.

    At least one non-special token is always selected, so that a short text never gives a loss of nothing.
    """
    ordinary = ~np.isin(ids, settings.special_ids)
    draw, kind = generator.random((2, len(ids)))
    selected = ordinary & (draw < settings.mask_prob)
    if not selected.any() and ordinary.any():
        selected[np.argmin(np.where(ordinary, draw, 2.0))] = True
    labels = np.where(selected, ids, IGNORE_INDEX)
    corrupted = np.where(selected & (kind < 0.8), settings.mask_token_id, ids)
    replaced = selected & (kind >= 0.8) & (kind < 0.9)
    corrupted[replaced] = generator.integers(settings.vocab_size, size=int(replaced.sum()))
    return corrupted, labels


OBJECTIVES: dict[str, Corruption] = {"mlm": mask_tokens}
