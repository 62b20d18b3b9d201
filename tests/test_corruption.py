"""What the corruption of a batch promises, for any text and any seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.corruption import IGNORE_INDEX, OBJECTIVES, CorruptionSettings, mask_tokens, sample_generator

SPECIAL = (0, 1, 2, 3, 4)
MASK = 4
VOCAB = 2000
SETTINGS = CorruptionSettings(mask_prob=0.15, mask_token_id=MASK, vocab_size=VOCAB, special_ids=SPECIAL)

texts = st.lists(st.integers(0, 30), min_size=1, max_size=40).map(lambda ids: np.array(ids, dtype=np.int64))
keys = st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 50), st.integers(0, 10**7))


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(ids=texts, key=keys, mask_prob=st.floats(0.01, 0.99))
def test_labels_are_the_originals_and_specials_are_never_chosen(
    objective: str, ids: np.ndarray, key: tuple[int, int, int], mask_prob: float
) -> None:
    settings = CorruptionSettings(mask_prob, MASK, VOCAB, SPECIAL)
    before = ids.copy()
    corrupted, labels = OBJECTIVES[objective](ids, sample_generator(0, *key), settings)
    assert np.array_equal(ids, before), "the text itself must stay as it is"
    assert corrupted.shape == labels.shape == ids.shape
    chosen = labels != IGNORE_INDEX
    assert np.array_equal(labels[chosen], ids[chosen])
    assert np.array_equal(corrupted[~chosen], ids[~chosen])
    assert not np.isin(ids[chosen], SPECIAL).any()
    assert chosen.any() or np.isin(ids, SPECIAL).all(), "a text with a word must have a label"
    assert ((corrupted >= 0) & (corrupted < VOCAB)).all()


@given(texts, keys)
def test_the_noise_is_a_function_of_seed_epoch_and_sample(ids: np.ndarray, key: tuple[int, int, int]) -> None:
    once = mask_tokens(ids, sample_generator(0, *key), SETTINGS)
    np.random.default_rng(0).random(100)  # whatever happens in between
    again = mask_tokens(ids, sample_generator(0, *key), SETTINGS)
    assert all(np.array_equal(one, other) for one, other in zip(once, again, strict=True))


def test_another_seed_epoch_sample_or_stream_gives_other_noise() -> None:
    ids = np.arange(5, 205)
    keys = [(0, 7, 3, 11), (0, 8, 3, 11), (0, 7, 4, 11), (0, 7, 3, 12), (1, 7, 3, 11)]
    seen = {mask_tokens(ids, sample_generator(*key), SETTINGS)[1].tobytes() for key in keys}
    assert len(seen) == len(keys)


def test_shares_are_those_of_bert() -> None:
    """15 % chosen; of them 80 % masked, 10 % replaced, 10 % kept: within five standard errors."""
    ids = np.random.default_rng(0).integers(5, VOCAB, 200_000)
    corrupted, labels = mask_tokens(ids, sample_generator(0, 0, 0, 0), SETTINGS)
    chosen = labels != IGNORE_INDEX
    masked, kept = corrupted[chosen] == MASK, corrupted[chosen] == ids[chosen]
    replaced = ~masked & ~kept

    def close(share: float, expected: float, count: int) -> bool:
        return abs(share - expected) < 5 * (expected * (1 - expected) / count) ** 0.5 + 1 / VOCAB

    assert close(chosen.mean(), 0.15, len(ids))
    count = int(chosen.sum())
    assert close(masked.mean(), 0.8, count) and close(replaced.mean(), 0.1, count) and close(kept.mean(), 0.1, count)
    # Replacements come from the whole vocabulary, evenly.
    random = corrupted[chosen][replaced]
    assert abs(random.mean() - VOCAB / 2) < 5 * VOCAB / (12 * len(random)) ** 0.5
    # Where a token is chosen does not depend on its place.
    halves = chosen[:100_000].mean(), chosen[100_000:].mean()
    assert close(halves[0], 0.15, 100_000) and close(halves[1], 0.15, 100_000)


def test_the_one_label_of_a_short_text_is_drawn_evenly() -> None:
    ids = np.array([1, 10, 11, 12, 2])
    settings = CorruptionSettings(1e-9, MASK, VOCAB, SPECIAL)
    counts = np.zeros(5)
    for sample in range(600):
        labels = mask_tokens(ids, sample_generator(0, 0, 0, sample), settings)[1]
        counts += labels != IGNORE_INDEX
    assert counts.sum() == 600 and counts[0] == counts[4] == 0
    assert (counts[1:4] > 140).all()
