"""Every member of the family traces as one graph, and one graph serves batches with any number of labels."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.family import CONCEPT_LOSSES, LOSS_WEIGHTINGS, VARIANTS
from models.objectives import CorruptionSettings
from models.pretraining_step import PretrainingStep
from tasks.data.token_blocks import Batch, BatchPlan, MicroBatches, TokenBlocks

VOCAB, MASK, PAD, LENGTH = 31, 4, 0, 24
SETTINGS = CorruptionSettings(0.3, MASK, VOCAB, (PAD, MASK), elbo=True)
ENCODERS: dict[str, dict[str, Any]] = {
    "bixt": {"use_bixt": True},
    "recursive": {"recursive": True},
    "shared": {"share_token_kv": True},
    "narrow": {"token_embedding_dim": 4, "tie_word_embeddings": False},
    "learned positions": {"concept_position_type": "learned"},
}


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> TokenBlocks:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "train").mkdir()
    np.random.default_rng(0).integers(5, VOCAB, 40 * LENGTH).astype(np.uint16).tofile(folder / "train/tokens.bin")
    starts = np.arange(40) * LENGTH
    np.save(folder / "train/blocks.npy", np.stack([starts, np.full(40, LENGTH)]))
    (folder / "corpus.json").write_text(f'{{"vocab_size": {VOCAB}, "blocks": "concat"}}')
    return TokenBlocks(folder, "train")


def batches(blocks: TokenBlocks, objective: str) -> list[Batch]:
    made = MicroBatches(blocks, BatchPlan(objective, SETTINGS, PAD, 0, 4, 4, fixed_shapes=True), steps=5)
    return [made[number] for number in range(len(made))]


def make_step(variant: str, losses: dict[str, float], weighting: str, **changes: Any) -> PretrainingStep:
    row = VARIANTS[variant]
    sizes = {"hidden_size": 8, "num_concepts": 3, "num_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    fields = {"vocab_size": VOCAB, "max_sequence_length": LENGTH, "mask_token_id": MASK, "decoder_type": row.decoder}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    torch.manual_seed(0)
    config = ConceptConfig(**{**sizes, **fields, **rates, "tie_word_embeddings": row.tied} | changes)
    return PretrainingStep(ConceptModelForMaskedLM(config), losses, weighting, row.label_smoothing)


def gradients(step: PretrainingStep, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    step.zero_grad()
    total = step(**batch, num_items_in_batch=batch["labels"].total.float(), share=0.5)["total"]
    total.backward()
    return total.item(), {name: weight.grad for name, weight in step.named_parameters() if weight.grad is not None}


def assert_one_graph(step: PretrainingStep, given: list[Batch]) -> None:
    """The compiled step gives the eager one's losses and gradients, from one graph for all batches."""
    expected = [gradients(step, batch) for batch in given]
    expected = [(loss, {name: gradient.clone() for name, gradient in found.items()}) for loss, found in expected]
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    step.compile(backend=counter, fullgraph=True, dynamic=False)
    for batch, (loss, found) in zip(given, expected, strict=True):
        compiled_loss, compiled = gradients(step, batch)
        assert compiled_loss == pytest.approx(loss, rel=2e-6) and compiled.keys() == found.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1, "compiled again"


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str, blocks: TokenBlocks) -> None:
    given = batches(blocks, VARIANTS[variant].objective)
    if variant != "tsdae":
        assert any(one["labels"].total != other["labels"].total for one, other in pairwise(given))
    assert_one_graph(make_step(variant, {}, "fixed"), given)


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders(kind: str, blocks: TokenBlocks) -> None:
    assert_one_graph(make_step("perceiver_mlm", {}, "fixed", **ENCODERS[kind]), batches(blocks, "mlm"))


@pytest.mark.parametrize("weighting", LOSS_WEIGHTINGS)
def test_losses(weighting: str, blocks: TokenBlocks) -> None:
    step = make_step("perceiver_mlm", dict.fromkeys(CONCEPT_LOSSES, 0.1), weighting)
    assert_one_graph(step, batches(blocks, "mlm"))
