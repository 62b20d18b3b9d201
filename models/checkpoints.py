"""Saving and loading checkpoints: transformers folders that also load without this project, by trust_remote_code.

Loading here never falls back: a weight that is missing, left over or of another shape is an error with its name.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from .autoencoder import ConceptModel, ConceptModelForMaskedLM
from .classifier import ConceptModelForSequenceClassification
from .configuration import ConceptConfig
from .heads import HEADS

# Which module serves which of transformers' Auto classes, as config.json's auto_map wants it.
AUTO_MAP = {
    "AutoConfig": "configuration.ConceptConfig",
    "AutoModel": "autoencoder.ConceptModel",
    "AutoModelForMaskedLM": "autoencoder.ConceptModelForMaskedLM",
    "AutoModelForSequenceClassification": "classifier.ConceptModelForSequenceClassification",
}
# The flat files that travel with a checkpoint as its remote code.
REMOTE_CODE = ("configuration", "layers", "losses", "encoder", "decoders", "heads", "autoencoder", "classifier")
CLASSES: dict[str, type[PreTrainedModel]] = {
    cls.__name__: cls for cls in (ConceptModel, ConceptModelForMaskedLM, ConceptModelForSequenceClassification)
}


class CheckpointError(ValueError):
    """A checkpoint cannot be read as what it says it is."""


@dataclass(frozen=True)
class LoadReport:
    """What came from the checkpoint and what is newly initialised, by name."""

    loaded: list[str]
    new: list[str]
    dropped: list[str]


def save_checkpoint(model: PreTrainedModel, folder: Path) -> None:
    """Write config, safetensors weights and the remote code into a folder."""
    model.config.auto_map = dict(AUTO_MAP)
    model.save_pretrained(folder)
    here = Path(__file__).parent
    for name in REMOTE_CODE:
        shutil.copyfile(here / f"{name}.py", folder / f"{name}.py")


def read_config(folder: Path) -> ConceptConfig:
    """The configuration of a checkpoint folder."""
    try:
        raw: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = raw.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder}: config.json cannot be read: {error}") from error
    if kind != ConceptConfig.model_type:
        raise CheckpointError(f"{folder}: model_type is {kind!r}; allowed: {ConceptConfig.model_type!r}")
    return ConceptConfig.from_dict(raw)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder, on the CPU."""
    try:
        return load_file(folder / "model.safetensors")
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{folder}: model.safetensors cannot be read: {error}") from error


def load_checkpoint(path: str | Path) -> PreTrainedModel:
    """The module of a checkpoint folder in eval mode; its class is the one that the folder names.

    Raises:
        CheckpointError: the folder is not a whole checkpoint of this family.
    """
    folder = Path(path)
    config = read_config(folder)
    name = (config.architectures or ["ConceptModelForMaskedLM"])[0]
    if name not in CLASSES:
        raise CheckpointError(f"{folder}: architecture {name!r} is unknown; allowed: {', '.join(CLASSES)}")
    model = CLASSES[name](config)
    report = _fill(model, read_weights(folder), allow_new=r"$^")
    if report.dropped:
        raise CheckpointError(f"{folder}: weights without a place: {', '.join(report.dropped)}")
    return model.eval()


def load_classifier(
    path: Path, head: str, num_labels: int, *, random_start: bool = False
) -> tuple[ConceptModelForSequenceClassification, LoadReport]:
    """A downstream model that starts from a pretrained checkpoint.

    Args:
        path: checkpoint folder.
        head: row of HEADS.
        num_labels: classes; 1 is regression.
        random_start: keep the random initialisation, for comparison.

    Returns:
        The model in train mode, and what was loaded, newly initialised and dropped.
    """
    config = read_config(path)
    config.head = head
    config.num_labels = num_labels
    config.tie_word_embeddings = False  # there is no LM head here
    model = ConceptModelForSequenceClassification(config)
    if random_start:
        return model, LoadReport([], sorted(model.state_dict()), [])
    # The head is new; the LM head is dropped by every head, the decoder by heads that do not use it.
    dropped = r"^lm_head\." if HEADS[head].uses_decoder else r"^(lm_head|decoder)\."
    report = _fill(model, read_weights(path), allow_new=r"^head\.")
    unexpected = [name for name in report.dropped if not re.match(dropped, name)]
    if unexpected:
        raise CheckpointError(f"{path}: weights without a place: {', '.join(unexpected)}")
    return model, report


def _fill(model: PreTrainedModel, weights: dict[str, torch.Tensor], allow_new: str) -> LoadReport:
    expected = model.state_dict()
    tied = model.all_tied_weights_keys
    dropped = sorted(set(weights) - set(expected))
    new = sorted(name for name in set(expected) - set(weights) if tied.get(name) not in weights)
    missing = [name for name in new if not re.match(allow_new, name)]
    if missing:
        raise CheckpointError(f"weights are missing: {', '.join(missing)}")
    for name, tensor in weights.items():
        if name in expected and tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{name} has shape {list(tensor.shape)}, the config says {list(expected[name].shape)}"
            )
    model.load_state_dict({name: weights[name] for name in weights if name in expected}, strict=False)
    model.tie_weights()
    return LoadReport(sorted(set(weights) & set(expected)), new, dropped)
