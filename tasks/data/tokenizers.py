"""Tokenizers on disk: loaded with the special tokens that their use needs, and copied without a change of meaning."""

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.tokenizing import TOKENIZER_FILES, TokenizerError, foreign_settings, read_tokenizer
from tasks.errors import UserError
from tasks.store.files import content_hash, file_sha256, public_name, read_json, write_json

# What a concept model and its pretraining need; a plain encoder has its own template and needs padding alone.
CONCEPT_TOKENS = ("pad", "cls", "sep", "mask")
PLAIN_TOKENS = ("pad",)

TOKENIZER_CONFIG = "tokenizer_config.json"
OUTER_SETTINGS = ("model_max_length", "model_input_names", "name_or_path", "is_local", "local_files_only")

# The lazy modules of transformers break when several threads import from them at once.
_IMPORTING = threading.Lock()


def load_tokenizer(folder: Path, needs: Sequence[str] = CONCEPT_TOKENS) -> Any:
    """Load the tokenizer of a folder and check that it has the special tokens in `needs`.

    Raises:
        UserError: the tokenizer cannot be read, or lacks a special token.
    """
    try:
        with _IMPORTING:
            tokenizer = read_tokenizer(folder)
    except TokenizerError as error:
        raise UserError(str(error)) from error
    missing = [name for name in needs if getattr(tokenizer, f"{name}_token_id") is None]
    if missing:
        fix = "use a tokenizer like BERT's, or train one with data.train_tokenizer_vocab_size"
        if not (folder / "config.json").is_file():
            fix = f"put the config.json of its model there, whose model_type may name them, or {fix}"
        raise UserError(f"tokenizer {folder}: has no {', '.join(missing)} token; fix: {fix}")
    return tokenizer


def tokenizer_fingerprint(folder: Path) -> str:
    """The identity of a tokenizer: the content of its files, and what of the model decides how they are read.

    Of its settings those count that decide how a text becomes ids; publishing writes the others anew.
    """
    present = [name for name in sorted(TOKENIZER_FILES) if (folder / name).is_file() and name != TOKENIZER_CONFIG]
    facts: dict[str, Any] = {name: file_sha256(folder / name) for name in present}
    return content_hash(facts | {TOKENIZER_CONFIG: inner_settings(folder)} | foreign_settings(folder))


def inner_settings(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json says of how a text becomes ids: nothing of the tokenizer's use and old places.

    A token may look like a path, so what names a token is never taken for one.

    Raises:
        UserError: the file cannot be read.
    """
    path = folder / TOKENIZER_CONFIG
    try:
        settings = read_json(path).items() if path.is_file() else ()
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read: {error}; fix: copy or download it again") from None
    return {
        key: value
        for key, value in settings
        if key not in OUTER_SETTINGS
        and (key.endswith("_token") or not isinstance(value, str) or public_name(value) == value)
    }


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Copy a tokenizer to a folder where the config.json of its model does not lie beside it.

    Files that are read as they stand are copied as they are, so that the tokenizer keeps its identity. For others a
    tokenizer.json and the names of the special tokens are written, which give the same ids.

    Raises:
        UserError: it cannot be read.
    """
    tokenizer = load_tokenizer(folder, needs=())
    if type(tokenizer).__name__ == "TokenizersBackend" and (folder / "tokenizer.json").is_file():
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)
        return
    tokenizer.backend_tokenizer.save(str(target / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.model_max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "extra_special_tokens": [str(token) for token in tokenizer.extra_special_tokens],
    }
    write_json(target / TOKENIZER_CONFIG, settings | tokenizer.special_tokens_map)
