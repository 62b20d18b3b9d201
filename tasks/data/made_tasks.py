"""Generated stand-ins for five real tasks: the same names, columns, label ids and split names; generated sentences.

The label depends on meaning, not on word overlap. Words form groups of the same meaning and of the opposite one; a
label states whether both sentences use the same groups, and they never share a word of a group. All other words are
independent of the label, so their overlap carries no information, and a single sentence next to none. The vocabulary
is that of Python's documentation. Scores on this data say nothing about scores on the real tasks.

The labelled pairs of train use half of the words of each group, the pairs that are scored use all of them. What the
other half means can only be learned from text without labels (`iterate_made_documents`), so a model that is pretrained
on such text has an advantage over one that is not, as on real tasks.

GLUE's test splits, whose labels are hidden, have no stand-in.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from tasks.errors import UserError, unknown_name
from tasks.spec.benchmarks import TASKS
from tasks.store.files import content_hash

# Raise when the generator makes other examples: fine-tuning results are cached by it.
CONTRACT_VERSION = 2

# Of the pairs that agree in meaning, this share uses the first group and the rest the second; pairs that differ use
# both orders evenly. With an even share the task would be an exclusive or, which a small model learns all at once or
# not at all. MNLI has two meanings and no majority class; a larger share would let one sentence alone tell too much.
FIRST_GROUP_SHARE = 0.65
MNLI_FIRST_GROUP_SHARE = 0.6
# The text without labels: about 1.5 MB.
DOCUMENTS = 3600
PAIRS_PER_DOCUMENT = 4
# Share of wrong labels, as in data that people labelled.
LABEL_NOISE = 0.04

Words = tuple[str, ...]


@dataclass(frozen=True)
class Opposites:
    """Two groups of words: within a group the meaning is the same, between the groups it is the opposite."""

    first: Words
    second: Words

    def labelled(self) -> "Opposites":
        """The words that occur in labelled training pairs: half of each group."""
        return Opposites(self.first[: len(self.first) // 2], self.second[: len(self.second) // 2])


@dataclass(frozen=True)
class Pair:
    """An example, before it is assigned to a split.

    Attributes:
        style: fillers whose combination distinguishes the mismatched examples of MNLI from all others.
    """

    one: str
    other: str
    label: float
    style: Words = ()


def _words(text: str) -> Words:
    return tuple(word.strip() for word in text.split(","))


KEEPING = Opposites(
    _words("add, insert, append, create, keep, store, save, set"),
    _words("remove, delete, drop, clear, discard, cancel, erase, ignore"),
)
INPUT = Opposites(
    _words("read, get, load, import, receive, fetch, accept, take"),
    _words("write, print, send, output, export, emit, dump, pass"),
)
TOPIC = Opposites(
    _words("file, path, directory, folder, program, script, disk, stream"),
    _words("socket, server, host, client, connection, network, port, address"),
)
KIND = Opposites(
    _words("string, text, line, word, character, message, name, prefix"),
    _words("number, integer, float, digit, count, index, size, length"),
)
FREQUENCY = Opposites(
    _words("always, often, usually, normally, also, still, generally, commonly"),
    _words("never, rarely, hardly, seldom, not, no longer, scarcely, barely"),
)

THINGS = _words("value, item, key, object, entry, element, result, module")
DEEDS = _words("check, read, use, return, change, copy, test, update")
STATEMENTS = _words("You can, It will, They may, We should, Programs can, Functions will, Methods may, Users should")
QUESTIONS = _words(
    "What is the use of, Where can I read about, How does Python handle, "
    "Which module is for, What should I know about, Is there a class for, When do I need, Who can change"
)
ENDS = ("", "", " by default", " at once", " when called", " if needed")


def make_split(task: str, split: str, seed: int = 0) -> dict[str, list[Any]]:
    """Generate a split as columns. The same arguments always give the same examples; splits never share a pair.

    Raises:
        UserError: there is no such task or split.
    """
    made = made_sizes()
    if task not in made:
        raise UserError(unknown_name("made task", task, made))
    sizes = made[task]
    if split not in sizes:
        raise UserError(unknown_name(f"split of the made task {task}", split, sizes))
    rng = random.Random(f"{task} {split} {seed}")
    draw = Draw(rng, labelled_only=split == "train")
    pairs: dict[tuple[str, str], Pair] = {}
    while len(pairs) < sizes[split]:
        pair = _MAKERS[task](draw)
        if _belongs(pair, split, list(sizes)):
            pairs.setdefault((pair.one, pair.other), pair)
    row = TASKS[task]
    labels = [pair.label if row.is_regression else _read_label(pair, len(row.labels), rng) for pair in pairs.values()]
    texts = dict(zip(row.text_columns, map(list, zip(*pairs, strict=True)), strict=True))
    columns: dict[str, list[Any]] = {**texts, row.label_column: labels}
    number = list(range(len(pairs)))
    return {"id": number, **columns} if task == "paws" else {**columns, "idx": number}


def iterate_made_documents() -> Iterator[str]:
    """Yield text without labels in the language of the tasks, always the same.

    A document keeps to one group of every pair of opposites, so whoever predicts a masked word of it learns which words
    mean the same.
    """
    rng = random.Random("documents")
    makers = list(_MAKERS.values())
    for _ in range(DOCUMENTS):
        draw = OneSided(rng)
        pairs = [rng.choice(makers)(draw) for _ in range(PAIRS_PER_DOCUMENT)]
        yield " ".join(sentence for pair in pairs for sentence in (pair.one, pair.other))


def made_fingerprint() -> str:
    """The identity of all made examples and documents."""
    return content_hash([CONTRACT_VERSION, made_sizes(), DOCUMENTS, PAIRS_PER_DOCUMENT])


def made_sizes() -> dict[str, dict[str, int]]:
    """The tasks that have a stand-in, and the examples in each of its splits."""
    return {row.name: row.made_sizes for row in TASKS.values() if row.made_sizes}


def _belongs(pair: Pair, split: str, splits: list[str]) -> bool:
    """Whether a pair belongs to a split; a hash of its sentences, in either order, assigns it to exactly one."""
    if _hash(sorted((pair.one, pair.other))) % len(splits) != splits.index(split):
        return False
    return not pair.style or (_hash(pair.style) % 3 == 0) == (split == "validation_mismatched")


def _read_label(pair: Pair, count: int, rng: random.Random) -> int:
    """The class of a pair with label noise: sometimes another one."""
    is_wrong = rng.random() < LABEL_NOISE
    return (int(pair.label) + is_wrong * rng.randrange(1, count)) % count


def _hash(words: Words | list[str]) -> int:
    return crc32("|".join(words).encode())


class Draw:
    """The random choices behind the pairs of a split.

    Args:
        labelled_only: take meaningful words from the labelled half of each group alone.
    """

    def __init__(self, rng: random.Random, *, labelled_only: bool = False) -> None:
        self.rng = rng
        self._labelled_only = labelled_only

    def two(self, groups: Opposites, agree: bool, first_share: float = FIRST_GROUP_SHARE) -> tuple[Words, Words]:
        """Draw two words per sentence, all from one group or from one group each, without repetition."""
        if self._labelled_only:
            groups = groups.labelled()
        is_first = self.rng.random() < (first_share if agree else 0.5)
        near, far = (groups.first, groups.second) if is_first else (groups.second, groups.first)
        if not agree:
            return tuple(self.rng.sample(near, 2)), tuple(self.rng.sample(far, 2))
        words = tuple(self.rng.sample(near, 4))
        return words[:2], words[2:]


class OneSided(Draw):
    """The random choices behind a document: all words of a pair of opposites come from the same group."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._sides: dict[Opposites, Words] = {}

    def two(self, groups: Opposites, agree: bool, first_share: float = FIRST_GROUP_SHARE) -> tuple[Words, Words]:
        """Draw two words per sentence from the document's group, without repetition."""
        side = self._sides.setdefault(groups, self.rng.choice((groups.first, groups.second)))
        words = tuple(self.rng.sample(side, 4))
        return words[:2], words[2:]


