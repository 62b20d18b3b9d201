"""The assembled downstream model: encoder, the decoder where the head needs it, head. This file only assembles.

A head that compares two texts encoded apart takes them as `input_ids_a`, `attention_mask_a`, `input_ids_b`,
`attention_mask_b`; every other head takes one sequence, `input_ids` and `attention_mask`.

Legend: B batch, N tokens, C concepts, H hidden.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers.utils.output_capturing import capture_outputs

from .autoencoder import ConceptOutput, ConceptPreTrainedModel
from .configuration import ConceptConfig
from .decoders import DecoderInput
from .encoder import ConceptEncoder
from .family import DECODERS, HEADS
from .heads import Decode, PairHead


@dataclass
class ClassifierOutput(ConceptOutput):
    """What a downstream model returns: beside loss, logits and concepts, for a head that compares two texts:

    Attributes:
        concepts_b: [B, C, H] of the second text; `concepts` are those of the first.
        cosine: [B, 1] between the two pooled texts.
    """

    concepts_b: Tensor | None = None
    cosine: Tensor | None = None


class ConceptModelForSequenceClassification(ConceptPreTrainedModel):
    """Classification (cross-entropy) or, with one label, regression (mean squared error)."""

    # What a pretrained checkpoint has and this model drops by design.
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]  # noqa: RUF012

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__(config)
        if config.problem_type == "multi_label_classification":
            raise ValueError(f"problem_type: got {config.problem_type!r}; allowed: one label per text, or a number")
        self.encoder = ConceptEncoder(config)
        head = HEADS[config.head]
        self.decoder = DECODERS[config.decoder_type].load()(config) if head.decoders else None
        self.head = head.load()(config)
        self.post_init()

    def _decode(self, attention_mask: Tensor | None) -> Decode:
        def decode(concepts: Tensor, input_ids: Tensor) -> Tensor:
            assert self.decoder is not None, "the row of a head that decodes names its decoders"
            every = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
            reads = DecoderInput(input_ids, attention_mask, None, self.encoder.token_embedding)
            return self.decoder(concepts, every, reads)

        return decode

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        input_ids_a: Tensor | None = None,
        attention_mask_a: Tensor | None = None,
        input_ids_b: Tensor | None = None,
        attention_mask_b: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> ClassifierOutput:
        """Ids and masks [B, N], labels [B] (ids, or floats for regression) -> logits [B, labels].

        token_type_ids are not read: the model has no segments.
        """
        concepts_b = cosine = None
        if isinstance(self.head, PairHead):
            if input_ids_a is None or input_ids_b is None:
                raise ValueError(f"head {self.config.head} compares two texts: it takes input_ids_a and input_ids_b")
            if output_hidden_states or self.config.output_hidden_states:
                raise ValueError(f"head {self.config.head} compares two texts: encode each for its hidden states")
            concepts = self.encoder(input_ids_a, attention_mask_a)
            concepts_b = self.encoder(input_ids_b, attention_mask_b)
            logits, cosine = self.head.compare(concepts, concepts_b)
        else:
            if input_ids is None:
                raise ValueError(f"head {self.config.head} reads one sequence: it takes input_ids")
            concepts = self.encoder(input_ids, attention_mask)
            logits = self.head(concepts, input_ids, attention_mask, self._decode(attention_mask))
        loss = None
        if labels is not None:
            if self.config.num_labels == 1:
                loss = functional.mse_loss(logits.squeeze(-1).float(), labels.float())
            else:
                loss = functional.cross_entropy(logits.float(), labels)
        return ClassifierOutput(loss=loss, logits=logits, concepts=concepts, concepts_b=concepts_b, cosine=cosine)
