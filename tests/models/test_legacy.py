"""Checkpoints of the lab's earlier code: every class loads into ours with the same outputs.

The earlier maths stands here once more, written from its definition as functions over weights under their old names,
with torch's own multi-head attention; the known answers of the earlier code itself are used where they are at hand.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from old_checkpoints import (
    CLASSIFIERS,
    HEADS,
    INNER,
    LANGUAGE_MODELS,
    POSITIONS,
    B,
    C,
    H,
    N,
    V,
    Weights,
    old_config,
    old_weights,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from models import load_checkpoint
from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import CheckpointError, load_classifier, save_checkpoint, warm_start
from models.configuration import ConceptConfig


class Reference:
    """The earlier maths over weights under their old names."""

    def __init__(self, row: dict[str, Any], config: dict[str, Any], w: Weights) -> None:
        self.row, self.config, self.w = row, config, w

    def linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
        return functional.layer_norm(x, (H,), self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    def attend(self, name: str, queries: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        module = torch.nn.MultiheadAttention(H, HEADS, batch_first=True).eval()
        module.load_state_dict({key: self.w[f"{name}.{key}"] for key in module.state_dict()})
        padding = None if mask is None else mask == 0
        return module(queries, context, context, key_padding_mask=padding, need_weights=False)[0]

    def gated(self, inner: str, outer: str, x: Tensor) -> Tensor:
        a, b = self.linear(inner, x).chunk(2, dim=-1)
        return self.linear(outer, functional.gelu(a) * b)

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        w, config = self.w, self.config
        length = ids.shape[1]
        x = w["encoder.token_embeddings.weight"][ids] + w["encoder.token_position_embeddings.weight"][:length]
        if config["token_embedding_dim"] < H:
            x = self.linear("encoder.token_projection", x)
        z = w["encoder.concept_embeddings.weight"]
        z = z + w.get("encoder.concept_position_emb.weight", w.get("encoder.concept_position_emb", torch.zeros(C, H)))
        z = z.expand(len(ids), -1, -1)
        recursive = "encoder.shared_layer.Wi.weight" in w
        count = config.get("num_iterations") or config["num_hidden_layers"]
        for number in range(count if recursive else config["num_hidden_layers"]):
            layer = "encoder.shared_layer" if recursive else f"encoder.layers.{number}"
            z = z + self.attend(f"{layer}.concept_token_attn", self.norm(f"{layer}.pre_cross_attn_norm", z), x, mask)
            if config.get("use_bixt"):
                x = x + self.attend(f"{layer}.token_concept_attn", self.norm(f"{layer}.pre_reverse_cross_norm", x), z)
            normed = self.norm(f"{layer}.pre_self_attn_norm", z)
            z = z + self.attend(f"{layer}.concept_self_attn", normed, normed)
            z = z + self.gated(f"{layer}.Wi", f"{layer}.Wo", self.norm(f"{layer}.pre_ff_norm", z))
        return self.norm("encoder.output_layer_norm", z, 1e-12)

    def decode(self, z: Tensor, ids: Tensor, by_position: bool) -> Tensor:
        """The perceiver's and the weighted decoder's states at every position."""
        length = ids.shape[1]
        if "concept_weights" in self.w:
            prefix = "pre_lm_projection" if "pre_lm_projection.0.weight" in self.w else "pre_classifier_projection"
            mixed = torch.softmax(self.w["concept_weights"][:length], dim=-1) @ z
            return functional.gelu(self.linear(f"{prefix}.1", self.norm(f"{prefix}.0", mixed)))
        queries = self.w["decoder_query_embeddings.weight"][:length].expand(len(ids), -1, -1)
        if not by_position:
            tokens = self.w["encoder.token_embeddings.weight"][ids]
            queries = queries + (self.linear("decoder_input_projection", tokens) if tokens.shape[-1] < H else tokens)
        y = queries + self.attend("decoder_cross_attn", self.norm("decoder_norm", queries), z)
        inner = functional.gelu(self.linear("decoder_ffn.0", self.norm("post_cross_norm", y)))
        return y + self.linear("decoder_ffn.2", inner)

    def denoise(self, z: Tensor, noisy: Tensor, t: Tensor, mask: Tensor) -> Tensor:
        x = self.w["decoder.token_embed.weight"][noisy]
        x = self.linear("decoder.token_proj", x) if x.shape[-1] < H else x
        x = x + self.w["decoder.pos_embed.weight"][: noisy.shape[1]]
        angles = t[:, None] * 10_000 ** (-torch.arange(H // 2) / (H // 2))
        features = torch.cat([angles.sin(), angles.cos()], dim=-1)
        time = self.linear("decoder.t_embed.proj.2", functional.silu(self.linear("decoder.t_embed.proj.0", features)))
        for number in range(self.row.get("decoder_layers", 2)):
            layer = f"decoder.layers.{number}"
            if self.row.get("self_attention"):
                scale, shift = self.linear(f"{layer}.t_proj", time)[:, None].chunk(2, dim=-1)
                normed = self.norm(f"{layer}.norm_self", x * (1 + scale) + shift)
                x = x + self.attend(f"{layer}.self_attn", normed, normed, mask)
                x = x + self.attend(f"{layer}.cross_attn", self.norm(f"{layer}.norm_cross", x), z)
                x = x + self.gated(f"{layer}.ff_in", f"{layer}.ff_out", self.norm(f"{layer}.norm_ff", x))
                continue
            parts = self.linear(f"{layer}.adaLN", time)[:, None].chunk(6, dim=-1)
            read = self.norm(f"{layer}.norm_cross", x) * (1 + parts[0]) + parts[1]
            x = x + parts[2] * self.attend(f"{layer}.cross_attn", read, z)
            read = self.norm(f"{layer}.norm_ff", x) * (1 + parts[3]) + parts[4]
            x = x + parts[5] * self.gated(f"{layer}.ff_in", f"{layer}.ff_out", read)
        return self.norm("decoder.out_norm", x)

    def logits(self, states: Tensor) -> Tensor:
        embedding = self.w["encoder.token_embeddings.weight"]
        head = self.w.get("lm_head.weight", self.w.get("decoder.lm_head.weight", embedding))
        return states @ head.T

    def pooled(self, z: Tensor) -> Tensor:
        weights = torch.softmax(self.linear("concept_scorer", z), dim=1)
        return self.norm("pool_norm", (weights * z).sum(dim=1))

    def classify(self, ids: Tensor, mask: Tensor) -> Tensor:
        z, name = self.encode(ids, mask), self.row["class"]
        if "ViaDecoder" in name or "Weighted" in name:
            states = self.decode(z, ids, bool(self.config.get("decoder_posonly")))
            states = self.norm("pre_pool_norm", states) if "ViaDecoder" in name else states
            weights = mask[..., None].float()
            pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)
        elif "cls_query" in self.w:
            query = self.w["cls_query"].expand(len(ids), -1, -1)
            query = query + self.attend("cls_cross_attn", self.norm("cls_norm", query), z)
            inner = functional.gelu(self.linear("cls_ffn.1", self.norm("cls_ffn.0", query)))
            pooled = self.norm("cls_final_norm", query + self.linear("cls_ffn.3", inner))[:, 0]
        else:
            pooled = self.pooled(z)
        return self.linear("classifier", pooled)


def texts(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(N) < torch.tensor([N, 7, 4])[:, None]).long()
    return torch.randint(5, V, (B, N), generator=generator) * mask, mask


def write_old(folder: Path, row: dict[str, Any], *, pickled: bool = False) -> Reference:
    """A checkpoint in the earlier format, and the earlier maths over its weights."""
    config = old_config(row)
    w = old_weights(row, config)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if pickled:
        torch.save(w, folder / "pytorch_model.bin")
    else:
        save_file(w, folder / "model.safetensors", metadata={"format": "pt"})
    return Reference(row, config, w)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@torch.no_grad()
def test_a_pretrained_model_of_the_earlier_code_answers_the_same(tmp_path: Path, name: str, pickled: bool) -> None:
    row = LANGUAGE_MODELS[name]
    old = write_old(tmp_path, row, pickled=pickled)
    model = load_checkpoint(tmp_path)
    assert not model.training
    (ids, mask), labels = texts(), texts(1)[0]
    chosen = torch.where(mask.bool() & (torch.arange(N) % 3 == 0), labels, -100)
    z = old.encode(ids, mask)
    if "Diffusion" in row["class"]:
        noisy, t = torch.where(chosen != -100, 4, ids), torch.tensor([0.05, 0.4, 0.9])
        out = model(ids, mask, labels=chosen, noisy_ids=noisy, t=t)
        logits = old.logits(old.denoise(z, noisy, t, mask))
        each = functional.cross_entropy(logits.flatten(0, 1), chosen.flatten(), reduction="none", label_smoothing=0.1)
        weights = (1 / t.clamp(min=0.1))[:, None].expand(B, N)[chosen != -100]
        expected = (each.view(B, N)[chosen != -100] * weights).sum() / weights.sum()
        elbo = model(ids, mask, labels=chosen, noisy_ids=noisy, t=t, elbo=True, smoothing=0.1)
        close(elbo.loss, expected)
    else:
        out = model(ids, mask, labels=chosen)
        logits = old.logits(old.decode(z, ids, "PosOnly" in row["class"]))
    close(out.concepts, z)
    close(out.logits, logits)
    close(out.loss, functional.cross_entropy(logits.flatten(0, 1), chosen.flatten()))


@pytest.mark.parametrize("name", CLASSIFIERS)
@torch.no_grad()
def test_a_classifier_of_the_earlier_code_answers_the_same(tmp_path: Path, name: str) -> None:
    row = CLASSIFIERS[name]
    old = write_old(tmp_path, row)
    model = load_checkpoint(tmp_path)
    (ids, mask), (ids_b, mask_b) = texts(), texts(1)
    if name != "sentence-pair":
        out = model(ids, mask)
        close(out.concepts, old.encode(ids, mask))
        close(out.logits, old.classify(ids, mask))
        return
    out = model(input_ids_a=ids, attention_mask_a=mask, input_ids_b=ids_b, attention_mask_b=mask_b)
    a, b = old.pooled(old.encode(ids, mask)), old.pooled(old.encode(ids_b, mask_b))
    close(out.logits, old.linear("classifier", torch.cat([a, b, (a - b).abs(), a * b], dim=-1)))
    close(out.cosine, functional.cosine_similarity(a, b)[:, None])


@pytest.mark.parametrize("name", [name for name, row in LANGUAGE_MODELS.items() if row.get("use_bixt")])
def test_what_is_never_read_is_frozen_and_all_else_learns(tmp_path: Path, name: str) -> None:
    write_old(tmp_path, LANGUAGE_MODELS[name])
    model = load_checkpoint(tmp_path).train()
    frozen = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen and all(key.startswith("encoder.layers.1.token_") for key in frozen)
    ids, mask = texts()
    model(ids, mask, labels=torch.where(mask.bool(), ids, -100), t=torch.full((B,), 0.5)).loss.backward()
    assert [key for key, p in model.named_parameters() if p.grad is None and p.requires_grad] == []


@pytest.mark.parametrize("name", [*LANGUAGE_MODELS, *CLASSIFIERS])
@torch.no_grad()
def test_a_converted_checkpoint_is_the_same_model(tmp_path: Path, name: str) -> None:
    write_old(tmp_path / "old", {**LANGUAGE_MODELS, **CLASSIFIERS}[name])
    model = load_checkpoint(tmp_path / "old")
    save_checkpoint(model, tmp_path / "new")
    again = load_checkpoint(tmp_path / "new")
    assert type(again) is type(model)
    first, second = model.state_dict(), again.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    trainable = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert [key for key, parameter in again.named_parameters() if parameter.requires_grad] == trainable


def test_fine_tuning_starts_from_earlier_checkpoints(tmp_path: Path) -> None:
    old = write_old(tmp_path / "pretrained", LANGUAGE_MODELS["perceiver"])
    model, report = load_classifier(tmp_path / "pretrained", "via_decoder", 2)
    assert torch.equal(model.encoder.token_embedding.weight, old.w["encoder.token_embeddings.weight"])
    assert all(name.startswith("head.") for name in report.new) and report.dropped == []

    write_old(tmp_path / "tuned", CLASSIFIERS["via-decoder"])
    model, report = load_classifier(tmp_path / "tuned", "via_decoder", 2)
    assert report.new == ["head.classifier.bias", "head.classifier.weight"] == report.dropped
    assert "head.norm.weight" in report.loaded and model.head.classifier.weight.shape == (2, H)
    model, report = load_classifier(tmp_path / "tuned", "weighted_pooling", 2)
    assert all(name.startswith("head.") for name in report.new)
    assert {name.split(".")[0] for name in report.dropped} == {"head", "decoder"}


def test_pretraining_starts_warm(tmp_path: Path) -> None:
    old = write_old(tmp_path, LANGUAGE_MODELS["perceiver"])
    shape: dict[str, Any] = {
        "vocab_size": V,
        "hidden_size": H,
        "num_concepts": C,
        "num_layers": 2,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "max_sequence_length": POSITIONS,
    }
    same = ConceptModelForMaskedLM(ConceptConfig(**shape))
    report = warm_start(same, tmp_path)
    assert report.new == report.dropped == []
    assert torch.equal(same.lm_head.weight, old.w["encoder.token_embeddings.weight"])

    other = ConceptModelForMaskedLM(ConceptConfig(**shape, decoder_type="weighted", tie_word_embeddings=False))
    report = warm_start(other, tmp_path)
    assert all(name.startswith("encoder.") for name in report.loaded)
    assert {name.split(".")[0] for name in report.new} == {"decoder", "lm_head"}
    assert {name.split(".")[0] for name in report.dropped} == {"decoder"}

    with pytest.raises(CheckpointError, match=r"missing \(\d+\): encoder\.layers\.2"):
        warm_start(ConceptModelForMaskedLM(ConceptConfig(**shape | {"num_layers": 3})), tmp_path)
    with pytest.raises(CheckpointError, match=r"shape \[5, 16\], the config says \[6, 16\]"):
        warm_start(ConceptModelForMaskedLM(ConceptConfig(**shape | {"num_concepts": 6})), tmp_path)


def test_damage_is_named(tmp_path: Path) -> None:
    write_old(tmp_path, LANGUAGE_MODELS["perceiver"], pickled=True)
    path = tmp_path / "pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    torch.save({**weights, "extra.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"without a place \(1\): extra\.weight"):
        load_checkpoint(tmp_path)
    torch.save({name: tensor for name, tensor in weights.items() if "decoder_norm" not in name}, path)
    with pytest.raises(CheckpointError, match=r"missing \(\d+\): decoder\.query_norm\.bias"):
        load_checkpoint(tmp_path)
    torch.save({"weights": Path("anything but a tensor")}, path)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin cannot be read"):
        load_checkpoint(tmp_path)
    path.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin cannot be read"):
        load_checkpoint(tmp_path)
    torch.save(weights, path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["ConceptEncoderForNothing"]}))
    with pytest.raises(CheckpointError, match="'ConceptEncoderForNothing' is unknown; allowed: Concept"):
        load_checkpoint(tmp_path)
    config.pop("concept_num")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="'concept_num' is missing"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["weighted_mlm", "perceiver_mlm", "weighted_pooling_cls", "diffusion_xattn"])
@torch.no_grad()
def test_the_answers_of_the_earlier_code_itself(golden: Path, name: str) -> None:
    expected = load_file(golden / name / "expected.safetensors")
    model = load_checkpoint(golden / name)
    if name == "diffusion_xattn":
        masked = expected["noise_mask"].bool() & expected["attention_mask"].bool()
        inputs = {key: expected[key] for key in ("input_ids", "attention_mask", "noisy_ids", "t")}
        inputs["labels"] = torch.where(masked, expected["input_ids"], -100)
        smoothed = model(**inputs, smoothing=0.1)
        close(smoothed.loss.reshape(1), expected["loss_unweighted_smoothed"])
        close(model(**inputs, smoothing=0.1, elbo=True).loss.reshape(1), expected["loss_elbo_smoothed"])
        expected["loss"] = expected["loss_plain"]
    else:
        inputs = {key: expected[key] for key in ("input_ids", "attention_mask", "labels") if key in expected}
    out = model(**inputs)
    for key in ("concepts", "logits", "loss"):
        if key in expected:
            close(out[key].reshape(expected[key].shape), expected[key])
