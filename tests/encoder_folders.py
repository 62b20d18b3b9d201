"""Tiny encoders in folders as the Hub has them: real keys, real weight names, real tokenizer files, random weights.

Example: `encoder_folder("roberta", tmp_path / "roberta")`. What those folders lack is lacking here: of all families but
ModernBERT they name no special tokens, and DeBERTa's has no tokenizer.json.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoConfig

SENTENCES = (
    "The quick brown fox jumps over the lazy dog while 12 rivers run to the sea.",
    "A man is playing a guitar; a woman is not playing the piano.",
    "Amounts rose by 3.5 percent in 2019, the company said on Monday.",
    "How do I learn to read a long book quickly, and why should I?",
    "He said that the results were better than those of last year.",
)
WORDS = sorted({word.strip(".,;?").lower() for text in SENTENCES for word in text.split()})
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@dataclass(frozen=True)
class Family:
    """How the Hub's folder of a family looks.

    Attributes:
        architecture: the class that it was pretrained as, which decides the names of its weights.
        config: keys of config.json beside model_type; `vocab_size` is the tokenizer's unless it is stated.
        tokenizer: writes the files of the tokenizer and gives the number of its entries.
        tokenizer_config: content of tokenizer_config.json.
        longest: tokens of the longest text that its positions allow; None: they do not limit it.
    """

    architecture: str
    config: dict[str, Any]
    tokenizer: Callable[[Path], int]
    tokenizer_config: dict[str, Any] = field(default_factory=dict)
    longest: int | None = None


def _word_pieces(special: tuple[str, ...], cls: str, sep: str, mask_last: bool = False) -> Callable[[Path], int]:
    """vocab.txt and tokenizer.json of a lower-casing WordPiece, with the template of BERT or (`</s>`) of MPNet."""

    def write(folder: Path) -> int:
        first, last = (special[:-1], special[-1:]) if mask_last else (special, ())
        signs = [*PUNCTUATION, *LETTERS, *("##" + letter for letter in LETTERS)]
        entries = list(dict.fromkeys([*first, "[unused0]", *signs, *WORDS, "##s", "##ing", *last]))
        (folder / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
        number = {entry: index for index, entry in enumerate(entries)}
        tokenizer = Tokenizer(models.WordPiece(number, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        if sep == "[SEP]":
            tokenizer.post_processor = _bert_template(cls, sep, number)
        else:
            tokenizer.post_processor = processors.RobertaProcessing((sep, number[sep]), (cls, number[cls]))
        tokenizer.add_special_tokens([_special(entry) for entry in special])
        tokenizer.save(str(folder / "tokenizer.json"))
        return len(entries)

    return write


def _byte_pairs(
    first: tuple[str, ...], last: tuple[str, ...], files: bool, template: Callable[[dict[str, int]], Any]
) -> Callable[[Path], int]:
    """tokenizer.json of a byte-level BPE, with special tokens at both ends; `files`: vocab.json and merges.txt too."""

    def write(folder: Path) -> int:
        trained = json.loads(_trained_byte_pairs())["model"]
        entries = [*first, *sorted(trained["vocab"], key=trained["vocab"].__getitem__), *last]
        vocabulary = {entry: index for index, entry in enumerate(entries)}
        merges = [tuple(pair) for pair in trained["merges"]]
        if files:
            (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
            lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
            (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        tokenizer = Tokenizer(models.BPE(vocabulary, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = template(vocabulary)
        tokenizer.add_special_tokens([_special(entry) for entry in (*first, *last)])
        tokenizer.save(str(folder / "tokenizer.json"))
        return len(entries)

    return write


def _unigram(
    first: tuple[str, ...], last: tuple[str, ...], unk: str, template: Callable[[dict[str, int]], Any], lower: bool
) -> Callable[[Path], int]:
    """tokenizer.json of a sentence-piece unigram, with special tokens at both ends."""

    def write(folder: Path) -> int:
        own = [(piece, score) for piece, score in _trained_pieces() if not lower or piece == piece.lower()]
        pieces = [*((entry, 0.0) for entry in first), *own, *((entry, 0.0) for entry in last)]
        number = {piece: index for index, (piece, _) in enumerate(pieces)}
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=number[unk]))
        if lower:  # as ALBERT's
            steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD()]
            tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.StripAccents(), normalizers.Lowercase()])
        blank = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), blank])
        tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
        tokenizer.post_processor = template(number)
        tokenizer.add_special_tokens([_special(entry) for entry in (*first, *last)])
        tokenizer.save(str(folder / "tokenizer.json"))
        return len(pieces)

    return write


def _sentence_piece(name: str, special: tuple[str, ...]) -> Callable[[Path], int]:
    """A model of the sentencepiece library alone, without a tokenizer.json; [MASK] follows its last entry."""

    def write(folder: Path) -> int:
        from sentencepiece import sentencepiece_model_pb2 as format_

        model = format_.ModelProto()
        kinds = format_.ModelProto.SentencePiece.Type
        for piece in special:
            model.pieces.add(piece=piece, score=0.0, type=kinds.UNKNOWN if piece == "[UNK]" else kinds.CONTROL)
        for piece, score in _trained_pieces():
            model.pieces.add(piece=piece, score=score, type=kinds.NORMAL)
        model.trainer_spec.model_type = format_.TrainerSpec.ModelType.UNIGRAM
        for role, piece in {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}.items():
            setattr(model.trainer_spec, f"{role}_id", special.index(piece))
            setattr(model.trainer_spec, f"{role}_piece", piece)
        (folder / name).write_bytes(model.SerializeToString())
        return len(model.pieces) + 1

    return write


def _special(token: str) -> AddedToken:
    """A special token; a mask takes the blank before it, as RoBERTa's and ALBERT's do."""
    return AddedToken(token, lstrip=token in ("<mask>", "[MASK]"), normalized=False, special=True)


def _bert_template(cls: str, sep: str, number: dict[str, int]) -> Any:
    return processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, number[cls]), (sep, number[sep])],
    )


def _roberta_template(number: dict[str, int]) -> Any:
    return processors.RobertaProcessing(("</s>", number["</s>"]), ("<s>", number["<s>"]), add_prefix_space=False)


def _xlm_template(number: dict[str, int]) -> Any:
    special = [("<s>", number["<s>"]), ("</s>", number["</s>"])]
    return processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=special)


def _t5_template(number: dict[str, int]) -> Any:
    special = [("</s>", number["</s>"])]
    return processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=special)


def _modern_template(number: dict[str, int]) -> Any:
    special = [("[CLS]", number["[CLS]"]), ("[SEP]", number["[SEP]"])]
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=special
    )


@cache
def _trained_byte_pairs() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer.to_str()


@cache
def _trained_pieces() -> tuple[tuple[str, float], ...]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    alphabet = [*"▁", *LETTERS, *LETTERS.upper(), *PUNCTUATION]
    trainer = trainers.UnigramTrainer(vocab_size=200, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    pieces = json.loads(tokenizer.to_str())["model"]["vocab"]
    return tuple((piece, score) for piece, score in pieces)


BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MODERN_TOKENS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
BERT = _word_pieces(BERT_TOKENS, "[CLS]", "[SEP]")

FAMILIES: dict[str, Family] = {
    "bert": Family(
        "BertForPreTraining",
        SIZES
        | {"max_position_embeddings": 64, "type_vocab_size": 2, "pad_token_id": 0, "gradient_checkpointing": False},
        BERT,
        {"do_lower_case": True},
        64,
    ),
    "roberta": Family(
        "RobertaForMaskedLM",
        SIZES
        | {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        | {"layer_norm_eps": 1e-05},
        _byte_pairs(("<s>", "<pad>", "</s>", "<unk>"), ("<mask>",), True, _roberta_template),
        {"model_max_length": 64},
        64,
    ),
    "distilbert": Family(
        "DistilBertForMaskedLM",
        {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64, "pad_token_id": 0}
        | {"sinusoidal_pos_embds": False, "tie_weights_": True},
        BERT,
        {"do_lower_case": True, "model_max_length": 64},
        64,
    ),
    "electra": Family(
        "ElectraForPreTraining",
        SIZES | {"embedding_size": 16, "max_position_embeddings": 64, "type_vocab_size": 2, "pad_token_id": 0},
        BERT,
        {"do_lower_case": True, "model_max_length": 64},
        64,
    ),
    "albert": Family(
        "AlbertForMaskedLM",
        SIZES
        | {"embedding_size": 16, "max_position_embeddings": 64, "type_vocab_size": 2, "num_hidden_groups": 1}
        | {"inner_group_num": 1, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
        _unigram(
            ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
            (),
            "<unk>",
            lambda number: _bert_template("[CLS]", "[SEP]", number),
            True,
        ),
        {"model_max_length": 64},
        64,
    ),
    "mpnet": Family(
        "MPNetForMaskedLM",
        SIZES
        | {"max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        | {"relative_attention_num_buckets": 32, "layer_norm_eps": 1e-05},
        _word_pieces(("<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"), "<s>", "</s>", mask_last=True),
        {"do_lower_case": True},
        64,
    ),
    "deberta-v2": Family(
        "DebertaV2ForMaskedLM",
        SIZES
        | {"max_position_embeddings": 64, "type_vocab_size": 0, "pad_token_id": 0, "position_biased_input": False}
        | {"relative_attention": True, "position_buckets": 32, "norm_rel_ebd": "layer_norm", "share_att_key": True}
        | {"pos_att_type": "p2c|c2p", "max_relative_positions": -1, "vocab_size": 400},
        _sentence_piece("spm.model", ("[PAD]", "[CLS]", "[SEP]", "[UNK]")),
        {"do_lower_case": False, "vocab_type": "spm"},
    ),
    "modernbert": Family(
        "ModernBertForMaskedLM",
        SIZES
        | {"max_position_embeddings": 64, "vocab_size": 512, "local_attention": 16, "global_attn_every_n_layers": 2}
        | {"reference_compile": False, "cls_token_id": 401, "sep_token_id": 402, "pad_token_id": 403}
        | {"bos_token_id": 401, "eos_token_id": 402},
        _byte_pairs((), MODERN_TOKENS, False, _modern_template),
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 64,
            "clean_up_tokenization_spaces": True,
            **{f"{token[1:-1].lower()}_token": token for token in MODERN_TOKENS},
        },
        64,
    ),
    "t5": Family(
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2, "n_positions": 512}
        | {"relative_attention_num_buckets": 32, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
        | {"vocab_size": 400},
        _unigram(
            ("<pad>", "</s>", "<unk>"),
            tuple(f"<extra_id_{n}>" for n in range(99, -1, -1)),
            "<unk>",
            _t5_template,
            False,
        ),
        {"model_max_length": 512},
    ),
    "xlm-roberta": Family(
        "XLMRobertaForMaskedLM",
        SIZES
        | {
            "max_position_embeddings": 66,
            "type_vocab_size": 1,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        _unigram(("<s>", "<pad>", "</s>", "<unk>"), ("<mask>",), "<unk>", _xlm_template, False),
        {"model_max_length": 64},
        64,
    ),
}


def encoder_folder(
    family: str,
    target: Path,
    *,
    dtype: torch.dtype = torch.float32,
    sharded: bool = False,
    format: Literal["safetensors", "bin"] = "safetensors",
    prefix: str = "",
    rename: Callable[[str], str] | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """Write a tiny encoder of a family as its folder on the Hub, with random weights that depend on the family alone.

    Args:
        target: the folder to make.
        dtype: of the weights; config.json states it too.
        sharded: spread the weights over two files with an index.
        format: safetensors, or the pickled files of earlier folders.
        prefix: stands before every name of a weight, such as "module.".
        rename: gives the name of a weight in the file, after the prefix.
        config: keys of config.json that replace those of the family.
    """
    row = FAMILIES[family]
    target.mkdir(parents=True)
    entries = row.tokenizer(target)
    (target / "tokenizer_config.json").write_text(json.dumps(row.tokenizer_config), encoding="utf-8")
    keys = {"vocab_size": entries} | row.config | (config or {})
    stated = {"architectures": [row.architecture], "model_type": family, **keys, "dtype": str(dtype).split(".")[1]}
    (target / "config.json").write_text(json.dumps(stated, indent=2), encoding="utf-8")
    names = {name: (rename or str)(prefix + name) for name, _ in family_weights(family, target)}
    weights = {names[name]: tensor.to(dtype) for name, tensor in family_weights(family, target)}
    write_weights(target, weights, sharded=sharded, format=format)
    return target


def family_weights(family: str, folder: Path) -> list[tuple[str, Tensor]]:
    """The weights of the folder's configuration by their names in the class of its pretraining, tied ones once.

    Every one differs from what an initialisation gives: biases are not 0, norms are not 1. Rows of padding are 0.
    """
    settings = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = getattr(transformers, FAMILIES[family].architecture)(settings)
    padding = {id(part.weight): part.padding_idx for part in model.modules() if isinstance(part, torch.nn.Embedding)}
    generator = torch.Generator().manual_seed(len(family))
    found: list[tuple[str, Tensor]] = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in model.all_tied_weights_keys:  # in the file under the name of its source
            continue
        noise = 0.05 * torch.randn(parameter.shape, generator=generator)
        is_scale = parameter.dim() == 1 and name.endswith("weight")
        if (row := padding.get(id(parameter))) is not None:
            noise[row] = 0.0
        found.append((name, noise + 1.0 if is_scale else noise))
    return found


def write_weights(
    folder: Path, weights: dict[str, Tensor], *, sharded: bool = False, format: Literal["safetensors", "bin"]
) -> None:
    """Write weights as the Hub has them: one file, or two and their index."""
    stem = "model" if format == "safetensors" else "pytorch_model"
    suffix = "safetensors" if format == "safetensors" else "bin"
    parts = {f"{stem}.{suffix}": list(weights)}
    if sharded:
        half = len(weights) // 2
        both = (list(weights)[:half], list(weights)[half:])
        parts = {f"{stem}-0000{number}-of-00002.{suffix}": part for number, part in enumerate(both, 1)}
        size = sum(tensor.nbytes for tensor in weights.values())
        index = {
            "metadata": {"total_size": size},
            "weight_map": {n: file for file, part in parts.items() for n in part},
        }
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index), encoding="utf-8")
    for file, part in parts.items():
        chosen = {name: weights[name].contiguous() for name in part}
        if format == "safetensors":
            save_file(chosen, folder / file, metadata={"format": "pt"})
        else:
            torch.save(chosen, folder / file)
