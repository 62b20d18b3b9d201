"""What the corruption of a batch promises, for any text and any seed."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.family import IGNORE_INDEX, OBJECTIVES
from models.objectives import (
    CorruptionSettings,
    add_mask_noise,
    delete_tokens,
    drop_tokens,
    mask_tokens,
    sample_generator,
    word_starts,
)

SPECIAL = (0, 1, 2, 3, 4)
MASK = 4
VOCAB = 2000
SETTINGS = CorruptionSettings(mask_prob=0.15, mask_token_id=MASK, vocab_size=VOCAB, special_ids=SPECIAL)

texts = st.lists(st.integers(0, 30), min_size=1, max_size=40).map(lambda ids: np.array(ids, dtype=np.int64))
keys = st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 50), st.integers(0, 10**7))


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(ids=texts, key=keys, share=st.floats(0.01, 0.99), elbo=st.booleans())
def test_every_objective_keeps_what_all_promise(
    objective: str, ids: np.ndarray, key: tuple[int, int, int], share: float, elbo: bool
) -> None:
    settings = CorruptionSettings(share, MASK, VOCAB, SPECIAL, deletion_prob=share, t_min=share, elbo=elbo)
    before = ids.copy()
    sample = OBJECTIVES[objective].load()(ids, sample_generator(0, *key), settings)
    assert np.array_equal(ids, before), "the text itself must stay as it is"
    assert sample.input_ids.shape == sample.labels.shape == ids.shape
    chosen = sample.labels != IGNORE_INDEX
    assert np.array_equal(sample.labels[chosen], ids[chosen])
    assert chosen.any() or np.isin(ids, SPECIAL).all(), "a text with a word must have a label"
    for read in (sample.input_ids, sample.noisy_ids if sample.noisy_ids is not None else sample.input_ids):
        assert np.array_equal(read[~chosen], ids[~chosen]), "what is not asked for is not changed"
        assert ((read >= 0) & (read < VOCAB)).all()
    assert (sample.noisy_ids is None) == (sample.t is None)
    again = OBJECTIVES[objective].load()(ids, sample_generator(0, *key), settings)
    assert np.array_equal(sample.labels, again.labels) and np.array_equal(sample.input_ids, again.input_ids)


@given(ids=texts, key=keys, mask_prob=st.floats(0.01, 0.99), whole_word=st.booleans())
def test_masking_never_chooses_special_tokens(
    ids: np.ndarray, key: tuple[int, int, int], mask_prob: float, whole_word: bool
) -> None:
    starts = np.arange(VOCAB) % 3 == 0
    settings = CorruptionSettings(mask_prob, MASK, VOCAB, SPECIAL, whole_word=whole_word, word_starts=starts)
    chosen = mask_tokens(ids, sample_generator(0, *key), settings).labels != IGNORE_INDEX
    assert not np.isin(ids[chosen], SPECIAL).any()
    if whole_word:
        inside = ~starts[ids[1:]] & ~np.isin(ids[1:], SPECIAL) & ~np.isin(ids[:-1], SPECIAL)
        assert np.array_equal(chosen[1:][inside], chosen[:-1][inside]), "a word is chosen whole or not at all"


@given(ids=texts, key=keys, deletion_prob=st.floats(0.01, 0.999))
def test_deletion_hides_ordinary_tokens_and_leaves_one(
    ids: np.ndarray, key: tuple[int, int, int], deletion_prob: float
) -> None:
    settings = CorruptionSettings(0.15, MASK, VOCAB, SPECIAL, deletion_prob=deletion_prob)
    sample = delete_tokens(ids, sample_generator(0, *key), settings)
    assert sample.attention_mask is not None
    hidden, special = sample.attention_mask == 0, np.isin(ids, SPECIAL)
    assert not hidden[special].any()
    assert special.all() or not hidden[~special].all(), "one ordinary token stays"
    assert np.array_equal(sample.labels, ids), "the whole text is asked for"


@given(ids=texts, key=keys, share=st.floats(0.01, 0.99))
def test_dropped_tokens_are_gone_and_the_rest_keeps_its_order(
    ids: np.ndarray, key: tuple[int, int, int], share: float
) -> None:
    numbered = np.where(np.isin(ids, SPECIAL), ids, 100 + np.arange(len(ids)))  # so that every word is another one
    left = drop_tokens(numbered, sample_generator(2, *key), share, SPECIAL)
    words = numbered[~np.isin(numbered, SPECIAL)]
    assert np.array_equal(left[np.isin(left, SPECIAL)], numbered[np.isin(numbered, SPECIAL)])
    assert np.array_equal(left, numbered[np.isin(numbered, SPECIAL) | np.isin(numbered, left)])
    kept = (~np.isin(left, SPECIAL)).sum()
    assert kept == len(words) - min(int(np.ceil(share * len(words))), max(len(words) - 1, 0))
    assert np.array_equal(left, drop_tokens(numbered, sample_generator(2, *key), share, SPECIAL))


def test_shares_of_deletion_and_noise_are_those_asked_for() -> None:
    ids = np.random.default_rng(0).integers(5, VOCAB, 50_000)
    settings = CorruptionSettings(0.15, MASK, VOCAB, SPECIAL, deletion_prob=0.6, t_min=0.05, elbo=True)
    kept = delete_tokens(ids, sample_generator(0, 0, 0, 0), settings).attention_mask
    assert kept is not None and abs(kept.mean() - 0.4) < 0.02
    levels = []
    for number in range(400):
        sample = add_mask_noise(ids[:500], sample_generator(0, 0, 0, number), settings)
        assert sample.t is not None and sample.noisy_ids is not None and sample.loss_weights is not None
        masked = sample.labels != IGNORE_INDEX
        assert np.array_equal(sample.noisy_ids == MASK, masked) and np.array_equal(sample.input_ids, ids[:500])
        assert abs(masked.mean() - sample.t) < 0.15
        np.testing.assert_allclose(sample.loss_weights, 1 / max(sample.t, 0.1), rtol=1e-6)
        levels.append(sample.t)
    assert min(levels) >= 0.05 and max(levels) <= 1.0
    assert abs(np.mean(levels) - 0.525) < 0.05, "noise levels are drawn evenly"


def test_what_begins_a_word_is_told_by_each_kind_of_tokenizer() -> None:
    class Pieces:
        def __init__(self, *pieces: str, mark: str | None = None) -> None:
            self.pieces = pieces
            self.backend_tokenizer = SimpleNamespace(model=SimpleNamespace(continuing_subword_prefix=mark))

        def get_vocab(self) -> dict[str, int]:
            return {piece: number for number, piece in enumerate(self.pieces)}

    word_pieces = Pieces("[CLS]", "play", "##ing", "##s", "!", mark="##")
    assert word_starts(word_pieces).tolist() == [True, True, False, False, True]
    assert word_starts(Pieces("[CLS]", "Ġplay", "##", "ing")).tolist() == [True, True, True, False]
    assert word_starts(Pieces("[CLS]", "Ġplay", "ing", ",", "Ċ")).tolist() == [True, True, False, True, True]
    assert word_starts(Pieces("<s>", "▁play", "ing")).tolist() == [True, True, False]


@given(texts, keys)
def test_the_noise_is_a_function_of_seed_epoch_and_sample(ids: np.ndarray, key: tuple[int, int, int]) -> None:
    once = mask_tokens(ids, sample_generator(0, *key), SETTINGS)
    np.random.default_rng(0).random(100)  # whatever happens in between
    again = mask_tokens(ids, sample_generator(0, *key), SETTINGS)
    assert np.array_equal(once.input_ids, again.input_ids) and np.array_equal(once.labels, again.labels)


def test_another_seed_epoch_sample_or_stream_gives_other_noise() -> None:
    ids = np.arange(5, 205)
    keys = [(0, 7, 3, 11), (0, 8, 3, 11), (0, 7, 4, 11), (0, 7, 3, 12), (1, 7, 3, 11)]
    seen = {mask_tokens(ids, sample_generator(*key), SETTINGS).labels.tobytes() for key in keys}
    assert len(seen) == len(keys)


def test_shares_are_those_of_bert() -> None:
    """15 % chosen; of them 80 % masked, 10 % replaced, 10 % kept: within five standard errors."""
    ids = np.random.default_rng(0).integers(5, VOCAB, 200_000)
    sample = mask_tokens(ids, sample_generator(0, 0, 0, 0), SETTINGS)
    corrupted, labels = sample.input_ids, sample.labels
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
        labels = mask_tokens(ids, sample_generator(0, 0, 0, sample), settings).labels
        counts += labels != IGNORE_INDEX
    assert counts.sum() == 600 and counts[0] == counts[4] == 0
    assert (counts[1:4] > 140).all()
