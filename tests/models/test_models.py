"""The contract of every composition of the model family, its checkpoints, and the known answers of earlier code."""

import ast
import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from models import autoencoder
from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import CheckpointError, load_checkpoint, load_classifier, save_checkpoint
from models.classifier import ConceptModelForSequenceClassification
from models.configuration import ConceptConfig
from models.decoders import Decoder
from models.family import CONCEPT_LOSSES, DECODERS, HEADS, LOSS_WEIGHTINGS, OBJECTIVES, VARIANTS
from models.generation import Sampling, fill_masks
from models.heads import Head
from models.layers import sinusoidal_positions
from models.loss_weighting import LossWeighting
from models.objectives import CorruptionSettings, sample_generator
from models.remote_code import AUTO_MAP, REMOTE_CODE
from tasks.data.token_blocks import pad_samples
from tasks.spec.pretraining import ModelSpec

VOCAB, WIDTH, LENGTH, POSITIONS = 97, 32, 18, 20
MASK = 4
EMBEDDING_DIMS = (WIDTH, WIDTH // 2)
CONCEPT_POSITIONS = ("none", "sinusoidal", "learned")
MODELS = Path(autoencoder.__file__).parent


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tensors this small only wait for each other on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_config(**changes: Any) -> ConceptConfig:
    fields: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "num_concepts": 6,
        "num_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "max_sequence_length": POSITIONS,
        "head": "weighted_pooling",
        "tie_word_embeddings": False,
        "mask_token_id": MASK,
    }
    return ConceptConfig(**fields | changes)


def make_batch(rows: int = 3) -> dict[str, Tensor]:
    """Padded texts of unequal length with some labelled positions, the first token of each among them."""
    generator = torch.Generator().manual_seed(7)
    lengths = torch.tensor([LENGTH, 11, 5, 1, 9, 14])[:rows]
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    ids = torch.randint(5, VOCAB, (rows, LENGTH), generator=generator) * mask
    chosen = (torch.rand(rows, LENGTH, generator=generator) < 0.3) & mask.bool()
    chosen[:, 0] = True
    return {
        "input_ids": torch.where(chosen, MASK, ids),
        "attention_mask": mask,
        "labels": torch.where(chosen, ids, -100),
    }


