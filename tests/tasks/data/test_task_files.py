"""A task in the files that people make: however they write it the same labels and texts come out, or one message."""

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.data.corpus import prepare_corpus, train_tokenizer
from tasks.data.sources import find_dataset
from tasks.data.task_data import PreparedTask, load_examples, prepare_task
from tasks.errors import UserError
from tasks.spec.benchmarks import TASKS
from tasks.spec.evaluation import EvaluationSpec
from tasks.spec.pretraining import DataSpec
from tasks.store.home import Home

MRPC = TASKS["mrpc"]
COUNTS = {"train": 500, "validation": 12}
# Example n is a paraphrase unless n is a multiple of 3.
LABELS = [int(n % 3 > 0) for n in range(500)]

Rows = list[tuple[str, str, Any]]


def rows_of(split: str, spelt: Sequence[Any] = (0, 1)) -> Rows:
    return [(f"{split} fox {n}", f"the {split} river {n}", spelt[LABELS[n]]) for n in range(COUNTS[split])]


def csv(rows: Rows) -> str:
    return "sentence1,sentence2,label\n" + "".join(f"{a},{b},{label}\n" for a, b, label in rows)


def jsonl(rows: Rows) -> str:
    return "".join(json.dumps({"sentence1": a, "sentence2": b, "label": y, "idx": None}) + "\n" for a, b, y in rows)


@pytest.fixture
def mirror(tmp_path: Path) -> Callable[..., PreparedTask]:
    """Write the files of a mirror of GLUE, with the lines of its configuration, and prepare MRPC from it."""
    train_tokenizer(iter(["the fox runs over a river"]), 300, tmp_path / "words")
    folder = tmp_path / "nyu-mll/glue"
    folder.mkdir(parents=True)

    def prepare(files: dict[str, bytes], options: str = "", **changes: Any) -> PreparedTask:
        paths = ""
        for name, content in files.items():
            (folder / name).write_bytes(content)
            paths += f"  - split: {name.split('.')[0]}\n    path: {name}\n"
        (folder / "README.md").write_text(
            f"---\nconfigs:\n- config_name: mrpc\n  data_files:\n{paths}{options}---\n", encoding="utf-8"
        )
        section = EvaluationSpec.model_validate({"tasks": ("mrpc",), "max_length": 64} | changes)
        home = Home(tmp_path / "home")
        source = find_dataset("nyu-mll/glue", home, tmp_path)
        return prepare_task(MRPC, section.for_task("mrpc"), tmp_path / "words", source, home)

    return prepare


def parts(task: PreparedTask) -> dict[str, dict[str, np.ndarray]]:
    return {part: load_examples(task.folder, part) for part in ("train", "selection", "eval-mrpc")}


SHAPES: dict[str, tuple[str, Callable[[Rows], bytes], Sequence[Any], str]] = {
    "a mark of byte order": ("csv", lambda rows: csv(rows).encode("utf-8-sig"), (0, 1), ""),
    "Windows lines": ("csv", lambda rows: csv(rows).replace("\n", "\r\n").encode("utf-8-sig"), (0, 1), ""),
    "old Mac lines": ("csv", lambda rows: csv(rows).replace("\n", "\r").encode(), (0, 1), ""),
    "UTF-16, as the README states": ("csv", lambda rows: csv(rows).encode("utf-16"), (0, 1), "  encoding: utf-16\n"),
    "floats": ("csv", lambda rows: csv(rows).encode(), (0.0, 1.0), ""),
    "padded floats": ("csv", lambda rows: csv(rows).encode(), (" 0.0", " 1.0 "), ""),
    "class names": ("csv", lambda rows: csv(rows).encode(), ("not_equivalent", "equivalent"), ""),
    "class names in capitals": ("csv", lambda rows: csv(rows).encode(), ("Not Equivalent", "EQUIVALENT"), ""),
    "JSON floats": ("jsonl", lambda rows: jsonl(rows).encode(), (0.0, 1.0), ""),
    "JSON texts": ("jsonl", lambda rows: jsonl(rows).encode("utf-8-sig"), ("0", "1"), ""),
    "JSON class names": ("jsonl", lambda rows: jsonl(rows).encode(), ("not_equivalent", "equivalent"), ""),
}


@pytest.mark.parametrize("case", SHAPES)
def test_the_same_examples_come_out(case: str, mirror: Callable[..., PreparedTask]) -> None:
    suffix, write, spelt, options = SHAPES[case]
    plain = parts(mirror({f"{split}.csv": csv(rows_of(split)).encode() for split in COUNTS}))
    labels = plain["eval-mrpc"]["labels"]
    assert labels.tolist() == LABELS[:12] and labels.dtype == np.int64
    counted = np.bincount(np.concatenate([plain[part]["labels"] for part in ("train", "selection")]))
    assert counted.tolist() == [167, 333] == [LABELS.count(0), LABELS.count(1)]
    other = parts(mirror({f"{split}.{suffix}": write(rows_of(split, spelt)) for split in COUNTS}, options))
    for part, arrays in plain.items():
        assert arrays.keys() == other[part].keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(other[part][name], array)


def test_splits_may_spell_their_labels_differently(mirror: Callable[..., PreparedTask]) -> None:
    """The classes are the task's, not the order in which a split names them."""
    files = {
        "train.csv": csv(rows_of("train", ("not_equivalent", "equivalent"))).encode(),
        "validation.csv": csv(rows_of("validation", ("0.0", "1"))).encode(),
    }
    found = parts(mirror(files))
    assert found["eval-mrpc"]["labels"].tolist() == LABELS[:12]
    assert np.concatenate([found["train"]["labels"], found["selection"]["labels"]]).sum() == LABELS.count(1)


