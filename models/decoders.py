"""The decoders: concepts -> hidden states at chosen token positions. A new decoder is one class and one row.

Every decoder treats positions independently, so only labelled positions are computed in training.
Legend: B batch, K chosen positions per sample, C concepts, H hidden, E token embedding width.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from .configuration import ConceptConfig
from .layers import Attention, FeedForward


class Decoder(nn.Module, ABC):
    """What every decoder offers."""

    @abstractmethod
    def forward(self, concepts: Tensor, positions: Tensor, token_states: Tensor) -> Tensor:
        """Decode chosen positions.

        Args:
            concepts: [B, C, H].
            positions: [B, K], indices of token positions.
            token_states: [B, K, E], token embeddings of the (masked) ids at these positions.

        Returns:
            [B, K, H], ready for the LM head.
        """

    @staticmethod
    @abstractmethod
    def count_parameters(config: ConceptConfig) -> int:
        """Number of parameters, from the shape alone."""


class WeightedDecoder(Decoder):
    """Each position mixes the concepts with its own fixed softmax weights, whatever the text."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.concept_weights = nn.Parameter(
            torch.randn(config.max_sequence_length, config.num_concepts) / config.num_concepts**0.5
        )
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, concepts: Tensor, positions: Tensor, token_states: Tensor) -> Tensor:
        mixed = torch.softmax(self.concept_weights, dim=-1)[positions].to(concepts.dtype) @ concepts
        return self.dropout(functional.gelu(self.projection(self.norm(mixed))))

    @staticmethod
    def count_parameters(config: ConceptConfig) -> int:
        width = config.hidden_size
        return config.max_sequence_length * config.num_concepts + 2 * width + width * width + width


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

    def queries(self, positions: Tensor, token_states: Tensor) -> Tensor:
        return self.position_embedding(positions)

    def forward(self, concepts: Tensor, positions: Tensor, token_states: Tensor) -> Tensor:
        queries = self.queries(positions, token_states)
        states = queries + self.cross_attention(self.query_norm(queries), concepts)
        return states + self.feed_forward(self.feed_forward_norm(states))

    @staticmethod
    def count_parameters(config: ConceptConfig) -> int:
        width, inner = config.hidden_size, config.intermediate_size
        attention = 4 * (width * width + width)
        return config.max_sequence_length * width + attention + 4 * width + (2 * inner * width + inner + width)


class PerceiverDecoder(PositionPerceiverDecoder):
    """The same with queries = embedding of the (masked) token + decoder position."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__(config)
        width, embedding_dim = config.hidden_size, config.token_embedding_dim
        self.input_projection = nn.Linear(embedding_dim, width) if embedding_dim < width else nn.Identity()

    def queries(self, positions: Tensor, token_states: Tensor) -> Tensor:
        return self.input_projection(token_states) + self.position_embedding(positions)

    @staticmethod
    def count_parameters(config: ConceptConfig) -> int:
        width, embedding_dim = config.hidden_size, config.token_embedding_dim
        projection = embedding_dim * width + width if embedding_dim < width else 0
        return PositionPerceiverDecoder.count_parameters(config) + projection


DECODERS: dict[str, type[Decoder]] = {
    "perceiver": PerceiverDecoder,
    "perceiver_posonly": PositionPerceiverDecoder,
    "weighted": WeightedDecoder,
}
