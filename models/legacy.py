"""Checkpoints of the lab's earlier code: their configuration and weights, translated to our names.

Every class of that code had the same encoder and one of a few decoders and heads, so the translation is a table of
names, and no class is written again. What the old configuration does not state is read off the weights, what neither
states is refused. Weights without a place keep their old names, and loading then refuses them by name.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .configuration import ConceptConfig
from .layers import sinusoidal_positions

# Our names and the old ones: prefixes of whole words between dots; the first that fits is taken.
NAMES = {
    "encoder.token_embedding": ("encoder.token_embeddings",),
    "encoder.position_embedding": ("encoder.token_position_embeddings",),
    "encoder.concept_embedding": ("encoder.concept_embeddings",),
    "encoder.concept_position.weight": ("encoder.concept_position_emb.weight",),
    "encoder.concept_position_table": ("encoder.concept_position_emb",),
    "encoder.norm": ("encoder.output_layer_norm",),
    "encoder.layers.0": ("encoder.shared_layer",),
    "decoder.position_embedding": ("decoder_query_embeddings",),
    "decoder.input_projection": ("decoder_input_projection",),
    "decoder.cross_attention": ("decoder_cross_attn",),
    "decoder.query_norm": ("decoder_norm",),
    "decoder.feed_forward_norm": ("post_cross_norm",),
    "decoder.feed_forward.wi": ("decoder_ffn.0",),
    "decoder.feed_forward.wo": ("decoder_ffn.2",),
    "decoder.concept_weights": ("concept_weights",),
    "decoder.norm": ("pre_lm_projection.0", "pre_classifier_projection.0", "decoder.out_norm"),
    "decoder.projection": ("pre_lm_projection.1", "pre_classifier_projection.1"),
    "decoder.tokens.token_embedding": ("decoder.token_embed",),
    "decoder.tokens.token_projection": ("decoder.token_proj",),
    "decoder.tokens.position_embedding": ("decoder.pos_embed",),
    "decoder.time.wi": ("decoder.t_embed.proj.0",),
    "decoder.time.wo": ("decoder.t_embed.proj.2",),
    "lm_head": ("decoder.lm_head",),
    "head.norm": ("pre_pool_norm", "pool_norm", "cls_final_norm"),
    "head.scorer": ("concept_scorer",),
    "head.query.weight": ("cls_query",),
    "head.cross_attention": ("cls_cross_attn",),
    "head.query_norm": ("cls_norm",),
    "head.feed_forward_norm": ("cls_ffn.0",),
    "head.feed_forward.wi": ("cls_ffn.1",),
    "head.feed_forward.wo": ("cls_ffn.3",),
    "head.classifier": ("classifier",),
}
# Within a layer of the encoder, and of the diffusion decoders.
LAYER_NAMES = {
    "cross_attention": ("concept_token_attn", "cross_attn"),
    "self_attention": ("concept_self_attn", "self_attn"),
    "token_attention": ("token_concept_attn",),
    "cross_norm": ("pre_cross_attn_norm", "norm_cross"),
    "self_norm": ("pre_self_attn_norm", "norm_self"),
    "token_norm": ("pre_reverse_cross_norm",),
    "feed_forward_norm": ("pre_ff_norm", "norm_ff"),
    "feed_forward.wi": ("Wi", "ff_in"),
    "feed_forward.wo": ("Wo", "ff_out"),
    "modulation": ("adaLN", "t_proj"),
}
OURS, OURS_IN_LAYER = ({old: ours for ours, every in table.items() for old in every} for table in (NAMES, LAYER_NAMES))
# Configuration keys that kept their names.
SAME = (
    *("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "max_sequence_length", "use_bixt"),
    *("concept_position_type", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range"),
    *("token_embedding_dim", "pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id", "id2label", "label2id"),
)
# What a checkpoint may hold beside the model: learned weights of the losses, and positions counted from 0.
LOSS_WEIGHTS = re.compile(r"loss_manager\.weighting_strategy\.(log_vars|raw_weights)(\.\w+)*")
POSITION_IDS = re.compile(r"(\w+\.)*position_ids")
_LAYER = re.compile(r"((?:encoder|decoder)\.layers\.\d+)\.(\w+)(\..+)?")


def translate(
    raw: Mapping[str, Any], stored: Mapping[str, Tensor]
) -> tuple[ConceptConfig, dict[str, Tensor], list[str]]:
    """Translate a checkpoint of the earlier code.

    Args:
        raw: its config.json.
        stored: its tensors under their old names.

    Returns:
        The configuration, whose `architectures` names our class, the weights under our names, and notes on what was
        left out, filled in or contradictory.

    Raises:
        ValueError: its class is not one of the earlier code, or its configuration cannot be built.
        KeyError: the configuration lacks what no weight can tell.
    """
    weights, notes = _without_training(stored)
    architecture = (raw.get("architectures") or ["none"])[0]
    decoder, head, variant = _composition(str(architecture), raw, weights)
    if raw.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"hidden_act: got {raw['hidden_act']!r}; allowed: 'gelu', which the earlier code computed")
    ours = _rename(weights)
    if decoder == "perceiver_posonly":
        # A decoder whose queries are positions alone never uses the projection of tokens that its class had.
        unused = sorted(name for name in ours if name.startswith("decoder.input_projection."))
        ours = {name: tensor for name, tensor in ours.items() if name not in unused}
        notes += [f"left out {name}: the queries of this decoder are positions alone" for name in unused]
    recursive = any(name.startswith("encoder.shared_layer.") for name in weights)
    layers = int(raw["num_hidden_layers"])
    if recursive:
        layers = int(raw.get("num_iterations") or layers)
    bixt = bool(raw.get("use_bixt"))
    last = f"encoder.layers.{0 if recursive else layers - 1}.token_attention.q_proj.weight"
    tied = head is None and _is_tied(raw, ours, notes)
    _fill_positions(raw, ours, notes)
    fields = {key: raw[key] for key in SAME if raw.get(key) is not None}
    if head is not None:
        fields["num_labels"] = classes = len(ours["head.classifier.weight"])
        if len(raw.get("id2label") or range(classes)) != classes:
            raise ValueError(f"id2label names {len(raw['id2label'])} classes, the classifier has {classes}")
    if bixt and recursive and last not in ours:
        raise ValueError("use_bixt is set, but the shared layer has no token update")
    config = ConceptConfig(
        **fields | {"num_attention_heads": int(raw["num_attention_heads"])},
        num_concepts=int(raw["concept_num"]),
        num_layers=layers,
        recursive=recursive,
        decoder_type=decoder,
        num_decoder_layers=_decoder_layers(ours),
        decoder_reads_tokens=decoder == "diffusion",
        dead_token_update=bixt and last in ours and not (recursive and layers > 1),
        head=head or "weighted_pooling",
        variant=variant,
        tie_word_embeddings=tied,
        architectures=["ConceptModelForMaskedLM" if head is None else "ConceptModelForSequenceClassification"],
    )
    return config, ours, notes


def _without_training(stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of the model alone; what only a training reads is left out with a note."""
    weights, notes = {}, []
    for name, tensor in stored.items():
        counted = torch.arange(tensor.numel(), device=tensor.device)
        if LOSS_WEIGHTS.fullmatch(name):
            values = ", ".join(f"{value:.4g}" for value in tensor.flatten()[:20].tolist())
            notes.append(f"left out {name} ({values}): learned weights of the losses, which only their training reads")
        elif POSITION_IDS.fullmatch(name) and torch.equal(tensor.flatten(), counted):
            notes.append(f"left out {name}: positions counted from 0")
        else:
            weights[name] = tensor
    return weights, notes


