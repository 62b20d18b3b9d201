"""The fused loss is the plain cross-entropy of full logits, in value and gradients, without ever holding them."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from models import losses
from models.losses import summed_cross_entropy

V, H = 11, 8


def make_inputs(rows: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    states = torch.randn(rows, H, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(V, H, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(V, (rows,), generator=generator)
    return states, weight, targets, torch.rand(rows, generator=generator, dtype=dtype) * 5


def plain(states: Tensor, weight: Tensor, targets: Tensor, smoothing: float, factors: Tensor | None) -> Tensor:
    logits = functional.linear(states, weight)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    each = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    return (each if factors is None else each * factors).sum()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 23),
    chunk=st.integers(1, 30),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    weighted=st.booleans(),
    wanted=st.sampled_from(["both", "states", "weight"]),
)
def test_it_is_the_plain_cross_entropy(rows: int, chunk: int, smoothing: float, weighted: bool, wanted: str) -> None:
    """In float64, where the order of a sum is lost in the last of 16 digits."""
    states, weight, targets, factors = make_inputs(rows, torch.float64)
    states.requires_grad_(wanted != "weight")
    weight.requires_grad_(wanted != "states")
    sources = [tensor for tensor in (states, weight) if tensor.requires_grad]
    chosen = factors if weighted else None
    expected = plain(states, weight, targets, smoothing, chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "CHUNK_ROWS", chunk)
        loss = summed_cross_entropy(states, weight, targets, smoothing, chosen)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for scale in (1.0, 3.0):  # what is put after the loss counts as well
        ours = torch.autograd.grad(loss * scale, sources, retain_graph=True)
        theirs = torch.autograd.grad(expected * scale, sources, retain_graph=True)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_its_gradients_are_those_of_finite_differences(
    monkeypatch: pytest.MonkeyPatch, smoothing: float, weighted: bool
) -> None:
    monkeypatch.setattr(losses, "CHUNK_ROWS", 3)
    states, weight, targets, factors = make_inputs(7, torch.float64)
    chosen = factors if weighted else None
    assert torch.autograd.gradcheck(
        lambda s, w: summed_cross_entropy(s, w, targets, smoothing, chosen), (states, weight)
    )


def test_confident_logits_lose_nothing() -> None:
    """Logits of +-200, whose probabilities are 0 and 1 in float32."""
    states, weight = torch.eye(2, H).requires_grad_(), (200 * torch.eye(V, H)).requires_grad_()
    targets = torch.tensor([0, 5])
    loss = summed_cross_entropy(states, weight, targets)
    assert loss.item() == pytest.approx(200.0)
    states_gradient, weight_gradient = torch.autograd.grad(loss, (states, weight))
    assert torch.isfinite(states_gradient).all() and torch.isfinite(weight_gradient).all()
    assert weight_gradient[5, 1].item() == -1.0 and weight_gradient[1, 1].item() == 1.0 and weight_gradient[0, 0] == 0


def test_rows_of_weight_zero_are_as_if_they_were_not_there() -> None:
    states, weight, targets, factors = make_inputs(9)
    factors[5:] = 0
    loss = summed_cross_entropy(states, weight, targets, 0.1, factors)
    short = summed_cross_entropy(states[:5], weight, targets[:5], 0.1, factors[:5])
    torch.testing.assert_close(loss, short)
    padded, bare = (torch.autograd.grad(value, (states, weight)) for value in (loss, short))
    assert not padded[0][5:].any()
    for one, other in zip(padded, bare, strict=True):
        torch.testing.assert_close(one, other)


def test_autocast_multiplies_in_bf16_and_sums_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK_ROWS", 4)
    states, weight, targets, factors = make_inputs(64)
    with torch.autocast("cpu", torch.bfloat16):
        loss = summed_cross_entropy(states, weight, targets, 0.1, factors)
        expected = plain(states, weight, targets, 0.1, factors)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(loss, (states, weight))
    exact = torch.autograd.grad(plain(states, weight, targets, 0.1, factors), (states, weight))
    for one, other in zip(ours, exact, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 0.01


def test_a_tied_embedding_gets_both_of_its_gradients() -> None:
    _, weight, targets, _ = make_inputs(9)
    ids = torch.arange(9) % V
    gradients = []
    for loss in (summed_cross_entropy, lambda s, w, t: plain(s, w, t, 0.0, None)):
        gradients.append(torch.autograd.grad(loss(torch.tanh(weight[ids]), weight, targets), weight)[0])
    torch.testing.assert_close(*gradients)


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    states, weight, targets, _ = make_inputs(5)
    (gradient,) = torch.autograd.grad(summed_cross_entropy(states, weight, targets) ** 2, states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.elements = max(self.elements, made.numel())
        return made


@pytest.mark.parametrize("training", [True, False])
def test_the_logits_of_more_than_a_chunk_never_exist(monkeypatch: pytest.MonkeyPatch, training: bool) -> None:
    monkeypatch.setattr(losses, "CHUNK_ROWS", 4)
    states, weight, targets, factors = make_inputs(1000)
    weight = torch.cat([weight] * 50).detach().requires_grad_()
    with torch.set_grad_enabled(training), Largest() as largest:
        loss = summed_cross_entropy(states, weight, targets, 0.1, factors)
        if training:
            loss.backward()
    assert largest.elements <= max(4 * len(weight), states.numel(), weight.numel())


def test_it_traces_as_one_graph() -> None:
    states, weight, targets, factors = make_inputs(9)
    compiled = torch.compile(summed_cross_entropy, backend="aot_eager", fullgraph=True)
    results = []
    for function in (summed_cross_entropy, compiled):
        loss = function(states, weight, targets, 0.1, factors)
        results.append((loss, *torch.autograd.grad(loss, (states, weight))))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_without_a_gradient_none_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that wants one says so even under `no_grad`."""
    states, weight, targets, _ = make_inputs(5)
    made: list[int] = []
    monkeypatch.setattr(Tensor, "scatter_add_", lambda *_: made.append(1))
    with torch.no_grad():
        summed_cross_entropy(states, nn.Parameter(weight), targets)
    assert not made
