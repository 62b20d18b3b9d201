"""Downstream data, tokenised once for all seeds: a folder of arrays that a fine-tuning job reads.

`train.npz`, `selection.npz` (on which the epoch is chosen) and `eval-LABEL.npz` hold `[CLS] a [SEP] b [SEP]` as one
flat array with offsets, the length of each first text, the labels and, for pairs, word-overlap features. For a plain
encoder the template of its own tokenizer gives the rows, and the type of every token in place of the first lengths.
scikit-learn is imported late: it takes seconds, and prepared data needs it not at all.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from models.tokenizing import text_only
from tasks.data.labels import NO_LABEL, Warn, check_published_counts, read_labels
from tasks.data.made_tasks import made_fingerprint, make_split
from tasks.data.overlap import check_overlap
from tasks.data.plain_rows import plain_rows
from tasks.data.sources import Source, check_unchanged, find_dataset
from tasks.data.splits import open_split
from tasks.data.text_files import checked_text
from tasks.data.tokenizers import CONCEPT_TOKENS, PLAIN_TOKENS, load_tokenizer, tokenizer_fingerprint
from tasks.errors import UserError
from tasks.spec.benchmarks import Task
from tasks.spec.evaluation import CellProtocol
from tasks.store.files import built_once, content_hash, read_json, write_json
from tasks.store.home import Home

log = logging.getLogger("cogito.task_data")

Family = Literal["concept", "plain"]

CONTRACT_VERSION = 3
# Raise when the same rows are stored in another form: they are tokenised anew, and what was trained on them stays.
STORED_FORM = 2
# Part of train held out for choosing the epoch: 10 %, at least 200, at most 2,000 examples.
SELECTION_SHARE, SELECTION_MIN, SELECTION_MAX = 0.10, 200, 2_000
SPLIT_SEED = 0
# What is odd about what is scored, which belongs beside the scores, and about the choice of the epoch.
WARNINGS = ("warnings.json", "selection_warnings.json")
# Real data sets have a few blank texts (QQP has three); a column of them is a mistake.
BLANK_SHARE = 0.5


@dataclass(frozen=True)
class PreparedTask:
    """A task's arrays on disk; `identity` changes with text, labels, tokenizer or protocol.

    Attributes:
        warnings: what is odd about what is scored, as examples of a scored split that are in train.
    """

    task: str
    identity: str
    folder: Path
    train_examples: int
    train_tokens: int
    warnings: tuple[str, ...] = ()


def find_task_source(task: Task, data: str, home: Home, data_root: Path | None) -> Source:
    """Find the data of a task: the real data set, or its generated stand-in.

    Raises:
        UserError: no mirror has it, and the Hub does not have it or cannot be reached.
    """
    if data == "made":
        return Source(f"made {task.name}", "made", None, made_fingerprint())
    return find_dataset(task.dataset, home, data_root)


def prepare_task(
    task: Task, protocol: CellProtocol, tokenizer: Path, source: Source, home: Home, family: Family = "concept"
) -> PreparedTask:
    """Tokenise the splits of a task for a family of models, unless that has been done before.

    Raises:
        UserError: the data set lacks a split or column, or holds a value that is not allowed.
    """
    settings = {"max_length": protocol.max_length, "max_train": protocol.max_train_examples, "on": protocol.select_on}
    data = [task.dataset, task.config, task.text_columns, task.label_column, task.labels]
    row = [*data, task.selection_split, task.metrics]
    splits = [(split.name, split.label) for split in task.eval_splits]
    fingerprints = [source.fingerprint, tokenizer_fingerprint(tokenizer)]
    identity = content_hash([CONTRACT_VERSION, family, *fingerprints, row, splits, settings])
    target = home.cache / "tasks" / f"{task.name}-{identity}-{STORED_FORM}"
    build = partial(_tokenise_splits, task, protocol, tokenizer, source, home, family)
    built_once(home.lock(f"task-{identity}"), target, build)
    warnings, asides = (tuple(read_json(target / name)) for name in WARNINGS)
    for warning in (*warnings, *asides):  # at each use: data that is odd stays so
        log.warning(warning)
    with np.load(target / "train.npz") as train:
        return PreparedTask(task.name, identity, target, len(train["labels"]), int(train["offsets"][-1]), warnings)


def load_examples(folder: Path, part: str) -> dict[str, np.ndarray]:
    """The arrays of a part: `ids` flat, `offsets` [n + 1], `first_lengths` and `labels` [n], `features` [n, f].

    `first_lengths` counts [CLS], the first text and its [SEP]; for a plain encoder `token_types`, flat as `ids`, stands
    in its place. A single text has no features (f = 0).
    """
    with np.load(folder / f"{part}.npz") as arrays:
        return dict(arrays)


def padding(folder: Path) -> dict[str, Any]:
    """`pad_token_id` and `padding_side` ("left" or "right") of the rows of a batch."""
    return read_json(folder / "padding.json")


def selection_split(labels: np.ndarray, regression: bool) -> tuple[np.ndarray, np.ndarray]:
    """Split train into indices to train on and indices held out for choosing the epoch, seeded and stratified.

    Regression labels are stratified by their rounded value; if a class has a single example, nothing is stratified.
    """
    from sklearn.model_selection import train_test_split

    size = min(max(round(SELECTION_SHARE * len(labels)), SELECTION_MIN), SELECTION_MAX, len(labels) // 2)
    classes = np.round(labels).astype(np.int64) if regression else labels
    _, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
    strata = None if (counts[inverse] < 2).any() else classes
    train, held_out = train_test_split(np.arange(len(labels)), test_size=size, random_state=SPLIT_SEED, stratify=strata)
    return np.asarray(train), np.asarray(held_out)


def encode_pairs(
    tokenizer: Any, columns: Sequence[Sequence[str]], max_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids of `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`; the longer text is cut first.

    Returns the ids, flat, offsets [n + 1], and lengths [n] of `[CLS] a [SEP]`.
    """
    encode = text_only(tokenizer).encode_batch_fast
    texts = [[encoding.ids for encoding in encode(list(column), add_special_tokens=False)] for column in columns]
    rows, first_lengths = [], []
    for parts in zip(*texts, strict=True):
        lengths = cut_longest_first([len(part) for part in parts], max_length - len(parts) - 1)
        row = [tokenizer.cls_token_id]
        for part, length in zip(parts, lengths, strict=True):
            row += [*part[:length], tokenizer.sep_token_id]
        rows.append(row)
        first_lengths.append(lengths[0] + 2)
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    flat = np.concatenate([np.asarray(row, dtype=np.int32) for row in rows])
    return flat, offsets, np.asarray(first_lengths, dtype=np.int64)


