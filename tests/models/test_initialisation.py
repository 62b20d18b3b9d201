"""How new weights are drawn: every parameter of every composition against the rule, which is written again here."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification

from models.autoencoder import ConceptModel, ConceptModelForMaskedLM
from models.checkpoints import load_classifier, save_checkpoint
from models.classifier import ConceptModelForSequenceClassification
from models.configuration import ConceptConfig
from models.family import DECODERS, HEADS, VARIANTS

WIDTH, CONCEPTS, PAD = 64, 24, 3
SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": WIDTH,
    "num_concepts": CONCEPTS,
    "num_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_sequence_length": 40,
    "pad_token_id": PAD,
    "mask_token_id": 4,
    "tie_word_embeddings": False,
}
# The shapes of an encoder that have weights of their own.
ENCODERS: dict[str, dict[str, Any]] = {
    "plain": {"concept_position_type": "learned"},
    "bixt": {"use_bixt": True},
    "recursive": {"recursive": True},
    "narrow": {"token_embedding_dim": WIDTH // 2},
}
PRETRAINED = [
    pytest.param({"decoder_type": row.decoder, **encoder}, id=f"{name}-{kind}")
    for (name, row), (kind, encoder) in itertools.product(VARIANTS.items(), ENCODERS.items())
]
DOWNSTREAM = [
    pytest.param({"head": head, "decoder_type": decoder}, id=f"{head}-{decoder}")
    for head, row in HEADS.items()
    for decoder in row.decoders or DECODERS
]


def check_drawn(name: str, weight: Tensor, decoder: str, std: float = 0.1) -> None:
    """One parameter against the rule: bounds where it has some, else mean and deviation within five standard errors."""
    layer, kind = name.rsplit(".", 1)
    if kind == "bias":
        assert not weight.any()
    elif layer.endswith("norm"):
        assert (weight == 1).all()
    elif layer.endswith("modulation") and decoder == "diffusion":
        assert not weight.any()
    elif layer.endswith(("q_proj", "kv_proj")):
        bound = math.sqrt(6 / (3 * WIDTH + WIDTH))  # of the joint matrix [3H, H], however it is stored
        assert 0.99 * bound < weight.abs().max() <= bound
        check_moments(weight, 1 / math.sqrt(2 * WIDTH))
    elif name == "encoder.token_embedding.weight":
        assert not weight[PAD].any()
        check_moments(torch.cat([weight[:PAD], weight[PAD + 1 :]]), std)
    else:
        special = {"encoder.concept_embedding.weight": 2 * std, "decoder.concept_weights": CONCEPTS**-0.5}
        check_moments(weight, special.get(name, std))


def check_moments(weight: Tensor, std: float) -> None:
    count = weight.numel()
    assert abs(weight.mean()) < 5 * std / math.sqrt(count)
    assert abs(weight.std() - std) < 5 * std / math.sqrt(2 * count)


@pytest.mark.parametrize("composition", PRETRAINED)
def test_every_weight_of_a_new_model_follows_the_rule(composition: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = ConceptModelForMaskedLM(ConceptConfig(**SHAPE | composition))
    for name, weight in model.state_dict().items():
        check_drawn(name, weight, composition["decoder_type"])
    assert model.encoder.norm.eps == 1e-12 and model.encoder.layers[0].cross_norm.eps == 1e-5


@pytest.mark.parametrize("composition", DOWNSTREAM)
def test_every_weight_of_a_new_head_follows_the_rule(composition: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = ConceptModelForSequenceClassification(ConceptConfig(**SHAPE | composition, num_labels=5))
    for name, weight in model.state_dict().items():
        check_drawn(name, weight, composition["decoder_type"])


def test_the_range_of_a_config_moves_all_but_the_input_projections_of_attention() -> None:
    torch.manual_seed(0)
    model = ConceptModelForMaskedLM(ConceptConfig(**SHAPE, initializer_range=0.02))
    for name, weight in model.state_dict().items():
        check_drawn(name, weight, "perceiver", std=0.02)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("by_transformers", [True, False])
def test_only_what_a_checkpoint_lacks_is_drawn(decoder: str, by_transformers: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = ConceptModelForMaskedLM(ConceptConfig(**SHAPE, decoder_type=decoder, head="cls_query"))
    with torch.no_grad():
        for weight in trained.parameters():
            weight.uniform_(3.0, 4.0)  # none of the values that a new weight may have
    save_checkpoint(trained, tmp_path)
    again = ConceptModelForMaskedLM.from_pretrained(tmp_path)
    assert all(torch.equal(weight, trained.state_dict()[name]) for name, weight in again.state_dict().items())

    if by_transformers:
        model = ConceptModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    else:
        model, _ = load_classifier(tmp_path, "cls_query", 5)
    for name, weight in model.state_dict().items():
        if name.startswith("head."):
            check_drawn(name, weight, decoder)
        else:
            assert torch.equal(weight, trained.state_dict()[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_of_another_number_of_classes_is_drawn_again(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = ConceptModelForSequenceClassification(ConceptConfig(**SHAPE, head="cls_query", num_labels=3))
    with torch.no_grad():
        for weight in trained.parameters():
            weight.uniform_(3.0, 4.0)
    save_checkpoint(trained, tmp_path)
    model = ConceptModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, ignore_mismatched_sizes=True, dtype=dtype
    )
    for name, weight in model.state_dict().items():
        if name.startswith("head.classifier."):
            check_drawn(name, weight.float(), "perceiver")
        else:
            assert torch.equal(weight, trained.state_dict()[name].to(dtype)), name


def test_auto_classes_draw_as_we_do(tmp_path: Path) -> None:
    """As remote code, from a folder that has neither the decoder nor the head, and from a config alone."""
    torch.manual_seed(0)
    encoder = ConceptModel(ConceptConfig(**SHAPE, use_bixt=True, head="cls_query"))
    save_checkpoint(encoder, tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=True, num_labels=5)
    assert type(model) is not ConceptModelForSequenceClassification
    for name, weight in model.state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(weight, encoder.state_dict()[name]), name
        else:
            check_drawn(name, weight, "perceiver")
    config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    for name, weight in AutoModelForMaskedLM.from_config(config, trust_remote_code=True).state_dict().items():
        check_drawn(name, weight, "perceiver")