def _fill_positions(raw: Mapping[str, Any], ours: dict[str, Tensor], notes: list[str]) -> None:
    """Compute the table of sinusoidal concept positions where a checkpoint left it out."""
    name = "encoder.concept_position_table"
    if raw.get("concept_position_type") == "sinusoidal" and name not in ours:
        ours[name] = sinusoidal_positions(int(raw["concept_num"]), int(raw["hidden_size"]))
        notes.append("computed encoder.concept_position_emb, which the file lacks: the sinusoidal positions")


def _composition(name: str, raw: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[str, str | None, str]:
    """Decoder, head (None for a pretraining model) and variant of an earlier class.

    A classifier without a decoder does not show what it was pretrained as; it counts as a perceiver, the most common.
    """
    perceiver = "perceiver_posonly" if raw.get("decoder_posonly") else "perceiver"
    variant = f"{perceiver}_mlm"
    by_position = "tsdae" if raw.get("use_bixt") else "perceiver_posonly_mlm"
    diffusion = "diffusion_selfattn" if any(".self_attn." in key for key in weights) else "diffusion"
    pooled = "cls_query" if "cls_query" in weights else "weighted_pooling"
    known: dict[str, tuple[str, str | None, str]] = {
        "ConceptEncoderForMaskedDiffusion": (diffusion, None, diffusion),
        "ConceptEncoderForMaskedLMPerceiver": ("perceiver", None, "perceiver_mlm"),
        "ConceptEncoderForMaskedLMPerceiverPosOnly": ("perceiver_posonly", None, by_position),
        "RecursiveConceptEncoderForMaskedLM": ("perceiver", None, "perceiver_mlm"),
        "ConceptEncoderForMaskedLMWeighted": ("weighted", None, "weighted_mlm"),
        "ConceptEncoderForSequenceClassificationViaDecoder": (perceiver, "via_decoder", variant),
        "ConceptEncoderForSequenceClassificationWeighted": ("weighted", "weighted_decoder", "weighted_mlm"),
        "ConceptEncoderForSequenceClassificationPerceiver": (perceiver, pooled, variant),
        "ConceptEncoderForSentencePairClassification": (perceiver, "sentence_pair", variant),
    }
    if name not in known:
        raise ValueError(f"architecture {name!r} is unknown; allowed: {', '.join(sorted(known))}")
    return known[name]


def _decoder_layers(ours: Mapping[str, Tensor]) -> int:
    numbers = [int(match[1]) for name in ours if (match := re.match(r"decoder\.layers\.(\d+)\.", name))]
    return max(numbers, default=1) + 1


def _is_tied(raw: Mapping[str, Any], ours: Mapping[str, Tensor], notes: list[str]) -> bool:
    """Whether the LM head is the token embedding: left out of the file, or stored with the very same values."""
    head, embedding = ours.get("lm_head.weight"), ours["encoder.token_embedding.weight"]
    stated = bool(raw.get("tie_word_embeddings", True))
    if head is None:
        return stated
    same = head.shape == embedding.shape and bool((head == embedding).all())
    if stated and not same:
        notes.append("lm_head.weight is used as stored: it is not the token embedding that tie_word_embeddings says")
    return same and stated


def _rename(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for old, tensor in weights.items():
        prefix = next((prefix for prefix in OURS if f"{old}.".startswith(f"{prefix}.")), "")
        name = OURS.get(prefix, "") + old.removeprefix(prefix)
        if (match := _LAYER.fullmatch(name)) and match[2] in OURS_IN_LAYER:
            name = f"{match[1]}.{OURS_IN_LAYER[match[2]]}{match[3] or ''}"
        if name == "head.query.weight":
            tensor = tensor.reshape(1, -1)
        new = {name: tensor}
        if ".in_proj_" in name:  # query, key and value in one tensor; ours keeps the query apart
            width = len(tensor) // 3
            new = {
                name.replace("in_proj_", "q_proj."): tensor[:width].clone(),
                name.replace("in_proj_", "kv_proj."): tensor[width:].clone(),
            }
        for name, part in new.items():
            if name in ours and not torch.equal(ours[name], part):
                raise ValueError(f"{old} is {name}, which the file holds a second time with other values")
        ours |= new
    return ours
