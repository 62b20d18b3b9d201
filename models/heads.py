"""The heads for downstream tasks. A new head is one class and one row; `uses_decoder` says what it warm-starts.

Legend: B batch, N tokens, C concepts, H hidden.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .configuration import ConceptConfig
from .layers import masked_mean

# decode(concepts [B, C, H], input_ids [B, N]) -> states [B, N, H] by the pretrained decoder
Decode = Callable[[Tensor, Tensor], Tensor]


class Head(nn.Module, ABC):
    """Concepts -> logits [B, num_labels]."""

    uses_decoder: bool
    summary: str

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, int(config.num_labels or 1))

    @abstractmethod
    def pool(self, concepts: Tensor, input_ids: Tensor, attention_mask: Tensor | None, decode: Decode) -> Tensor:
        """One vector per text: [B, H]."""

    def forward(self, concepts: Tensor, input_ids: Tensor, attention_mask: Tensor | None, decode: Decode) -> Tensor:
        return self.classifier(self.dropout(self.pool(concepts, input_ids, attention_mask, decode)))


class ViaDecoder(Head):
    """Run the pretrained decoder at every position, normalise, average over the text."""

    uses_decoder = True
    summary = "pretrained decoder at every position, LN, mean over the text"

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.hidden_size)

    def pool(self, concepts: Tensor, input_ids: Tensor, attention_mask: Tensor | None, decode: Decode) -> Tensor:
        return masked_mean(self.norm(decode(concepts, input_ids)), attention_mask)


class WeightedDecoderHead(Head):
    """The weighted decoder's mixing and projection at every position, averaged over the text."""

    uses_decoder = True
    summary = "pretrained weighted decoder at every position, mean over the text"

    def pool(self, concepts: Tensor, input_ids: Tensor, attention_mask: Tensor | None, decode: Decode) -> Tensor:
        return masked_mean(decode(concepts, input_ids), attention_mask)


class WeightedPooling(Head):
    """A learned softmax over the concepts; needs no decoder."""

    uses_decoder = False
    summary = "learned softmax over the concepts, LN"

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__(config)
        self.scorer = nn.Linear(config.hidden_size, 1)
        self.norm = nn.LayerNorm(config.hidden_size)

    def pool(self, concepts: Tensor, input_ids: Tensor, attention_mask: Tensor | None, decode: Decode) -> Tensor:
        weights = torch.softmax(self.scorer(concepts), dim=1)
        return self.norm((weights * concepts).sum(dim=1))


HEADS: dict[str, type[Head]] = {
    "via_decoder": ViaDecoder,
    "weighted_decoder": WeightedDecoderHead,
    "weighted_pooling": WeightedPooling,
}
