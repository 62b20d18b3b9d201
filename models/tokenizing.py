"""Tokenizers as transformers finds them, and texts that are read as nothing but text.

Folders of the Hub often name no special tokens: those of bert-base-uncased follow from the `model_type` in its
config.json, and `AutoTokenizer` knows them by it. transformers and tokenizers take seconds to import, and most commands
need neither, so functions import them.
"""

import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .family import LEGACY_MODEL_TYPES, MODEL_TYPE
from .weight_files import is_pointer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("cogito.tokenizer")

# Each of them alone can hold a vocabulary.
SENTENCE_PIECES = ("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model")
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", *SENTENCE_PIECES)
TOKENIZER_FILES = (
    *VOCABULARIES,
    *("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
# Where the settings of two tokenizers with one vocabulary differ, one of these texts shows it.
PROBES = ("Don't STOP  at 3.5%, naïve Café!", "「東京」 Straße\n\tÉté")

# A vocabulary with this share of entries with capitals was made from text with capitals: BERT's cased one has a third.
CASED_SHARE = 0.2


class TokenizerError(ValueError):
    """A tokenizer cannot be read."""


def holds_tokenizer(folder: Path) -> bool:
    """Whether a folder has the vocabulary of a tokenizer, in any of its forms."""
    return any((folder / name).is_file() for name in VOCABULARIES)


def foreign_settings(folder: Path) -> dict[str, str]:
    """What config.json says of the tokenizer beside it: `model_type`, `tokenizer_class`; nothing for our own models."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        stated = {key: config[key] for key in ("model_type", "tokenizer_class") if isinstance(config.get(key), str)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return {} if stated.get("model_type") in (None, MODEL_TYPE, *LEGACY_MODEL_TYPES) else stated


def read_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of a folder, as `AutoTokenizer` makes it; no code of the folder is run.

    Beside a model of ours it is what its tokenizer.json says, whichever class once wrote that: our models were trained
    with this reading.

    Raises:
        TokenizerError: a file is missing or broken.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    for path in (folder / name for name in TOKENIZER_FILES):
        if path.is_file() and is_pointer(path):
            raise TokenizerError(
                f"{path}: is a pointer of git-lfs, the file is not here; fix: `git lfs pull` in its folder"
            )
    own = not foreign_settings(folder) and (folder / "config.json").is_file()
    try:
        if own:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        else:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise TokenizerError(f"tokenizer {folder}: cannot be read: {reason}; fix: copy or download it again") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise TokenizerError(
            f"tokenizer {folder}: is a {type(tokenizer).__name__}, which has no fast form; "
            "fix: an encoder whose tokenizer has one (a tokenizer.json)"
        )
    _check_reading(tokenizer, folder)
    _warn_of_lost_capitals(tokenizer, folder)
    return tokenizer


def _check_reading(tokenizer: "PreTrainedTokenizerFast", folder: Path) -> None:
    """Refuse a tokenizer that transformers made of the files of another kind, and warn of one that it read otherwise.

    transformers makes some classes anew from vocabulary and settings, and drops what else tokenizer.json says. Of the
    vocabulary of another family it makes one that knows no word, fails at the first text or splits otherwise.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    made, title = tokenizer.backend_tokenizer, type(tokenizer).__name__
    fix = "fix: state the model_type of its model in config.json, or its tokenizer_class in tokenizer_config.json"
    if not tokenizer.get_vocab().keys() - {*tokenizer.all_special_tokens}:
        raise TokenizerError(f"tokenizer {folder}: transformers' {title} finds no vocabulary in its files; {fix}")
    path = folder / "tokenizer.json"
    if type(tokenizer) is PreTrainedTokenizerFast and path.is_file():
        return  # it is what its tokenizer.json says
    stored = Tokenizer.from_file(str(path)) if path.is_file() else None
    kinds = [type(one.model).__name__ for one in (stored, made) if one]
    if len({*kinds}) > 1:
        raise TokenizerError(
            f"tokenizer {folder}: tokenizer.json holds a {kinds[0]}, of which transformers' {title} makes a "
            f"{kinds[1]}; {fix}"
        )
    try:
        readings = [
            [each.encode(text, add_special_tokens=False).ids for text in PROBES] for each in (made, stored) if each
        ]
    except Exception as error:  # as above
        raise TokenizerError(f"tokenizer {folder}: transformers' {title} reads no text: {error}; {fix}") from error
    differs = [text for text, *ids in zip(PROBES, *readings, strict=True) if ids[0] != ids[-1]]
    if (differs or not stored) and all(len({*ids}) <= 2 for ids in readings[0]):  # the blank, and the unknown
        raise TokenizerError(f"tokenizer {folder}: transformers' {title} knows no word of its vocabulary; {fix}")
    if differs:
        log.warning(
            "tokenizer %s: transformers' %s reads %r otherwise than its tokenizer.json does, and is followed; "
            "fix: state do_lower_case and the like in tokenizer_config.json",
            folder,
            title,
            differs[0],
        )


def _warn_of_lost_capitals(tokenizer: "PreTrainedTokenizerFast", folder: Path) -> None:
    """A cased vocab.txt without `do_lower_case: false` is read by BERT's default, which gives no capital at all."""
    normal, special = tokenizer.backend_tokenizer.normalizer, {*tokenizer.all_special_tokens}
    vocabulary = tokenizer.get_vocab()
    cased = sorted(entry for entry in vocabulary if entry != entry.lower() and entry not in special)
    if normal is None or len(cased) < CASED_SHARE * len(vocabulary):
        return
    if all(normal.normalize_str(entry) != entry for entry in cased[:: max(1, len(cased) // 100)]):
        log.warning(
            "tokenizer %s: lower-cases every text, and %s entries of its vocabulary have capitals; "
            "fix: state do_lower_case: false in tokenizer_config.json if its model was trained with them",
            folder,
            f"{len(cased):,}",
        )


def text_only(tokenizer: "PreTrainedTokenizerFast") -> "Tokenizer":
    """A copy of the backend that reads texts as text alone, without cutting or padding them.

    The name of a special token in a text, such as "[MASK]", is read as these characters. `encode_special_tokens` keeps
    it from being taken out of the text; a unigram or word-level model would still find it in its vocabulary, so it is
    split after its first character.

    Raises:
        TokenizerError: the tokenizer has parts in Python, which cannot be copied.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer, Sequence, Split

    try:
        stated = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception as error:
        raise TokenizerError(f"tokenizer {tokenizer.name_or_path}: cannot be copied: {error}") from error
    added = stated["added_tokens"]
    special = {*tokenizer.all_special_tokens, *(token["content"] for token in added if token["special"])}
    for token in added:
        token["special"] = token["content"] in special
    backend = Tokenizer.from_str(json.dumps(stated | {"truncation": None, "padding": None}))
    backend.encode_special_tokens = True
    names = sorted(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in special if len(token) > 1)
    steps: list[PreTokenizer] = [backend.pre_tokenizer] if backend.pre_tokenizer else []
    if names:
        backend.pre_tokenizer = Sequence([*steps, Split(Regex("|".join(names)), "isolated")])
    return backend


def vocabulary_size(tokenizer: "PreTrainedTokenizerFast") -> int:
    """The highest id plus one, which is what a model needs; ids may have gaps."""
    return max(tokenizer.get_vocab().values()) + 1
