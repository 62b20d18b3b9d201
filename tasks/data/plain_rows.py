"""Texts as a plain encoder reads them, by its own tokenizer's template: `<s> a </s></s> b </s>` for RoBERTa."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.tokenizing import text_only
from tasks.errors import UserError

TEXTS_PER_BATCH = 4_096


def plain_rows(tokenizer: Any, columns: Sequence[Sequence[str]], max_length: int) -> dict[str, np.ndarray]:
    """Token ids of texts or pairs, as the call of their tokenizer gives them with `truncation=True`.

    Args:
        columns: one column of texts, or two of equal length.
        max_length: tokens of a row, its special tokens included; the longest text is cut first.

    Returns:
        `ids` and `token_types`, flat, and `offsets` [n + 1].

    Raises:
        UserError: the tokenizer puts nothing around texts or between them.
    """
    backend, is_pair = text_only(tokenizer), len(columns) == 2
    if backend.num_special_tokens_to_add(is_pair) == 0:
        raise UserError(
            f"tokenizer {tokenizer.name_or_path}: its template adds no token to a {'pair' if is_pair else 'text'}, so "
            "that the encoder could not tell where it begins; fix: an encoder whose tokenizer has a template"
        )
    backend.enable_truncation(max_length, strategy="longest_first", direction=tokenizer.truncation_side)
    texts: list[Any] = list(zip(*columns, strict=True)) if is_pair else list(columns[0])
    ids, types, lengths = [], [], [0]
    for start in range(0, len(texts), TEXTS_PER_BATCH):
        for encoding in backend.encode_batch_fast(texts[start : start + TEXTS_PER_BATCH]):
            ids.append(np.asarray(encoding.ids, dtype=np.int32))
            types.append(np.asarray(encoding.type_ids, dtype=np.int8))
            lengths.append(len(encoding.ids))
    return {"ids": np.concatenate(ids), "token_types": np.concatenate(types), "offsets": np.cumsum(lengths)}
