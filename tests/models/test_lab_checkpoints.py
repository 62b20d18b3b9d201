"""What a lab's checkpoint holds beside its model: left out with a note where that is harmless, else refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from old_checkpoints import CLASSIFIERS, LANGUAGE_MODELS, C, H, N, V, Weights, old_config, old_weights
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from models.checkpoints import CheckpointError, check_checkpoint, load_classifier, load_reported
from tasks.checkpoints.converting import checkpoint_facts, convert_checkpoint
from tasks.checkpoints.finding import resolve_checkpoint
from tasks.store.home import Home

EVERY = {**LANGUAGE_MODELS, **CLASSIFIERS}
LOSS_WEIGHTS = {
    "kendall_gal": ("loss_manager.weighting_strategy.log_vars", torch.tensor([0.25, -1.5])),
    "learnable": ("loss_manager.weighting_strategy.raw_weights", torch.tensor([0.125, 2.0, -0.5])),
}


def write(folder: Path, config: dict[str, Any], weights: Weights, *, pickled: bool = False) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    return folder


def old(name: str) -> tuple[dict[str, Any], Weights]:
    """Config and weights of a class, without anything beside the model."""
    row = EVERY[name]
    config = old_config(row)
    return config, old_weights(row, config)


def answer(model: PreTrainedModel) -> Tensor:
    ids = torch.randint(5, V, (2, N), generator=torch.Generator().manual_seed(0))
    if getattr(model.config, "head", "") == "sentence_pair" and hasattr(model, "head"):
        return model(input_ids_a=ids, input_ids_b=ids.flip(0)).logits
    noise = {"noisy_ids": ids, "t": torch.tensor([0.2, 0.7])} if "diffusion" in model.config.decoder_type else {}
    return model(ids, **(noise if hasattr(model, "lm_head") else {})).logits


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("weighting", LOSS_WEIGHTS)
@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_learned_weights_of_the_losses_are_left_out(tmp_path: Path, name: str, weighting: str, pickled: bool) -> None:
    config, weights = old(name)
    bare, _ = load_reported(write(tmp_path / "bare", config, weights))
    key, values = LOSS_WEIGHTS[weighting]
    model, report = load_reported(write(tmp_path / "kept", config, weights | {key: values}, pickled=pickled))
    (note,) = [note for note in report.notes if "decoder.input_projection" not in note]
    assert note.startswith(f"left out {key} ({', '.join(f'{value:.4g}' for value in values.tolist())}): learned")
    assert torch.equal(answer(model), answer(bare))
    again, fresh = load_classifier(tmp_path / "kept", "weighted_pooling", 2)
    assert fresh.notes == report.notes and key not in again.state_dict()


def wrapped(weights: Weights) -> Weights:
    return {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()}


def tied_copy(weights: Weights) -> Weights:
    return weights | {"lm_head.weight": weights["encoder.token_embeddings.weight"].clone()}


def in_half(weights: Weights) -> Weights:
    return {name: tensor.half() for name, tensor in weights.items()}


# name -> (class, change of the weights, beginnings of the notes)
HARMLESS: dict[str, tuple[str, Callable[[Weights], Weights], list[str]]] = {
    "wrappers of training": ("perceiver", wrapped, ["removed _orig_mod.", "removed module."]),
    "wrapped loss weights": (
        "perceiver",
        lambda w: wrapped(w | dict([LOSS_WEIGHTS["learnable"]])),
        [
            "removed _orig_mod.",
            "removed module.",
            "left out loss_manager.weighting_strategy.raw_weights (0.125, 2, -0.5)",
        ],
    ),
    "a loss weight for each loss": (
        "perceiver",
        lambda w: w | {"loss_manager.weighting_strategy.log_vars.task": torch.tensor(0.5)},
        ["left out loss_manager.weighting_strategy.log_vars.task (0.5)"],
    ),
    "a copy of the tied embedding": ("perceiver", tied_copy, []),
    "position ids": (
        "weighted",
        lambda w: w | {"encoder.position_ids": torch.arange(14)[None]},
        ["left out encoder.position_ids: positions counted from 0"],
    ),
    "a table that is computed": (
        "weighted-sinusoidal",
        lambda w: {name: tensor for name, tensor in w.items() if name != "encoder.concept_position_emb"},
        ["computed encoder.concept_position_emb"],
    ),
    "a projection that nothing reads": (
        "posonly",
        lambda w: w | {"decoder_input_projection.weight": torch.ones(H, H)},
        ["left out decoder.input_projection.weight: the queries of this decoder are positions alone"],
    ),
    "the LM head under two names": (
        "diffusion-selfattn",
        lambda w: w | {"lm_head.weight": w["decoder.lm_head.weight"].clone()},
        [],
    ),
}


@pytest.mark.parametrize("case", HARMLESS)
@torch.no_grad()
def test_what_is_harmless_is_told(tmp_path: Path, case: str) -> None:
    name, change, notes = HARMLESS[case]
    config, weights = old(name)
    model, report = load_reported(write(tmp_path / "changed", config, change(weights)))
    assert len(report.notes) == len(notes)
    assert all(said.startswith(note) for said, note in zip(report.notes, notes, strict=True)), report.notes
    assert torch.equal(answer(model), answer(load_reported(write(tmp_path / "bare", config, weights))[0]))


@torch.no_grad()
def test_half_precision_is_told_and_used_in_fp32(tmp_path: Path) -> None:
    config, weights = old("perceiver")
    model, report = load_reported(write(tmp_path, config, in_half(weights)))
    assert report.precision == "fp16" and report.notes == ["stored in fp16, used in fp32"]
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    rounded = weights["encoder.concept_embeddings.weight"].half().float()
    assert torch.equal(model.encoder.concept_embedding.weight, rounded)


def test_what_a_training_leaves_in_the_folder_is_not_read(tmp_path: Path) -> None:
    config, weights = old("perceiver")
    folder = write(tmp_path, config, weights)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json"):
        (folder / name).write_bytes(b"no model")
    assert load_reported(folder)[1].notes == []


@torch.no_grad()
def test_a_head_that_is_not_tied_though_the_config_says_so_is_used_and_told(tmp_path: Path) -> None:
    config, weights = old("perceiver")
    own = torch.randn(V, H)
    model, report = load_reported(write(tmp_path, config, weights | {"lm_head.weight": own}))
    assert torch.equal(model.lm_head.weight, own)
    assert report.notes == [
        "lm_head.weight is used as stored: it is not the token embedding that tie_word_embeddings says"
    ]


def without(weights: Weights, *names: str) -> Weights:
    return {name: tensor for name, tensor in weights.items() if name not in names}


# name -> (class, change of the config, change of the weights, what the message must say)
REFUSED: dict[str, tuple[str, dict[str, Any], Callable[[Weights], Weights], str]] = {
    "another part of the loss manager": (
        "perceiver",
        {},
        lambda w: w | {"loss_manager.projection.weight": torch.ones(2)},
        r"without a place \(1\): loss_manager\.projection\.weight",
    ),
    "loss weights elsewhere": (
        "perceiver",
        {},
        lambda w: w | {"encoder.log_vars": torch.ones(2)},
        r"without a place \(1\): encoder\.log_vars",
    ),
    "an untied head that is missing": (
        "weighted",
        {},
        lambda w: without(w, "lm_head.weight"),
        r"missing.*lm_head\.weight",
    ),
    "a layer too many": (
        "perceiver",
        {"num_hidden_layers": 1},
        lambda w: w,
        r"without a place.*encoder\.layers\.1\.cross_attention",
    ),
    "a layer too few": ("perceiver", {"num_hidden_layers": 3}, lambda w: w, r"missing.*encoder\.layers\.2"),
    "a decoder layer left out": (
        "diffusion",
        {},
        lambda w: {name: tensor for name, tensor in w.items() if not name.startswith("decoder.layers.1.")},
        r"missing.*decoder\.layers\.1",
    ),
    "token updates that the config denies": (
        "posonly-bixt",
        {"use_bixt": False},
        lambda w: w,
        r"without a place.*token_attention",
    ),
    "a shape of another width": (
        "perceiver",
        {},
        lambda w: w | {"encoder.concept_embeddings.weight": torch.ones(C + 1, H)},
        r"concept_embedding\.weight has shape \[6, 16\], the config says \[5, 16\]",
    ),
    "not a number": (
        "perceiver",
        {},
        lambda w: w | {"decoder_norm.weight": torch.full((H,), torch.nan)},
        r"NaN or infinite values: decoder_norm\.weight",
    ),
    "a diverged loss weight": (
        "perceiver",
        {},
        lambda w: w | {LOSS_WEIGHTS["kendall_gal"][0]: torch.tensor([0.0, torch.inf])},
        r"NaN or infinite values: loss_manager",
    ),
    "two LM heads": (
        "diffusion-selfattn",
        {},
        lambda w: w | {"lm_head.weight": torch.zeros(V, H)},
        r"lm_head\.weight, which the file holds a second time with other values",
    ),
    "positions counted otherwise": (
        "weighted",
        {},
        lambda w: w | {"encoder.position_ids": torch.arange(14)[None] + 2},
        r"without a place \(1\): encoder\.position_ids",
    ),
    "no number of heads": ("perceiver", {"num_attention_heads": None}, lambda w: w, r"num_attention_heads"),
    "another activation": (
        "perceiver",
        {"hidden_act": "relu"},
        lambda w: w,
        r"hidden_act: got 'relu'; allowed: 'gelu'",
    ),
    "a flag in words": (
        "posonly",
        {"use_bixt": "false"},
        lambda w: w,
        r"use_bixt: got 'false'; allowed: true or false",
    ),
    "queries by a flag in words": (
        "via-decoder",
        {"decoder_posonly": "no"},
        lambda w: w,
        r"decoder_posonly: got 'no'; allowed: true or false",
    ),
    "concept positions of another kind": (
        "perceiver",
        {"concept_position_type": "rotary"},
        lambda w: w,
        r"concept_position_type: got 'rotary'; allowed: none, sinusoidal, learned",
    ),
    "a dropout in percent": (
        "perceiver",
        {"hidden_dropout_prob": 10},
        lambda w: w,
        r"hidden_dropout_prob: got 10; allowed: 0 and more, below 1",
    ),
    "fewer names than classes": (
        "weighted-pooling",
        {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}},
        lambda w: w,
        r"id2label names 2 classes, the classifier has 3",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_change_the_answers_is_refused_by_name(tmp_path: Path, case: str) -> None:
    name, changes, change, message = REFUSED[case]
    config, weights = old(name)
    config = {key: value for key, value in (config | changes).items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        check_checkpoint(write(tmp_path, config, change(weights)))


def test_showing_and_converting_tell_it(tmp_path: Path) -> None:
    config, weights = old("perceiver")
    folder = write(tmp_path / "old", config, in_half(weights | dict([LOSS_WEIGHTS["kendall_gal"]])))
    home = Home(tmp_path / "home")
    found = resolve_checkpoint(str(folder), home, None)
    facts = checkpoint_facts(found)
    assert facts["precision"] == "fp16"
    assert [note.split(" (")[0] for note in facts["notes"]] == [
        "stored in fp16, used in fp32",
        "left out loss_manager.weighting_strategy.log_vars",
    ]
    assert convert_checkpoint(found, tmp_path / "new", None) == facts["notes"]
    converted = checkpoint_facts(resolve_checkpoint(str(tmp_path / "new"), home, None))
    assert (converted["precision"], converted["notes"]) == ("fp32", [])
