"""Concept losses and their weighting: known answers, and what must hold of them for any concepts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.family import CONCEPT_LOSSES, LOSS_WEIGHTINGS
from models.labels import locate_labels
from models.pretraining_step import PretrainingStep

# Those that see directions alone; the others also see lengths.
DIRECTIONAL = ("orthogonality", "soft_orthogonality", "uniformity", "t_regs_mst")


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_known_answers(golden: Path) -> None:
    expected = json.loads((golden / "losses/expected.json").read_text())["losses"]
    concepts = load_file(golden / "losses/expected.safetensors")["concepts"]
    assert set(expected) == set(CONCEPT_LOSSES) - {"spanning_tree"}, "the true tree is younger than the answers"
    for name, value in expected.items():
        assert CONCEPT_LOSSES[name].load()(concepts).item() == pytest.approx(value, abs=1e-5), name


def test_known_weighted_totals(golden: Path) -> None:
    expected = json.loads((golden / "losses/expected.json").read_text())
    fixed = expected["fixed weights"]
    totals = expected["weighted_total_with_task_2.5"]
    assert len(totals) == 6
    for key, value in totals.items():
        loss, name = key.split("/")
        weighting = LOSS_WEIGHTINGS[name].load()([fixed["task"], fixed["concept"]])
        with torch.no_grad():
            if name == "learnable":
                weighting.raw.copy_(torch.tensor(expected["learnable raw [task, concept]"]))
            elif name == "kendall_gal":
                weighting.log_variances.copy_(torch.tensor(expected["kendall_gal log_vars [task, concept]"]))
        total = weighting(torch.tensor([2.5, expected["losses"][loss]]))
        assert total.item() == pytest.approx(value, abs=1e-5), key


@pytest.mark.parametrize("name", CONCEPT_LOSSES)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 4), count=st.integers(2, 6))
def test_the_order_of_concepts_and_samples_does_not_matter(name: str, seed: int, batch: int, count: int) -> None:
    loss = CONCEPT_LOSSES[name].load()
    concepts = draw(seed, batch, count, 7)
    generator = torch.Generator().manual_seed(seed)
    shuffled = concepts[torch.randperm(batch, generator=generator)][:, torch.randperm(count, generator=generator)]
    torch.testing.assert_close(loss(shuffled), loss(concepts))


@pytest.mark.parametrize("name", DIRECTIONAL)
@given(seed=st.integers(0, 10_000))
def test_directional_losses_do_not_see_lengths(name: str, seed: int) -> None:
    concepts = draw(seed, 3, 5, 7)
    lengths = draw(seed + 1, 3, 5, 1).abs() + 0.1
    torch.testing.assert_close(CONCEPT_LOSSES[name].load()(concepts * lengths), CONCEPT_LOSSES[name].load()(concepts))


@pytest.mark.parametrize("name", CONCEPT_LOSSES)
def test_every_loss_prefers_spread_concepts_and_has_a_gradient_even_at_collapse(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(1, 1, 8, generator=generator)
    collapsed = one.repeat(4, 6, 1).requires_grad_()
    spread = 2 * torch.linalg.qr(torch.randn(4, 8, 8, generator=generator))[0][:, :6]
    worst, best = CONCEPT_LOSSES[name].load()(collapsed), CONCEPT_LOSSES[name].load()(spread)
    assert worst.shape == ()
    if name != "covariance":  # which is zero where nothing varies; `vicreg` adds the variance for that
        assert best < worst
    (gradient,) = torch.autograd.grad(worst, collapsed)
    assert torch.isfinite(gradient).all()


def nearest_by_definition(concepts: Tensor) -> Tensor:
    z = torch.nn.functional.normalize(concepts, dim=-1)
    distance = (z[:, :, None] - z[:, None]).norm(dim=-1) + torch.diag(torch.full((z.shape[1],), torch.inf))
    return -distance.amin(dim=-1).mean()


def tree_by_definition(concepts: Tensor) -> Tensor:
    """By Kruskal: the shortest edge that joins two parts, again and again."""
    trees = []
    for z in torch.nn.functional.normalize(concepts, dim=-1):
        pairs = torch.combinations(torch.arange(len(z))).tolist()
        parts, edges = list(range(len(z))), []
        for a, b in sorted(pairs, key=lambda pair: (z[pair[0]] - z[pair[1]]).norm().item()):
            if parts[a] != parts[b]:
                edges.append((z[a] - z[b]).norm())
                parts = [parts[a] if part == parts[b] else part for part in parts]
        trees.append(torch.stack(edges).mean())
    return -torch.stack(trees).mean()


@pytest.mark.parametrize(
    ("name", "definition"), [("t_regs_mst", nearest_by_definition), ("spanning_tree", tree_by_definition)]
)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 3), count=st.integers(2, 7))
def test_chosen_pairs_have_the_value_and_the_gradient_of_the_definition(
    name: str, definition: Callable[[Tensor], Tensor], seed: int, batch: int, count: int
) -> None:
    concepts = draw(seed, batch, count, 5).requires_grad_()
    found, expected = CONCEPT_LOSSES[name].load()(concepts), definition(concepts)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, concepts), torch.autograd.grad(expected, concepts))


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is made in its block; a view of it makes none."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._cdist_backward.default, "on a GPU it takes [B, C, C, H] by itself"
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and not made._is_view():
            self.elements = max(self.elements, made.untyped_storage().nbytes() // made.element_size())
        return made


@pytest.mark.parametrize("name", CONCEPT_LOSSES)
def test_no_loss_takes_all_pairs_times_the_width(name: str) -> None:
    """[B, C, C, H] is 8.6 GB at B = 256, C = 128, H = 512; all pairs and all concepts have to fit anyway."""
    batch, count, width = 2, 12, 16
    concepts = draw(0, batch, count, width).requires_grad_()
    with Largest() as largest:
        CONCEPT_LOSSES[name].load()(concepts).backward()
    assert 0 < largest.elements <= batch * count * max(count, width)


def test_one_concept_has_no_pairs() -> None:
    for name in ("t_regs_mst", "spanning_tree"):
        assert CONCEPT_LOSSES[name].load()(draw(0, 2, 1, 4)) == 0


def test_orthogonal_concepts_are_the_optimum_of_the_orthogonality_losses() -> None:
    concepts = torch.eye(5, 8).expand(3, 5, 8)
    assert (
        CONCEPT_LOSSES["orthogonality"].load()(concepts) == 0 == CONCEPT_LOSSES["soft_orthogonality"].load()(concepts)
    )
    assert CONCEPT_LOSSES["uniformity"].load()(concepts).item() == pytest.approx(torch.tensor(-4.0).exp().item())
    assert CONCEPT_LOSSES["t_regs_mst"].load()(concepts).item() == pytest.approx(-(2**0.5))
    # A cosine of 0.1 is allowed, one of 0.3 costs 0.2 squared.
    for cosine, cost in ((0.1, 0.0), (0.3, 0.04)):
        pair = torch.tensor([[[1.0, 0.0], [cosine, (1 - cosine**2) ** 0.5]]])
        assert CONCEPT_LOSSES["soft_orthogonality"].load()(pair).item() == pytest.approx(cost, abs=1e-6)


@pytest.mark.parametrize("name", LOSS_WEIGHTINGS)
@given(seed=st.integers(0, 1000), parts=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_micro_batches_add_up_to_the_step(name: str, seed: int, parts: list[int]) -> None:
    """The regulariser is counted once per step, however many micro-batches it is cut into."""
    shares = torch.tensor(parts, dtype=torch.float64) / sum(parts)
    weighting = LOSS_WEIGHTINGS[name].load()([1.0, 0.1, 0.3]).double()
    with torch.no_grad():
        for number, parameter in enumerate(weighting.parameters()):
            parameter.copy_(draw(seed + number, 3))
    losses = draw(seed, len(parts), 3)
    pieces = sum(weighting(part, share.item()) for part, share in zip(losses, shares, strict=True))
    torch.testing.assert_close(pieces, weighting(losses.sum(dim=0)))


def test_learned_weightings_learn_and_start_as_defined() -> None:
    losses = torch.tensor([3.0, 1.0])
    assert LOSS_WEIGHTINGS["kendall_gal"].load()([1.0, 0.1])(losses).item() == pytest.approx(2.0)
    assert LOSS_WEIGHTINGS["learnable"].load()([1.0, 0.1])(losses).item() == pytest.approx(2.0)
    assert LOSS_WEIGHTINGS["fixed"].load()([1.0, 0.1])(losses).item() == pytest.approx(3.1)
    assert not list(LOSS_WEIGHTINGS["fixed"].load()([1.0, 0.1]).parameters())
    for name in ("kendall_gal", "learnable"):
        weighting = LOSS_WEIGHTINGS[name].load()([1.0, 0.1])
        weighting(losses).backward()
        assert all(parameter.grad.any() for parameter in weighting.parameters())


def test_a_training_step_adds_its_losses_and_cuts_like_the_whole() -> None:
    """Task loss over the step's labels, concept loss times this micro-batch's share, and their weighted sum."""
    torch.manual_seed(0)
    config = ConceptConfig(
        vocab_size=31,
        hidden_size=16,
        num_concepts=4,
        num_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_sequence_length=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = ConceptModelForMaskedLM(config)
    step = PretrainingStep(model, {"orthogonality": 0.1, "uniformity": 0.5}, "fixed")
    ids = torch.randint(5, 31, (4, 8))
    labels = torch.where(torch.rand(4, 8) < 0.5, ids, -100)
    labels[:, 0] = ids[:, 0]
    count = int((labels != -100).sum())
    losses = step(ids, locate_labels(labels), None, count, 1.0)
    out = model.train()(ids, labels=labels)
    torch.testing.assert_close(losses["task"], out.loss)
    for name in ("orthogonality", "uniformity"):
        torch.testing.assert_close(losses[name], CONCEPT_LOSSES[name].load()(out.concepts))
    total = losses["task"] + 0.1 * losses["orthogonality"] + 0.5 * losses["uniformity"]
    torch.testing.assert_close(losses["total"], total)
    parts = [
        step(ids[rows], locate_labels(labels[rows]), None, count, len(ids[rows]) / 4)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(parts[0]["task"] + parts[1]["task"], losses["task"])
    # A mean over samples of a per-sample mean, so the cut does not matter here either.
    torch.testing.assert_close(parts[0]["total"] + parts[1]["total"], losses["total"])


@pytest.mark.parametrize("weighting", ["learnable", "kendall_gal"])
def test_learned_loss_weights_are_saved_with_the_training_state(weighting: str) -> None:
    config = ConceptConfig(vocab_size=11, hidden_size=8, num_concepts=2, num_layers=1, num_attention_heads=1)
    with torch.device("meta"):
        step = PretrainingStep(ConceptModelForMaskedLM(config), {"vicreg": 0.1}, weighting)
    names = {name for name, _ in step.named_parameters() if name.startswith("weighting.")}
    assert len(names) == 1 and names < set(step.state_dict())