def _make_mrpc(draw: Draw) -> Pair:
    """Equivalent: both sentences keep the thing, or both get rid of it."""
    rng = draw.rng
    agree = rng.random() < 0.64
    verbs = draw.two(KEEPING, agree)
    thing = rng.choice(THINGS)
    one, other = (
        f"{rng.choice(STATEMENTS)} {verb} the {thing} and {next_verb} it{rng.choice(ENDS)}."
        for verb, next_verb in verbs
    )
    return Pair(one, other, agree)


def _make_qqp(draw: Draw) -> Pair:
    """Duplicate: both questions are about files, or both about the network."""
    rng = draw.rng
    agree = rng.random() < 0.37
    nouns = draw.two(TOPIC, agree)
    one, other = (f"{rng.choice(QUESTIONS)} the {noun} and the {next_noun}?" for noun, next_noun in nouns)
    return Pair(one, other, agree)


def _make_mnli(draw: Draw) -> Pair:
    """Neutral: the sentences are about text and about numbers. Else they do the same with it, or the opposite."""
    rng = draw.rng
    label = rng.randrange(3)
    same_deed = rng.random() < 0.5 if label == 1 else label == 0
    nouns = draw.two(KIND, label != 1, MNLI_FIRST_GROUP_SHARE)
    verbs = draw.two(KEEPING, same_deed, MNLI_FIRST_GROUP_SHARE)
    openers = rng.choice(STATEMENTS), rng.choice(STATEMENTS)
    one, other = (
        f"{opener} {verb} the {noun} and {next_verb} the {next_noun}."
        for opener, (verb, next_verb), (noun, next_noun) in zip(openers, verbs, nouns, strict=True)
    )
    return Pair(one, other, label, openers)


