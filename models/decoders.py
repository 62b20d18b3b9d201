"""The decoders: concepts -> hidden states at chosen token positions. A new decoder is one class here and one row
of `models.family.DECODERS`.

All but one treat positions independently, so only labelled positions are computed in training.
Legend: B batch, N tokens, K chosen positions per sample, C concepts, H hidden, E token embedding width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration import ConceptConfig
from .layers import Attention, FeedForward, GatedFeedForward, TimestepEmbedding, ZeroLinear


@dataclass(frozen=True)
class DecoderInput:
    """What a decoder may read beside the concepts.

    Attributes:
        ids: [B, N], masked or noisy.
        attention_mask: [B, N], 1 = keep; None keeps all.
        t: [B] noise level in [0, 1]; only diffusion decoders read it.
        token_embedding: the encoder's, ids -> [..., E].
    """

    ids: Tensor
    attention_mask: Tensor | None
    t: Tensor | None
    token_embedding: nn.Module


class Decoder(nn.Module, ABC):
    """What every decoder offers."""

    @abstractmethod
    def forward(self, concepts: Tensor, positions: Tensor, reads: DecoderInput) -> Tensor:
        """concepts [B, C, H], positions [B, K] in the texts of `reads` -> [B, K, H], ready for the LM head."""


class WeightedDecoder(Decoder):
    """Each position mixes the concepts with its own fixed softmax weights, whatever the text."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        width = config.hidden_size
        weights = torch.randn(config.max_sequence_length, config.num_concepts) / config.num_concepts**0.5
        self.concept_weights = nn.Parameter(weights)
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, concepts: Tensor, positions: Tensor, reads: DecoderInput) -> Tensor:
        """As in `Decoder`; nothing of `reads` is used."""
        mixed = torch.softmax(self.concept_weights, dim=-1)[positions].to(concepts.dtype) @ concepts
        return self.dropout(functional.gelu(self.projection(self.norm(mixed))))


class PositionPerceiverDecoder(Decoder):
    """One cross-attention layer whose queries are decoder positions only (Jaegle et al. 2021, Perceiver IO)."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.position_embedding = nn.Embedding(config.max_sequence_length, width)
        self.query_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, config.num_attention_heads, config.attention_probs_dropout_prob)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, config.intermediate_size, config.hidden_dropout_prob)

    def queries(self, positions: Tensor, reads: DecoderInput) -> Tensor:
        """positions [B, K] -> [B, K, H]."""
        return self.position_embedding(positions)

    def forward(self, concepts: Tensor, positions: Tensor, reads: DecoderInput) -> Tensor:
        """As in `Decoder`."""
        queries = self.queries(positions, reads)
        states = queries + self.cross_attention(self.query_norm(queries), concepts)
        return states + self.feed_forward(self.feed_forward_norm(states))


class PerceiverDecoder(PositionPerceiverDecoder):
    """One cross-attention layer whose queries are the embedding of the (masked) token + decoder position."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__(config)
        width, embedding_dim = config.hidden_size, config.token_embedding_dim
        self.input_projection = nn.Linear(embedding_dim, width) if embedding_dim < width else nn.Identity()

    def queries(self, positions: Tensor, reads: DecoderInput) -> Tensor:
        """positions [B, K] -> [B, K, H], with the tokens of `reads.ids` there."""
        tokens = reads.token_embedding(reads.ids.gather(1, positions))
        return self.input_projection(tokens) + self.position_embedding(positions)


class NoisyTokens(nn.Module):
    """What a diffusion decoder starts from: its own embedding of the noisy tokens, plus its positions.

    Without `reads_tokens` there is one row, that of [MASK], for every position: a decoder that treats positions
    independently decodes masked ones only, so the other embeddings would never get a gradient.
    """

    def __init__(self, config: ConceptConfig, reads_tokens: bool) -> None:
        super().__init__()
        width, embedding_dim = config.hidden_size, config.token_embedding_dim
        self.reads_tokens = reads_tokens
        if reads_tokens:
            self.token_embedding = nn.Embedding(config.vocab_size, embedding_dim)
            self.token_projection = nn.Linear(embedding_dim, width) if embedding_dim < width else nn.Identity()
        else:
            self.mask_embedding = nn.Embedding(1, width)
        self.position_embedding = nn.Embedding(config.max_sequence_length, width)

    def forward(self, positions: Tensor, reads: DecoderInput) -> Tensor:
        """positions [B, K] -> [B, K, H]."""
        if self.reads_tokens:
            tokens = self.token_projection(self.token_embedding(reads.ids.gather(1, positions)))
        else:
            tokens = self.mask_embedding.weight
        return tokens + self.position_embedding(positions)