def _concept_rows(tokenizer: Any, columns: Sequence[Sequence[str]], max_length: int) -> dict[str, np.ndarray]:
    return dict(zip(("ids", "offsets", "first_lengths"), encode_pairs(tokenizer, columns, max_length), strict=True))


def cut_longest_first(lengths: Sequence[int], budget: int) -> list[int]:
    """Shorten lengths to a total of `budget`, always by a token of the longest one (the first on a tie)."""
    cut = list(lengths)
    excess = sum(cut) - budget
    while excess > 0:
        longest = cut.index(max(cut))
        others = [length for position, length in enumerate(cut) if position != longest]
        step = min(excess, max(1, cut[longest] - max(others, default=0)))
        cut[longest] -= step
        excess -= step
    return cut


@dataclass(frozen=True)
class _Rows:
    """The labelled rows of a split: its texts, each one or two, and its labels [n]."""

    texts: list[tuple[str, ...]]
    labels: np.ndarray

    def take(self, indices: np.ndarray) -> "_Rows":
        """The rows at these places, in their own order."""
        indices = np.sort(indices)
        return _Rows([self.texts[index] for index in indices], self.labels[indices])


def _read_split(task: Task, data: str, source: Source, home: Home, warn: Warn, split: str) -> _Rows:
    """The rows of a split that have a label; GLUE hides those of its test splits as -1."""
    place = f"task {task.name}: split {split} of {source.name}"
    columns = [*task.text_columns, task.label_column]
    if data == "made":
        made = make_split(task.name, split)
        texts = list(zip(*(made[name] for name in task.text_columns), strict=True))
        given, names = made[task.label_column], None
    else:
        rows = open_split(source, task.config, split, columns, home)
        texts, given = [], []
        for where, row in rows:
            texts.append(tuple(checked_text(f"{place}: {where}", name, row) for name in task.text_columns))
            given.append(row.get(task.label_column))
        names = rows.label_names.get(task.label_column)
    _check_blank(task, place, texts, warn)
    labels = read_labels(task, place, given, names, warn)
    for published in task.eval_splits:
        if published.name == split and data != "made":
            check_published_counts(task, place, labels, published.class_counts, warn)
    kept = np.flatnonzero(labels != NO_LABEL)
    return _Rows([texts[index] for index in kept], labels[kept])


