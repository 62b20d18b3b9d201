"""Weights in the shapes of public bug reports: the states of the whole encoder come out, or loading refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from encoder_folders import encoder_folder
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.plain import load_plain_classifier
from models.weight_files import CheckpointError, UnfitError

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
QUERY = "bert.encoder.layer.0.attention.self.query.weight"


def stored(folder: Path, change: Change, family: str = "bert") -> Path:
    encoder_folder(family, folder)
    weights = change(load_file(folder / "model.safetensors"))
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def renamed(old: str, new: str) -> Change:
    return lambda weights: {name.replace(old, new): tensor for name, tensor in weights.items()}


def within(prefix: str, without: str = "") -> Change:
    return lambda weights: {prefix + name.removeprefix(without): tensor for name, tensor in weights.items()}


def beside(**more: Tensor) -> Change:
    return lambda weights: weights | {name.replace("__", "."): tensor for name, tensor in more.items()}


def zeroed(part: str) -> Change:
    return lambda weights: {
        name: torch.zeros_like(tensor) if part in name else tensor for name, tensor in weights.items()
    }


LOADED: dict[str, tuple[Change, list[str]]] = {
    "a sentence-transformers state": (within("0.auto_model.", "bert."), ["removed 0.auto_model."]),
    "a cross-encoder": (within("model."), ["removed model."]),
    "a Lightning module around a model": (within("model.model."), ["removed model.model."]),
    "a merged adapter": (within("base_model.model."), ["removed base_model.model."]),
    "a wrapper that is called as the family": (within("bert."), ["removed bert."]),
    "a distilled student's projections": (
        beside(fit_denses__0__weight=torch.ones(4), fit_dense__bias=torch.ones(4)),
        [],
    ),
    "positions that were cast too": (
        beside(bert__embeddings__position_ids=torch.arange(64).half()[None]),
        ["stored in fp16 and fp32, used in fp32"],
    ),
    "a copy of the tied embeddings": (
        lambda weights: weights | {"cls.predictions.decoder.weight": weights["bert.embeddings.word_embeddings.weight"]},
        [],
    ),
    "a frozen table of segments": (zeroed("token_type_embeddings"), []),
    "biases of zero": (zeroed(".bias"), []),
}


@pytest.mark.parametrize("case", LOADED)
def test_the_encoder_of_the_file_comes_out(case: str, tmp_path: Path) -> None:
    change, notes = LOADED[case]
    folder = stored(tmp_path / "model", lambda weights: {k: v.clone() for k, v in change(weights).items()})
    file = load_file(encoder_folder("bert", tmp_path / "known") / "model.safetensors")
    model, report = load_plain_classifier(folder, 2)
    assert [note.split(" from ")[0] for note in report.notes] == notes
    assert report.new == ["classifier.bias", "classifier.weight"] and len(report.loaded) == 39
    zero = {"a frozen table of segments": "token_type_embeddings", "biases of zero": ".bias"}.get(case)
    for name, tensor in model.base_model.state_dict().items():
        expected = file[f"bert.{name}"]
        assert torch.equal(tensor, torch.zeros_like(expected) if zero and zero in name else expected), name


REFUSED: dict[str, tuple[Change, type[CheckpointError], str]] = {
    "an adapter that was taken out": (
        renamed("query.weight", "query.base_layer.weight"),
        CheckpointError,
        r"weights are missing \(2\)",
    ),
    "masks of pruning": (renamed("query.weight", "query.weight_orig"), CheckpointError, r"weights are missing \(2\)"),
    "a fused activation": (renamed("intermediate.dense.", "intermediate.dense_act."), CheckpointError, "missing"),
    "names of TensorFlow": (renamed("dense.weight", "dense.kernel"), CheckpointError, "missing"),
    "parametrizations": (
        renamed("query.weight", "query.parametrizations.weight.original1"),
        CheckpointError,
        "missing",
    ),
    "empty tensors of a sharded training": (
        lambda weights: weights | {QUERY: torch.zeros(0)},
        CheckpointError,
        r"another shape .* \(1\): bert",
    ),
    "zeros of a sharded training": (zeroed("layer.1."), CheckpointError, r"weights are all zero \(6\): bert\.encoder"),
    "one matrix of zeros": (zeroed(QUERY), CheckpointError, rf"weights are all zero \(1\): {QUERY}"),
    "an output layer stored transposed": (
        lambda weights: {n: t.T if "intermediate.dense.weight" in n else t for n, t in weights.items()},
        CheckpointError,
        r"another shape .* \(2\)",
    ),
    "new tokens that the config does not count": (
        lambda weights: weights | {"bert.embeddings.word_embeddings.weight": torch.ones(170, 32)},
        CheckpointError,
        r"another shape .*word_embeddings",
    ),
    "a projection of late interaction": (beside(linear__weight=torch.ones(4)), UnfitError, r"place \(1\): linear"),
    "a layer of contrastive training": (beside(mlp__dense__weight=torch.ones(4)), UnfitError, "fix: if the encoder"),
    "a tagger's transitions": (beside(crf__transitions=torch.ones(3, 3)), UnfitError, "crf.transitions"),
    "an average of the weights": (
        lambda weights: weights | {f"ema.{name}": tensor + 1 for name, tensor in weights.items()},
        UnfitError,
        r"place \(46\): ema\.",
    ),
    "an optimizer's step": (beside(optimizer__step=torch.ones(1)), UnfitError, "optimizer.step"),
    "observers of quantization": (
        beside(bert__encoder__layer__0__output__dense__weight_fake_quant__scale=torch.ones(1)),
        UnfitError,
        "weight_fake_quant",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_another_encoder_is_refused(case: str, tmp_path: Path) -> None:
    change, kind, says = REFUSED[case]
    with pytest.raises(CheckpointError, match=says) as refused:
        load_plain_classifier(stored(tmp_path / "model", change), 2)
    assert type(refused.value) is kind


def test_a_family_within_the_name_of_another_is_still_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="weights are those of a roberta, its config is of another family"):
        load_plain_classifier(stored(tmp_path / "mpnet", within("roberta.", "mpnet."), "mpnet"), 2)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "albert", "mpnet", "modernbert"])
def test_zeros_are_refused_in_every_family(family: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="weights are all zero"):
        load_plain_classifier(stored(tmp_path / family, zeroed(".weight"), family), 2)
