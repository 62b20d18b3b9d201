"""A checkpoint and its tokenizer, checked against each other before any work is done.

The modules of `models` are imported inside a function: they import torch, which would slow the command.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.tokenizing import TokenizerError, holds_tokenizer, vocabulary_size
from tasks.checkpoints.finding import reading, resolve_checkpoint
from tasks.data.sources import find_tokenizer
from tasks.data.tokenizers import CONCEPT_TOKENS, PLAIN_TOKENS, load_tokenizer
from tasks.errors import UserError
from tasks.store.files import read_json
from tasks.store.home import Home
from tasks.store.records import Checkpoint

log = logging.getLogger("cogito.checkpoints")

# Rows of a table of embeddings that a tokenizer uses at least: tables are rounded up, to multiples of 128 at most.
LEAST_USED = 0.9


def find_evaluation_inputs(
    name: str, tokenizer: str | None, home: Home, data_root: Path | None
) -> tuple[Checkpoint, Path]:
    """Find a checkpoint by name, and the folder of its tokenizer.

    Args:
        name, data_root: as in `resolve_checkpoint`.
        tokenizer: folder or Hub id; None takes the tokenizer beside the checkpoint.
        home: where runs lie and downloads are kept.

    Raises:
        UserError: there is no such checkpoint, it is corrupt, it has no tokenizer and none is given, or the tokenizer
            lacks a token or has more of them than the checkpoint.
    """
    checkpoint = resolve_checkpoint(name, home, data_root)
    folder = find_tokenizer(tokenizer, home, data_root) if tokenizer else checkpoint.folder
    if not holds_tokenizer(folder):
        raise UserError(f"checkpoint {name}: has no tokenizer; fix: --tokenizer ID or DIR")
    check_weights(checkpoint)
    loaded = load_tokenizer(folder, PLAIN_TOKENS if checkpoint.family == "plain" else CONCEPT_TOKENS)
    _check_vocabulary(checkpoint, loaded)
    if checkpoint.family == "plain":
        _check_pairs(checkpoint, loaded)
    return checkpoint, folder


def longest_text(checkpoint: Checkpoint, tokenizer: Path) -> int | None:
    """Tokens of the longest text that a checkpoint reads; None: nothing limits it."""
    if checkpoint.family == "concept":
        config = read_json(checkpoint.folder / "config.json")
        return int(config.get("max_sequence_length") or config.get("max_position_embeddings") or 512)
    from models.plain_inputs import longest_input

    return longest_input(checkpoint.folder, load_tokenizer(tokenizer, PLAIN_TOKENS))


def _check_vocabulary(checkpoint: Checkpoint, tokenizer: Any) -> None:
    """Refuse a tokenizer with more entries than its model; warn of one that is likely to be that of another model."""
    config = read_json(checkpoint.folder / "config.json")
    fix = "fix: --tokenizer with the tokenizer that the checkpoint was trained with"
    size, rows = vocabulary_size(tokenizer), config.get("vocab_size")
    if isinstance(rows, int) and size > rows:
        raise UserError(f"tokenizer: has {size} tokens, {checkpoint.name} has {rows}; {fix}")
    if isinstance(rows, int) and size < LEAST_USED * rows:
        log.warning(
            "tokenizer: has %s tokens, %s has %s: is it that of another model? %s", size, checkpoint.name, rows, fix
        )
    for name in CONCEPT_TOKENS:
        stated, own = config.get(f"{name}_token_id"), getattr(tokenizer, f"{name}_token_id")
        if isinstance(stated, int) and own is not None and stated != own:
            log.warning("tokenizer: its %s token has id %s, %s states %s: %s", name, own, checkpoint.name, stated, fix)


def _check_pairs(checkpoint: Checkpoint, tokenizer: Any) -> None:
    from models.plain_inputs import check_pairs

    try:
        check_pairs(checkpoint.folder, tokenizer)
    except TokenizerError as error:
        raise UserError(f"checkpoint {checkpoint.name}: {error}") from None


def check_weights(checkpoint: Checkpoint) -> None:
    """Compare the weights of a checkpoint with its config before a run is opened for it.

    Raises:
        UserError: they do not fit each other.
    """
    from models.checkpoints import check_checkpoint
    from models.plain import check_plain

    with reading(checkpoint.name):
        (check_plain if checkpoint.family == "plain" else check_checkpoint)(checkpoint.folder)


def weights_text(loaded: int, new: list[str], dropped: list[str], notes: Sequence[str] = ()) -> str:
    """What became of the weights of a checkpoint: how many were loaded, which are new, which were left out."""

    def names(weights: list[str]) -> str:
        shown = ", ".join(weights[:4]) + (", ..." if len(weights) > 4 else "")
        return f"{len(weights):,} ({shown})" if weights else "0"

    return "; ".join([f"{loaded:,} weights loaded, {names(new)} new, {names(dropped)} dropped", *notes])
