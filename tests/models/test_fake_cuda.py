"""Every member of the family trains a step on fake CUDA tensors: nothing is on the wrong device or of a wrong dtype.

Rows come from the tables, so a new one is covered by itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import HostSyncs, build_device_guard, fake_cuda, move, on_fake_cuda
from torch import Tensor, nn

from models.autoencoder import ConceptModelForMaskedLM
from models.classifier import ConceptModelForSequenceClassification
from models.configuration import ConceptConfig
from models.encoder import ConceptEncoder
from models.family import CONCEPT_LOSSES, DECODERS, HEADS, LOSS_WEIGHTINGS, OBJECTIVES, VARIANTS
from models.heads import PairHead
from models.labels import locate_labels
from models.layers import GatedFeedForward
from models.objectives import CorruptionSettings, sample_generator
from models.pretraining_step import PretrainingStep
from tasks.data.token_blocks import Batch, pad_samples

VOCAB, MASK, PAD = 31, 4, 0
SETTINGS = CorruptionSettings(mask_prob=0.3, mask_token_id=MASK, vocab_size=VOCAB, special_ids=(PAD, MASK), elbo=True)
# Texts of one length need no attention mask, which lets other kernels in.
LENGTHS = {"padded": (9, 5, 7), "full": (9, 9, 9)}
PRECISIONS = ("fp32", "bf16")
# Operations that torch has no deterministic algorithm for on a GPU.
NEVER_DETERMINISTIC = {"_cdist_backward", "scatter_reduce", "put_", "histc", "bincount", "median", "kthvalue", "cumsum"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    if torch.cuda.is_available():
        return None
    built = build_device_guard(tmp_path_factory.mktemp("fake_cuda"))
    if built is None:
        pytest.skip("no C++ compiler, which makes the pretended device")
    return built


def make_config(**changes: Any) -> ConceptConfig:
    sizes = {"hidden_size": 8, "num_concepts": 3, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    fields: dict[str, Any] = {"vocab_size": VOCAB, "max_sequence_length": 10, "num_decoder_layers": 1, **sizes}
    return ConceptConfig(**{**fields, "mask_token_id": MASK, "tie_word_embeddings": False} | changes)


def make_batch(objective: str, lengths: tuple[int, ...]) -> Batch:
    """A batch as the loader makes it."""
    corrupt, generator = OBJECTIVES[objective].load(), np.random.default_rng(0)
    texts = [generator.integers(5, VOCAB, length) for length in lengths]
    samples = [corrupt(text, sample_generator(0, 0, 0, n), SETTINGS) for n, text in enumerate(texts)]
    batch = pad_samples(samples, PAD)
    batch["labels"] = locate_labels(batch["labels"], batch.pop("loss_weights", None))
    return batch


@contextmanager
def on_gpu(library: Path | None, precision: str) -> Iterator[HostSyncs]:
    with fake_cuda(library) as syncs, torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
        yield syncs


def take_step(module: nn.Module, loss: Tensor) -> None:
    """Backward, clipping and an optimizer's step, all of it in fp32 on the GPU; every used weight gets a gradient."""
    assert (loss.device.type, loss.dtype, loss.shape) == ("cuda", torch.float32, ())
    with torch.autocast("cuda", enabled=False):
        loss.backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer = torch.optim.AdamW(module.parameters(), fused=True)
        optimizer.step()
    assert norm.device.type == "cuda"
    used = [parameter for parameter in module.parameters() if parameter.grad is not None]
    assert used and {parameter.grad.dtype for parameter in used if parameter.grad is not None} == {torch.float32}
    moments = [tensor for state in optimizer.state.values() for tensor in state.values()]
    assert {tensor.device.type for tensor in (*used, *moments)} == {"cuda"}


def pretrain(
    library: Path | None, config: ConceptConfig, batch: Batch, precision: str, losses: dict[str, float], weighting: str
) -> set[str]:
    """A training step; gives the names of the weights without a gradient."""
    step = PretrainingStep(ConceptModelForMaskedLM(config), losses, weighting, label_smoothing=0.1)
    with on_gpu(library, precision) as syncs:
        move(step)
        parts = step(**on_fake_cuda(batch), num_items_in_batch=torch.empty((), device="cuda"), share=1.0)
        assert list(parts) == ["total", "task", *losses]
        take_step(step, parts["total"])
        assert not syncs.asked, "the host waits for the GPU"
        assert syncs.ran.isdisjoint(NEVER_DETERMINISTIC), "training.deterministic would fail"
        return {name for name, parameter in step.named_parameters() if parameter.grad is None}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(library: Path | None, variant: str, precision: str, lengths: str) -> None:
    row = VARIANTS[variant]
    config = make_config(decoder_type=row.decoder, variant=variant, tie_word_embeddings=row.tied)
    batch = make_batch(row.objective, LENGTHS[lengths])
    assert not pretrain(library, config, batch, precision, {}, "fixed"), "weights that are never trained"


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_decoders_and_objectives(library: Path | None, decoder: str, objective: str) -> None:
    """Also those that no variant puts together."""
    pretrain(library, make_config(decoder_type=decoder), make_batch(objective, LENGTHS["padded"]), "bf16", {}, "fixed")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("weighting", LOSS_WEIGHTINGS)
