"""Labels as others write them: taken where they mean the same, refused where a number would mean another class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.corpus import train_tokenizer
from tasks.data.labels import check_published_counts, read_labels
from tasks.data.sources import find_dataset
from tasks.data.task_data import load_examples, prepare_task
from tasks.errors import UserError
from tasks.spec.benchmarks import TASKS
from tasks.spec.evaluation import EvaluationSpec
from tasks.store.home import Home

MNLI = TASKS["mnli"]


def read(
    task: str, given: Sequence[Any], names: Sequence[str] | None = None, warnings: list[str] | None = None
) -> list[float]:
    warn = (warnings if warnings is not None else []).append
    return read_labels(TASKS[task], "split train of x", given, names, warn).tolist()


TAKEN: dict[str, tuple[str, list[Any], list[str] | None, list[float]]] = {
    "numbers": ("mnli", [0, 1, 2], None, [0, 1, 2]),
    "words of numbers": ("mnli", ["0", "1.0", " 2"], None, [0, 1, 2]),
    "floats": ("mrpc", [0.0, 1.0], None, [0, 1]),
    "class names": ("mnli", ["contradiction", "Entailment", "neutral"], None, [2, 0, 1]),
    "class names of two words": ("rte", ["not entailment", "entailment"], None, [1, 0]),
    "begun class names": ("sst2", ["pos", "neg"], None, [1, 0]),
    "no gold label": ("mnli", [0, -1, 2, "-", 1], None, [0, -1, 2, -1, 1]),
    "stated names": ("mnli", [0, 1, 2], ["entailment", "neutral", "contradiction"], [0, 1, 2]),
    "stated numbers": ("paws", [0, 1], ["0", "1"], [0, 1]),
    "a further stated class": ("mnli", [0, 1, 2], ["entailment", "neutral", "contradiction", "-"], [0, 1, 2]),
    "scores": ("stsb", ["5.0", 0.25, 3], None, [5, 0.25, 3]),
    "hidden scores": ("stsb", [-1.0, 4.5, 0.0], None, [-1, 4.5, 0]),
}


@pytest.mark.parametrize("case", TAKEN)
def test_labels_that_are_taken(case: str) -> None:
    task, given, names, labels = TAKEN[case]
    assert read(task, given, names) == labels


REFUSED: dict[str, tuple[str, list[Any], list[str] | None, str]] = {
    "another order": (
        "mnli",
        [0, 1, 2],
        ["contradiction", "entailment", "neutral"],
        "numbered 0 contradiction, 1 entail",
    ),
    "two exchanged": ("rte", [0, 1], ["not_entailment", "entailment"], "allowed: 0 entailment, 1 not_entailment"),
    "exchanged, in short": ("sst2", [0, 1], ["pos", "neg"], "numbered 0 pos, 1 neg"),
    "exchanged numbers": ("paws", [0, 1], ["1", "0"], "numbered 0 1, 1 0"),
    "shifted": ("mnli", [1, 2, 3], None, "has labels 1, 2, 3; allowed: 0 to 2"),
    "truth values": ("rte", [True, False], None, "holds True in row 1"),
    "other words": ("mrpc", ["yes", "no"], None, "holds 'yes' in row 1"),
    "nothing": ("mrpc", [0, None], None, "holds None in row 2"),
    "an empty cell": ("mrpc", ["0", ""], None, "holds '' in row 2"),
    "a digit that is no number": ("mrpc", [0, "\u00b2"], None, "in row 2"),
    "infinity": ("stsb", [1, float("inf")], None, "in row 2"),
    "between": ("mrpc", [0, 0.5, 1], None, "has labels 0, 0.5, 1"),
    "all the same": ("mrpc", [1, 1, 1], None, "all its labels are 1"),
    "scores all the same": ("stsb", [3.0, 3.0], None, "all its labels are 3"),
    "all hidden": ("stsb", [-1.0, -1.0], None, "has labels -1"),
    "from 0 to 1": ("stsb", [0.0, 0.3, 1.0], None, "the largest score is 1, that of the task 5"),
    "from 0 to 100": ("stsb", [0.0, 40, 100], None, "has labels 0, 40, 100; allowed: 0 to 5"),
    "below the scale": ("sick_r", [0.5, 4.0], None, "allowed: 1 to 5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_are_refused(case: str) -> None:
    task, given, names, says = REFUSED[case]
    with pytest.raises(UserError) as caught:
        read(task, given, names)
    assert says in str(caught.value) and str(caught.value).count("fix:") == 1, caught.value


@given(st.sampled_from([name for name, row in TASKS.items() if row.labels]), st.data())
def test_only_our_order_of_names_is_taken(name: str, data: st.DataObject) -> None:
    labels = TASKS[name].labels
    names = data.draw(st.permutations([label.replace("_", " ").title() for label in labels]))
    given = list(range(len(labels)))
    if [one.casefold().replace(" ", "_") for one in names] == list(labels):
        assert read(name, given, names) == given
    else:
        with pytest.raises(UserError, match="its classes are numbered"):
            read(name, given, names)


def test_what_is_only_odd_is_a_warning() -> None:
    warnings: list[str] = []
    assert read("mnli", [0, 2, 2], None, warnings) == [0, 2, 2]
    assert read("mrpc", [0, 1], ["unrelated", "same"], warnings) == [0, 1]
    assert "no example of class neutral" in warnings[0]
    assert "unknown classes 0 unrelated, 1 same are taken as 0 not_equivalent, 1 equivalent" in warnings[1]


def test_the_counts_of_a_published_split_tell_its_order() -> None:
    split, warnings = MNLI.eval_splits[0], list[str]()
    for order in ((2, 0, 1), (1, 0, 2), (0, 2, 1)):
        labels = np.repeat([0.0, 1.0, 2.0], [split.class_counts[label] for label in order])
        with pytest.raises(UserError, match="numbered in another order; fix: number them 0 entailment, 1 neutral, 2"):
            check_published_counts(MNLI, "x", labels, split.class_counts, warnings.append)
    labels = np.repeat([0.0, 1.0, 2.0], split.class_counts)
    check_published_counts(MNLI, "x", labels, split.class_counts, warnings.append)
    check_published_counts(MNLI, "x", labels[1:], split.class_counts, warnings.append)
    assert warnings == []
    labels[0] = 1
    check_published_counts(MNLI, "x", labels, split.class_counts, warnings.append)
    assert "3,478 entailment, 3,124 neutral" in warnings[0] and "the published split 3,479 entailment" in warnings[0]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_names_in_a_parquet_file_are_compared(home: Home, tmp_path: Path, order: tuple[int, ...]) -> None:
    train_tokenizer(iter(["a b c"]), 300, tmp_path / "words")
    names = [MNLI.labels[position] for position in order]
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=names),
        }
    )
    folder = tmp_path / "nyu-mll/glue/mnli"
    folder.mkdir(parents=True)
    files = ""
    for split, count in {"train": 600, "validation_matched": 30, "validation_mismatched": 30}.items():
        rows = {
            "premise": [f"{split} {number}" for number in range(count)],
            "hypothesis": ["a b"] * count,
            "label": [number % 3 for number in range(count)],
        }
        datasets.Dataset.from_dict(rows, features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
        files += f"  - split: {split}\n    path: mnli/{split}-*\n"
    (folder.parent / "README.md").write_text(f"---\nconfigs:\n- config_name: mnli\n  data_files:\n{files}---\n")
    protocol = EvaluationSpec.model_validate({"tasks": ("mnli",), "max_length": 32}).for_task("mnli")

    def prepare() -> Any:
        return prepare_task(MNLI, protocol, tmp_path / "words", find_dataset(MNLI.dataset, home, tmp_path), home)

    if order == (0, 1, 2):
        assert load_examples(prepare().folder, "eval-mnli-m")["labels"].tolist() == [0, 1, 2] * 10
    else:
        with pytest.raises(UserError, match="split train of nyu-mll/glue: its classes are numbered 0 contradiction"):
            prepare()


@pytest.mark.parametrize("cells", [["1", "0"], ["1.0", "0.0"], ["equivalent", "not_equivalent"]])
def test_labels_of_a_csv_file(home: Home, tmp_path: Path, cells: list[str]) -> None:
    train_tokenizer(iter(["a b c"]), 300, tmp_path / "words")
    folder = tmp_path / "nyu-mll/glue"
    folder.mkdir(parents=True)
    files = ""
    for split, count in {"train": 600, "validation": 6}.items():
        rows = "".join(f"{split} {n},NA,{cells[n % 2]}\n" for n in range(count))
        (folder / f"{split}.csv").write_text(f"sentence1,sentence2,label\n{rows}")
        files += f"  - split: {split}\n    path: {split}.csv\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: mrpc\n  data_files:\n{files}---\n")
    protocol = EvaluationSpec.model_validate({"tasks": ("mrpc",), "max_length": 32}).for_task("mrpc")
    source = find_dataset("nyu-mll/glue", home, tmp_path)
    examples = load_examples(
        prepare_task(TASKS["mrpc"], protocol, tmp_path / "words", source, home).folder, "eval-mrpc"
    )
    assert examples["labels"].tolist() == [1, 0] * 3 and examples["labels"].dtype == np.int64
    assert examples["features"][:, 3].tolist() == [1.0] * 6, "NA is a text of one word"
