"""What a plain encoder reads beside token ids, told from its modules rather than from a list of models."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from .tokenizing import TokenizerError

# What transformers states as the `model_max_length` of a tokenizer without a limit is larger.
NO_LIMIT = 10**9


def reads_segments(model: PreTrainedModel) -> bool:
    """Whether the model tells the first text of a pair from the second by `token_type_ids`.

    It has a table of at least two segments then (`seg_embed` in XLNet and Funnel); RoBERTa's has one row.
    """
    tables = ("token_type_embeddings.weight", "seg_embed")
    return any(name.endswith(tables) and len(table) > 1 for name, table in model.named_parameters())


def longest_input(folder: Path, tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Tokens of the longest text that a plain encoder reads; None: nothing limits it.

    A table of positions limits it; in RoBERTa's kind the positions begin after the id of the padding. Without a table,
    as with relative or rotary positions, the tokenizer's `model_max_length` is the limit, else that of the config.

    Raises:
        TokenizerError: the positions depend on the id of the padding, and the tokenizer pads with another.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModel.from_config(config, trust_remote_code=False)
    modules = [module for name, module in model.named_modules() if "position" in name.rpartition(".")[2]]
    tables = [module for module in modules if isinstance(module, torch.nn.Embedding)]
    unused = {table.padding_idx for table in tables if table.padding_idx is not None}
    if unused and unused != {tokenizer.pad_token_id}:
        raise TokenizerError(
            f"tokenizer: pads with id {tokenizer.pad_token_id}, the encoder counts positions after padding with "
            f"id {', '.join(map(str, unused))}; fix: take the tokenizer that it was trained with"
        )
    stated = getattr(config, "max_position_embeddings", None)
    positions = stated - max((number + 1 for number in unused), default=0) if stated else None
    own = tokenizer.model_max_length if tokenizer.model_max_length < NO_LIMIT else None
    limits = [positions, own] if tables else [own or positions]
    return min((limit for limit in limits if limit), default=None)