def test_concept_losses_and_their_weighting(library: Path | None, weighting: str, precision: str) -> None:
    losses = dict.fromkeys(CONCEPT_LOSSES, 0.5)
    pretrain(library, make_config(), make_batch("mlm", LENGTHS["padded"]), precision, losses, weighting)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_bixt": True, "num_layers": 2, "concept_position_type": "learned"},
        {"recursive": True, "num_layers": 2, "use_bixt": True, "concept_position_type": "sinusoidal"},
        {"token_embedding_dim": 4, "decoder_type": "diffusion", "decoder_reads_tokens": True},
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_encoders(library: Path | None, precision: str, changes: dict[str, Any]) -> None:
    pretrain(library, make_config(**changes), make_batch("mlm", LENGTHS["padded"]), precision, {}, "fixed")


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("head", HEADS)
def test_heads(library: Path | None, head: str, precision: str, labels: int) -> None:
    for decoder in HEADS[head].decoders or ("perceiver",):
        model = ConceptModelForSequenceClassification(make_config(head=head, decoder_type=decoder, num_labels=labels))
        text = {name: torch.ones(3, 7, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
        if isinstance(model.head, PairHead):
            text = {f"{name}_{side}": tensor for name, tensor in text.items() for side in "ab"}
        text["labels"] = torch.ones(3, dtype=torch.float32 if labels == 1 else torch.int64)
        with on_gpu(library, precision):
            move(model)
            output = model(**on_fake_cuda(text))
            assert output.logits.shape == (3, labels) and output.logits.device.type == "cuda"
            take_step(model, output.loss)


def test_logits_of_an_evaluation(library: Path | None) -> None:
    model = ConceptModelForMaskedLM(make_config()).eval()
    with on_gpu(library, "bf16") as syncs, torch.no_grad():
        move(model)
        logits = model(**on_fake_cuda({"input_ids": torch.ones(2, 7, dtype=torch.int64)})).logits
    assert (logits.shape, logits.dtype, logits.device.type) == ((2, 7, VOCAB), torch.bfloat16, "cuda")
    assert not syncs.asked


# What the contract is worth: a mistake that a CPU forgives is seen.


def forgets_device(encoder: ConceptEncoder, input_ids: Tensor, *_: Tensor | None) -> Tensor:
    positions = torch.arange(input_ids.shape[1])
    return encoder.token_embedding(input_ids) + encoder.position_embedding(positions)


def forgets_dtype(layer: GatedFeedForward, x: Tensor) -> Tensor:
    return x @ layer.wi.weight.T.to(torch.bfloat16)[:, : x.shape[-1]]


@pytest.mark.parametrize(
    ("part", "mistake", "message"),
    [(ConceptEncoder, forgets_device, "cuda:0.* cpu"), (GatedFeedForward, forgets_dtype, "two dtypes")],
)
def test_mistakes_are_seen(
    library: Path | None, monkeypatch: pytest.MonkeyPatch, part: type, mistake: Any, message: str
) -> None:
    monkeypatch.setattr(part, "forward", mistake)
    with pytest.raises(RuntimeError, match=message):
        pretrain(library, make_config(), make_batch("mlm", LENGTHS["full"]), "fp32", {}, "fixed")


def test_a_tensor_that_does_not_move_with_its_module_is_seen(library: Path | None) -> None:
    encoder = ConceptEncoder(make_config(concept_position_type="sinusoidal"))
    table = encoder.concept_position_table
    del encoder.concept_position_table
    encoder.__dict__["concept_position_table"] = table
    with pytest.raises(RuntimeError, match="cpu"), on_gpu(library, "fp32"):
        move(encoder)(on_fake_cuda({"ids": torch.ones(2, 7, dtype=torch.int64)})["ids"])


def test_what_the_host_waits_for_is_kept(library: Path | None) -> None:
    with on_gpu(library, "fp32") as syncs:
        x = torch.empty(4, device="cuda")
        for wait in (lambda: x.sum().item(), lambda: x[x > 0], lambda: (x > 0).nonzero(), lambda: x.cpu()):
            before = len(syncs.asked)
            wait()
            assert len(syncs.asked) > before and "test_fake_cuda.py" in syncs.asked[-1]
        before = len(syncs.asked)
        assert (x * 2).sum().device.type == "cuda" and len(syncs.asked) == before
