"""Held-out examples that lie in train: refused from half of them on, a warning with their number below."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data import task_data
from tasks.data.corpus import prepare_corpus, train_tokenizer
from tasks.data.overlap import check_overlap
from tasks.data.sources import find_dataset
from tasks.data.task_data import load_examples, prepare_task
from tasks.errors import UserError
from tasks.spec.benchmarks import TASKS
from tasks.spec.evaluation import EvaluationSpec
from tasks.spec.pretraining import DataSpec
from tasks.store.files import write_json
from tasks.store.home import Home

TEXTS = [f"the river {number} runs past {number % 7} stones" for number in range(400)]


@given(st.integers(1, 30), st.data())
def test_the_rule(size: int, data: st.DataObject) -> None:
    shared = data.draw(st.integers(0, size))
    held_out = [(f"text {number}",) for number in range(size)]
    train = [("other",), *((f" text\t{number}\n",) for number in range(shared))]
    if shared * 2 >= size and shared:
        with pytest.raises(UserError, match=f"or more of the {size} held-out examples are in both"):
            check_overlap(train, held_out, "x", "y")
    else:
        told = check_overlap(train, held_out, "x", "y")
        assert [line.partition(" held-out")[0] for line in told] == [f"x: {shared} of the {size}"] * (shared > 0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    train_tokenizer(iter(TEXTS), 300, folder)
    return folder


def corpus(home: Home, root: Path, words: Path, splits: dict[str, list[str]], **spec: Any) -> Any:
    folder = root / "lab/texts"
    folder.mkdir(parents=True, exist_ok=True)
    for split, texts in splits.items():
        pq.write_table(pa.table({"text": texts}), folder / f"{split}.parquet")
    if not (root / "lab/words").exists():
        shutil.copytree(words, root / "lab/words")
    settings = DataSpec.model_validate({"dataset": "lab/texts", "tokenizer": "lab/words", "block_tokens": 16, **spec})
    return prepare_corpus(settings, find_dataset("lab/texts", home, root), home, root)


CORPORA: dict[str, tuple[dict[str, list[str]], dict[str, Any], str]] = {
    "the same split": ({"train": TEXTS}, {"held_out_split": "train"}, "share rows"),
    "slices that meet": ({"train": TEXTS}, {"split": "train[:90%]", "held_out_split": "train[89%:]"}, "share rows"),
    "a slice of all": ({"train": TEXTS}, {"held_out_split": "train[:10]"}, "share rows"),
    "a copy of the file": (
        {"train": TEXTS, "validation": TEXTS},
        {"held_out_split": "validation"},
        "200 or more of the 400",
    ),
    "a part, shuffled": (
        {"train": TEXTS, "validation": TEXTS[100:40:-1]},
        {"held_out_split": "validation"},
        "30 or more of the 60",
    ),
    "a part with another row": (
        {"train": TEXTS, "validation": [*TEXTS[:9], "a new text"]},
        {"held_out_split": "validation"},
        "5 or more of the 10",
    ),
    "a copy with other line ends": (
        {"train": TEXTS, "validation": [text.replace(" ", "\r\n") + "\n" for text in TEXTS]},
        {"held_out_split": "validation", "train_tokenizer_vocab_size": 300, "tokenizer": None},
        "held-out examples are in both",
    ),
}


@pytest.mark.parametrize("case", CORPORA)
def test_a_corpus_that_holds_its_held_out_part(home: Home, tmp_path: Path, tokenizer: Path, case: str) -> None:
    splits, spec, says = CORPORA[case]
    with pytest.raises(UserError) as caught:
        corpus(home, tmp_path, tokenizer, splits, **spec)
    assert says in str(caught.value) and str(caught.value).count("fix:") == 1, caught.value
    assert not home.corpora.is_dir() or list(home.corpora.iterdir()) == []


def test_a_corpus_with_a_few_duplicates(
    home: Home, tmp_path: Path, tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = {"train": TEXTS[:360], "validation": TEXTS[350:]}
    with caplog.at_level(logging.WARNING):
        made = corpus(home, tmp_path, tokenizer, splits, held_out_split="validation")
    assert (made.train_documents, made.held_out_documents) == (360, 50)
    again = corpus(home, tmp_path, tokenizer, {}, held_out_split="validation")
    assert again.reused and len(again.warnings) == 1, "told again when it is used again"
    assert caplog.text.count("10 of the 50 held-out examples (20.0%) are in both") == 2
    caplog.clear()
    made = corpus(home, tmp_path, tokenizer, {"train": TEXTS}, split="train[:300]", held_out_split="train[300:]")
    assert (made.train_documents, made.held_out_documents) == (300, 100) and "in both" not in caplog.text


def pairs(start: int, stop: int) -> list[tuple[str, str, int]]:
    return [(f"{TEXTS[number]} once", f"{TEXTS[number]} twice", number % 2) for number in range(start, stop)]


def task(home: Home, root: Path, tokenizer: Path, name: str, splits: dict[str, list[Any]], **settings: Any) -> Any:
    row = TASKS[name]
    folder = root / row.dataset / (row.config or "data")
    folder.mkdir(parents=True, exist_ok=True)
    files = ""
    for split, examples in splits.items():
        columns = dict(zip([*row.text_columns, row.label_column], zip(*examples, strict=True), strict=True))
        pq.write_table(pa.table({key: list(values) for key, values in columns.items()}), folder / f"{split}.parquet")
        files += f"  - split: {split}\n    path: {folder.name}/{split}.parquet\n"
    (folder.parent / "README.md").write_text(f"---\nconfigs:\n- config_name: {row.config}\n  data_files:\n{files}---\n")
    protocol = EvaluationSpec.model_validate({"tasks": (name,), "max_length": 32, **settings}).for_task(name)
    return prepare_task(row, protocol, tokenizer, find_dataset(row.dataset, home, root), home)


def test_a_task_whose_validation_is_its_train(home: Home, tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(UserError, match=r"task mrpc of nyu-mll/glue: validation and train: 20 or more of the 40"):
        task(home, tmp_path, tokenizer, "mrpc", {"train": pairs(0, 300), "validation": pairs(100, 140)})
    assert not list((home.cache / "tasks").glob("*"))


def test_labels_that_differ_do_not_hide_a_copy(home: Home, tmp_path: Path, tokenizer: Path) -> None:
    flipped = [(one, other, 1 - label) for one, other, label in pairs(0, 40)]
    with pytest.raises(UserError, match="are in both"):
        task(home, tmp_path, tokenizer, "mrpc", {"train": pairs(0, 300), "validation": flipped})


def test_a_task_with_a_few_duplicates(
    home: Home, tmp_path: Path, tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made = task(home, tmp_path, tokenizer, "qqp", {"train": pairs(0, 303), "validation": pairs(300, 340)})
    assert "task qqp of nyu-mll/glue: validation and train: 3 of the 40 held-out examples (7.5%)" in caplog.text
    assert len(load_examples(made.folder, "eval-qqp")["labels"]) == 40
    (warning,) = made.warnings
    assert warning in caplog.text


def test_what_is_scored_is_told_beside_the_scores_and_the_choice_of_the_epoch_in_the_log(
    home: Home, tmp_path: Path, tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = {"train": pairs(0, 302), "validation": pairs(300, 340), "test": pairs(339, 380)}
    with caplog.at_level(logging.WARNING):
        made = task(home, tmp_path, tokenizer, "paws", splits)
    begun = "task paws of google-research-datasets/paws: "
    assert made.warnings == (
        f"{begun}test and the examples that choose the epoch: 1 of the 41 held-out examples (2.4%) are in both: "
        "what is measured on them is too good",
    )
    assert f"{begun}the examples that choose the epoch and train: 2 of the 40 held-out examples (5.0%)" in caplog.text
    assert made.warnings[0] in caplog.text


def test_what_an_earlier_version_stored_is_tokenised_anew_under_the_same_identity(
    home: Home, tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions kept both kinds of warnings in one file; the cells that they trained stay valid."""
    splits = {"train": pairs(0, 303), "validation": pairs(300, 340)}
    with monkeypatch.context() as earlier:
        earlier.setattr(task_data, "STORED_FORM", 1)
        old = task(home, tmp_path, tokenizer, "qqp", splits)
    write_json(old.folder / "warnings.json", [*old.warnings, "of the choice of the epoch"])
    new = task(home, tmp_path, tokenizer, "qqp", splits)
    assert (new.identity, new.warnings) == (old.identity, old.warnings) and new.folder != old.folder


