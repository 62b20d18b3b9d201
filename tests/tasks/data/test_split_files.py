"""Files that a library would join, or read as documents, without a word: each is one message that names them."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.data.sources import find_dataset
from tasks.data.split_files import split_files
from tasks.data.splits import Split, open_split
from tasks.errors import UserError
from tasks.store.home import Home

NAME = "lab/texts"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


def write(root: Path, files: Mapping[str, str], card: str = "") -> Path:
    folder = root / NAME
    for name, content in [*files.items(), *([("README.md", f"---\n{card}---\n")] if card else [])]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def opened(home: Home, root: Path, split: str, **more: Any) -> Split:
    return open_split(find_dataset(NAME, home, root), None, split, ["text"], home, **more)


def texts(home: Home, root: Path, split: str = "train", **more: Any) -> list[str]:
    return [row["text"] for _, row in opened(home, root, split, **more)]


def refusal(home: Home, root: Path, split: str = "train") -> str:
    with pytest.raises(UserError) as caught:
        texts(home, root, split)
    message = str(caught.value)
    assert message.startswith(f"data set {NAME!r}: ") and "\n" not in message and message.count("fix:") == 1
    return message


JOINED = [
    ("validation", ("dev.csv", "val.csv")),
    ("validation", ("dev.csv", "valid.csv")),
    ("validation", ("dev/a.csv", "val/b.csv")),
    ("validation", ("dev_matched.csv", "dev_mismatched.csv")),
    ("test", ("test.csv", "eval.csv")),
    ("train", ("train.csv", "training.csv")),
    ("train", ("train.csv", "train_old.csv")),
    ("train", ("train.csv", "train (1).csv")),
    ("train", ("train.csv", "old/train.csv")),
    ("train", ("en/train.csv", "de/train.csv")),
    ("train", ("train-00000-of-00001.csv", "train_more.csv")),
]


@pytest.mark.parametrize(("split", "names"), JOINED)
def test_files_of_unlike_names_are_no_split(home: Home, tmp_path: Path, split: str, names: tuple[str, str]) -> None:
    others = {"train.csv": "text\nx\n"} if split != "train" else {}
    write(tmp_path, others | {name: f"text\n{name}\n" for name in names})
    message = refusal(home, tmp_path, split)
    assert f"would be read as one split, {split}; fix: " in message and all(name in message for name in names)
    card = f"configs:\n- config_name: default\n  data_files:\n  - split: {split}\n    path: {names[1]}\n"
    write(tmp_path, {}, card)
    assert texts(home, tmp_path, split) == [names[1]], "a README that lists the files decides"


LIKE = [
    ("train-1.csv", "train-2.csv"),
    ("train-00000-of-00002.csv", "train-00001-of-00002.csv"),
    ("data/train-00000-of-00002-1f0a.csv", "data/train-00001-of-00002-77be.csv"),
    ("train/a.csv", "train/b.csv"),
    ("train/a-train.csv", "train/b/c.csv"),
    ("part1/train.csv", "part2/train.csv"),
    ("wiki.csv", "books.csv"),
]


@pytest.mark.parametrize("names", LIKE)
def test_shards_and_folders_of_files_are_read_whole(home: Home, tmp_path: Path, names: tuple[str, str]) -> None:
    write(tmp_path, {name: f"text\n{name}\n" for name in names})
    assert sorted(texts(home, tmp_path)) == sorted(names)


@pytest.mark.parametrize(
    "name", ["README.txt", "readme.txt", "LICENSE.txt", "Licence.en.txt", "NOTICE.txt", "sub/CHANGELOG.txt"]
)
def test_notes_are_no_documents(home: Home, tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, {"a.txt": "one", name: "about this data set", "notes.md": "more", "LICENSE": "free"})
    assert f"{name} would be read as a document; fix: " in refusal(home, tmp_path)
    (folder / name).unlink()
    assert texts(home, tmp_path) == ["one"], ".md and files without a suffix are never read"
    write(tmp_path, {name: "a text"}, "configs:\n- config_name: default\n  data_files: '**/*.txt'\n")
    assert sorted(texts(home, tmp_path)) == ["a text", "one"]


def test_names_that_only_begin_like_notes_are_documents(home: Home, tmp_path: Path) -> None:
    names = ["readme_first_chapter", "license_plates", "noticed", "a-changelog"]
    write(tmp_path, {f"{name}.txt": name for name in names})
    assert sorted(texts(home, tmp_path)) == sorted(names)


def test_of_a_data_set_of_the_hub_it_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its user cannot tidy it up."""
    folder = write(tmp_path, {"train.csv": "text\na\n", "dev.csv": "text\nb\n", "val.csv": "text\nc\n"})
    builder = datasets.load_dataset_builder(str(folder), cache_dir=tmp_path / "cache")
    with caplog.at_level(logging.WARNING, "cogito.sources"):
        found = split_files(folder, builder, foreign=True)
    assert {name: len(paths) for name, paths in found.items()} == {"train": 1, "validation": 2}
    assert "dev.csv and val.csv would be read as one split, validation" in caplog.text


