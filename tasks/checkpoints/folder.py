"""What a published folder holds: a finished checkpoint in today's format, and what other libraries look for beside it.

The weights and the tokenizer's vocabulary are copied byte for byte. Configuration and code are written in today's
format, also for a checkpoint of an earlier version. No file names a folder of this machine or its user.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

from models.remote_code import renew_format
from tasks.checkpoints.card import PICTURE, render_card
from tasks.checkpoints.finding import CHECKPOINT_SUFFIXES
from tasks.data.tokenizers import TOKENIZER_CONFIG, inner_settings
from tasks.picture import summary_picture
from tasks.store.files import public_name, read_json, write_atomic, write_json, write_manifest
from tasks.store.records import RunRecord

log = logging.getLogger("cogito.publishing")

CARD = "README.md"
MANIFEST = "manifest.json"
EXPERIMENT = "experiment.json"
# The class of a tokenizer that is what its tokenizer.json says, with which our models are trained.
PLAIN_CLASS = "PreTrainedTokenizerFast"
# How sentence-transformers reads the folder: one module, whose answer is already the mean of the concepts.
SENTENCE_MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
SENTENCE_CONFIG = {
    "modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}},
    "module_output_name": "sentence_embedding",
}
# Sections of a spec that say nothing about the model, and may name accounts.
PRIVATE_SECTIONS = ("publish", "tracking")


def assemble(model_folder: Path, record: RunRecord, target: Path) -> None:
    """Fill `target` with all that is published: only known kinds of files, so that no pickle or log slips through."""
    for path in sorted(model_folder.iterdir()):
        if path.name in (CARD, MANIFEST) or path.suffix == ".py" or not path.is_file():
            continue
        if path.suffix in CHECKPOINT_SUFFIXES and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)
        else:
            log.warning("not published, because it is not part of a checkpoint: %s", path.name)
    write_conventions(target)
    if (target / EXPERIMENT).is_file():
        write_json(target / EXPERIMENT, _public_experiment(read_json(target / EXPERIMENT)))
    write_atomic(target / PICTURE, summary_picture(record))
    write_atomic(target / CARD, render_card(record))
    write_manifest(target)


def write_conventions(folder: Path) -> None:
    """Write configuration, code and the settings of the tokenizer as transformers and sentence-transformers expect."""
    config = renew_format(folder)
    if (folder / "tokenizer.json").is_file():
        settings = inner_settings(folder)
        if settings.get("tokenizer_class", PLAIN_CLASS) not in (PLAIN_CLASS, "TokenizersBackend"):
            settings["tokenizer_class"] = PLAIN_CLASS  # others make the tokenizer anew, unlike its tokenizer.json
        settings |= {"model_max_length": config["max_sequence_length"]}
        write_json(folder / TOKENIZER_CONFIG, settings | {"model_input_names": ["input_ids", "attention_mask"]})
    write_json(folder / "modules.json", SENTENCE_MODULES)
    write_json(folder / "sentence_bert_config.json", SENTENCE_CONFIG)


def _public_experiment(facts: dict[str, Any]) -> dict[str, Any]:
    spec = {name: part for name, part in facts["spec"].items() if name not in PRIVATE_SECTIONS}
    return facts | {"spec": _public(spec)}


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _public(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_public(part) for part in value]
    return public_name(value) if isinstance(value, str) else value
