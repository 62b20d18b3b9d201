"""Task data and corpora that are refused, with nothing left behind."""

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_input import GOOD_ROWS, SECONDS, put_task
from bad_input import model as model

from tasks.data.corpus import prepare_corpus
from tasks.data.sources import find_dataset
from tasks.data.task_data import prepare_task
from tasks.errors import UserError
from tasks.spec.benchmarks import TASKS
from tasks.spec.evaluation import EvaluationSpec
from tasks.spec.pretraining import DataSpec
from tasks.store.home import Home

TABLES: dict[str, tuple[dict[str, list[Any]], str]] = {
    "no column": ({"sentence1": ["a"] * 8, "label": [0, 1] * 4}, "sentence2"),
    "no labels": ({"sentence1": ["a"] * 8, "sentence2": ["b"] * 8}, "label"),
    "numbers for text": (GOOD_ROWS | {"sentence1": [1] * 8}, "allowed: text"),
    "lists for text": (GOOD_ROWS | {"sentence2": [["a"]] * 8}, "allowed: text"),
    "missing text": (GOOD_ROWS | {"sentence1": ["a", None] * 4}, "allowed: text"),
    "words for labels": (GOOD_ROWS | {"label": ["yes", "no"] * 4}, "numbers"),
    "missing labels": (GOOD_ROWS | {"label": [0, None] * 4}, "numbers"),
    "labels beyond": (GOOD_ROWS | {"label": [0, 2] * 4}, "allowed: 0 to 1"),
    "labels below": (GOOD_ROWS | {"label": [0, -2] * 4}, "allowed: 0 to 1"),
    "labels between": (GOOD_ROWS | {"label": [0.0, 0.5] * 4}, "allowed: 0 to 1"),
    "labels of no number": (GOOD_ROWS | {"label": [0.0, float("nan")] * 4}, "numbers"),
    "labels of lists": (GOOD_ROWS | {"label": [[0], [1]] * 4}, "numbers"),
    "no gold label": (GOOD_ROWS | {"label": [-1] * 8}, "allowed: 0 to 1"),
    "no rows": ({key: values[:0] for key, values in GOOD_ROWS.items()}, "mrpc"),
    "one label": (GOOD_ROWS | {"label": [1] * 8}, "all its labels are 1"),
    "truth values": (GOOD_ROWS | {"label": [True, False] * 4}, "numbers"),
    "half a pair of surrogates": (GOOD_ROWS | {"sentence1": [b"\xed\xa0\x80"] * 8}, "allowed: text"),
    "one row": ({key: values[:1] for key, values in GOOD_ROWS.items()}, "mrpc"),
}


def refusal_of_task(root: Path, model: Path, home: Home) -> str:
    source = find_dataset("nyu-mll/glue", home, root)
    protocol = EvaluationSpec(tasks=("mrpc",)).for_task("mrpc")
    started = time.process_time()
    with pytest.raises(UserError) as caught:
        prepare_task(TASKS["mrpc"], protocol, model, source, home)
    assert time.process_time() - started < SECONDS
    assert not list((home.root / "cache" / "tasks").glob("*")), "half a task was left behind"
    return str(caught.value)


@pytest.mark.parametrize("case", TABLES)
def test_bad_tasks(tmp_path: Path, home: Home, model: Path, case: str) -> None:
    rows, says = TABLES[case]
    assert says in refusal_of_task(put_task(tmp_path, rows), model, home)


@pytest.mark.parametrize("content", [b"", b"hello", b"PAR1" + bytes(40) + b"PAR1"])
def test_task_files_that_do_not_read(tmp_path: Path, home: Home, model: Path, content: bytes) -> None:
    root = put_task(tmp_path, GOOD_ROWS)
    for path in root.rglob("train*.parquet"):
        path.write_bytes(content)
    assert "nyu-mll/glue" in refusal_of_task(root, model, home)


CORPORA: dict[str, tuple[dict[str, list[Any]], dict[str, Any], str]] = {
    "no column": ({"body": ["some text"] * 9}, {}, "unknown column 'text'"),
    "numbers": ({"text": [1, 2, 3]}, {}, "allowed: text"),
    "lists": ({"text": [["a"], ["b"]]}, {}, "allowed: text"),
    "blanks": ({"text": [" ", "\n"]}, {}, "fill no block"),
    "nothing but None": ({"text": pa.nulls(4)}, {}, "fill no block"),
    "no rows": ({"text": []}, {}, "some/text"),
    "too little": ({"text": ["a b"]}, {}, "fill no block"),
    "no split": ({"text": ["some text"] * 9}, {"split": "trian"}, "trian"),
    "no held-out split": ({"text": ["some text " * 50] * 9}, {"held_out_split": "none"}, "none"),
    "no configuration": ({"text": ["some text"] * 9}, {"config": "none"}, "none"),
    "held out of itself": ({"text": ["some text " * 50] * 9}, {"held_out_split": "train"}, "share rows"),
    "slices that meet": ({"text": ["a b"] * 9}, {"split": "train[:5]", "held_out_split": "train[4:]"}, "share rows"),
    "lines of no .txt": ({"text": ["some text"] * 9}, {"txt_document": "line"}, "data.txt_document"),
    "split that computes": ({"text": ["some text"] * 9}, {"split": "train[__import__('os')]"}, "split"),
}


@pytest.mark.parametrize("case", CORPORA)
def test_bad_corpora(tmp_path: Path, home: Home, model: Path, case: str) -> None:
    rows, settings, says = CORPORA[case]
    folder = tmp_path / "mirror" / "some" / "text"
    folder.mkdir(parents=True)
    pq.write_table(pa.table(rows), folder / "train.parquet")
    spec = DataSpec.model_validate({"dataset": "some/text", "block_tokens": 64, **settings})
    source = find_dataset(spec.dataset, home, tmp_path / "mirror")
    with pytest.raises(UserError) as caught:
        prepare_corpus(spec, source, home, tmp_path / "mirror", tokenizer_folder=model)
    assert says in str(caught.value)
    assert not list(home.corpora.iterdir()), "half a corpus was left behind"
