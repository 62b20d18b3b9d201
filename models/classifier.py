"""The assembled downstream model: encoder, the decoder where the head needs it, head. This file only assembles.

Legend: B batch, N tokens, C concepts, H hidden.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .autoencoder import ConceptOutput, ConceptPreTrainedModel
from .configuration import ConceptConfig
from .decoders import DECODERS
from .encoder import ConceptEncoder
from .heads import HEADS


class ConceptModelForSequenceClassification(ConceptPreTrainedModel):
    """Classification (cross-entropy) or, with one label, regression (mean squared error)."""

    # What a pretrained checkpoint has and this model drops by design.
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]  # noqa: RUF012

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__(config)
        self.encoder = ConceptEncoder(config)
        head = HEADS[config.head]
        self.decoder = DECODERS[config.decoder](config) if head.uses_decoder else None
        self.head = head(config)
        self.post_init()

    def _decode(self, concepts: Tensor, input_ids: Tensor) -> Tensor:
        assert self.decoder is not None, "a head that decodes declares uses_decoder"
        every = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        return self.decoder(concepts, every, self.encoder.token_embedding(input_ids))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> ConceptOutput:
        """input_ids [B, N], attention_mask [B, N], labels [B] (ids, or floats for regression) -> logits [B, labels]."""
        concepts = self.encoder(input_ids, attention_mask)
        logits = self.head(concepts, input_ids, attention_mask, self._decode)
        loss = None
        if labels is not None:
            if self.config.num_labels == 1:
                loss = functional.mse_loss(logits.squeeze(-1).float(), labels.float())
            else:
                loss = functional.cross_entropy(logits.float(), labels)
        return ConceptOutput(loss=loss, logits=logits, concepts=concepts)
