"""Saving and loading checkpoints: transformers folders that also load without this project, by trust_remote_code.

Loading here never falls back: a weight that is missing, left over or of another shape is an error with its name.
"""

import json
import pickle
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from . import legacy
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


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


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


@dataclass(frozen=True)
class StoredModel:
    """A checkpoint as it lies on disk, in our terms whatever code wrote it: nothing is built yet."""

    config: ConceptConfig
    weights: dict[str, torch.Tensor]
    architecture: str


def read_checkpoint(folder: Path) -> StoredModel:
    """Configuration and weights of a checkpoint folder, ours or of the lab's earlier code (see `models.legacy`).

    Raises:
        CheckpointError: it is not a whole checkpoint of this family.
    """
    try:
        raw: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = raw.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder}: config.json cannot be read: {error}") from error
    allowed = (ConceptConfig.model_type, *legacy.MODEL_TYPES)
    if kind not in allowed:
        raise CheckpointError(f"{folder}: model_type is {kind!r}; allowed: {', '.join(map(repr, allowed))}")
    try:
        if kind == ConceptConfig.model_type:
            config = ConceptConfig.from_dict(raw)
            architecture = _known_architecture(config, folder)
            return StoredModel(config, read_weights(folder), architecture)
        config, weights = legacy.translate(raw, read_weights(folder))
        return StoredModel(config, weights, _known_architecture(config, folder))
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        missing = f"{error} is missing from it or from the weights" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{folder}: config.json: {missing}") from error


def _known_architecture(config: ConceptConfig, folder: Path) -> str:
    name = (config.architectures or ["ConceptModelForMaskedLM"])[0]
    if name not in CLASSES:
        raise CheckpointError(f"{folder}: architecture {name!r} is unknown; allowed: {', '.join(CLASSES)}")
    return str(name)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder, on the CPU; a pickle is read as weights alone and runs no code."""
    packed, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    path = pickled if pickled.is_file() and not packed.is_file() else packed
    try:
        if path == packed:
            return load_file(packed)
        loaded = torch.load(pickled, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{folder}: {path.name} cannot be read: {reason}") from error
    if not isinstance(loaded, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in loaded.values()):
        raise CheckpointError(f"{folder}: {path.name} cannot be read: it holds something else than named tensors")
    return loaded


def load_checkpoint(path: str | Path) -> PreTrainedModel:
    """The module of a checkpoint in eval mode, ours or of the earlier code; its class is the one that the folder names.

    Args:
        path: a folder, or a Hub id `account/name[@revision]` where there is no such folder.

    Raises:
        CheckpointError: it is not a whole checkpoint of this family.
    """
    folder = _local_folder(path)
    stored = read_checkpoint(folder)
    model = CLASSES[stored.architecture](stored.config)
    report = _fill(model, stored.weights, allow_new=r"$^")
    if report.dropped:
        raise CheckpointError(f"{folder}: weights without a place: {', '.join(report.dropped)}")
    return model.eval()


def load_classifier(
    path: Path, head: str, num_labels: int, *, random_start: bool = False
) -> tuple[ConceptModelForSequenceClassification, LoadReport]:
    """A downstream model that starts from a pretrained checkpoint, or from a classifier.

    Of a classifier with the same head all is taken but the last layer, which belongs to its task.

    Args:
        path: checkpoint folder, ours or of the earlier code.
        head: row of HEADS.
        num_labels: classes; 1 is regression.
        random_start: keep the random initialisation, for comparison.

    Returns:
        The model in train mode, and what was loaded, newly initialised and dropped.
    """
    stored = read_checkpoint(path)
    config = stored.config
    same_head = stored.architecture == "ConceptModelForSequenceClassification" and config.head == head
    config.head = head
    config.num_labels = num_labels
    config.tie_word_embeddings = False  # there is no LM head here
    model = ConceptModelForSequenceClassification(config)
    if random_start:
        return model, LoadReport([], sorted(model.state_dict()), [])
    # Dropped by design: the LM head, the decoder by heads that do not use it, and what belonged to another task.
    dropped = r"^lm_head\." if HEADS[head].uses_decoder else r"^(lm_head|decoder)\."
    foreign = r"^head\.classifier\." if same_head else r"^head\."
    kept = {name: tensor for name, tensor in stored.weights.items() if not re.match(foreign, name)}
    report = _fill(model, kept, allow_new=foreign)
    unexpected = [name for name in report.dropped if not re.match(dropped, name)]
    if unexpected:
        raise CheckpointError(f"{path}: weights without a place: {', '.join(unexpected)}")
    left_out = sorted({*report.dropped, *stored.weights} - {*report.loaded})
    return model, LoadReport(report.loaded, report.new, left_out)


def warm_start(model: ConceptModelForMaskedLM, path: Path) -> LoadReport:
    """Fill a new pretraining model from a checkpoint: the whole encoder, and the decoder where it is of the same kind.

    Raises:
        CheckpointError: the encoder does not fit, by name and shape.
    """
    stored = read_checkpoint(path)
    same_decoder = stored.config.decoder == model.config.decoder
    parts = r"^(encoder|decoder|lm_head)\." if same_decoder else r"^encoder\."
    kept = {name: tensor for name, tensor in stored.weights.items() if re.match(parts, name)}
    report = _fill(model, kept, allow_new=r"^(decoder|lm_head)\.")
    unexpected = [name for name in report.dropped if not name.startswith("lm_head.")]
    if unexpected:
        raise CheckpointError(f"{path}: weights without a place: {', '.join(unexpected)}")
    return LoadReport(report.loaded, report.new, sorted({*stored.weights} - {*report.loaded}))


def _local_folder(path: str | Path) -> Path:
    folder, name = Path(path), str(path)
    if folder.exists() or not _HUB_ID.fullmatch(name):
        return folder
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")
    patterns = ["*.json", "*.safetensors", "*.bin", "*.txt", "*.model"]
    return Path(snapshot_download(repo, revision=revision or None, allow_patterns=patterns))


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
