"""Describing a checkpoint, and writing a checkpoint of the earlier code in our format.

The modules of `models` are imported inside functions: they import torch, which would slow the command.
Example: `cogito checkpoint show DIR`, `cogito checkpoint convert OLD NEW`
"""

import shutil
from pathlib import Path
from typing import Any

from models.family import DECODERS
from models.tokenizing import holds_tokenizer
from tasks.checkpoints.finding import reading
from tasks.checkpoints.folder import write_conventions
from tasks.checkpoints.inputs import weights_text
from tasks.data.tokenizers import copy_tokenizer
from tasks.errors import UserError
from tasks.spec.experiment import fitting_heads
from tasks.store.files import building, read_json, write_manifest
from tasks.store.records import Checkpoint


def checkpoint_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Variant, shape, parameters, tokenizer and possible uses of a checkpoint, under the keys of `--json`.

    Raises:
        UserError: its weights do not fit its configuration.
    """
    if checkpoint.family == "plain":
        return _plain_facts(checkpoint)
    from models.checkpoints import load_reported

    with reading(checkpoint.name):
        model, report = load_reported(checkpoint.folder)
    config = model.config
    pretrained = type(model).__name__ == "ConceptModelForMaskedLM"
    encoder = [name for name, on in (("BiXT", config.use_bixt), ("recursive", config.recursive)) if on]
    uses = [f"evaluate with head {', '.join(fitting_heads(checkpoint.variant))}", "analyse", "encode"]
    if pretrained:
        uses.append("start another pretraining from it (training.init_from)")
    if pretrained and DECODERS[config.decoder_type].diffusion:
        uses.append("fill masks (models.generation)")
    has_tokenizer = holds_tokenizer(checkpoint.folder)
    if not has_tokenizer:
        uses = [f"{use} --tokenizer ID" if use.startswith(("evaluate", "analyse", "encode")) else use for use in uses]
    return {
        "name": checkpoint.name,
        "origin": checkpoint.origin,
        "revision": checkpoint.revision,
        "model_type": read_json(checkpoint.folder / "config.json").get("model_type"),
        "class": type(model).__name__,
        "variant": checkpoint.variant,
        "size": f"H{config.hidden_size} L{config.num_layers} C{config.num_concepts}",
        "encoder": " ".join(encoder) or "plain",
        "decoder": config.decoder_type if getattr(model, "decoder", None) is not None else "none",
        "head": "LM head" if pretrained else config.head,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "frozen_parameters": sum(p.numel() for p in model.parameters() if not p.requires_grad),
        "vocab_size": config.vocab_size,
        "positions": config.max_sequence_length,
        "tokenizer": "in the folder" if has_tokenizer else "none",
        "weights": weights_text(len(report.loaded), report.new, report.dropped),
        "weights_sha256": checkpoint.weights_sha256,
        "precision": report.precision,
        "notes": report.notes,
        "uses": uses,
    }


def _plain_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What is known of a plain encoder, under the same keys."""
    from models.plain import check_plain

    with reading(checkpoint.name):
        report = check_plain(checkpoint.folder)
    config = read_json(checkpoint.folder / "config.json")
    has_tokenizer = holds_tokenizer(checkpoint.folder)
    return {
        "name": checkpoint.name,
        "origin": checkpoint.origin,
        "revision": checkpoint.revision,
        "model_type": checkpoint.variant,
        "class": ", ".join(map(str, config.get("architectures") or [])) or None,
        "variant": "a plain encoder, without concepts",
        "vocab_size": config.get("vocab_size"),
        "tokenizer": "in the folder" if has_tokenizer else "none",
        "weights": weights_text(len(report.loaded), report.new, report.dropped),
        "weights_sha256": checkpoint.weights_sha256,
        "precision": report.precision,
        "notes": report.notes,
        "uses": ["evaluate as a yardstick" + ("" if has_tokenizer else " --tokenizer ID")],
    }


def convert_checkpoint(checkpoint: Checkpoint, target: Path, tokenizer: Path | None) -> list[str]:
    """Write a checkpoint in our format, with the remote code that plain transformers needs and a manifest.

    Args:
        checkpoint: as `resolve_checkpoint` found it.
        target: a folder that does not exist yet.
        tokenizer: folder of its tokenizer; None takes the files beside the weights, if there are any.

    Returns:
        Notes on what was left out, filled in or turned into fp32.

    Raises:
        UserError: the target exists, or the checkpoint's weights do not fit its configuration.
    """
    if target.exists():
        raise UserError(f"{target}: exists already; fix: name a new folder")
    from models.checkpoints import load_reported, save_checkpoint

    with reading(checkpoint.name):
        model, report = load_reported(checkpoint.folder)
    try:
        with building(target) as folder:
            save_checkpoint(model, folder)
            if tokenizer or holds_tokenizer(checkpoint.folder):
                copy_tokenizer(tokenizer or checkpoint.folder, folder)
            stated = checkpoint.folder / "experiment.json"
            if stated.is_file():
                shutil.copyfile(stated, folder / stated.name)
            write_conventions(folder)
            write_manifest(folder)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error}); fix: name another folder") from None
    return report.notes