def _check_blank(task: Task, place: str, texts: list[tuple[str, ...]], warn: Warn) -> None:
    """Refuse a column of texts of which half or more are blank, and warn of fewer."""
    for name, column in zip(task.text_columns, zip(*texts, strict=True), strict=False):
        blank = sum(1 for text in column if not text.strip())
        message = f"{place}: column {name!r} is blank in {blank:,} of {len(column):,} rows"
        if blank >= BLANK_SHARE * len(column):
            raise UserError(f"{message}; allowed: less than half; fix: correct the data set")
        if blank:
            warn(message)


def _tokenise_splits(
    task: Task, protocol: CellProtocol, tokenizer_folder: Path, source: Source, home: Home, family: Family, folder: Path
) -> None:
    tokenizer = load_tokenizer(tokenizer_folder, PLAIN_TOKENS if family == "plain" else CONCEPT_TOKENS)
    make_rows = plain_rows if family == "plain" else _concept_rows
    warnings: list[str] = []
    read = partial(_read_split, task, protocol.data, source, home, warnings.append)

    def save(part: str, rows: _Rows) -> None:
        arrays = make_rows(tokenizer, list(zip(*rows.texts, strict=True)), protocol.max_length)
        features = np.zeros((len(rows.labels), 0))
        if task.is_pair:
            features = np.array([overlap_features(first, second) for first, second in rows.texts])
        labels = rows.labels.astype(np.float64 if task.is_regression else np.int64)
        arrays |= {"labels": labels, "features": features}
        np.savez(folder / f"{part}.npz", allow_pickle=False, **arrays)

    whole = read("train")
    evaluated = {split: read(split.name) for split in task.eval_splits}
    chosen = np.arange(len(whole.labels))
    if protocol.select_on == "dev":
        selection = evaluated[task.eval_splits[0]]
    elif task.selection_split is not None:
        selection = read(task.selection_split)
    else:
        try:
            chosen, held_out = selection_split(whole.labels, task.is_regression)
        except ValueError as error:  # scikit-learn: more classes than examples in the part
            raise UserError(
                f"task {task.name}: split train of {source.name} has {len(whole.labels)} labelled examples, too few to "
                f"hold a part out ({error}); fix: a larger data set, or --set evaluation.select_on=dev"
            ) from None
        selection = whole.take(held_out)
    place, scored = f"task {task.name} of {source.name}", {split.name: rows for split, rows in evaluated.items()}
    warnings += _check_apart(place, {"train": whole}, scored)
    asides: list[str] = []
    if protocol.select_on != "dev":
        selecting = {"the examples that choose the epoch": selection}
        asides = _check_apart(place, {"train": whole.take(chosen)}, selecting)
        if task.selection_split is not None:
            warnings += _check_apart(place, selecting, scored)
    save("selection", selection)
    for split, rows in evaluated.items():
        save(f"eval-{split.label}", rows)
    if protocol.max_train_examples is not None and protocol.max_train_examples < len(chosen):
        chosen = np.random.default_rng(SPLIT_SEED).choice(chosen, protocol.max_train_examples, replace=False)
    save("train", whole.take(chosen))
    side = tokenizer.padding_side if family == "plain" else "right"
    write_json(folder / "padding.json", {"pad_token_id": tokenizer.pad_token_id, "padding_side": side})
    for name, told in zip(WARNINGS, (warnings, asides), strict=True):
        write_json(folder / name, told)
    check_unchanged(source)


def _check_apart(place: str, seen: dict[str, _Rows], held_out: dict[str, _Rows]) -> list[str]:
    """Warnings of held-out examples that stand among those that a model has seen, or was chosen by."""
    fix, warnings = "remove the repeated rows, or mirror the data set again", []
    for (name, rows), (other, others) in product(held_out.items(), seen.items()):
        warnings += check_overlap(others.texts, rows.texts, f"{place}: {name} and {other}", fix)
    return warnings


def overlap_features(first: str, second: str) -> tuple[float, float, float, float]:
    """Word overlap: Jaccard index, share of the shorter text's words, words in common, difference in length."""
    a, b = first.lower().split(), second.lower().split()
    common, union, shorter = len({*a} & {*b}), len({*a} | {*b}), min(len({*a}), len({*b}))
    return common / max(union, 1), common / max(shorter, 1), float(common), float(abs(len(a) - len(b)))
