"""Concept checkpoints from whatever files and in whatever precision: the same model in fp32, or an error."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_folders import write_weights
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import CheckpointError, load_checkpoint, load_classifier, save_checkpoint, warm_start
from models.configuration import ConceptConfig

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_concepts": 4,
    "num_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_sequence_length": 12,
}
IDS = torch.arange(5, 25).view(2, 10)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(ConceptModelForMaskedLM(ConceptConfig(**SIZES)), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def stored(folder: Path) -> dict[str, torch.Tensor]:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return weights


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_turned_into_fp32(checkpoint: Path, kind: torch.dtype) -> None:
    half = {name: tensor.to(kind) for name, tensor in stored(checkpoint).items()}
    save_file(half, checkpoint / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((checkpoint / "config.json").read_text()) | {"dtype": str(kind).removeprefix("torch.")}
    (checkpoint / "config.json").write_text(json.dumps(config))
    name = "fp16" if kind == torch.float16 else "bf16"

    model = load_checkpoint(checkpoint)
    classifier, report = load_classifier(checkpoint, "via_decoder", 3)
    warm = ConceptModelForMaskedLM(ConceptConfig(**SIZES))
    assert report.precision == name and report.notes == [f"stored in {name}, used in fp32"]
    assert warm_start(warm, checkpoint).precision == name
    for each in (model, classifier, warm):
        assert {parameter.dtype for parameter in each.parameters()} == {torch.float32}
    assert all(torch.equal(model.state_dict()[key], tensor.float()) for key, tensor in half.items())
    with torch.no_grad():
        expected = model.get_submodule("encoder")(IDS, None)
        torch.testing.assert_close(classifier.eval().encoder(IDS, None), expected, rtol=0, atol=0)
    loss = classifier(IDS, labels=torch.tensor([0, 2])).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(parameter.grad is None or parameter.grad.dtype == torch.float32 for parameter in classifier.parameters())


@pytest.mark.parametrize(("kind", "sharded"), [("safetensors", True), ("bin", False), ("bin", True)])
def test_every_shape_of_files_gives_the_same_model(checkpoint: Path, kind: Any, sharded: bool) -> None:
    expected = load_checkpoint(checkpoint).state_dict()
    weights = stored(checkpoint)
    write_weights(
        checkpoint, {f"module.{name}": tensor for name, tensor in weights.items()}, sharded=sharded, format=kind
    )
    found = load_checkpoint(checkpoint).state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    _, report = load_classifier(checkpoint, "weighted_pooling", 2)
    assert report.notes == ["removed module. from the names of the weights"]


def test_a_value_that_is_not_finite_is_refused(checkpoint: Path) -> None:
    weights = stored(checkpoint)
    weights["encoder.norm.weight"][3] = float("nan")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights hold NaN or infinite values: encoder\.norm\.weight"):
        load_checkpoint(checkpoint)


def test_a_missing_shard_is_no_smaller_model(checkpoint: Path) -> None:
    write_weights(checkpoint, stored(checkpoint), sharded=True, format="safetensors")
    max(checkpoint.glob("*-of-*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match=r"shard 'model-00002-of-00002\.safetensors' is missing"):
        load_classifier(checkpoint, "via_decoder", 2)


def test_saving_shows_no_bar_and_leaves_the_setting(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert transformers_logging.is_progress_bar_enabled()
    model = ConceptModelForMaskedLM(ConceptConfig(**SIZES))
    model.save_pretrained(tmp_path / "plain")
    assert "Writing model shards" in capfd.readouterr().err, "transformers shows one"
    save_checkpoint(model, tmp_path / "ours")
    assert not capfd.readouterr().err and transformers_logging.is_progress_bar_enabled()
