"""What a plain encoder reads beside token ids, told from its modules rather than from a list of models."""

import logging
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from .tokenizing import TokenizerError
from .weight_files import UnfitError

log = logging.getLogger("cogito.tokenizer")

FIX = "fix: take the tokenizer that it was trained with"
# What transformers states as the `model_max_length` of a tokenizer without a limit is larger.
NO_LIMIT = 10**9


def reads_segments(model: PreTrainedModel) -> bool:
    """Whether the model tells the first text of a pair from the second by `token_type_ids`.

    It has a table of at least two segments then (`seg_embed` in XLNet and Funnel); RoBERTa's has one row.
    """
    tables = ("token_type_embeddings.weight", "seg_embed")
    return any(name.endswith(tables) and len(table) > 1 for name, table in model.named_parameters())


def check_pairs(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Hold the rows that a tokenizer makes against what the encoder of a folder reads; warns of segments without use.

    Raises:
        TokenizerError: it gives more segments than there are, or pads with an id from which positions are not counted.
    """
    _, model = _skeleton(folder)
    used = {*tokenizer.backend_tokenizer.encode("a", "b").type_ids}
    tables = [module for name, module in model.named_modules() if name.endswith("token_type_embeddings")]
    rows = min((len(table.weight) for table in tables), default=0)
    if rows > 1 and max(used) >= rows:
        raise TokenizerError(f"tokenizer: tells {max(used) + 1} segments apart, the encoder has {rows}; {FIX}")
    if reads_segments(model) and len(used) == 1:
        log.warning(
            "the encoder tells the two texts of a pair apart by segments, the template of its tokenizer does not: the "
            "second segment has no use; fix: a tokenizer with the template that the encoder was trained with"
        )
    counted_from = {table.padding_idx for table in _position_tables(model) if table.padding_idx is not None}
    if counted_from and counted_from != {tokenizer.pad_token_id}:
        raise TokenizerError(
            f"tokenizer: pads with id {tokenizer.pad_token_id}, the encoder counts positions after padding with "
            f"id {', '.join(map(str, counted_from))}; {FIX}"
        )


def check_positions(model: PreTrainedModel, path: Path) -> None:
    """Refuse weights of BERT under the config of RoBERTa, or the reverse: their names fit, their positions do not.

    RoBERTa's table has a row more than the id of the padding before that of the first token, and the row of the padding
    is zero. Without a name in front, nothing else tells the two apart.

    Raises:
        UnfitError: the table of positions is not counted as the family counts.
    """
    kind = model.config.model_type
    for table in _position_tables(model):
        rows, padding = len(table.weight), table.padding_idx
        if padding is not None and rows % 8 == 0 and table.weight[padding].any():
            found = f"has {rows} rows from the first token on, as BERT's, {kind} counts from row {padding + 1}"
        elif padding is None and not table.weight[:4].any(dim=1).all():
            found = f"has an empty row for padding, as RoBERTa's, {kind} counts from row 0"
        else:
            continue
        raise UnfitError(
            f"{path}: its table of positions {found}; fix: state the model_type of its weights in config.json"
        )


def longest_input(folder: Path, tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Tokens of the longest text that a plain encoder reads; None: nothing limits it.

    A table of positions limits it; in RoBERTa's kind the positions begin after the id of the padding. Without a table,
    as with relative or rotary positions, the tokenizer's `model_max_length` is the limit, else that of the config.
    """
    config, model = _skeleton(folder)
    tables = _position_tables(model)
    unused = max((table.padding_idx + 1 for table in tables if table.padding_idx is not None), default=0)
    stated = getattr(config, "max_position_embeddings", None)
    positions = stated - unused if stated else None
    own = tokenizer.model_max_length if tokenizer.model_max_length < NO_LIMIT else None
    limits = [positions, own] if tables else [own or positions]
    return min((limit for limit in limits if limit), default=None)


def _skeleton(folder: Path) -> tuple[PretrainedConfig, PreTrainedModel]:
    """The configuration of an encoder, and its modules without weights."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return config, AutoModel.from_config(config, trust_remote_code=False)


def _position_tables(model: PreTrainedModel) -> list[torch.nn.Embedding]:
    named = [module for name, module in model.named_modules() if "position" in name.rpartition(".")[2]]
    return [module for module in named if isinstance(module, torch.nn.Embedding)]
