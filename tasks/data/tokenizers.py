"""Tokenizers on disk: loaded with the special tokens that their use needs, and copied without a change of meaning."""

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.tokenizing import TOKENIZER_FILES, TokenizerError, foreign_model_type, read_tokenizer
from tasks.errors import UserError
from tasks.store.files import content_hash, file_sha256, write_json

# What a concept model and its pretraining need; a plain encoder has its own template and needs padding alone.
CONCEPT_TOKENS = ("pad", "cls", "sep", "mask")
PLAIN_TOKENS = ("pad",)

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
    """The identity of a tokenizer: the content of its files, and the type of model that decides how they are read."""
    present = [name for name in sorted(TOKENIZER_FILES) if (folder / name).is_file()]
    facts = {name: file_sha256(folder / name) for name in present}
    kind = foreign_model_type(folder)
    return content_hash(facts | ({"model_type": kind} if kind else {}))


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
    write_json(target / "tokenizer_config.json", settings | tokenizer.special_tokens_map)
