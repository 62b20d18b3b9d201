"""Configs and weights as the code before this one stored them, for tests of whatever reads them."""

import json
from typing import Any

import torch
from torch import Tensor

from models.layers import sinusoidal_positions

V, H, E, C, INNER, HEADS, POSITIONS, B, N = 61, 16, 8, 5, 20, 4, 14, 3, 11
Weights = dict[str, Tensor]

LANGUAGE_MODELS = {
    "perceiver": {"class": "ConceptEncoderForMaskedLMPerceiver", "tie_word_embeddings": True},
    "perceiver-untied-E": {"class": "ConceptEncoderForMaskedLMPerceiver", "token_embedding_dim": E},
    "perceiver-learned": {"class": "ConceptEncoderForMaskedLMPerceiver", "concept_position_type": "learned"},
    "posonly": {"class": "ConceptEncoderForMaskedLMPerceiverPosOnly", "tie_word_embeddings": True},
    "posonly-bixt": {"class": "ConceptEncoderForMaskedLMPerceiverPosOnly", "use_bixt": True},
    "recursive": {"class": "RecursiveConceptEncoderForMaskedLM", "num_iterations": 4, "num_hidden_layers": 2},
    "recursive-no-count": {"class": "RecursiveConceptEncoderForMaskedLM", "num_iterations": None},
    "weighted": {"class": "ConceptEncoderForMaskedLMWeighted"},
    "weighted-sinusoidal": {"class": "ConceptEncoderForMaskedLMWeighted", "concept_position_type": "sinusoidal"},
    "diffusion": {"class": "ConceptEncoderForMaskedDiffusion", "decoder_layers": 3},
    "diffusion-E-bixt": {"class": "ConceptEncoderForMaskedDiffusion", "token_embedding_dim": E, "use_bixt": True},
    "diffusion-selfattn": {"class": "ConceptEncoderForMaskedDiffusion", "self_attention": True},
}
CLASSIFIERS = {
    "via-decoder": {"class": "ConceptEncoderForSequenceClassificationViaDecoder"},
    "via-decoder-posonly": {
        "class": "ConceptEncoderForSequenceClassificationViaDecoder",
        "decoder_posonly": True,
        "token_embedding_dim": E,
    },
    "weighted-decoder": {"class": "ConceptEncoderForSequenceClassificationWeighted"},
    "weighted-pooling": {"class": "ConceptEncoderForSequenceClassificationPerceiver"},
    "cls-query": {"class": "ConceptEncoderForSequenceClassificationPerceiver", "cls_query": True},
    "sentence-pair": {"class": "ConceptEncoderForSentencePairClassification", "use_bixt": True},
}


def old_config(row: dict[str, Any]) -> dict[str, Any]:
    name = row["class"]
    recursive = name.startswith("Recursive")
    config = {
        "architectures": [name],
        "model_type": "recursive_concept_encoder" if recursive else "concept_encoder",
        "vocab_size": V,
        "concept_num": C,
        "hidden_size": H,
        "token_embedding_dim": H,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "max_sequence_length": POSITIONS,
        "concept_position_type": "none",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "mask_token_id": 4,
        "hidden_act": "gelu",
        "type_vocab_size": 2,
    }
    extra = ("class", "decoder_layers", "self_attention", "cls_query")
    return config | {key: value for key, value in row.items() if key not in extra}