@pytest.mark.parametrize("name", ["a.txt", "train.csv", "train.jsonl", "train.parquet", "train.tsv"])
def test_a_pointer_of_git_lfs_is_no_data(home: Home, tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: POINTER})
    assert f"{name}: is a pointer of git-lfs" in refusal(home, tmp_path)


# --- class names of several files ---


def labelled(path: Path, names: list[str]) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features).to_parquet(path)


def test_shards_that_number_their_classes_differently_are_refused(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / NAME
    labelled(folder / "train-00000-of-00002.parquet", ["no", "yes"])
    labelled(folder / "train-00001-of-00002.parquet", ["no", "yes"])
    assert opened(home, tmp_path, "train").label_names == {"label": ["no", "yes"]}
    labelled(folder / "train-00001-of-00002.parquet", ["yes", "no"])
    message = refusal(home, tmp_path)
    assert (
        "train-00001-of-00002.parquet numbers the classes of label yes, no, " in message and "no, yes; fix" in message
    )


def test_a_readme_that_numbers_the_classes_otherwise_is_refused(home: Home, tmp_path: Path) -> None:
    labelled(tmp_path / NAME / "train.parquet", ["no", "yes"])
    card = (
        "dataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n"
        "      class_label:\n        names:\n          '0': 'yes'\n          '1': 'no'\n"
    )
    write(tmp_path, {}, card)
    assert "train.parquet numbers the classes of label no, yes, the README yes, no; fix" in refusal(home, tmp_path)


def test_a_file_without_class_names_leaves_those_of_the_others(home: Home, tmp_path: Path) -> None:
    labelled(tmp_path / NAME / "train-00000-of-00002.parquet", ["no", "yes"])
    pq.write_table(
        pa.table({"text": ["c"], "label": pa.array([1], pa.int64())}), tmp_path / NAME / "train-00001-of-00002.parquet"
    )
    assert opened(home, tmp_path, "train").label_names == {"label": ["no", "yes"]}


@pytest.mark.parametrize(
    ("ending", "notes"),
    [
        (".txt", ("README.txt", "LICENSE.txt")),
        (".jsonl", ("dataset_info.json", "state.json")),
        (".json", ("dataset_infos.json",)),
    ],
)
def test_notes_that_are_not_read_are_no_reason_to_refuse(
    ending: str, notes: tuple[str, ...], home: Home, tmp_path: Path
) -> None:
    text = "a text\n" if ending == ".txt" else '{"text": "a text"}\n'
    write(tmp_path, {f"{split}{ending}": text for split in ("train", "test")} | dict.fromkeys(notes, "{}"))
    assert [text.strip() for text in texts(home, tmp_path)] == ["a text"]
