"""Downstream data: how pairs are cut, laid out and split, and that the real counts come out."""

import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tasks.data.corpus import load_tokenizer, train_tokenizer
from tasks.data.made_tasks import made_sizes
from tasks.data.task_data import (
    PreparedTask,
    cut_longest_first,
    encode_pairs,
    find_task_source,
    load_examples,
    overlap_features,
    padding,
    prepare_task,
    selection_split,
)
from tasks.errors import UserError
from tasks.finetuning.loop import make_batch
from tasks.finetuning.scoring import score_task
from tasks.spec.benchmarks import TASKS, Task
from tasks.spec.evaluation import CellProtocol, EvaluationSpec
from tasks.store.home import Home
from tasks.store.records import CellResult

SENTENCES = [f"the {noun} runs over {number} stones" for number in range(40) for noun in ("fox", "river", "quick fox")]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(iter(SENTENCES), 330, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Any:
    return load_tokenizer(tokenizer_folder)


def make_protocol(task: str = "mrpc", **changes: Any) -> CellProtocol:
    return EvaluationSpec(tasks=(task,), **{"max_length": 32, **changes}).for_task(task)


# --- cutting ---


def cut_one_by_one(lengths: Sequence[int], budget: int) -> list[int]:
    cut = list(lengths)
    while sum(cut) > budget:
        cut[cut.index(max(cut))] -= 1
    return cut


@given(st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(0, 120))
def test_the_longest_text_is_cut_first(lengths: list[int], budget: int) -> None:
    cut = cut_longest_first(lengths, budget)
    assert cut == cut_one_by_one(lengths, budget)
    assert sum(cut) == min(sum(lengths), budget)
    for before, after in zip(lengths, cut, strict=True):
        assert 0 <= after <= before
        # Who was cut is still as long as everyone else, but for the one token of a tie.
        assert after == before or after >= max(cut) - 1


@settings(max_examples=25)
@given(
    pairs=st.lists(st.tuples(st.sampled_from(["", *SENTENCES]), st.text("fox ", max_size=60)), min_size=1, max_size=5),
    max_length=st.integers(8, 60),
)
def test_a_pair_is_cls_a_sep_b_sep(tokenizer: Any, pairs: list[tuple[str, str]], max_length: int) -> None:
    ids, offsets, first_lengths = encode_pairs(tokenizer, list(zip(*pairs, strict=True)), max_length)
    assert len(offsets) == len(pairs) + 1 and offsets[0] == 0 and offsets[-1] == len(ids)
    encode = tokenizer.backend_tokenizer.encode
    for number, pair in enumerate(pairs):
        row = ids[offsets[number] : offsets[number + 1]].tolist()
        whole = [encode(text, add_special_tokens=False).ids for text in pair]
        first, second = cut_longest_first([len(text) for text in whole], max_length - 3)
        cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        assert row == [cls_id, *whole[0][:first], sep_id, *whole[1][:second], sep_id]
        assert len(row) == min(max_length, len(whole[0]) + len(whole[1]) + 3)
        assert first_lengths[number] == first + 2


def test_a_single_text_has_one_separator(tokenizer: Any) -> None:
    ids, offsets, first_lengths = encode_pairs(tokenizer, [["the fox", "stones " * 30]], 10)
    assert np.array_equal(first_lengths, np.diff(offsets))
    assert ids[0] == tokenizer.cls_token_id and ids[offsets[1] - 1] == ids[-1] == tokenizer.sep_token_id
    assert (ids == tokenizer.sep_token_id).sum() == 2 and np.diff(offsets)[1] == 10


def test_a_tokenizer_that_pads_by_itself_pads_no_pair(tokenizer_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tokenizer_folder, tmp_path / "padding")
    path = str(tmp_path / "padding/tokenizer.json")
    padding = Tokenizer.from_file(path)
    padding.enable_truncation(2)
    padding.enable_padding(length=12)
    padding.save(path)
    pairs = [["the fox"], ["over stones"]]
    encoded = [
        encode_pairs(load_tokenizer(folder), pairs, 30)[0] for folder in (tokenizer_folder, tmp_path / "padding")
    ]
    assert np.array_equal(*encoded)


def test_two_texts_apart_have_each_its_own_ends(tokenizer: Any) -> None:
    pairs = [("the fox", "over stones"), ("river", "the quick fox runs"), ("", "fox")]
    ids, offsets, first_lengths = encode_pairs(tokenizer, list(zip(*pairs, strict=True)), 30)
    examples = {"ids": ids, "offsets": offsets, "first_lengths": first_lengths, "labels": np.arange(3)}
    batch = make_batch(examples, np.array([2, 0, 1]), tokenizer.pad_token_id, torch.device("cpu"), apart=True)
    assert set(batch) == {"labels", "input_ids_a", "attention_mask_a", "input_ids_b", "attention_mask_b"}
    assert batch["labels"].tolist() == [2, 0, 1]
    for row, number in enumerate([2, 0, 1]):
        for side, text in zip("ab", pairs[number], strict=True):
            kept = batch[f"attention_mask_{side}"][row].bool()
            body = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
            expected = [tokenizer.cls_token_id, *body, tokenizer.sep_token_id]
            assert batch[f"input_ids_{side}"][row][kept].tolist() == expected
            assert (batch[f"input_ids_{side}"][row][~kept] == tokenizer.pad_token_id).all()


# --- the part of train that chooses the epoch ---


@pytest.mark.parametrize(
    ("examples", "held_out"), [(10, 5), (300, 150), (1000, 200), (3668, 367), (5000, 500), (40_000, 2000)]
)
def test_ten_percent_at_least_200_at_most_2000_and_never_more_than_half(examples: int, held_out: int) -> None:
    labels = np.random.default_rng(0).integers(0, 2, examples)
    train, selection = selection_split(labels, regression=False)
    assert len(selection) == held_out
    assert sorted([*train, *selection]) == list(range(examples))


def test_the_selection_part_is_stratified_and_seeded() -> None:
    labels = np.repeat([0, 1, 2], [700, 290, 10])
    labels = np.random.default_rng(0).permutation(labels)
    _, selection = selection_split(labels, regression=False)
    assert np.bincount(labels[selection]).tolist() == [140, 58, 2]
    assert np.array_equal(selection, selection_split(labels, regression=False)[1])
    scores = np.random.default_rng(0).uniform(0, 5, 3000)
    _, selection = selection_split(scores, regression=True)
    shares = [np.bincount(np.round(part).astype(int)) / len(part) for part in (scores, scores[selection])]
    np.testing.assert_allclose(*shares, atol=1 / 300)


@pytest.mark.parametrize("regression", [False, True])
def test_a_class_of_one_does_not_stop_the_split(regression: bool) -> None:
    labels = np.array([0.0] * 300 + [3.0] * 300 + [5.0])
    train, selection = selection_split(labels if regression else labels.astype(int), regression)
    assert sorted([*train, *selection]) == list(range(601)) and len(selection) == 200


# --- whole tasks ---


def write_glue(root: Path, config: str, splits: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
    """One configuration of a data set with several, in the Hub's layout."""
    folder = root / "nyu-mll/glue"
    (folder / config).mkdir(parents=True)
    files = []
    for split, split_columns in splits.items():
        pq.write_table(pa.table(dict(split_columns)), folder / config / f"{split}-00000-of-00001.parquet")
        files.append(f"  - split: {split}\n    path: {config}/{split}-*\n")
    header = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{''.join(files)}---\n"
    (folder / "README.md").write_text(header)


def make_rows(count: int, labels: Sequence[float], seed: int = 0) -> dict[str, list[Any]]:
    random = np.random.default_rng(seed)
    first, second = ([f"{text} {n}" for n, text in enumerate(random.choice(SENTENCES, count))] for _ in range(2))
    return {"sentence1": first, "sentence2": second, "label": [labels[n % len(labels)] for n in range(count)]}


def prepare(
    name: str, home: Home, root: Path | None, tokenizer_folder: Path, data: str = "hub", **changes: Any
) -> PreparedTask:
    protocol = make_protocol(name, data=data, **changes)
    task = TASKS[name]
    return prepare_task(task, protocol, tokenizer_folder, find_task_source(task, data, home, root), home)


def texts_of(examples: dict[str, np.ndarray], tokenizer: Any) -> list[str]:
    offsets = examples["offsets"]
    rows = [examples["ids"][start:end] for start, end in pairwise(offsets)]
    return [tokenizer.backend_tokenizer.decode(row.tolist()) for row in rows]


def test_unlabelled_rows_are_dropped_and_the_rest_is_kept_in_order(
    home: Home, tmp_path: Path, tokenizer_folder: Path, tokenizer: Any
) -> None:
    train, dev = make_rows(600, [0, 1, -1]), make_rows(60, [1, 0, 1, -1], seed=1)
    write_glue(tmp_path, "mrpc", {"train": train, "validation": dev})
    prepared = prepare("mrpc", home, tmp_path, tokenizer_folder, max_length=64)
    parts = {part: load_examples(prepared.folder, part) for part in ("train", "selection", "eval-mrpc")}
    assert {part: len(arrays["labels"]) for part, arrays in parts.items()} == {
        "train": 200,
        "selection": 200,
        "eval-mrpc": 45,
    }
    assert prepared.train_examples == 200
    kept = [n for n, label in enumerate(dev["label"]) if label >= 0]
    assert parts["eval-mrpc"]["labels"].tolist() == [dev["label"][n] for n in kept]
    assert texts_of(parts["eval-mrpc"], tokenizer) == [dev["sentence1"][n] + dev["sentence2"][n] for n in kept]
    expected = [overlap_features(dev["sentence1"][n], dev["sentence2"][n]) for n in kept]
    np.testing.assert_allclose(parts["eval-mrpc"]["features"], expected)
    seen = [set(texts_of(parts[part], tokenizer)) for part in ("train", "selection")]
    labelled = {a + b for a, b, y in zip(*train.values(), strict=True) if y >= 0}
    assert not seen[0] & seen[1] and seen[0] | seen[1] == labelled
    assert padding(prepared.folder) == {"pad_token_id": tokenizer.pad_token_id, "padding_side": "right"}


def test_labels_outside_the_table_are_an_error(home: Home, tmp_path: Path, tokenizer_folder: Path) -> None:
    write_glue(tmp_path, "mrpc", {"train": make_rows(60, [0, 1, 2]), "validation": make_rows(20, [-1])})
    with pytest.raises(UserError, match=r"task mrpc: split train of nyu-mll/glue has labels .*; allowed: 0 to 1"):
        prepare("mrpc", home, tmp_path, tokenizer_folder)
    assert not any((home.cache / "tasks").glob("*"))


def test_a_split_that_is_all_unlabelled_is_an_error(home: Home, tmp_path: Path, tokenizer_folder: Path) -> None:
    write_glue(tmp_path, "mrpc", {"train": make_rows(60, [0, 1]), "validation": make_rows(20, [-1])})
    with pytest.raises(UserError, match="split validation"):
        prepare("mrpc", home, tmp_path, tokenizer_folder)


def test_regression_keeps_its_fractions(home: Home, tmp_path: Path, tokenizer_folder: Path) -> None:
    rows = {"train": make_rows(500, [0.0, 1.25, 4.75, 5.0, 3.2]), "validation": make_rows(30, [0.4, 4.6], seed=1)}
    write_glue(tmp_path, "stsb", rows)
    prepared = prepare("stsb", home, tmp_path, tokenizer_folder)
    assert load_examples(prepared.folder, "eval-stsb")["labels"].tolist() == [0.4, 4.6] * 15
    assert set(load_examples(prepared.folder, "train")["labels"]) == {0.0, 1.25, 4.75, 5.0, 3.2}
    assert prepared.train_examples == 300


def test_a_second_call_finds_the_task_prepared_and_a_change_does_not(
    home: Home, tmp_path: Path, tokenizer_folder: Path
) -> None:
    write_glue(tmp_path, "mrpc", {"train": make_rows(500, [0, 1]), "validation": make_rows(40, [0, 1], seed=1)})
    first = prepare("mrpc", home, tmp_path, tokenizer_folder)
    stamp = (first.folder / "train.npz").stat().st_mtime_ns
    again = prepare("mrpc", home, tmp_path, tokenizer_folder, seeds=3, epochs=9, learning_rate=1e-3)
    assert again == first and (first.folder / "train.npz").stat().st_mtime_ns == stamp
    shorter = prepare("mrpc", home, tmp_path, tokenizer_folder, max_length=16)
    fewer = prepare("mrpc", home, tmp_path, tokenizer_folder, max_train_examples=77)
    on_dev = prepare("mrpc", home, tmp_path, tokenizer_folder, select_on="dev")
    assert len({first.identity, shorter.identity, fewer.identity, on_dev.identity}) == 4
    assert np.diff(load_examples(shorter.folder, "train")["offsets"]).max() <= 16
    assert (fewer.train_examples, on_dev.train_examples, first.train_examples) == (77, 500, 300)
    selection, dev = (load_examples(on_dev.folder, part) for part in ("selection", "eval-mrpc"))
    assert all(np.array_equal(selection[name], dev[name]) for name in selection)
    # The part that chooses the epoch is the same, however much of train is used.
    chosen = [load_examples(one.folder, "selection")["ids"] for one in (first, fewer)]
    assert np.array_equal(*chosen)


@pytest.mark.parametrize("name", made_sizes())
def test_made_tasks_have_the_counts_of_their_table(home: Home, tokenizer_folder: Path, name: str) -> None:
    task, sizes = TASKS[name], TASKS[name].made_sizes
    prepared = prepare(name, home, None, tokenizer_folder, data="made")
    counts = {
        path.stem: len(load_examples(prepared.folder, path.stem)["labels"]) for path in prepared.folder.glob("*.npz")
    }
    expected = {f"eval-{split.label}": sizes[split.name] for split in task.eval_splits}
    if task.selection_split:
        expected |= {"train": sizes["train"], "selection": sizes[task.selection_split]}
    else:
        held_out = max(200, round(sizes["train"] / 10))
        expected |= {"train": sizes["train"] - held_out, "selection": held_out}
    assert counts == expected and prepared.train_examples == expected["train"]


def write_mirror(root: Path, task: Task) -> None:
    """Made rows of a task under its Hub name: its very columns and splits."""
    folder = root / task.dataset / (task.config or "data")
    folder.mkdir(parents=True)
    labels = [1.5, 2.0, 4.5] if task.is_regression else list(range(len(task.labels)))
    splits = {"train", task.selection_split, *(split.name for split in task.eval_splits)} - {None}
    files = []
    for number, split in enumerate(sorted(str(name) for name in splits)):
        count = 500 if split == "train" else 60
        random = np.random.default_rng(number)
        texts = {name: random.choice(SENTENCES, count) for name in task.text_columns}
        rows: dict[str, Any] = {
            name: [f"{text} {split} {n}" for n, text in enumerate(chosen)] for name, chosen in texts.items()
        }
        rows[task.label_column] = [labels[n % len(labels)] for n in range(count)]
        pq.write_table(pa.table(rows), folder / f"{split}-00000-of-00001.parquet")
        files.append(f"  - split: {split}\n    path: {folder.name}/{split}-*\n")
    name = task.config or "default"
    header = f"---\nconfigs:\n- config_name: {name}\n  data_files:\n{''.join(files)}---\n"
    (folder.parent / "README.md").write_text(header)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_read_tokenised_and_scored(home: Home, tmp_path: Path, tokenizer_folder: Path, name: str) -> None:
    task = TASKS[name]
    write_mirror(tmp_path, task)
    prepared = prepare(name, home, tmp_path, tokenizer_folder)
    cells = []
    for seed in (1, 2):
        predictions = {}
        for split in task.eval_splits:
            labels = load_examples(prepared.folder, f"eval-{split.label}")["labels"]
            path = home.root / f"{split.label}-{seed}.parquet"
            answers = np.where(np.random.default_rng(seed).random(len(labels)) < 0.8, labels, labels[::-1])
            pq.write_table(pa.table({"label": labels, "prediction": answers}), path)
            predictions[split.label] = path
        cells.append(CellResult(task=name, seed=seed, start="checkpoint", status="complete", predictions=predictions))
    scores = score_task(cells, prepared, home.run("run"))
    assert [(score.task, score.metric) for score in scores] == [
        (split.label, metric) for split in task.eval_splits for metric in task.metrics
    ]
    for score in scores:
        assert score.value is not None and score.interval is not None and score.n == 60
        assert score.interval[0] < score.value < score.interval[1] and score.floor < score.value
        assert (score.overlap_baseline is None) is (len(task.text_columns) == 1)
        assert score.unreliable, "60 examples leave a cell with fewer than 10, and are too few for a correlation"


def test_the_real_sst2(home: Home, shared_data: Path, tokenizer_folder: Path) -> None:
    prepared = prepare("sst2", home, shared_data, tokenizer_folder, max_length=64, max_train_examples=500)
    dev = load_examples(prepared.folder, "eval-sst2")
    assert np.bincount(dev["labels"]).tolist() == [428, 444] and dev["features"].shape == (872, 0)


def test_the_real_mrpc(home: Home, shared_data: Path, tokenizer_folder: Path) -> None:
    prepared = prepare("mrpc", home, shared_data, tokenizer_folder, max_length=128)
    train, selection, dev = (load_examples(prepared.folder, part) for part in ("train", "selection", "eval-mrpc"))
    assert len(train["labels"]) + len(selection["labels"]) == 3668 and len(selection["labels"]) == 367
    assert np.bincount(dev["labels"]).tolist() == [129, 279]
    assert selection["labels"].mean() == pytest.approx(train["labels"].mean(), abs=0.005)