def refilled(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same batch with other ids at its padding."""
    return {**batch, "input_ids": torch.where(batch["attention_mask"].bool(), batch["input_ids"], 13)}


# Every row of DECODERS and VARIANTS x E = H and E < H x concept positions; tied where the widths allow it.
LANGUAGE_MODELS = (
    [
        pytest.param(
            {
                "decoder_type": decoder,
                "token_embedding_dim": dim,
                "concept_position_type": kind,
                "tie_word_embeddings": tied,
            },
            id=f"{decoder}-E{dim}-{kind}{'-tied' if tied else ''}",
        )
        for decoder, dim, kind, tied in itertools.product(DECODERS, EMBEDDING_DIMS, CONCEPT_POSITIONS, (False, True))
        if not tied or dim == WIDTH
    ]
    + [
        pytest.param(
            {"decoder_type": decoder, "use_bixt": bixt, "recursive": recursive, "num_layers": layers},
            id=f"{decoder}-{layers}layers{'-bixt' if bixt else ''}{'-recursive' if recursive else ''}",
        )
        for decoder, (bixt, recursive, layers) in itertools.product(
            DECODERS, [(True, False, 3), (True, False, 1), (False, True, 3), (True, True, 3), (True, True, 1)]
        )
    ]
    + [
        pytest.param({"decoder_type": decoder, "share_token_kv": True, "num_layers": 3}, id=f"{decoder}-shared_kv")
        for decoder in DECODERS
    ]
    + [
        pytest.param({"decoder_type": row.decoder, "tie_word_embeddings": row.tied, "variant": name}, id=name)
        for name, row in VARIANTS.items()
    ]
)

# Every head x the decoders it reads x widths x concept positions.
CLASSIFIERS = [
    pytest.param(
        {"head": head, "decoder_type": decoder, "token_embedding_dim": dim, "concept_position_type": kind},
        id=f"{head}-{decoder}-E{dim}-{kind}",
    )
    for head, dim, kind in itertools.product(HEADS, EMBEDDING_DIMS, CONCEPT_POSITIONS)
    for decoder in HEADS[head].decoders or DECODERS
]


@pytest.mark.parametrize("composition", LANGUAGE_MODELS)
def test_language_model_contract(composition: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = make_config(**composition)
    model = ConceptModelForMaskedLM(config)
    batch = make_batch()

    assert sum(parameter.numel() for parameter in model.parameters()) == model.count_parameters(config)

    model.train()
    trained = model(**batch)
    assert trained.logits is None
    assert trained.loss.shape == () and torch.isfinite(trained.loss)
    trained.loss.backward()
    if composition["decoder_type"] == "diffusion":  # its gates open with the first step
        gated = {name for name, p in model.named_parameters() if not p.grad.any()}
        assert gated and all(name.startswith(("decoder.layers.", "decoder.time.", "encoder.")) for name in gated)
        assert not any(name.endswith("modulation.weight") for name in gated)
        torch.optim.SGD(model.parameters(), lr=1.0).step()
        model.zero_grad()
        model(**batch).loss.backward()
    unreached = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())

    model.eval()
    with torch.no_grad():
        out = model(**batch)
        assert out.concepts.shape == (3, config.num_concepts, WIDTH)
        assert out.logits.shape == (3, LENGTH, VOCAB)
        expected = functional.cross_entropy(out.logits.flatten(0, 1), batch["labels"].flatten())
        torch.testing.assert_close(out.loss, expected, rtol=1e-5, atol=1e-6)
        labelled = int((batch["labels"] != -100).sum())
        halved = model(**batch, num_items_in_batch=torch.tensor(2.0 * labelled))
        torch.testing.assert_close(halved.loss, expected / 2, rtol=1e-5, atol=1e-6)

        other = model(**refilled(batch))
        torch.testing.assert_close(other.loss, out.loss, rtol=0, atol=0)
        real = batch["attention_mask"].bool()
        torch.testing.assert_close(other.logits[real], out.logits[real], rtol=0, atol=0)

        save_checkpoint(model, tmp_path)
        again = load_checkpoint(tmp_path)
        assert isinstance(again, ConceptModelForMaskedLM) and not again.training
        assert_same_weights(again, model)
        repeated = again(**batch)
        assert torch.equal(repeated.logits, out.logits) and torch.equal(repeated.loss, out.loss)


@pytest.mark.parametrize("composition", CLASSIFIERS)
def test_classifier_contract(composition: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ConceptModelForSequenceClassification(make_config(**composition, num_labels=3))
    batch = texts_for(composition["head"], torch.tensor([0, 2, 1]))

    model.train()
    out = model(**batch)
    assert out.logits.shape == (3, 3) and torch.isfinite(out.loss)
    out.loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    unmoved = {name for name, parameter in model.named_parameters() if not parameter.grad.any()}
    # A softmax does not change when all its scores move together.
    assert unmoved <= {"head.scorer.bias"}

    model.eval()
    with torch.no_grad():
        out = model(**batch)
        torch.testing.assert_close(out.loss, functional.cross_entropy(out.logits, batch["labels"]))
        other = {
            name: torch.where(batch[name.replace("input_ids", "attention_mask")].bool(), part, 13)
            if name.startswith("input_ids")
            else part
            for name, part in batch.items()
        }
        assert torch.equal(model(**other).logits, out.logits)

        save_checkpoint(model, tmp_path)
        again = load_checkpoint(tmp_path)
        assert_same_weights(again, model)
        assert torch.equal(again(**batch).logits, out.logits)


def texts_for(head: str, labels: Tensor) -> dict[str, Tensor]:
    """A batch as a head takes it: one sequence, or two texts apart."""
    batch = {**make_batch(), "labels": labels}
    if head != "sentence_pair":
        return batch
    first = {f"{name}_a": batch[name] for name in ("input_ids", "attention_mask")}
    return {"labels": labels, **first, **{f"{name[:-2]}_b": part.roll(1, dims=0) for name, part in first.items()}}


def test_two_texts_are_compared_by_their_own_concepts() -> None:
    torch.manual_seed(0)
    model = ConceptModelForSequenceClassification(make_config(head="sentence_pair", num_labels=3)).eval()
    batch = texts_for("sentence_pair", torch.tensor([0, 2, 1]))
    with torch.no_grad():
        out = model(**batch)
        same = model(**{name: batch[f"{name[:-2]}_a"] for name in batch if name != "labels"})
        swapped = model(
            **{name: batch[f"{name[:-2]}_{'b' if name.endswith('a') else 'a'}"] for name in batch if name != "labels"}
        )
    assert out.cosine.shape == (3, 1) and (out.cosine.abs() <= 1).all()
    torch.testing.assert_close(same.cosine, torch.ones(3, 1))
    torch.testing.assert_close(swapped.cosine, out.cosine)
    assert torch.equal(swapped.concepts, out.concepts_b) and torch.equal(swapped.concepts_b, out.concepts)
    with pytest.raises(ValueError, match="input_ids_a and input_ids_b"):
        model(batch["input_ids_a"])
    with pytest.raises(ValueError, match="takes input_ids"):
        ConceptModelForSequenceClassification(make_config(num_labels=3))(**batch)


@pytest.mark.parametrize("head", HEADS)
def test_one_label_is_regression(head: str) -> None:
    decoder = (HEADS[head].decoders or ("perceiver",))[0]
    model = ConceptModelForSequenceClassification(make_config(head=head, decoder_type=decoder, num_labels=1)).eval()
    targets = torch.tensor([0.5, 4.0, 2.5], dtype=torch.float64)
    out = model(**texts_for(head, targets))
    assert out.logits.shape == (3, 1)
    torch.testing.assert_close(out.loss, (out.logits[:, 0] - targets.float()).square().mean())


@pytest.mark.parametrize("composition", LANGUAGE_MODELS[-len(VARIANTS) :])
def test_more_padding_changes_nothing(composition: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = ConceptModelForMaskedLM(make_config(**composition)).eval()
    ids = torch.randint(5, VOCAB, (2, 9))
    padded = functional.pad(ids, (0, 6))
    mask = functional.pad(torch.ones_like(ids), (0, 6))
    with torch.no_grad():
        alone, together = model(ids), model(padded, mask)
    torch.testing.assert_close(together.concepts, alone.concepts)
    torch.testing.assert_close(together.logits[:, :9], alone.logits)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_batch_without_labels_costs_nothing_and_reaches_every_parameter(decoder: str) -> None:
    """One rank of several may see such a batch; its gradients must be zero, not absent or undefined."""
    model = ConceptModelForMaskedLM(make_config(decoder_type=decoder)).train()
    batch = make_batch()
    batch["labels"] = torch.full_like(batch["labels"], -100)
    loss = model(**batch, num_items_in_batch=torch.tensor(5.0)).loss
    assert loss.item() == 0.0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_sixty_steps_on_one_batch_halve_the_loss(variant: str) -> None:
    row = VARIANTS[variant]
    torch.manual_seed(0)
    config = make_config(
        decoder_type=row.decoder,
        tie_word_embeddings=row.tied,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = ConceptModelForMaskedLM(config).train()
    corruption = CorruptionSettings(0.15, MASK, VOCAB, (0, 1, 2, 3, 4))
    texts = np.random.default_rng(0).integers(5, VOCAB, (8, LENGTH))
    corrupt = OBJECTIVES[row.objective].load()
    samples = [corrupt(text, sample_generator(0, 0, 0, number), corruption) for number, text in enumerate(texts)]
    batch = pad_samples(samples, 0)
    batch.pop("read_positions", None)  # which spare a training the deleted tokens; `forward` masks them
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = model(**batch).loss.item()
    for _ in range(60):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    assert model(**batch).loss.item() < first / 2


@pytest.mark.parametrize(
    ("head", "decoder", "layers", "intermediate", "millions"),
    [
        ("via_decoder", "perceiver", 2, 1024, 35.8),
        ("via_decoder", "perceiver", 6, 2048, 61.1),
        ("weighted_decoder", "weighted", 2, 1024, 33.8),
        ("weighted_decoder", "weighted", 6, 2048, 58.0),
        ("weighted_pooling", "perceiver", 2, 1024, 33.5),
        ("weighted_pooling", "perceiver", 6, 2048, 57.7),
    ],
)
def test_sizes_are_those_of_the_log(head: str, decoder: str, layers: int, intermediate: int, millions: float) -> None:
    config = ConceptConfig(
        vocab_size=50_368,
        hidden_size=512,
        num_layers=layers,
        intermediate_size=intermediate,
        max_sequence_length=512,
        head=head,
        decoder_type=decoder,
        num_labels=2,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = ConceptModelForSequenceClassification(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    # The log cuts or rounds: 57.65 M stands there as 57.7 M.
    assert abs(total / 1e6 - millions) < 0.06
    pretrained = ConceptModelForMaskedLM.count_parameters(config) - config.hidden_size * config.vocab_size
    own = sum(parameter.numel() for parameter in model.head.parameters())
    decoder_size = sum(parameter.numel() for parameter in DECODERS[decoder].load()(config).parameters())
    assert total == pretrained + own - (0 if HEADS[head].decoders else decoder_size)


def test_sinusoidal_positions_interleave_sines_and_cosines() -> None:
    table = sinusoidal_positions(7, 6)
    angles = np.arange(7)[:, None] / 10_000 ** (np.arange(0, 6, 2) / 6)
    np.testing.assert_allclose(table[:, 0::2], np.sin(angles), atol=1e-6)
    np.testing.assert_allclose(table[:, 1::2], np.cos(angles), atol=1e-6)


def test_a_text_longer_than_the_positions_is_refused() -> None:
    model = ConceptModelForMaskedLM(make_config())
    with pytest.raises(ValueError, match=f"{POSITIONS + 1} tokens; this model has {POSITIONS} positions"):
        model(torch.ones(1, POSITIONS + 1, dtype=torch.long))


def test_a_config_that_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="must divide"):
        make_config(num_attention_heads=5)
    with pytest.raises(ValueError, match="token_embedding_dim"):
        make_config(token_embedding_dim=16, tie_word_embeddings=True)


def test_every_field_of_a_models_spec_is_one_of_its_config() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(ConceptConfig)}
    assert set(ModelSpec.model_fields) <= set(fields)
    assert ConceptConfig().to_dict().keys() >= ModelSpec.model_fields.keys()
    for name, field in ModelSpec.model_fields.items():
        assert field.default in (None, fields[name]), f"{name} has two defaults"


TWO_PROCESSES = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.labels import locate_labels
from models.pretraining_step import PretrainingStep
from models.family import VARIANTS

torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
for name, row in VARIANTS.items():
    for bixt, recursive in ((False, False), (True, False), (False, True)):
        torch.manual_seed(0)
        config = ConceptConfig(
            vocab_size=97, hidden_size=32, num_concepts=6, num_layers=2, num_attention_heads=4, intermediate_size=24,
            max_sequence_length=20, tie_word_embeddings=row.tied, decoder_type=row.decoder, use_bixt=bixt,
            recursive=recursive, mask_token_id=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
        step = PretrainingStep(ConceptModelForMaskedLM(config), {"combined": 0.1}, "kendall_gal", row.label_smoothing)
        wrapped = DistributedDataParallel(step)
        optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-2)
        torch.manual_seed(1 + rank)
        for _ in range(2):
            ids = torch.randint(5, 97, (2, 18))
            labels = torch.where(torch.rand(2, 18) < 0.4, ids, -100)
            noise = {"noisy_ids": torch.where(labels == -100, ids, 4), "t": torch.full((2,), 0.4)}
            more = noise if "diffusion" in name else {}
            losses = wrapped(ids, locate_labels(labels), None, num_items_in_batch=10.0, share=1.0, **more)
            losses["total"].backward()
            optimizer.step()
            optimizer.zero_grad()
        flat = torch.cat([parameter.detach().flatten() for parameter in step.parameters()])
        other = flat.clone()
        dist.broadcast(other, src=0)
        assert torch.equal(flat, other) and torch.isfinite(flat).all(), name
dist.barrier()
dist.destroy_process_group()  # threads of gloo that live at exit abort the process
print("done")
"""


def test_two_processes_train_every_variant_in_step(tmp_path: Path) -> None:
    """No parameter may stay without a gradient (DDP would stop), and the weights stay the same on both sides."""
    environment = os.environ | {"PYTHONPATH": str(MODELS.parent), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(rank), str(tmp_path / "meet")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process in started:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0 and "done" in output, output[-3000:]


# --- generation ---


def diffusion_model() -> ConceptModelForMaskedLM:
    torch.manual_seed(0)
    model = ConceptModelForMaskedLM(make_config(decoder_type="diffusion"))
    for layer in model.decoder.layers:  # gates that are open, so that text and noise level count
        torch.nn.init.normal_(layer.modulation.weight, std=0.2)
        torch.nn.init.normal_(layer.modulation.bias, std=0.2)
    return model.eval()


@pytest.mark.parametrize("steps", [1, 3, 50])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_masks_are_filled_and_nothing_else_changes(steps: int, temperature: float) -> None:
    model, batch = diffusion_model(), make_batch()
    concepts = model.encoder(batch["input_ids"], batch["attention_mask"])
    generator = torch.Generator().manual_seed(3)
    sampling = Sampling(steps, temperature, top_k=5, generator=generator)
    out = fill_masks(model, concepts, batch["input_ids"], batch["attention_mask"], sampling)
    masked = (batch["input_ids"] == MASK) & batch["attention_mask"].bool()
    assert masked.any() and not (out[batch["attention_mask"].bool()] == MASK).any()
    assert torch.equal(out[~masked], batch["input_ids"][~masked])


def test_the_surest_masks_are_filled_first_an_even_share_at_a_time() -> None:
    model = diffusion_model()
    ids = torch.full((2, 10), MASK)
    ids[1, 4:] = 7
    concepts = model.encoder(torch.randint(5, VOCAB, (2, 10)))
    counts: list[list[int]] = []
    real = model.decoder.forward
    model.decoder.forward = lambda c, p, reads: counts.append((reads.ids == MASK).sum(1).tolist()) or real(c, p, reads)
    out = fill_masks(model, concepts, ids, sampling=Sampling(steps=4))
    # ceil(left / steps left): 10 -> 7 -> 4 -> 2 -> 0 and 4 -> 3 -> 2 -> 1 -> 0
    assert counts == [[10, 4], [7, 3], [4, 2], [2, 1]]
    model.decoder.forward = real
    once = fill_masks(model, concepts, ids, sampling=Sampling(steps=1))
    reads = model.decoder_input(ids, None, None, torch.tensor([1.0, 0.4]))
    logits = model.lm_head(model.decoder(concepts, torch.arange(10).expand(2, 10), reads))
    logits[..., MASK] = -torch.inf
    assert torch.equal(once[0], logits[0].argmax(-1)) and torch.equal(once[1, 4:], ids[1, 4:])
    first = logits[0].softmax(-1).amax(-1).topk(3).indices
    assert torch.equal(out[0, first], logits[0].argmax(-1)[first]), "the three surest of the first step stay"


# --- the tables ---


def test_every_row_names_its_code_and_fits_the_others() -> None:
    kinds: list[tuple[dict[str, Any], type | None]] = [
        (OBJECTIVES, None),
        (CONCEPT_LOSSES, None),
        (DECODERS, Decoder),
        (HEADS, Head),
        (LOSS_WEIGHTINGS, LossWeighting),
    ]
    for table, base in kinds:
        codes = {row.code: row.load() for row in table.values()}
        assert len(codes) == len(table), "two rows with the same code"
        assert all(issubclass(code, base) if base else callable(code) for code in codes.values())
    for table in (*(table for table, _ in kinds), VARIANTS):
        assert all(name == row.name and row.summary and "\n" not in row.summary for name, row in table.items())
    for row in VARIANTS.values():
        assert row.objective in OBJECTIVES and row.decoder in DECODERS
        assert HEADS[row.default_head].fits(row.decoder)
    for head in HEADS.values():
        assert set(head.decoders) <= set(DECODERS)


# --- checkpoints ---


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A saved perceiver_mlm with E = H, untied, so that its LM head is in the file."""
    torch.manual_seed(1)
    save_checkpoint(ConceptModelForMaskedLM(make_config(decoder_type="perceiver")), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["encoder.layers.1.self_attention.q_proj.weight", "decoder.norm.x", "lm_head.weight"])
def test_load_checkpoint_names_what_is_missing_left_over_or_misshaped(checkpoint: Path, name: str) -> None:
    stored = name in load_file(checkpoint / "model.safetensors")
    if stored:
        change_weights(checkpoint, lambda weights: weights.update({name: weights[name][:3].clone()}))
        with pytest.raises(CheckpointError, match=rf"{name} has shape \[3, "):
            load_checkpoint(checkpoint)
        change_weights(checkpoint, lambda weights: weights.pop(name))
        with pytest.raises(CheckpointError, match=rf"missing \(1\): {name}$"):
            load_checkpoint(checkpoint)
    else:
        change_weights(checkpoint, lambda weights: weights.update({name: torch.zeros(2)}))
        with pytest.raises(CheckpointError, match=f"without a place .1.: {name}$"):
            load_checkpoint(checkpoint)


def test_load_checkpoint_refuses_what_is_no_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    weights = checkpoint / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_checkpoint(checkpoint)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_checkpoint(checkpoint)
    change_config(checkpoint, architectures=["Elsewhere"])
    with pytest.raises(CheckpointError, match="architecture 'Elsewhere' is unknown"):
        load_checkpoint(checkpoint)
    change_config(checkpoint, model_type="bert")
    with pytest.raises(CheckpointError, match="model_type is 'bert'; allowed: 'concept_autoencoder'"):
        load_checkpoint(checkpoint)
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load_checkpoint(tmp_path / "nowhere")


def test_tied_weights_stay_one_tensor(tmp_path: Path) -> None:
    save_checkpoint(ConceptModelForMaskedLM(make_config(tie_word_embeddings=True)), tmp_path)
    model = load_checkpoint(tmp_path)
    assert model.lm_head.weight is model.encoder.token_embedding.weight


@pytest.mark.parametrize("tied", [False, True])
def test_a_classifier_reports_what_it_starts_from(tmp_path: Path, tied: bool) -> None:
    torch.manual_seed(1)
    save_checkpoint(ConceptModelForMaskedLM(make_config(decoder_type="perceiver", tie_word_embeddings=tied)), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    parts = {part: sorted(name for name in stored if name.startswith(part)) for part in ("encoder", "decoder", "lm_")}
    assert bool(parts["lm_"]) is not tied

    model, report = load_classifier(tmp_path, "via_decoder", 3)
    assert report.loaded == sorted(parts["encoder"] + parts["decoder"])
    assert report.dropped == parts["lm_"]
    assert report.new == ["head.classifier.bias", "head.classifier.weight", "head.norm.bias", "head.norm.weight"]
    assert model.training and model.config.num_labels == 3
    state = model.state_dict()
    assert all(torch.equal(state[name], stored[name]) for name in report.loaded)

    model, report = load_classifier(tmp_path, "weighted_pooling", 1)
    assert report.loaded == parts["encoder"]
    assert report.dropped == sorted(parts["decoder"] + parts["lm_"])
    assert all(name.startswith("head.") for name in report.new)

    model, report = load_classifier(tmp_path, "via_decoder", 3, random_start=True)
    assert report.loaded == report.dropped == [] and report.new == sorted(model.state_dict())
    random = model.state_dict()["encoder.layers.0.feed_forward.wi.weight"]
    assert not torch.equal(random, stored["encoder.layers.0.feed_forward.wi.weight"])


def test_a_classifier_never_starts_from_half_a_checkpoint(checkpoint: Path) -> None:
    name = "decoder.cross_attention.q_proj.bias"
    change_weights(checkpoint, lambda weights: weights.update({"decoder.extra": weights.pop(name)}))
    load_classifier(checkpoint, "weighted_pooling", 2)  # reads no decoder at all
    with pytest.raises(CheckpointError, match=rf"missing \(1\): {name}$"):
        load_classifier(checkpoint, "via_decoder", 2)
    change_weights(checkpoint, lambda weights: weights.update({name: weights["decoder.extra"].clone()}))
    with pytest.raises(CheckpointError, match=r"without a place \(1\): decoder\.extra$"):
        load_classifier(checkpoint, "via_decoder", 2)
    change_weights(checkpoint, lambda weights: weights.pop("encoder.norm.weight"))
    with pytest.raises(CheckpointError, match=r"missing \(\d+\): encoder\.norm\.weight$"):
        load_classifier(checkpoint, "weighted_pooling", 2)


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


# --- the published folder, in plain transformers ---


def test_the_remote_code_is_whole() -> None:
    """Every import within the files that travel names another of them; all else is torch, transformers or Python's."""
    allowed = {"torch", "transformers", *sys.stdlib_module_names}
    for name in REMOTE_CODE:
        for node in ast.walk(ast.parse((MODELS / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module in REMOTE_CODE, f"{name}.py imports .{node.module}"
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert {str(module).split(".")[0] for module in names} <= allowed, f"{name}.py imports {names}"
    assert {entry.split(".")[0] for entry in AUTO_MAP.values()} <= set(REMOTE_CODE)


LOAD_PLAINLY = """
import sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"models", "tasks", "flows"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
import torch
import transformers
from safetensors.torch import save_file

out, batch = {}, torch.load(sys.argv[2])
for line in sys.argv[3:]:
    kind, folder = line.split("=", 1)
    model, report = getattr(transformers, kind).from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True
    )
    assert not any(report[part] for part in ("missing_keys", "mismatched_keys")), report
    assert not model.training
    with torch.no_grad():
        result = model(**batch)
    for name in ("concepts", "logits"):
        if result.get(name) is not None:
            out[f"{kind}={folder}={name}"] = result[name]
save_file(out, sys.argv[1])
"""


def test_a_published_folder_loads_in_plain_transformers(tmp_path: Path) -> None:
    batch = {name: tensor for name, tensor in make_batch().items() if name != "labels"}
    batch["input_ids"] = torch.where(batch["input_ids"] == MASK, 7, batch["input_ids"])  # not every variant reads masks
    torch.save(batch, tmp_path / "batch.pt")
    expected: dict[str, Tensor] = {}
    for number, (name, row) in enumerate(VARIANTS.items()):
        torch.manual_seed(number)
        dim = WIDTH if row.tied else WIDTH // 2
        shape: dict[str, Any] = {"decoder_type": row.decoder, "variant": name, "token_embedding_dim": dim}
        pretrained = ConceptModelForMaskedLM(make_config(tie_word_embeddings=row.tied, **shape)).eval()
        downstream = ConceptModelForSequenceClassification(
            make_config(head=row.default_head, num_labels=3, **shape)
        ).eval()
        folder, tuned = tmp_path / f"{name}_H32L2C6_20260208_211633", tmp_path / f"tuned-{name}"
        save_checkpoint(pretrained, folder)
        save_checkpoint(downstream, tuned)
        with torch.no_grad():
            out, tuned_out = pretrained(**batch), downstream(**batch)
        expected[f"AutoModel={folder}=concepts"] = out.concepts
        expected[f"AutoModelForMaskedLM={folder}=concepts"] = out.concepts
        expected[f"AutoModelForMaskedLM={folder}=logits"] = out.logits
        expected[f"AutoModelForSequenceClassification={tuned}=concepts"] = tuned_out.concepts
        expected[f"AutoModelForSequenceClassification={tuned}=logits"] = tuned_out.logits
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    loads = sorted({key.rsplit("=", 1)[0] for key in expected})
    done = subprocess.run(
        [sys.executable, "-c", LOAD_PLAINLY, str(tmp_path / "out.safetensors"), str(tmp_path / "batch.pt"), *loads],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-6, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")
