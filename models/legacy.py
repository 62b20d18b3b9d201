"""Checkpoints of the lab's earlier code: their configuration and weights, translated to our names.

Every class of that code had the same encoder and one of a few decoders and heads, so the translation is a table of
names, and no class is written again. What the old configuration does not state is read off the weights. Weights
without a place keep their old names, and loading then reports them.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .configuration import ConceptConfig

# Old names and ours: prefixes of whole words between dots; the first that fits is taken.
NAMES = {
    "encoder.token_embeddings": "encoder.token_embedding",
    "encoder.token_position_embeddings": "encoder.position_embedding",
    "encoder.concept_embeddings": "encoder.concept_embedding",
    "encoder.concept_position_emb.weight": "encoder.concept_position.weight",
    "encoder.concept_position_emb": "encoder.concept_position_table",
    "encoder.output_layer_norm": "encoder.norm",
    "encoder.shared_layer": "encoder.layers.0",
    "decoder_query_embeddings": "decoder.position_embedding",
    "decoder_input_projection": "decoder.input_projection",
    "decoder_cross_attn": "decoder.cross_attention",
    "decoder_norm": "decoder.query_norm",
    "post_cross_norm": "decoder.feed_forward_norm",
    "decoder_ffn.0": "decoder.feed_forward.wi",
    "decoder_ffn.2": "decoder.feed_forward.wo",
    "concept_weights": "decoder.concept_weights",
    "pre_lm_projection.0": "decoder.norm",
    "pre_lm_projection.1": "decoder.projection",
    "pre_classifier_projection.0": "decoder.norm",
    "pre_classifier_projection.1": "decoder.projection",
    "decoder.token_embed": "decoder.tokens.token_embedding",
    "decoder.token_proj": "decoder.tokens.token_projection",
    "decoder.pos_embed": "decoder.tokens.position_embedding",
    "decoder.t_embed.proj.0": "decoder.time.wi",
    "decoder.t_embed.proj.2": "decoder.time.wo",
    "decoder.out_norm": "decoder.norm",
    "decoder.lm_head": "lm_head",
    "pre_pool_norm": "head.norm",
    "concept_scorer": "head.scorer",
    "pool_norm": "head.norm",
    "cls_query": "head.query.weight",
    "cls_cross_attn": "head.cross_attention",
    "cls_norm": "head.query_norm",
    "cls_ffn.0": "head.feed_forward_norm",
    "cls_ffn.1": "head.feed_forward.wi",
    "cls_ffn.3": "head.feed_forward.wo",
    "cls_final_norm": "head.norm",
    "classifier": "head.classifier",
}
# Within a layer of the encoder, and of the diffusion decoders.
LAYER_NAMES = {
    "concept_token_attn": "cross_attention",
    "concept_self_attn": "self_attention",
    "token_concept_attn": "token_attention",
    "pre_cross_attn_norm": "cross_norm",
    "pre_self_attn_norm": "self_norm",
    "pre_reverse_cross_norm": "token_norm",
    "pre_ff_norm": "feed_forward_norm",
    "Wi": "feed_forward.wi",
    "Wo": "feed_forward.wo",
    "norm_cross": "cross_norm",
    "cross_attn": "cross_attention",
    "norm_self": "self_norm",
    "self_attn": "self_attention",
    "norm_ff": "feed_forward_norm",
    "ff_in": "feed_forward.wi",
    "ff_out": "feed_forward.wo",
    "adaLN": "modulation",
    "t_proj": "modulation",
}
# Configuration keys that kept their names.
SAME = (
    *("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "max_sequence_length", "use_bixt"),
    *("concept_position_type", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range"),
    *("token_embedding_dim", "pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id", "id2label", "label2id"),
)
_LAYER = re.compile(r"((?:encoder|decoder)\.layers\.\d+)\.(\w+)(\..+)?")


def translate(raw: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[ConceptConfig, dict[str, Tensor]]:
    """Translate a checkpoint of the earlier code.

    Args:
        raw: its config.json.
        weights: its tensors under their old names.

    Returns:
        The configuration, whose `architectures` names our class, and the weights under our names.

    Raises:
        ValueError: its class is not one of the earlier code, or its configuration cannot be built.
    """
    architecture = (raw.get("architectures") or ["none"])[0]
    decoder, head, variant = _composition(str(architecture), raw, weights)
    ours = _rename(weights)
    if decoder == "perceiver_posonly":
        # A decoder whose queries are positions alone never uses the projection of tokens that its class had.
        ours = {name: tensor for name, tensor in ours.items() if not name.startswith("decoder.input_projection.")}
    recursive = any(name.startswith("encoder.shared_layer.") for name in weights)
    layers = int(raw["num_hidden_layers"])
    if recursive:
        layers = int(raw.get("num_iterations") or layers)
    bixt = bool(raw.get("use_bixt"))
    last = f"encoder.layers.{0 if recursive else layers - 1}.token_attention.q_proj.weight"
    tied = head is None and _is_tied(raw, ours)
    fields = {key: raw[key] for key in SAME if raw.get(key) is not None}
    if head is not None:
        fields["num_labels"] = len(ours["head.classifier.weight"])
    if bixt and recursive and last not in ours:
        raise ValueError("use_bixt is set, but the shared layer has no token update")
    config = ConceptConfig(
        **fields,
        num_concepts=int(raw["concept_num"]),
        num_layers=layers,
        recursive=recursive,
        decoder=decoder,
        num_decoder_layers=_decoder_layers(ours),
        decoder_reads_tokens=decoder == "diffusion",
        dead_token_update=bixt and last in ours and not (recursive and layers > 1),
        head=head or "weighted_pooling",
        variant=variant,
        tie_word_embeddings=tied,
        architectures=["ConceptModelForMaskedLM" if head is None else "ConceptModelForSequenceClassification"],
    )
    return config, ours


def _composition(name: str, raw: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[str, str | None, str]:
    """Decoder, head (None for a pretraining model) and variant of an earlier class.

    A classifier without a decoder does not show what it was pretrained as; it counts as a perceiver, the most common.
    """
    by_position = bool(raw.get("decoder_posonly"))
    perceiver = "perceiver_posonly" if by_position else "perceiver"
    perceiver_variant = f"{perceiver}_mlm"
    if name == "ConceptEncoderForMaskedDiffusion":
        exploding = any(".self_attn." in key for key in weights)
        return ("diffusion_selfattn", None, "diffusion_selfattn") if exploding else ("diffusion", None, "diffusion")
    if name == "ConceptEncoderForMaskedLMPerceiverPosOnly":
        return "perceiver_posonly", None, "tsdae" if raw.get("use_bixt") else "perceiver_posonly_mlm"
    pooled = "cls_query" if "cls_query" in weights else "weighted_pooling"
    known: dict[str, tuple[str, str | None, str]] = {
        "ConceptEncoderForMaskedLMPerceiver": ("perceiver", None, "perceiver_mlm"),
        "RecursiveConceptEncoderForMaskedLM": ("perceiver", None, "perceiver_mlm"),
        "ConceptEncoderForMaskedLMWeighted": ("weighted", None, "weighted_mlm"),
        "ConceptEncoderForSequenceClassificationViaDecoder": (perceiver, "via_decoder", perceiver_variant),
        "ConceptEncoderForSequenceClassificationWeighted": ("weighted", "weighted_decoder", "weighted_mlm"),
        "ConceptEncoderForSequenceClassificationPerceiver": (perceiver, pooled, perceiver_variant),
        "ConceptEncoderForSentencePairClassification": (perceiver, "sentence_pair", perceiver_variant),
    }
    if name not in known:
        others = ("ConceptEncoderForMaskedDiffusion", "ConceptEncoderForMaskedLMPerceiverPosOnly")
        raise ValueError(f"architecture {name!r} is unknown; allowed: {', '.join(sorted([*known, *others]))}")
    return known[name]


def _decoder_layers(ours: Mapping[str, Tensor]) -> int:
    numbers = [int(match[1]) for name in ours if (match := re.match(r"decoder\.layers\.(\d+)\.", name))]
    return max(numbers, default=1) + 1


def _is_tied(raw: Mapping[str, Any], ours: Mapping[str, Tensor]) -> bool:
    """Whether the LM head is the token embedding: left out of the file, or stored with the very same values."""
    head, embedding = ours.get("lm_head.weight"), ours["encoder.token_embedding.weight"]
    if head is None:
        return True
    same = head.shape == embedding.shape and bool((head == embedding).all())
    return same and bool(raw.get("tie_word_embeddings", True))


def _rename(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for old, tensor in weights.items():
        name = old
        for prefix, ours_prefix in NAMES.items():
            if name == prefix or name.startswith(f"{prefix}."):
                name = ours_prefix + name.removeprefix(prefix)
                break
        if (match := _LAYER.fullmatch(name)) and match[2] in LAYER_NAMES:
            name = f"{match[1]}.{LAYER_NAMES[match[2]]}{match[3] or ''}"
        if name == "head.query.weight":
            tensor = tensor.reshape(1, -1)
        if ".in_proj_" in name:  # query, key and value in one tensor; ours keeps the query apart
            width = len(tensor) // 3
            ours[name.replace("in_proj_", "q_proj.")] = tensor[:width].clone()
            ours[name.replace("in_proj_", "kv_proj.")] = tensor[width:].clone()
        else:
            ours[name] = tensor
    return ours