def test_a_test_split_on_which_the_epoch_is_chosen(home: Home, tmp_path: Path, tokenizer: Path) -> None:
    splits = {"train": pairs(0, 300), "validation": pairs(300, 340), "test": pairs(300, 340)}
    with pytest.raises(
        UserError, match=r"task paws of .*: test and the examples that choose the epoch: 20 or more of the 40"
    ):
        task(home, tmp_path, tokenizer, "paws", splits)


def test_rows_that_stand_twice_in_train(home: Home, tmp_path: Path, tokenizer: Path) -> None:
    """A part of train chooses the epoch: it must not be trained on, which a file that holds everything twice does."""
    splits = {"train": pairs(0, 300) * 2, "validation": pairs(300, 340)}
    with pytest.raises(
        UserError, match=r"task mrpc of .*: the examples that choose the epoch and train: 100 or more of the 200"
    ):
        task(home, tmp_path / "twice", tokenizer, "mrpc", splits)
    task(home, tmp_path / "dev", tokenizer, "mrpc", splits, select_on="dev")
    selecting = {"train": pairs(0, 300), "validation": pairs(0, 30), "test": pairs(300, 340)}
    with pytest.raises(
        UserError, match=r"task paws of .*: the examples that choose the epoch and train: 15 or more of the 30"
    ):
        task(home, tmp_path / "paws", tokenizer, "paws", selecting)


def test_the_real_stsb_passes(home: Home, shared_data: Path, tokenizer: Path, caplog: pytest.LogCaptureFixture) -> None:
    protocol = EvaluationSpec.model_validate({"tasks": ("stsb",), "max_length": 16}).for_task("stsb")
    with caplog.at_level(logging.WARNING):
        prepare_task(TASKS["stsb"], protocol, tokenizer, find_dataset("nyu-mll/glue", home, shared_data), home)
    assert "6 of the 1,500 held-out examples (0.4%) are in both" in caplog.text