class DiffusionLayer(GradientCheckpointingLayer):
    """Cross-attention to the concepts and a gated feed-forward layer, both under AdaLN-Zero (Peebles & Xie 2023)."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, config.num_attention_heads, config.attention_probs_dropout_prob)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = GatedFeedForward(width, config.intermediate_size, config.hidden_dropout_prob)
        self.modulation = ZeroLinear(width, 6 * width)

    def forward(self, x: Tensor, concepts: Tensor, time: Tensor) -> Tensor:
        """x [B, K, H], concepts [B, C, H], time [B, H] -> [B, K, H]; the identity when new."""
        scale_a, shift_a, gate_a, scale_f, shift_f, gate_f = self.modulation(time).unsqueeze(1).chunk(6, dim=-1)
        x = x + gate_a * self.cross_attention(self.cross_norm(x) * (1 + scale_a) + shift_a, concepts)
        return x + gate_f * self.feed_forward(self.feed_forward_norm(x) * (1 + scale_f) + shift_f)


class DiffusionDecoder(Decoder):
    """D cross-attention layers over noisy tokens, under AdaLN-Zero by the noise level t; no token reads another."""

    layer: type[nn.Module] = DiffusionLayer
    reads_tokens = False

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        self.mask_token_id = config.mask_token_id
        self.tokens = NoisyTokens(config, self.reads_tokens or config.decoder_reads_tokens)
        self.time = TimestepEmbedding(config.hidden_size)
        self.layers = nn.ModuleList(self.layer(config) for _ in range(config.num_decoder_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def timestep(self, reads: DecoderInput) -> Tensor:
        """The noise level [B]: as given, else the share of masks among the tokens that are no padding."""
        if reads.t is not None:
            return reads.t
        if self.mask_token_id is None:
            raise ValueError("a diffusion model needs t, or a mask_token_id in its configuration")
        real = torch.ones_like(reads.ids) if reads.attention_mask is None else reads.attention_mask
        masked = (reads.ids == self.mask_token_id) & real.bool()
        return masked.sum(dim=1).float() / real.sum(dim=1).clamp(min=1)

    def forward(self, concepts: Tensor, positions: Tensor, reads: DecoderInput) -> Tensor:
        """As in `Decoder`."""
        x, time = self.tokens(positions, reads), self.time(self.timestep(reads))
        for layer in self.layers:
            x = layer(x, concepts, time)
        return self.norm(x)


class SelfAttentionDiffusionLayer(GradientCheckpointingLayer):
    """The layer that exploded: self-attention over all tokens, under an unbounded scale before the norm."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        width, heads, dropout = config.hidden_size, config.num_attention_heads, config.attention_probs_dropout_prob
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads, dropout)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, heads, dropout)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = GatedFeedForward(width, config.intermediate_size, config.hidden_dropout_prob)
        self.modulation = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, concepts: Tensor, time: Tensor, keep: Tensor | None) -> Tensor:
        """x [B, N, H], concepts [B, C, H], time [B, H], keep [B, 1, 1, N] -> [B, N, H]."""
        scale, shift = self.modulation(time).unsqueeze(1).chunk(2, dim=-1)
        normed = self.self_norm(x * (1 + scale) + shift)
        x = x + self.self_attention(normed, normed, keep)
        x = x + self.cross_attention(self.cross_norm(x), concepts)
        return x + self.feed_forward(self.feed_forward_norm(x))


class SelfAttentionDiffusionDecoder(DiffusionDecoder):
    """Diffusion with N x N self-attention, kept to reproduce its failure; it decodes every position."""

    layer = SelfAttentionDiffusionLayer
    reads_tokens = True

    def forward(self, concepts: Tensor, positions: Tensor, reads: DecoderInput) -> Tensor:
        """As in `Decoder`; all N positions are decoded, then K of them chosen."""
        every = torch.arange(reads.ids.shape[1], device=reads.ids.device).expand_as(reads.ids)
        x, time = self.tokens(every, reads), self.time(self.timestep(reads))
        keep = None if reads.attention_mask is None else reads.attention_mask.bool()[:, None, None, :]
        for layer in self.layers:
            x = layer(x, concepts, time, keep)
        return self.norm(x.gather(1, positions.unsqueeze(-1).expand(-1, -1, x.shape[-1])))
