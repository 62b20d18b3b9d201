"""A step makes the host wait for nothing, and a bad step is not taken although its figures are read late."""

import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import build_device_guard, fake_cuda, move
from safetensors.torch import load_file
from test_resume import a_spec, corpus_of, train_here
from torch.utils._pytree import tree_map_only

from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.family import OBJECTIVES, VARIANTS
from models.labels import locate_labels
from models.objectives import CorruptionSettings, sample_generator
from models.pretraining_step import PretrainingStep
from tasks.data.token_blocks import Batch, pad_samples
from tasks.errors import StageError
from tasks.pretraining import guards, state, step
from tasks.pretraining import training as set_up
from tasks.pretraining.background import BackgroundWriter, host_copy
from tasks.pretraining.guards import TrainingGuard
from tasks.store.home import Home


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("texts"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- the guard ---


@pytest.mark.parametrize(("factor", "reason"), [(float("nan"), "norm is nan"), (1e6, "times its running median")])
def test_a_bad_step_is_not_taken(
    factor: float, reason: str, texts: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth step's gradients are spoilt: the weights that stay are those after the fourth, to the last bit."""
    monkeypatch.setattr(guards, "LEAST_STEPS", 3)
    changes = ["training.eval_every_steps=100", "training.checkpoint_every_steps=4", "training.max_grad_norm=1e9"]
    spec, calls = a_spec(*changes), []
    honest = step.forward_backward

    def spoilt(training: Any, group: list[Batch]) -> Any:
        figures = honest(training, group)
        calls.append(training.finished)
        for parameter in training.step_module.parameters():
            if len(calls) == 5 and parameter.grad is not None:
                parameter.grad *= factor
        return figures

    monkeypatch.setattr(step, "forward_backward", spoilt)
    result = train_here(spec, corpus_of(spec, texts), tmp_path / "run")
    diverged = result["diverged"]
    assert reason in diverged["reason"] and (diverged["step"], diverged["kept_step"], result["steps"]) == (5, 4, 4)
    assert len(calls) == 6, "the guard is one step late"
    assert len((tmp_path / "run/curve.jsonl").read_text().splitlines()) == 4
    saved = torch.load(tmp_path / "run/checkpoints/step-00000004/module.pt", weights_only=True)
    kept = load_file(tmp_path / "run/model/model.safetensors")
    assert kept and all(torch.equal(weight, saved[f"model.{name}"]) for name, weight in kept.items())


def test_the_device_decides_as_the_guard_will() -> None:
    guard = TrainingGuard(7.0)
    assert guard.largest_norm > 1e300 and not float("inf") <= guard.largest_norm
    for norm in [1.0] * guards.LEAST_STEPS:
        assert guard.after_gradient(5.0, norm) is None
    limit = guard.largest_norm
    assert limit == guards.GRADIENT_RATIO
    assert guard.after_gradient(5.0, limit) is None and guard.after_gradient(5.0, np.nextafter(limit, 1e9)) is not None


def test_a_request_to_pause_is_heard_of_every_rank_in_the_next_step(
    texts: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = a_spec("training.eval_every_steps=100", "training.checkpoint_every_steps=100")
    corpus, folder = corpus_of(spec, texts), tmp_path / "run"
    train_here(spec, corpus, tmp_path / "calm")
    honest = step.forward_backward

    def ask(training: Any, group: list[Batch]) -> Any:
        if training.finished == 2:
            (folder / "pause").touch()
        return honest(training, group)

    monkeypatch.setattr(step, "forward_backward", ask)
    with pytest.raises(AssertionError):  # there is no result yet
        train_here(spec, corpus, folder)
    assert json.loads((folder / "paused.json").read_text())["step"] == 4, "asked in step 3, read in step 4"
    (folder / "pause").unlink()
    monkeypatch.setattr(step, "forward_backward", honest)
    train_here(spec, corpus, folder)
    assert (folder / "curve.jsonl").read_bytes() == (tmp_path / "calm/curve.jsonl").read_bytes()


# --- host and device ---


class OnOneGpu:
    """What a step asks of accelerate; of the backward pass, which other tests run, only its gradients' shapes."""

    device, num_processes = torch.device("cuda"), 1

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def reduce(self, values: torch.Tensor, reduction: str) -> torch.Tensor:
        return values.clone()

    def no_sync(self, module: torch.nn.Module) -> Any:
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        assert loss.device.type == "cuda"
        for parameter in self.module.parameters():
            parameter.grad = torch.empty_like(parameter)

    def clip_grad_norm_(self, parameters: Any, limit: float) -> torch.Tensor:
        return torch.nn.utils.clip_grad_norm_(parameters, limit)


def a_batch(objective: str, seed: int) -> Batch:
    settings = CorruptionSettings(0.3, 4, 31, (0, 4), elbo=True)
    corrupt, ids = OBJECTIVES[objective].load(), np.random.default_rng(seed).integers(5, 31, size=(3, 9))
    batch = pad_samples([corrupt(row, sample_generator(0, seed, 0, n), settings) for n, row in enumerate(ids)], 0)
    batch["labels"] = locate_labels(batch["labels"], batch.pop("loss_weights", None))
    return batch


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    if torch.cuda.is_available():
        return None
    built = build_device_guard(tmp_path_factory.mktemp("fake_cuda"))
    if built is None:
        pytest.skip("no C++ compiler, which makes the pretended device")
    return built


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_step_makes_the_host_wait(
    variant: str, library: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of two micro-batches: from batches in main memory to figures that are on their way back."""
    row, waited = VARIANTS[variant], []
    sizes = {"hidden_size": 8, "num_concepts": 3, "num_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    config = ConceptConfig(vocab_size=31, max_sequence_length=9, mask_token_id=4, decoder_type=row.decoder, **sizes)
    module = PretrainingStep(ConceptModelForMaskedLM(config), {"variance": 0.1}, "kendall_gal", row.label_smoothing)
    batches = [a_batch(row.objective, seed) for seed in range(4)]
    event = SimpleNamespace(record=lambda: None, synchronize=lambda: waited.append("one step late"))
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    with fake_cuda(library) as syncs:
        move(module)
        batches = [
            tree_map_only(torch.Tensor, lambda real: torch.empty(real.shape, dtype=real.dtype), b) for b in batches
        ]
        optimizer = torch.optim.AdamW(module.parameters(), fused=True)
        training: Any = SimpleNamespace(
            job=SimpleNamespace(spec=a_spec()),
            folder=tmp_path,
            state=SimpleNamespace(
                accelerator=OnOneGpu(module),
                module=module,
                optimizer=SimpleNamespace(optimizer=optimizer, step=optimizer.step, zero_grad=optimizer.zero_grad),
                scheduler=SimpleNamespace(get_last_lr=lambda: [1e-3], step=lambda: None),
                guard=TrainingGuard(7.0),
            ),
            step_module=module,
            micro_batches=SimpleNamespace(tokens=lambda number: 27),
            finished=0,
            tokens=0,
            stopped=None,
            under_way=None,
        )
        for group in (batches[:2], batches[2:]):
            step.take_step(training, group)
            under_way = training.under_way
            assert under_way.values.device.type == "cpu" and under_way.ready is event
            assert optimizer.found_inf.device.type == "cuda"  # type: ignore[attr-defined]
            # What arrived: four losses, the votes, the norm, two factors; fake tensors hold no numbers.
            assert under_way.values.shape == (3 + 1 + 1 + 2,) and under_way.names == ("total", "task", "variance")
            arrived = SimpleNamespace(tolist=lambda: [5.0, 5.0, 1.0, 0.0, 1.0, 0.5, 0.5])
            training.under_way = SimpleNamespace(**{**vars(under_way), "values": arrived})
        assert not syncs.asked, syncs.asked
    assert waited == ["one step late"] and training.finished == 2 and training.tokens == 27


@pytest.mark.parametrize(
    ("device", "stated", "expected"),
    [("cuda", "auto", "bf16"), ("cuda", "fp32", "no"), ("cpu", "bf16", "no"), ("cpu", "auto", "no")],
)
def test_gradients_travel_between_gpus_in_the_precision_of_the_training(
    device: str, stated: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def accelerator(**how: Any) -> Any:
        asked.update(how)
        return SimpleNamespace(num_processes=1, device=torch.device(device))

    monkeypatch.setattr(set_up, "Accelerator", accelerator)
    spec = a_spec(f"training.mixed_precision={stated}")
    set_up._start_accelerator(SimpleNamespace(spec=spec, device=device, processes=1))  # type: ignore[arg-type]
    (ddp,) = asked["kwargs_handlers"]
    assert ddp.comm_hook.value == expected and ddp.gradient_as_bucket_view


# --- writing beside the training ---


def test_a_copy_keeps_what_is_shared_and_nothing_else() -> None:
    weight = torch.arange(6.0)
    state = {"a": weight, "b": [weight.view(6), weight[:3]], "step": 3, "empty": torch.zeros(0)}
    copy = host_copy(state)
    weight += 1
    assert copy["a"].tolist() == [0, 1, 2, 3, 4, 5] and copy["step"] == 3
    assert copy["a"] is copy["b"][0] and copy["b"][1].tolist() == [0, 1, 2]


def test_what_goes_wrong_beside_the_training_stops_it() -> None:
    written: list[int] = []

    def fail() -> None:
        raise StageError("the disk is full")

    writer = BackgroundWriter()
    writer.submit(lambda: written.append(1))
    writer.wait()
    writer.submit(fail)
    with pytest.raises(StageError, match="the disk is full"):
        writer.wait()
    for number in (2, 3, 4, 5):
        writer.submit(lambda number=number: written.append(number))
    writer.close()
    assert written == [1, 2, 3, 4, 5]


def test_a_state_that_finds_no_room_ends_the_training(
    texts: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = a_spec("training.checkpoint_every_steps=1", "training.max_steps=200", "training.epochs=100")
    corpus = corpus_of(spec, texts)

    def full(*_: Any) -> str:
        raise StageError("no space left")

    monkeypatch.setattr(state, "file_sha256", full)
    with pytest.raises(StageError, match="no space left"):
        train_here(spec, corpus, tmp_path / "run")
    assert len((tmp_path / "run/curve.jsonl").read_text().splitlines()) < 100, "long before the end"
    assert not [*(tmp_path / "run/checkpoints").glob("*")]


def test_a_first_step_that_is_bad_leaves_the_start(
    texts: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, starts = step.forward_backward, []

    def spoilt(training: Any, group: list[Batch]) -> Any:
        if not starts:
            starts.append({name: weight.clone() for name, weight in training.state.module.model.state_dict().items()})
        figures = honest(training, group)
        for parameter in training.step_module.parameters():
            if parameter.grad is not None:
                parameter.grad *= float("nan")
        return figures

    monkeypatch.setattr(step, "forward_backward", spoilt)
    result = train_here(a_spec("training.eval_every_steps=100"), corpus_of(a_spec(), texts), tmp_path / "run")
    assert (result["diverged"]["step"], result["diverged"]["kept_step"], result["steps"]) == (1, 0, 0)
    assert math.isnan(result["train_loss"]) and math.isfinite(result["eval_loss"])
    kept = load_file(tmp_path / "run/model/model.safetensors")
    assert kept and all(torch.equal(weight, starts[0][name]) for name, weight in kept.items())