def old_weights(row: dict[str, Any], config: dict[str, Any]) -> Weights:
    """Random weights under the old names, all of them that the class had."""
    generator = torch.Generator().manual_seed(len(json.dumps(row)))
    w: Weights = {}

    def new(name: str, *shape: int) -> None:
        w[name] = 0.3 * torch.randn(*shape, generator=generator)

    def linear(name: str, inner: int, outer: int) -> None:
        new(f"{name}.weight", outer, inner)
        new(f"{name}.bias", outer)

    def norm(name: str, width: int = H) -> None:
        new(f"{name}.weight", width)
        new(f"{name}.bias", width)

    def attention(name: str) -> None:
        new(f"{name}.in_proj_weight", 3 * H, H)
        new(f"{name}.in_proj_bias", 3 * H)
        linear(f"{name}.out_proj", H, H)

    width, name = config["token_embedding_dim"], row["class"]
    new("encoder.token_embeddings.weight", V, width)
    new("encoder.token_position_embeddings.weight", POSITIONS, width)
    new("encoder.concept_embeddings.weight", C, H)
    if width < H:
        linear("encoder.token_projection", width, H)
    if config["concept_position_type"] == "learned":
        new("encoder.concept_position_emb.weight", C, H)
    if config["concept_position_type"] == "sinusoidal":
        w["encoder.concept_position_emb"] = sinusoidal_positions(C, H)
    layers = [f"encoder.layers.{n}" for n in range(config["num_hidden_layers"])]
    for layer in ["encoder.shared_layer"] if name.startswith("Recursive") else layers:
        attentions = ["concept_token_attn", "concept_self_attn"]
        norms = ["pre_cross_attn_norm", "pre_self_attn_norm", "pre_ff_norm"]
        if config.get("use_bixt"):
            attentions.append("token_concept_attn")
            norms.append("pre_reverse_cross_norm")
        for part in attentions:
            attention(f"{layer}.{part}")
        for part in norms:
            norm(f"{layer}.{part}")
        linear(f"{layer}.Wi", H, 2 * INNER)
        linear(f"{layer}.Wo", INNER, H)
    norm("encoder.output_layer_norm")
    if "Weighted" in name:
        projection = "pre_lm_projection" if "MaskedLM" in name else "pre_classifier_projection"
        new("concept_weights", POSITIONS, C)
        norm(f"{projection}.0")
        linear(f"{projection}.1", H, H)
    elif name in ("ConceptEncoderForSequenceClassificationViaDecoder",) or "MaskedLM" in name:
        new("decoder_query_embeddings.weight", POSITIONS, H)
        if width < H:
            linear("decoder_input_projection", width, H)
        attention("decoder_cross_attn")
        norm("decoder_norm")
        norm("post_cross_norm")
        linear("decoder_ffn.0", H, INNER)
        linear("decoder_ffn.2", INNER, H)
    elif "Diffusion" in name:
        new("decoder.token_embed.weight", V, width)
        if width < H:
            linear("decoder.token_proj", width, H)
        new("decoder.pos_embed.weight", POSITIONS, H)
        linear("decoder.t_embed.proj.0", H, 2 * H)
        linear("decoder.t_embed.proj.2", 2 * H, H)
        for number in range(row.get("decoder_layers", 2)):
            layer = f"decoder.layers.{number}"
            attention(f"{layer}.cross_attn")
            for part in ("norm_cross", "norm_ff", *(["norm_self"] if row.get("self_attention") else [])):
                norm(f"{layer}.{part}")
            linear(f"{layer}.ff_in", H, 2 * INNER)
            linear(f"{layer}.ff_out", INNER, H)
            if row.get("self_attention"):
                attention(f"{layer}.self_attn")
                linear(f"{layer}.t_proj", H, 2 * H)
            else:
                linear(f"{layer}.adaLN", H, 6 * H)
        norm("decoder.out_norm")
    if "Masked" in name:
        tied = config["tie_word_embeddings"]
        if not tied:
            new("decoder.lm_head.weight" if row.get("self_attention") else "lm_head.weight", V, H)
        return w
    if "ViaDecoder" in name:
        norm("pre_pool_norm")
    elif row.get("cls_query"):
        new("cls_query", 1, 1, H)
        attention("cls_cross_attn")
        norm("cls_norm")
        norm("cls_ffn.0")
        linear("cls_ffn.1", H, INNER)
        linear("cls_ffn.3", INNER, H)
        norm("cls_final_norm")
    elif "Weighted" not in name:
        linear("concept_scorer", H, 1)
        norm("pool_norm")
    linear("classifier", 4 * H if "SentencePair" in name else H, 3)
    return w
