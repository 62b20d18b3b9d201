"""What the name and the config of a stranger's checkpoint may say, checked before memory or the network is used.

A config can ask for terabytes in one line; the limits lie far above any model that was ever trained. There is no torch
here, so that a name is refused quickly.
"""

import re
from collections.abc import Mapping
from typing import Any

# The largest value of each size, by the names of our own family, of the earlier code and of transformers.
LIMITS = {
    **dict.fromkeys(("num_layers", "num_hidden_layers", "num_iterations", "num_decoder_layers"), 1_000),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_hidden_groups", "n_layers", "n_layer"), 1_000),
    **dict.fromkeys(("hidden_size", "token_embedding_dim", "num_concepts", "concept_num"), 65_536),
    **dict.fromkeys(("num_attention_heads", "embedding_size", "d_model", "dim", "n_embd"), 65_536),
    **dict.fromkeys(("intermediate_size", "max_sequence_length", "max_position_embeddings"), 1_000_000),
    **dict.fromkeys(("type_vocab_size", "num_labels", "d_ff"), 1_000_000),
    "vocab_size": 10_000_000,
}
MAY_BE_ZERO = ("type_vocab_size",)  # deberta-v2 tells no first text from a second one
MAY_BE_NONE = ("token_embedding_dim", "num_iterations", "num_labels")
# Of our own family and the earlier code: what is true or false, what is a share, and what has few names. A text such as
# "false" would count as true.
FLAGS = ("use_bixt", "recursive", "tie_word_embeddings", "decoder_posonly", "decoder_reads_tokens", "dead_token_update")
SHARES = ("hidden_dropout_prob", "attention_probs_dropout_prob")
CHOICES = {"concept_position_type": ("none", "sinusoidal", "learned")}

_HUB_ID = re.compile(r"((?:\w[\w.-]*/)?\w[\w.-]*)(?:@([\w.][\w./-]*))?", re.ASCII)
_MAX_HUB_ID = 200  # the Hub allows 96 characters a name; a revision may follow


def split_hub_id(name: str) -> tuple[str, str | None] | None:
    """Repository and revision of `[account/]name[@revision]`; None where the text is no Hub id."""
    match = _HUB_ID.fullmatch(name) if len(name) <= _MAX_HUB_ID and ".." not in name else None
    return (match[1], match[2]) if match else None


def check_config(config: Mapping[str, Any], *, strict: bool) -> None:
    """Refuse a config whose sizes are not counts, or are counts beyond all reason; of our family also other values.

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
        least = 0 if key in MAY_BE_ZERO else 1
        if not is_number or not least <= value <= limit:
            shown = f"{value!r}"[:40] if not is_number or abs(value) < 10**30 else "a number of dozens of digits"
            raise ValueError(f"{key}: got {shown}; allowed: {least} to {limit:,}")
    if strict:
        _check_values(config)


def _check_values(config: Mapping[str, Any]) -> None:
    """Refuse flags, shares and names that would be read as something else than they say."""
    for key in [*FLAGS, *SHARES, *CHOICES]:
        value = config.get(key)
        if value is None:
            continue
        if key in FLAGS:
            fits, allowed = isinstance(value, bool), "true or false"
        elif key in SHARES:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            fits, allowed = is_number and 0 <= value < 1, "0 and more, below 1"
        else:
            fits, allowed = value in CHOICES[key], ", ".join(CHOICES[key])
        if not fits:
            raise ValueError(f"{key}: got {value!r}; allowed: {allowed}"[:300])
