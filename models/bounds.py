"""What the name and the config of a stranger's checkpoint may say, checked before memory or the network is used.

A config can ask for terabytes in one line; the limits lie far above any model that was ever trained. There is no torch
here, so that a name is refused quickly.
"""

import re
from collections.abc import Mapping
from typing import Any

WIDTH, LAYERS, LENGTH, ENTRIES = 65_536, 1_000, 1_000_000, 10_000_000
LIMITS = {
    "vocab_size": ENTRIES,
    "hidden_size": WIDTH,
    "token_embedding_dim": WIDTH,
    "num_concepts": WIDTH,
    "concept_num": WIDTH,
    "num_layers": LAYERS,
    "num_hidden_layers": LAYERS,
    "num_iterations": LAYERS,
    "num_decoder_layers": LAYERS,
    "num_attention_heads": WIDTH,
    "intermediate_size": LENGTH,
    "max_sequence_length": LENGTH,
    "max_position_embeddings": LENGTH,
    "type_vocab_size": LENGTH,
    "num_labels": LENGTH,
    "embedding_size": WIDTH,
    "d_model": WIDTH,
    "d_ff": LENGTH,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "num_hidden_groups": LAYERS,
    "n_layers": LAYERS,
    "n_layer": LAYERS,
    "dim": WIDTH,
    "n_embd": WIDTH,
}
MAY_BE_NONE = ("token_embedding_dim", "num_iterations", "num_labels")

_HUB_ID = re.compile(r"((?:\w[\w.-]*/)?\w[\w.-]*)(?:@([\w.][\w./-]*))?", re.ASCII)
_MAX_HUB_ID = 200  # the Hub allows 96 characters a name; a revision may follow


def split_hub_id(name: str) -> tuple[str, str | None] | None:
    """Repository and revision of `[account/]name[@revision]`; None where the text is no Hub id."""
    match = _HUB_ID.fullmatch(name) if len(name) <= _MAX_HUB_ID and ".." not in name else None
    return (match[1], match[2]) if match else None


def check_config(config: Mapping[str, Any], *, strict: bool) -> None:
    """Refuse a config whose sizes are not counts, or are counts beyond all reason.

    Args:
        config: the content of config.json.
        strict: the config is of our own family, where every size is one integer; transformers also has lists of them.

    Raises:
        ValueError: names the key.
    """
    for key, limit in LIMITS.items():
        if key not in config or (config[key] is None and (key in MAY_BE_NONE or not strict)):
            continue
        value = config[key]
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if not strict and not is_number:
            continue
        if not is_number or not 1 <= value <= limit:
            shown = f"{value!r}"[:40] if not is_number or abs(value) < 10**30 else "a number of dozens of digits"
            raise ValueError(f"{key}: got {shown}; allowed: 1 to {limit:,}")
