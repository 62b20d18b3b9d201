"""The heads for downstream tasks. A new head is one class here and one row of `models.family.HEADS`.

Legend: B batch, N tokens, C concepts, H hidden.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .configuration import ConceptConfig
from .layers import Attention, FeedForward, masked_mean

# decode(concepts [B, C, H], input_ids [B, N]) -> states [B, N, H] by the pretrained decoder
Decode = Callable[[Tensor, Tensor], Tensor]


class Head(nn.Module, ABC):
    """Concepts [B, C, H] -> logits [B, num_labels]: one vector per text, dropout, a linear layer."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, int(config.num_labels or 1))

    @abstractmethod
    def pool(self, concepts: Tensor, input_ids: Tensor, attention_mask: Tensor | None, decode: Decode) -> Tensor:
        """Reduce concepts [B, C, H] of input_ids [B, N] to one vector per text: [B, H].

        Of the attention_mask [B, N], 1 = keep, None keeps all; `decode` is for heads whose row names decoders.
        """

    def forward(self, concepts: Tensor, input_ids: Tensor, attention_mask: Tensor | None, decode: Decode) -> Tensor:
        """Arguments as in `pool` -> logits [B, num_labels]."""
        return self.classifier(self.dropout(self.pool(concepts, input_ids, attention_mask, decode)))


class ViaDecoder(Head):
    """Run the pretrained decoder at every position, normalise, average over the text."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.hidden_size)

    def pool(self, concepts: Tensor, input_ids: Tensor, attention_mask: Tensor | None, decode: Decode) -> Tensor:
        """Mean of the normalised decoder states: [B, H]."""
        return masked_mean(self.norm(decode(concepts, input_ids)), attention_mask)


class WeightedDecoderHead(Head):
    """The weighted decoder's mixing and projection at every position, averaged over the text."""

    def pool(self, concepts: Tensor, input_ids: Tensor, attention_mask: Tensor | None, decode: Decode) -> Tensor:
        """Mean of the decoder states: [B, H]."""
        return masked_mean(decode(concepts, input_ids), attention_mask)


class WeightedPooling(Head):
    """A learned softmax over the concepts; needs no decoder."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__(config)
        self.scorer = nn.Linear(config.hidden_size, 1)
        self.norm = nn.LayerNorm(config.hidden_size)

    def weighted_mean(self, concepts: Tensor) -> Tensor:
        """concepts [B, C, H] -> [B, H]."""
        weights = torch.softmax(self.scorer(concepts), dim=1)
        return self.norm((weights * concepts).sum(dim=1))

    def pool(self, concepts: Tensor, input_ids: Tensor, attention_mask: Tensor | None, decode: Decode) -> Tensor:
        """The weighted mean of the concepts: [B, H]."""
        return self.weighted_mean(concepts)


class ClsQuery(Head):
    """One learned query reads the concepts; the lab's first head, named CLS-Query in its log."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.query = nn.Embedding(1, width)
        self.query_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, config.num_attention_heads, config.attention_probs_dropout_prob)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, config.intermediate_size, config.hidden_dropout_prob)
        self.norm = nn.LayerNorm(width)

    def pool(self, concepts: Tensor, input_ids: Tensor, attention_mask: Tensor | None, decode: Decode) -> Tensor:
        """What the query has read: [B, H]."""
        query = self.query.weight.unsqueeze(0).expand(len(concepts), -1, -1)
        query = query + self.cross_attention(self.query_norm(query), concepts)
        query = query + self.feed_forward(self.feed_forward_norm(query))
        return self.norm(query[:, 0])


class PairHead(WeightedPooling):
    """Two texts encoded apart and pooled by the same scorer: logits of [a; b; |a - b|; a * b], and their cosine.

    The cosine also answers without fine-tuning: the scorer is then set to zero, which averages the concepts.
    """

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(4 * config.hidden_size, int(config.num_labels or 1))

    def compare(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Concepts [B, C, H] of both texts -> logits [B, num_labels] and cosine [B, 1]."""
        a, b = self.weighted_mean(first), self.weighted_mean(second)
        features = torch.cat([a, b, (a - b).abs(), a * b], dim=-1)
        return self.classifier(self.dropout(features)), functional.cosine_similarity(a, b).unsqueeze(-1)