def _make_stsb(draw: Draw) -> Pair:
    """Score: 3 points for the same deed, 2 for the same kind of thing, and some noise."""
    rng = draw.rng
    same_deed, same_kind = rng.random() < 0.5, rng.random() < 0.5
    verbs, nouns = draw.two(INPUT, same_deed), draw.two(KIND, same_kind)
    one, other = (
        f"{rng.choice(STATEMENTS)} {verb} the {noun} and {next_verb} the {next_noun}{rng.choice(ENDS)}."
        for (verb, next_verb), (noun, next_noun) in zip(verbs, nouns, strict=True)
    )
    score = min(5.0, max(0.0, 3 * same_deed + 2 * same_kind + rng.gauss(0, 0.4)))
    return Pair(one, other, round(score, 2))


def _make_paws(draw: Draw) -> Pair:
    """Paraphrase: both sentences say that things happen, or both deny it; half of the pairs swap their two clauses."""
    rng = draw.rng
    agree = rng.random() < 0.44
    adverbs = draw.two(FREQUENCY, agree)
    opener = rng.choice(STATEMENTS)
    clauses = list(zip(rng.sample(DEEDS, 2), rng.sample(THINGS, 2), strict=True))
    swapped = clauses[::-1] if rng.random() < 0.5 else clauses
    one, other = (
        f"{opener} {adverb} {deed} the {thing} and {next_adverb} {next_deed} the {next_thing}."
        for (adverb, next_adverb), ((deed, thing), (next_deed, next_thing)) in zip(
            adverbs, (clauses, swapped), strict=True
        )
    )
    return Pair(one, other, agree)


_MAKERS: dict[str, Callable[[Draw], Pair]] = {
    "mrpc": _make_mrpc,
    "qqp": _make_qqp,
    "mnli": _make_mnli,
    "stsb": _make_stsb,
    "paws": _make_paws,
}
