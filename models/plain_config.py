"""What the config.json of a plain encoder asks for, and whether transformers does it.

transformers keeps a key that it does not know without a word and computes something else: version 5 knows neither
BERT's relative positions nor pruned heads. So a setting that its code does not name is refused where it changes what
the encoder computes, and else stands in the report.
"""

import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from .bounds import check_config
from .weight_files import CheckpointError, UnfitError
from .weights import first_line

# Settings that change what an encoder computes, wherever its code does not name them, and their values without effect.
UNREAD: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": (None, "absolute"),
    "pruned_heads": (None, {}, []),
    "feed_forward_type": (None, "original"),
    "alibi_starting_size": (None,),
    "layer_norm_type": (None, "post"),
    "talking_head": (None, False),
}
# Settings whose value transformers does not check, and would take for something else.
ATTENTION_TERMS = ("c2p", "p2c")
CHECKED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "pos_att_type": (
        lambda value: {*(value.lower().split("|") if isinstance(value, str) else value or ())} <= {*ATTENTION_TERMS},
        f"{' and '.join(ATTENTION_TERMS)}, as a list or as {'|'.join(ATTENTION_TERMS)}",
    ),
    "global_rope_theta": (lambda value: isinstance(value, int | float) and value > 0, "a number above 0"),
    "local_rope_theta": (lambda value: isinstance(value, int | float) and value > 0, "a number above 0"),
}
# Keys that transformers and its trainers once wrote, and that say nothing of how an encoder computes.
WITHOUT_EFFECT = re.compile(
    r"_.*|architectures|model_type|.*transformers_version|(torch_)?dtype|use_bfloat16|tf_legacy_loss|torchscript|auto_map"
    r"|output_\w+|return_dict|id2label|label2id|chunk_size_feed_forward|is_encoder_decoder|is_decoder|tie_word_embeddings"
    r"|finetuning_task|task_specific_params|problem_type|num_labels|tokenizer_class|prefix|.*_token_id|attn_implementation"
    r"|gradient_checkpointing|output_past|use_cache|tie_encoder_decoder|tie_weights_|cross_attention_hidden_size"
    r"|add_cross_attention|language|name|vocab_type|initializer_\w+|directionality|pooler_\w+|reference_compile"
    r"|repad_logits_with_grad|conv_dropout|net_structure_type|gap_size|num_memory_blocks|down_scale_factor"
    r"|(max|min)_length|do_sample|early_stopping|num_beams|num_beam_groups|diversity_penalty|temperature|top_[kp]"
    r"|typical_p|\w*(repetition|length)_penalty|\w*no_repeat_ngram_size|bad_words_ids|num_return_sequences|output_scores"
    r"|return_dict_in_generate|remove_invalid_values|(begin_)?suppress_tokens|summary_\w+|sentence_transformers"
    r"|vocab_size_or_config_json_file|layers_to_keep|adapters"
)

# What a family calls otherwise: of no effect where it states the same (ModernBERT's folders state both).
OTHER_NAMES = {"layer_norm_eps": ("norm_eps",), "hidden_act": ("activation", "hidden_activation")}


def read_config(path: Path) -> dict[str, Any]:
    """config.json, after a look at what it claims to be.

    Raises:
        CheckpointError: it cannot be read, or its sizes are beyond all reason.
        UnfitError: it is of no encoder of text.
    """
    try:
        raw: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
        check_config(raw, strict=False)
        kind = str(raw.get("model_type"))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: config.json describes no encoder: {first_line(error)}") from error
    if kind in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES or raw.get("is_encoder_decoder"):
        raise UnfitError(
            f"{path}: {kind} is an encoder-decoder, whose decoder would classify; fix: name an encoder, such as bert"
        )
    encoders = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()
    if kind not in encoders & modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.keys():
        generates = kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        what = "a decoder, made to generate text" if generates else "no masked language model of text in transformers"
        raise UnfitError(f"{path}: {kind} is {what}; fix: name an encoder, such as bert")
    if raw.get("is_decoder"):
        raise UnfitError(f"{path}: is_decoder is set: this {kind} generates text; fix: name an encoder")
    if raw.get("quantization_config"):
        raise UnfitError(f"{path}: its weights are quantized (quantization_config); fix: name the model before that")
    return raw


def check_settings(raw: Mapping[str, Any], cls: type[PreTrainedModel], path: Path) -> list[str]:
    """Refuse settings that transformers would not follow; returns a note of others that its code does not name.

    Args:
        raw: the content of config.json.
        cls: the class that is loaded.

    Raises:
        UnfitError: what transformers computes is not what config.json asks for.
        CheckpointError: it is the config of one family for the class of another.
    """
    _check_architecture(raw, cls, path)
    if "attention_mask" not in inspect.signature(cls.forward).parameters:
        raise UnfitError(
            f"{path}: a {raw['model_type']} reads padding as text, so that a score depends on the other texts of a "
            "batch; fix: name an encoder with an attention mask, such as bert"
        )
    unread = [key for key in raw if not _is_named(key, cls)]
    for key in raw:
        if key in CHECKED and not CHECKED[key][0](raw[key]):
            raise UnfitError(
                f"{path}: config.json: {key}: got {raw[key]!r}; allowed: {CHECKED[key][1]}; fix: correct it"
            )
        if key in unread and key in UNREAD and raw[key] not in UNREAD[key]:
            allowed = next((value for value in UNREAD[key] if value), "none")
            raise UnfitError(
                f"{path}: config.json: {key}: got {raw[key]!r}; allowed: {allowed}, transformers "
                f"{transformers.__version__} has no other {raw['model_type']}; fix: name an encoder without it"
            )
    odd = [f"{key} = {raw[key]!r}"[:80] for key in unread if not _is_without_effect(key, raw)]
    return [f"config.json states what transformers does not read: {', '.join(odd[:8])}"] if odd else []


def _is_without_effect(key: str, raw: Mapping[str, Any]) -> bool:
    """Whether a key that is not read changes nothing."""
    same = any(raw.get(name) == raw[key] for name in OTHER_NAMES.get(key, ()))
    return same or key in UNREAD or WITHOUT_EFFECT.fullmatch(key) is not None


def _is_named(key: str, cls: type[PreTrainedModel]) -> bool:
    """Whether the code of a family names a key."""
    config: Any = cls.config_class
    family = "".join(inspect.getsource(sys.modules[part.__module__]) for part in (cls, config))
    return re.search(rf"\b{re.escape(key)}\b", family) is not None


def _check_architecture(raw: Mapping[str, Any], cls: type[PreTrainedModel], path: Path) -> None:
    """Refuse a file of one family under the config of another: some would load, and compute something else."""
    names = raw.get("architectures")
    for name in names if isinstance(names, list) else []:
        stated = getattr(transformers, str(name), None)
        if not (isinstance(stated, type) and issubclass(stated, PreTrainedModel)):
            continue  # of another library
        if stated.base_model_prefix != cls.base_model_prefix:
            raise CheckpointError(f"{path}: architectures names {name}, model_type is {raw['model_type']}")
