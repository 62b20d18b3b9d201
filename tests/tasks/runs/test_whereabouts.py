"""`cogito check` says which inputs are not on this machine; it asks nobody and reads nothing."""

from pathlib import Path

import pytest
from command import TINY, cogito

from tasks.runs.whereabouts import missing_inputs, text_documents
from tasks.spec.experiment import ExperimentSpec
from tasks.store.home import Home

HUB = {
    "name": "a",
    "data": {"dataset": "lab/texts", "tokenizer": "lab/words"},
    "evaluation": {"tasks": ["mrpc", "rte", "paws"]},
}


def make(**sections: object) -> ExperimentSpec:
    return ExperimentSpec.model_validate(HUB | sections)


def folder(root: Path, name: str) -> Path:
    (root / name).mkdir(parents=True, exist_ok=True)
    return root / name


def test_everything_is_missing_once(home: Home, tmp_path: Path) -> None:
    told = missing_inputs(make(training={"init_from": "lab/start@v1"}), home, None)
    assert [line.partition(" is ")[0] for line in told] == [
        "data.dataset: 'lab/texts'",
        "task mrpc: 'nyu-mll/glue'",
        "task paws: 'google-research-datasets/paws'",
        "data.tokenizer: 'lab/words'",
        "training.init_from: 'lab/start@v1'",
    ]
    assert all(line.endswith("HF_HUB_OFFLINE forbids to fetch it") for line in told), told


def test_what_is_here_is_not_missing(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for name in ("lab/words", "nyu-mll/glue"):
        folder(tmp_path, name)
    folder(home.cache, "hub/datasets--lab--texts/snapshots/1")
    folder(home.runs, "some_run")
    assert missing_inputs(make(training={"init_from": "some_run"}), home, tmp_path) == [
        "task paws: 'google-research-datasets/paws' is neither under the data root nor in the cache: "
        "the Hub is asked for it when the run starts"
    ]
    made = make(
        evaluation={"tasks": ["mrpc"], "data": "made"}, data={"dataset": "lab/text", "train_tokenizer_vocab_size": 300}
    )
    folder(tmp_path, "lab/texts")
    assert missing_inputs(made, home, tmp_path) == [
        "data.dataset: 'lab/text' is neither under the data root nor in the cache: did you mean 'lab/texts'? "
        "the Hub is asked for it when the run starts"
    ]


@pytest.mark.parametrize("path", ["./texts", "../texts", "/data/texts", "~/texts", "a/b/c", "my texts"])
def test_a_path_that_leads_nowhere(home: Home, tmp_path: Path, path: str) -> None:
    spec = make(
        data={"dataset": path, "train_tokenizer_vocab_size": 300}, evaluation={"tasks": ["mrpc"], "data": "made"}
    )
    assert missing_inputs(spec, home, tmp_path) == [
        f"data.dataset: {path!r} is a path, and there is no such folder; fix: correct the path"
    ]


def test_what_a_document_is(home: Home, tmp_path: Path) -> None:
    place = folder(tmp_path, "lab/texts")
    for name in ("a.txt", "b.txt.gz", ".hidden.txt", "README.md"):
        (place / name).write_text("a")
    assert text_documents(make(), tmp_path) == "data.dataset: 2 .txt files; each file is a document (data.txt_document)"
    lines = make(data=HUB["data"] | {"txt_document": "line"})  # type: ignore[operator]
    assert text_documents(lines, tmp_path) == "data.dataset: 2 .txt files; each line is a document (data.txt_document)"
    (place / "c.jsonl").write_text("{}")
    assert text_documents(make(), tmp_path) is None and text_documents(make(), None) is None


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "hub.yaml").write_text("name: a\ndata: {dataset: lab/text}\nevaluation: {tasks: [mrpc], data: made}\n")
    (folder(tmp_path / "root", "lab/texts") / "a.txt").write_text("a")
    done = cogito("check", "tiny.yaml", "hub.yaml", "--data-root", "root", home=tmp_path / "home")
    assert (done.returncode, done.stdout) == (0, "tiny.yaml: ok\nhub.yaml: ok\n")
    first, second = done.stderr.splitlines()
    assert first.startswith("hub.yaml: warning: data.dataset: 'lab/text'") and "did you mean 'lab/texts'?" in first
    assert second.startswith("hub.yaml: warning: data.tokenizer: 'answerdotai/ModernBERT-base'")
    changed = cogito(
        "check", "hub.yaml", "--set", "data.dataset=lab/texts", home=tmp_path / "home", COGITO_DATA_ROOT="root"
    )
    assert "hub.yaml: note: data.dataset: 1 .txt files; each file is a document" in changed.stderr
    assert not (tmp_path / "home").exists()
