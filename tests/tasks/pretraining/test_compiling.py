"""A compiled training is the eager one but for rounding, resumes to the last bit, and does without a compiler."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import Killed, Storm, a_spec, assert_same_training, corpus_of, train_here
from torch import nn

from models.pretraining_step import PretrainingStep
from tasks.errors import StageError
from tasks.jobs.messages import JobWarning, parse_line
from tasks.pretraining import training
from tasks.pretraining.compiling import shall_compile
from tasks.store.home import Home

CALM = ["model.hidden_dropout_prob=0", "model.attention_probs_dropout_prob=0"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("texts"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def compile_by(monkeypatch: pytest.MonkeyPatch, backend: Any) -> None:
    """Trace as in a training, but without the compiler behind it, which takes a minute."""
    torch.compiler.reset()
    monkeypatch.setattr(PretrainingStep, "compile", lambda self, **how: nn.Module.compile(self, backend=backend, **how))


def losses(folder: Path) -> list[list[float]]:
    points = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return [[point["task_loss"], point["gradient_norm"]] for point in points]


@pytest.mark.parametrize(
    ("stated", "device", "blocks", "expected"),
    [
        ("auto", "cpu", "concat", False),
        ("auto", "cuda", "concat", True),
        ("auto", "cuda", "document", False),
        ("on", "cpu", "concat", True),
        ("off", "cuda", "concat", False),
    ],
)
def test_auto_compiles_where_it_gains(stated: str, device: str, blocks: str, expected: bool) -> None:
    assert shall_compile(a_spec(f"training.compile={stated}", f"data.blocks={blocks}"), device) == expected


@pytest.mark.parametrize("variant", ["perceiver_mlm", "tsdae"])
def test_a_compiled_training_is_the_eager_one(
    variant: str, texts: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven steps of two micro-batches, of three and of four samples: two graphs."""
    compiled: list[Any] = []

    def count(graph: torch.fx.GraphModule, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    compile_by(monkeypatch, count)
    for how in ("off", "on"):
        spec = a_spec(f"model.variant={variant}", f"training.compile={how}", *CALM)
        train_here(spec, corpus_of(spec, texts), tmp_path / how)
        assert len(compiled) == (0 if how == "off" else 2)
    for eager, same in zip(losses(tmp_path / "off"), losses(tmp_path / "on"), strict=True):
        assert same == pytest.approx(eager, rel=1e-5)


def test_a_compiled_training_resumes_to_the_last_bit(
    texts: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_by(monkeypatch, "eager")
    spec = a_spec("training.compile=on")
    corpus = corpus_of(spec, texts)
    train_here(spec, corpus, tmp_path / "calm")
    storm = Storm(monkeypatch, "", 1)
    storm.plan = [("save_state", 2, "after")]
    with pytest.raises(Killed):
        train_here(spec, corpus, tmp_path / "killed")
    monkeypatch.setattr(PretrainingStep, "compile", lambda self, **how: None)  # as where the compiler is gone
    with pytest.raises(StageError, match="its graph is compiled and cannot become eager"):
        train_here(spec, corpus, tmp_path / "killed")
    compile_by(monkeypatch, "eager")
    train_here(spec, corpus, tmp_path / "killed")
    assert_same_training(tmp_path / "calm", tmp_path / "killed", 7)


def test_auto_goes_on_without_a_compiler(
    texts: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a warning; `on` does not."""
    corpus = corpus_of(a_spec(), texts)

    def without_compiler(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("Failed to find C compiler")

    compile_by(monkeypatch, without_compiler)
    monkeypatch.setattr(training, "shall_compile", lambda spec, device: True)  # as on a GPU
    capfd.readouterr()
    train_here(a_spec(*CALM), corpus, tmp_path / "auto")
    heard = [message for message in map(parse_line, capfd.readouterr().out.splitlines()) if message is not None]
    (warning,) = [message.message for message in heard if isinstance(message, JobWarning)]
    assert "training.compile auto: this machine cannot compile the step" in warning
    assert "Failed to find C compiler" in warning
    train_here(a_spec("training.compile=off", *CALM), corpus, tmp_path / "off")
    for eager, same in zip(losses(tmp_path / "off"), losses(tmp_path / "auto"), strict=True):
        assert same == pytest.approx(eager, rel=1e-5)
    with pytest.raises(RuntimeError, match="Failed to find C compiler"):
        train_here(a_spec("training.compile=on"), corpus, tmp_path / "on")


def test_auto_compiles_the_very_graphs_of_the_training(
    texts: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it tries first is no graph of its own: a compilation takes a minute, and one that fails must fail there."""
    graphs: dict[str, int] = {"on": 0, "auto": 0}
    corpus = corpus_of(a_spec(), texts)
    for stated in graphs:

        def count(graph: Any, inputs: Any, stated: str = stated) -> Any:
            graphs[stated] += 1
            return graph

        compile_by(monkeypatch, count)
        monkeypatch.setattr(training, "shall_compile", lambda spec, device: True)  # as on a GPU
        train_here(a_spec(f"training.compile={stated}", *CALM), corpus, tmp_path / stated)
    assert graphs["auto"] == graphs["on"] > 0
