"""No cache stands between us and a file: what is replaced is read anew, whatever its size and time say."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.data.corpus import prepare_corpus, train_tokenizer
from tasks.data.sources import check_unchanged, find_dataset
from tasks.data.splits import open_split
from tasks.errors import UserError
from tasks.spec.pretraining import DataSpec
from tasks.store.home import Home


def parquet(path: Path, text: str) -> None:
    pq.write_table(pa.table({"text": [text] * 9}), path)


def lines(path: Path, text: str) -> None:
    path.write_text("text,n\n" + f"{text},1\n" * 9)


def packed(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(b"text,n\n" + f"{text},1\n".encode() * 9, mtime=0))


WRITERS: dict[str, Callable[[Path, str], None]] = {"parquet": parquet, "csv": lines, "csv.gz": packed}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_file_that_keeps_its_size_and_time(home: Home, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "lab/texts" / f"train.{suffix}"
    path.parent.mkdir(parents=True)

    def read() -> tuple[str, set[str]]:
        source = find_dataset("lab/texts", home, tmp_path)
        return source.fingerprint, {row["text"] for _, row in open_split(source, None, "train", ["text"], home)}

    WRITERS[suffix](path, "old words of it")
    stamp = path.stat()
    first, rows = read()
    assert rows == {"old words of it"}
    WRITERS[suffix](path, "new words of it")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stamp.st_size, stamp.st_mtime_ns) or suffix == "csv.gz"
    second, rows = read()
    assert rows == {"new words of it"} and second != first


def test_a_file_behind_a_link_to_a_folder(home: Home, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    lines(tmp_path / "disk/train.csv", "old")
    (tmp_path / "lab/texts").mkdir(parents=True)
    (tmp_path / "lab/texts/data").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "lab/texts/loop").symlink_to(tmp_path / "lab/texts", target_is_directory=True)
    (tmp_path / "lab/texts/README.md").write_text("---\nconfigs:\n- config_name: a\n  data_files: data/*.csv\n---\n")
    first = find_dataset("lab/texts", home, tmp_path)
    lines(tmp_path / "disk/train.csv", "new")
    second = find_dataset("lab/texts", home, tmp_path)
    assert first.fingerprint != second.fingerprint
    assert [row["text"] for _, row in open_split(second, None, "train", ["text"], home)] == ["new"] * 9
    with pytest.raises(UserError, match="have changed since this command began"):
        check_unchanged(first)


def test_a_file_that_changes_before_it_is_read_makes_no_corpus(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "lab/texts"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("text,n\n" + "".join(f"a river runs {n} times {n},1\n" for n in range(60)))
    train_tokenizer(iter(["a river runs"]), 300, tmp_path / "lab/words")
    spec = DataSpec(dataset="lab/texts", tokenizer="lab/words", block_tokens=16, held_out_share=0.2)
    source = find_dataset(spec.dataset, home, tmp_path)
    (folder / "train.csv").write_text("text,n\n" + "".join(f"a stone lies {n} times {n},1\n" for n in range(60)))
    with pytest.raises(UserError, match="have changed since this command began"):
        prepare_corpus(spec, source, home, tmp_path)
    assert list(home.corpora.iterdir()) == []
    assert prepare_corpus(spec, find_dataset(spec.dataset, home, tmp_path), home, tmp_path).train_documents > 0