REFUSED: dict[str, tuple[dict[str, Rows], str]] = {
    "a split of a header alone": ({"validation": []}, "split validation of nyu-mll/glue is empty"),
    "labels that count from 1": ({"validation": rows_of("validation", (1, 2))}, "has labels 1, 2; allowed: 0 to 1"),
    "labels of words in one split": ({"validation": rows_of("validation", ("no", "yes"))}, "holds 'no' in row 1"),
    "an empty column of labels": ({"train": rows_of("train", ("", ""))}, "column 'label' holds ''"),
    "an empty column of texts": (
        {"validation": [(a, " ", y) for a, _, y in rows_of("validation")]},
        "split validation of nyu-mll/glue: column 'sentence2' is blank in 12 of 12 rows; allowed: less than half",
    ),
    "half of a column": (
        {"train": [("" if n % 2 else a, b, y) for n, (a, b, y) in enumerate(rows_of("train"))]},
        "column 'sentence1' is blank in 250 of 500 rows",
    ),
    "validation that is train": ({"validation": rows_of("train")[:12]}, "held-out examples are in both"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_another_task_is_one_message(
    case: str, mirror: Callable[..., PreparedTask], tmp_path: Path
) -> None:
    changed, says = REFUSED[case]
    rows = {split: rows_of(split) for split in COUNTS} | changed
    with pytest.raises(UserError) as caught:
        mirror({f"{split}.csv": csv(rows[split]).encode() for split in rows})
    message = str(caught.value)
    assert says in message and "\n" not in message and "fix:" in message
    assert not any((tmp_path / "home/cache/tasks").glob("*")), "nothing is half-written"


def test_a_few_blank_texts_and_duplicates_are_warned_of_with_their_number(
    mirror: Callable[..., PreparedTask], caplog: pytest.LogCaptureFixture
) -> None:
    rows = {split: rows_of(split) for split in COUNTS}
    rows["train"][7] = ("", rows["train"][7][1], 1)
    rows["train"][8:10] = rows["validation"][:2]
    with caplog.at_level(logging.WARNING, "cogito.task_data"):
        task = mirror({f"{split}.csv": csv(rows[split]).encode() for split in rows})
    assert "column 'sentence1' is blank in 1 of 500 rows" in caplog.text
    assert "validation and train: 2 of the 12 held-out examples (16.7%) are in both" in caplog.text
    found = parts(task)
    assert sum(len(found[part]["labels"]) for part in ("train", "selection")) == 500, "none is left out"


def replace(path: Path, content: bytes) -> None:
    """Put other content of the same size in place of a file, with its old times."""
    stamp = path.stat()
    assert len(content) == stamp.st_size
    path.write_bytes(content)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path.stat().st_mtime_ns == stamp.st_mtime_ns


def test_a_task_follows_a_file_that_keeps_its_size_and_time(
    mirror: Callable[..., PreparedTask], tmp_path: Path
) -> None:
    files = {f"{split}.csv": csv(rows_of(split)).encode() for split in COUNTS}
    first = mirror(files)
    replace(tmp_path / "nyu-mll/glue/validation.csv", csv(rows_of("validation", (1, 0))).encode())
    section = EvaluationSpec.model_validate({"tasks": ("mrpc",), "max_length": 64})
    home = Home(tmp_path / "home")
    source = find_dataset("nyu-mll/glue", home, tmp_path)
    second = prepare_task(MRPC, section.for_task("mrpc"), tmp_path / "words", source, home)
    assert second.identity != first.identity
    assert load_examples(second.folder, "eval-mrpc")["labels"].tolist() == [1 - label for label in LABELS[:12]]
    assert load_examples(first.folder, "eval-mrpc")["labels"].tolist() == LABELS[:12], "the old one stays its own"


@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_a_corpus_follows_a_file_that_keeps_its_size_and_time(tmp_path: Path, suffix: str) -> None:
    home = Home(tmp_path / "home")
    train_tokenizer(iter(["a river runs", "a stone lies"]), 300, tmp_path / "lab/words")
    path = tmp_path / f"lab/texts/train.{suffix}"
    path.parent.mkdir(parents=True)

    def content(words: str) -> bytes:
        return ("text\n" * (suffix == "csv") + "".join(f"{words} {n} times\n" for n in range(300))).encode()

    path.write_bytes(content("a river runs"))
    documents = {"txt_document": "line"} if suffix == "txt" else {}
    spec = DataSpec.model_validate(
        {"dataset": "lab/texts", "tokenizer": "lab/words", "block_tokens": 16, "held_out_share": 0.2} | documents
    )
    first = prepare_corpus(spec, find_dataset(spec.dataset, home, tmp_path), home, tmp_path)
    replace(path, content("a stone lies"))
    second = prepare_corpus(spec, find_dataset(spec.dataset, home, tmp_path), home, tmp_path)
    assert second.corpus_id != first.corpus_id and not second.reused
    old, new = ((corpus.folder / "train/tokens.bin").read_bytes() for corpus in (first, second))
    assert old != new
    replace(path, content("a river runs"))
    third = prepare_corpus(spec, find_dataset(spec.dataset, home, tmp_path), home, tmp_path)
    assert third.reused and (third.corpus_id, third.folder) == (first.corpus_id, first.folder)
