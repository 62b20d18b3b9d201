"""Tokens may be left out of the stream, and keys and values made together: the concepts stay the same."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.configuration import ConceptConfig
from models.encoder import ConceptEncoder
from models.layers import Attention, keys_and_values

ENCODERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one layer": {"num_layers": 1},
    "bixt": {"use_bixt": True},
    "recursive": {"recursive": True},
    "recursive bixt": {"recursive": True, "use_bixt": True},
    "shared": {"share_token_kv": True},
    "narrow": {"token_embedding_dim": 4, "tie_word_embeddings": False},
}


def make_encoder(changes: dict[str, Any]) -> ConceptEncoder:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_concepts": 5, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 31}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return ConceptEncoder(ConceptConfig(**{"num_layers": 3, "max_sequence_length": 12, **sizes, **rates} | changes))


def gradients(encoder: nn.Module, concepts: Tensor) -> dict[str, Tensor]:
    encoder.zero_grad()
    (concepts * torch.arange(concepts.shape[-1])).sum().backward()
    return {name: weight.grad for name, weight in encoder.named_parameters() if weight.grad is not None}


def assert_same_gradients(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], rtol=1e-4, atol=1e-4 * float(other[name].abs().max()))


@pytest.mark.parametrize("kind", ENCODERS)
def test_what_is_left_out_of_the_stream_was_hidden_by_the_mask(kind: str) -> None:
    encoder, ids = make_encoder(ENCODERS[kind]), torch.randint(1, 31, (3, 12))
    mask = torch.rand(3, 12) < 0.4
    mask[:, 3] = True
    read = torch.full((3, 10), -1)
    for row, kept in enumerate(mask):
        places = kept.nonzero()[:, 0]
        read[row, : len(places)] = places
    masked, left_out = encoder(ids, mask.long()), encoder(ids, None, read)
    torch.testing.assert_close(left_out, masked, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(masked, encoder(ids), atol=1e-3)
    assert_same_gradients(gradients(encoder, left_out), gradients(encoder, masked))


def as_layer_by_layer(encoder: ConceptEncoder, ids: Tensor) -> Tensor:
    """The concepts by the definition: every layer projects the tokens for itself."""
    tokens = encoder.token_projection(encoder.token_embedding(ids) + encoder.position_embedding.weight)
    concepts = encoder.concept_embedding.weight.expand(len(ids), -1, -1)
    for number in range(encoder.num_layers):
        layer: Any = encoder.layers[number % len(encoder.layers)]
        first: Any = encoder.layers[0]
        projection = layer.cross_attention.kv_proj or first.cross_attention.kv_proj
        cross = layer.cross_attention
        query = cross.q_proj(layer.cross_norm(concepts)).unflatten(-1, (cross.num_heads, -1)).transpose(1, 2)
        key, value = (
            part.unflatten(-1, (cross.num_heads, -1)).transpose(1, 2) for part in projection(tokens).chunk(2, dim=-1)
        )
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1)
        concepts = concepts + cross.out_proj((weights @ value).transpose(1, 2).flatten(2))
        if encoder.use_bixt and number < encoder.num_layers - 1:
            tokens = tokens + layer.token_attention(layer.token_norm(tokens), concepts)
        normed = layer.self_norm(concepts)
        concepts = concepts + layer.self_attention(normed, normed)
        concepts = concepts + layer.feed_forward(layer.feed_forward_norm(concepts))
    return encoder.norm(concepts)


@pytest.mark.parametrize("kind", ENCODERS)
def test_keys_and_values_made_together_are_those_of_the_layers(kind: str) -> None:
    encoder, ids = make_encoder(ENCODERS[kind]), torch.randint(1, 31, (2, 12))
    expected, together = as_layer_by_layer(encoder, ids), encoder(ids)
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(encoder(ids), expected, rtol=1e-5, atol=1e-5)
    assert_same_gradients(gradients(encoder, together), gradients(encoder, expected))


@pytest.mark.parametrize(("kind", "products"), [("plain", 1), ("recursive", 1), ("shared", 1), ("bixt", 3)])
def test_the_tokens_are_projected_as_often_as_they_change(
    kind: str, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, rows = make_encoder(ENCODERS[kind]), 7
    seen = []
    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda x, *rest: (seen.append(x.shape), linear(x, *rest))[1])
    encoder(torch.randint(1, 31, (2, rows)))
    reads = [shape for shape in seen if shape[1] == rows]
    assert len(reads) == products + (4 if kind == "bixt" else 0)  # two token updates: queries and output


def test_the_gradients_of_keys_and_values_are_put_together_at_once() -> None:
    """Indexed out of one tensor, each gradient would be filled up with zeros to the size of all, and added."""
    made = keys_and_values([Attention(8, 2, 0.0) for _ in range(3)], torch.randn(2, 5, 8, requires_grad=True))
    assert [part.shape for pair in made for part in pair] == 6 * [(2, 2, 5, 4)]
    ahead, seen = [sum(keys.sum() + values.sum() for keys, values in made).grad_fn], set()
    while ahead:
        node = ahead.pop()
        seen.add(node)
        ahead += [before for before, _ in node.next_functions if before is not None and before not in seen]
    names = [node.name() for node in seen]
    assert names.count("UnbindBackward0") == 1 and not {"SelectBackward0", "SliceBackward0"} & set(names)


def test_shared_keys_and_values_are_the_first_layers_alone() -> None:
    encoder = make_encoder({"share_token_kv": True})
    own = [name for name, _ in encoder.named_parameters() if "cross_attention.kv_proj" in name]
    assert own == [f"layers.0.cross_attention.kv_proj.{part}" for part in ("weight", "bias")]
    with pytest.raises(ValueError, match="share_token_kv needs tokens that do not change"):
        make_encoder({"share_token_kv": True, "use_bixt": True})
