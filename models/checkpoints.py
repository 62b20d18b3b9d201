"""Saving and loading checkpoints: transformers folders that also load without this project, by trust_remote_code.

Loading never falls back: a weight that is missing, left over or of another shape is an error that names it.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from . import legacy
from .autoencoder import ConceptModel, ConceptModelForMaskedLM
from .bounds import check_config, split_hub_id
from .classifier import ConceptModelForSequenceClassification
from .configuration import ConceptConfig
from .family import HEADS, LEGACY_MODEL_TYPES
from .remote_code import AUTO_MAP, copy_code
from .weight_files import CheckpointError
from .weights import Weights, first_line, read_weights, some

CLASSES: dict[str, type[PreTrainedModel]] = {
    cls.__name__: cls for cls in (ConceptModel, ConceptModelForMaskedLM, ConceptModelForSequenceClassification)
}

# A pattern that matches no name of a weight.
NOTHING = r"$^"
# Weights that a config may ask for beyond those of the file: a new head, or a decoder for a warm start.
NEW_WEIGHTS = 300_000_000


@dataclass(frozen=True)
class LoadReport:
    """What came from the checkpoint, what is newly initialised and what was left out, by name.

    Attributes:
        precision: of the stored weights; the model has fp32.
        notes: what else to know of the stored weights, as `StoredWeights` states it.
    """

    loaded: list[str]
    new: list[str]
    dropped: list[str]
    precision: str = "fp32"
    notes: list[str] = field(default_factory=list)


@contextmanager
def without_remarks() -> Iterator[None]:
    """No remarks of transformers on labels, random weights and progress: a report says it all."""
    level, shows_progress = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shows_progress:
            transformers_logging.enable_progress_bar()


@without_remarks()
def save_checkpoint(model: PreTrainedModel, folder: Path) -> None:
    """Write config, safetensors weights and the remote code into a folder."""
    model.config.auto_map = dict(AUTO_MAP)
    model.save_pretrained(folder)
    copy_code(folder)


@dataclass(frozen=True)
class StoredModel:
    """A checkpoint as it lies on disk, under our names whichever code wrote it; no module is built yet."""

    config: ConceptConfig
    architecture: str
    weights: Weights
    precision: str
    notes: list[str]


def read_checkpoint(folder: Path) -> StoredModel:
    """Configuration and weights of a checkpoint folder, ours or of the lab's earlier code (see `models.legacy`).

    Raises:
        CheckpointError: it is not a whole checkpoint of this family.
    """
    try:
        raw: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = raw.get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder}: config.json cannot be read: {error}") from error
    allowed = (ConceptConfig.model_type, *LEGACY_MODEL_TYPES)
    if kind not in allowed:
        raise CheckpointError(f"{folder}: model_type is {kind!r}; allowed: {', '.join(map(repr, allowed))}")
    try:
        check_config(raw, strict=True)
        if kind == ConceptConfig.model_type:
            config = ConceptConfig.from_dict(raw)
            _known_architecture(config, folder)  # before gigabytes are read
            stored = read_weights(folder)
            weights, notes = stored.tensors, stored.notes
        else:
            stored = read_weights(folder)
            config, weights, more = legacy.translate(raw, stored.tensors)
            notes = [*stored.notes, *more]
        config.dtype = None  # of the stored weights; the module has fp32
        return StoredModel(config, _known_architecture(config, folder), weights, stored.precision, notes)
    except CheckpointError:
        raise
    except Exception as error:  # the libraries raise anything for what a stranger wrote
        reason = first_line(error) + (" is missing from it or from the weights" if isinstance(error, KeyError) else "")
        raise CheckpointError(f"{folder}: config.json: {reason}") from error


def _known_architecture(config: ConceptConfig, folder: Path) -> str:
    stated = config.architectures or ["ConceptModelForMaskedLM"]
    name = stated[0] if isinstance(stated, list) else stated
    if not isinstance(name, str) or name not in CLASSES:
        raise CheckpointError(f"{folder}: architecture {name!r} is unknown; allowed: {', '.join(CLASSES)}")
    return str(name)


def check_checkpoint(folder: Path) -> StoredModel:
    """Read a checkpoint and compare its weights with its config, without building the model in memory.

    Raises:
        CheckpointError: it is not a whole checkpoint of this family, or names and shapes do not fit.
    """
    stored = read_checkpoint(folder)
    _compare(_outline(CLASSES[stored.architecture], stored.config, stored.weights), stored.weights, folder)
    return stored


def _check_shapes(weights: Weights, expected: Weights) -> None:
    for name in [name for name in weights if name in expected]:
        shape, stated = list(weights[name].shape), list(expected[name].shape)
        if shape != stated:
            raise CheckpointError(f"{name} has shape {shape}, the config says {stated}")


def _build(cls: type[PreTrainedModel], config: ConceptConfig, device: str) -> PreTrainedModel:
    try:
        with torch.device(device):
            return cls(config)
    except Exception as error:  # as above
        raise CheckpointError(f"config.json describes no model: {first_line(error)}") from error


def _outline(cls: type[PreTrainedModel], config: ConceptConfig, weights: Weights) -> PreTrainedModel:
    """The module that a config describes, without memory: it may ask for terabytes.

    Raises:
        CheckpointError: there is no such module, or it requires far more weights than the file holds.
    """
    if config.num_layers > len(weights) and not config.recursive:  # so that a thousand layers need not be built
        raise CheckpointError(f"weights are missing: the config says {config.num_layers} layers")
    model = _build(cls, config, "meta")
    expected = model.state_dict()
    _check_shapes({name: tensor for name, tensor in weights.items() if not name.startswith("head.")}, expected)
    new = sum(tensor.numel() for name, tensor in expected.items() if name not in weights)
    if new > NEW_WEIGHTS:
        raise CheckpointError(f"the config asks for {new:,} weights that the file lacks; allowed: {NEW_WEIGHTS:,}")
    return model


def load_checkpoint(path: str | Path) -> PreTrainedModel:
    """The module of a checkpoint in eval mode, ours or of the earlier code; its class is the one that the folder names.

    Args:
        path: a folder, or a Hub id `account/name[@revision]` where there is no such folder.

    Raises:
        CheckpointError: it is not a whole checkpoint of this family.
    """
    return load_reported(_local_folder(path))[0]


def load_reported(folder: Path) -> tuple[PreTrainedModel, LoadReport]:
    """As `load_checkpoint` of a folder, and what was loaded, with notes on whatever is not as plain as that."""
    stored = check_checkpoint(folder)
    model = _build(CLASSES[stored.architecture], stored.config, "cpu")
    report = _fill(model, stored.weights, folder)
    return model.eval(), replace(report, precision=stored.precision, notes=stored.notes)


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
    _outline(ConceptModelForSequenceClassification, config, stored.weights)
    model = ConceptModelForSequenceClassification(config)
    if random_start:
        return model, LoadReport([], sorted(model.state_dict()), [])
    # Dropped by design: the LM head, the decoder by heads that do not use it, and what belonged to another task.
    dropped = r"^lm_head\." if HEADS[head].decoders else r"^(lm_head|decoder)\."
    foreign = r"^head\.classifier\." if same_head else r"^head\."
    kept = {name: tensor for name, tensor in stored.weights.items() if not re.match(foreign, name)}
    report = _fill(model, kept, path, allow_new=foreign, allow_dropped=dropped)
    left_out = sorted({*report.dropped, *stored.weights} - {*report.loaded})
    return model, LoadReport(report.loaded, report.new, left_out, stored.precision, stored.notes)


def warm_start(model: ConceptModelForMaskedLM, path: Path) -> LoadReport:
    """Fill a new pretraining model from a checkpoint: the whole encoder, and the decoder where it is of the same kind.

    Raises:
        CheckpointError: the encoder does not fit, by name and shape.
    """
    stored = read_checkpoint(path)
    same_decoder = stored.config.decoder_type == model.config.decoder_type
    parts = r"^(encoder|decoder|lm_head)\." if same_decoder else r"^encoder\."
    kept = {name: tensor for name, tensor in stored.weights.items() if re.match(parts, name)}
    report = _fill(model, kept, path, allow_new=r"^(decoder|lm_head)\.", allow_dropped=r"^lm_head\.")
    left_out = sorted({*stored.weights} - {*report.loaded})
    return LoadReport(report.loaded, report.new, left_out, stored.precision, stored.notes)


def _local_folder(path: str | Path) -> Path:
    hub = split_hub_id(str(path))
    if hub is None or "/" not in hub[0] or Path(path).exists():
        return Path(path)
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.bin", "*.txt", "*.model"]
    return Path(snapshot_download(hub[0], revision=hub[1], allow_patterns=patterns))


def _fill(
    model: PreTrainedModel, weights: Weights, place: Path, allow_new: str = NOTHING, allow_dropped: str = NOTHING
) -> LoadReport:
    report = _compare(model, weights, place, allow_new, allow_dropped)
    model.load_state_dict({name: weights[name] for name in report.loaded}, strict=False)
    model.tie_weights()
    return report


def _compare(
    model: PreTrainedModel, weights: Weights, place: Path, allow_new: str = NOTHING, allow_dropped: str = NOTHING
) -> LoadReport:
    """Which of the weights a module takes, whether it has memory or not.

    Raises:
        CheckpointError: a weight has another shape or kind, is missing though `allow_new` does not match its name, or
            has no place though `allow_dropped` does not.
    """
    expected = model.state_dict()
    tied = model.all_tied_weights_keys
    dropped = sorted(set(weights) - set(expected))
    new = sorted(name for name in set(expected) - set(weights) if tied.get(name) not in weights)
    missing = [name for name in new if not re.match(allow_new, name)]
    if missing:
        raise CheckpointError(f"weights are missing ({len(missing):,}): {some(missing)}")
    _check_shapes(weights, expected)
    for name, tensor in weights.items():
        if name in expected and tensor.is_floating_point() != expected[name].is_floating_point():
            raise CheckpointError(f"{name} is of type {tensor.dtype}, which it cannot be in this model")
    if unplaced := [name for name in dropped if not re.match(allow_dropped, name)]:
        raise CheckpointError(f"{place}: weights without a place ({len(unplaced):,}): {some(unplaced)}")
    return LoadReport(sorted(set(weights) & set(expected)), new, dropped)
