"""The made tasks: the real ones' columns, labels and splits; meaning decides, and nothing leaks."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

from tasks.data import made_tasks
from tasks.data.made_tasks import (
    DEEDS,
    LABEL_NOISE,
    THINGS,
    Opposites,
    iterate_made_documents,
    made_fingerprint,
    made_sizes,
    make_split,
)
from tasks.errors import UserError
from tasks.spec.benchmarks import TASKS, Task

# Shares of the labels as in the real tasks, give or take.
SHARES = {"mrpc": (0.36, 0.64), "qqp": (0.62, 0.38), "mnli": (1 / 3, 1 / 3, 1 / 3), "paws": (0.56, 0.44)}
# What a baseline may be better than the trivial answer by: chance on a few hundred examples, and a small lean.
MARGIN = 0.07
# in the order of the digest below
MADE_SIZES = {name: made_sizes()[name] for name in ("mrpc", "stsb", "qqp", "mnli", "paws")}
EVERY_SPLIT = [(task, split) for task, sizes in MADE_SIZES.items() for split in sizes]
EVERY_SCORED_SPLIT = [(task, split.name) for task in MADE_SIZES for split in TASKS[task].eval_splits]
GROUPS = [value for value in vars(made_tasks).values() if isinstance(value, Opposites)]
GROUP_WORDS = {word for group in GROUPS for word in (*group.first, *group.second)}

Columns = dict[str, list[Any]]


@cache
def made(task: str, split: str, seed: int = 0) -> Columns:
    return make_split(task, split, seed)


def pairs(task: str, columns: Columns) -> list[tuple[str, str]]:
    first, second = TASKS[task].text_columns
    return list(zip(columns[first], columns[second], strict=True))


def words(text: str) -> list[str]:
    return text.lower().strip(".?").split()


def test_every_task_has_a_stand_in_with_the_splits_that_are_used() -> None:
    assert set(made_tasks._MAKERS) == set(made_sizes()) == set(MADE_SIZES)
    for name in MADE_SIZES:
        task = TASKS[name]
        used = {"train", *(split.name for split in task.eval_splits)}
        used |= {task.selection_split} if task.selection_split else set()
        assert set(MADE_SIZES[name]) == used


@pytest.mark.parametrize(("task", "split"), EVERY_SPLIT)
def test_columns_sizes_and_labels(task: str, split: str) -> None:
    columns, row = made(task, split), TASKS[task]
    number = "id" if task == "paws" else "idx"
    assert set(columns) == {*row.text_columns, row.label_column, number}
    assert {len(values) for values in columns.values()} == {MADE_SIZES[task][split]}
    assert columns[number] == list(range(MADE_SIZES[task][split]))
    labels = columns[row.label_column]
    if row.is_regression:
        assert all(isinstance(label, float) and 0 <= label <= 5 for label in labels)
        assert min(labels) < 0.5 and max(labels) > 4.5 and len(set(labels)) > 100
        return
    assert all(type(label) is int for label in labels)
    for label, share in enumerate(SHARES[task]):
        assert abs(labels.count(label) / len(labels) - share) < 0.06
    assert set(labels) == set(range(len(row.labels)))


@pytest.mark.parametrize("task", MADE_SIZES)
def test_same_arguments_give_the_same_examples_and_seeds_give_others(task: str) -> None:
    assert make_split(task, "train") == make_split(task, "train", seed=0)
    assert set(pairs(task, made(task, "train", seed=1))) != set(pairs(task, made(task, "train")))


@pytest.mark.parametrize("task", MADE_SIZES)
def test_no_pair_is_in_two_splits_whatever_the_seed_and_the_order(task: str) -> None:
    seen: dict[frozenset[str], str] = {}
    for split in MADE_SIZES[task]:
        for seed in (0, 1):
            for pair in pairs(task, made(task, split, seed)):
                assert seen.setdefault(frozenset(pair), split) == split


def meaningful(text: str) -> set[str]:
    """The meaningful words of a text, as they are spelt in the groups."""
    padded = f" {' '.join(words(text))} "
    return {word for word in GROUP_WORDS if f" {word} " in padded}


@pytest.mark.parametrize(("task", "split"), EVERY_SCORED_SPLIT)
def test_scored_pairs_use_meaningful_words_that_no_labelled_pair_has(task: str, split: str) -> None:
    in_train = {word for pair in pairs(task, made(task, "train")) for text in pair for word in meaningful(text)}
    new = [{word for text in pair for word in meaningful(text)} - in_train for pair in pairs(task, made(task, split))]
    assert in_train <= {word for group in GROUPS for word in (*group.labelled().first, *group.labelled().second)}
    assert np.mean([bool(words) for words in new]) > 0.5


def test_documents_contain_every_meaningful_word_and_keep_to_one_side() -> None:
    documents = [sentences.split() for sentences in iterate_made_documents()]
    assert documents == [sentences.split() for sentences in iterate_made_documents()]
    texts = [" ".join(document) for document in documents]
    found = [meaningful(text.replace(".", "").replace("?", "")) for text in texts]
    assert set.union(*found) == GROUP_WORDS
    for groups in GROUPS:
        sides = [(bool(words & set(groups.first)), bool(words & {*groups.second})) for words in found]
        if not {*groups.first, *groups.second} & {word for other in (DEEDS, THINGS) for word in other}:
            assert (True, True) not in sides
        assert {(True, False), (False, True)} <= set(sides)


def test_mismatched_mnli_combines_other_openings() -> None:
    def openings(split: str) -> set[tuple[str, ...]]:
        return {tuple(" ".join(text.split()[:2]) for text in pair) for pair in pairs("mnli", made("mnli", split))}

    assert openings("validation_matched") <= openings("train")
    assert not openings("validation_mismatched") & openings("train")


@pytest.mark.parametrize(("task", "split"), EVERY_SPLIT)
def test_the_rule_can_be_read_from_the_groups_of_words(task: str, split: str) -> None:
    """A reader who knows which words mean the same is right but for the noise."""

    def sides(text: str, groups: Opposites) -> set[bool]:
        return {word in groups.first for word in meaningful(text) & {*groups.first, *groups.second}}

    def agree(pair: tuple[str, str], groups: Opposites) -> bool:
        one, other = sides(pair[0], groups), sides(pair[1], groups)
        assert len(one) == len(other) == 1
        return one == other

    def read(pair: tuple[str, str]) -> float:
        if task == "mnli":
            if not agree(pair, made_tasks.KIND):
                return 1
            return 0 if agree(pair, made_tasks.KEEPING) else 2
        if task == "stsb":
            return 3 * agree(pair, made_tasks.INPUT) + 2 * agree(pair, made_tasks.KIND)
        groups = {"mrpc": made_tasks.KEEPING, "qqp": made_tasks.TOPIC, "paws": made_tasks.FREQUENCY}[task]
        return float(agree(pair, groups))

    columns = made(task, split)
    answers = np.array([read(pair) for pair in pairs(task, columns)])
    labels = np.array(columns["label"])
    if task == "stsb":
        assert np.corrcoef(answers, labels)[0, 1] > 0.95
    else:
        assert abs(np.mean(answers != labels) - LABEL_NOISE) < 0.02


def overlap_features(first: str, second: str) -> list[float]:
    one, other = set(words(first)), set(words(second))
    shared = len(one & other)
    length = len(words(first)) - len(words(second))
    return [shared / len(one | other), shared, shared / min(len(one), len(other)), length, abs(length)]


def one_sentence_features(task: Task, column: int, train: Columns, scored: Columns) -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import CountVectorizer

    vectors = CountVectorizer(binary=True)
    name = task.text_columns[column]
    return vectors.fit_transform(train[name]), vectors.transform(scored[name])


def check_near_trivial(task: Task, train: Any, train_labels: Sequence[float], scored: Any, labels: np.ndarray) -> None:
    from sklearn.linear_model import LogisticRegression, Ridge

    if task.is_regression:
        predictions = Ridge(10.0).fit(train, train_labels).predict(scored)
        assert np.corrcoef(predictions, labels)[0, 1] < 0.25
        return
    predictions = LogisticRegression(max_iter=500, C=0.1).fit(train, train_labels).predict(scored)
    majority = np.unique(labels, return_counts=True)[1].max() / len(labels)
    assert np.mean(predictions == labels) < majority + MARGIN
    if len(task.labels) == 2:
        hits = np.sum((predictions == 1) & (labels == 1))
        share = np.mean(labels == 1)
        assert 2 * hits / (np.sum(predictions) + np.sum(labels)) < 2 * share / (1 + share) + MARGIN


@pytest.mark.parametrize(("task", "split"), EVERY_SCORED_SPLIT)
def test_overlap_tells_nothing(task: str, split: str) -> None:
    train, scored = made(task, "train"), made(task, split)
    features = [np.array([overlap_features(*pair) for pair in pairs(task, columns)]) for columns in (train, scored)]
    check_near_trivial(TASKS[task], features[0], train["label"], features[1], np.array(scored["label"]))


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize(("task", "split"), EVERY_SCORED_SPLIT)
def test_one_sentence_tells_next_to_nothing(task: str, split: str, column: int) -> None:
    train, scored = made(task, "train"), made(task, split)
    first, second = one_sentence_features(TASKS[task], column, train, scored)
    check_near_trivial(TASKS[task], first, train["label"], second, np.array(scored["label"]))


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'mrpc'"):
        make_split("mprc", "train")
    with pytest.raises(UserError, match="did you mean 'validation'"):
        make_split("mrpc", "validatoin")


def test_changed_examples_need_a_new_contract_version() -> None:
    """When this fails, raise CONTRACT_VERSION in tasks/data/made_tasks.py and write the new version and digest here."""
    everything = [make_split(task, split) for task, split in EVERY_SPLIT]
    digest = hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:16]
    assert (made_tasks.CONTRACT_VERSION, digest) == (2, "6568fd158ae0d2c0")


def test_the_fingerprint_follows_sizes_and_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {made_fingerprint()}
    monkeypatch.setattr(made_tasks, "CONTRACT_VERSION", 99)
    seen.add(made_fingerprint())
    monkeypatch.setitem(MADE_SIZES["mrpc"], "train", 7)
    seen.add(made_fingerprint())
    assert len(seen) == 3
