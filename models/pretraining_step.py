"""What one training step computes: task loss, concept losses, their weighted total.

Legend: B batch, N tokens, C concepts, H hidden.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .autoencoder import ConceptModelForMaskedLM
from .family import CONCEPT_LOSSES, LOSS_WEIGHTINGS
from .labels import Labels


class PretrainingStep(nn.Module):
    """A model and its loss weighting as one module, so that learned loss weights are trained and saved with it.

    Args:
        model: the model to train.
        concept_losses: rows of CONCEPT_LOSSES, with their weights under `fixed` weighting.
        loss_weighting: row of LOSS_WEIGHTINGS.
        label_smoothing: of the task loss in training, as a share of the probability.
    """

    def __init__(
        self,
        model: ConceptModelForMaskedLM,
        concept_losses: Mapping[str, float],
        loss_weighting: str,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing
        self.concept_losses = {name: CONCEPT_LOSSES[name].load() for name in concept_losses}
        self.weighting = LOSS_WEIGHTINGS[loss_weighting].load()([1.0, *concept_losses.values()])

    def forward(
        self,
        input_ids: Tensor,
        labels: Labels,
        attention_mask: Tensor | None,
        num_items_in_batch: Tensor | float,
        share: float,
        noisy_ids: Tensor | None = None,
        t: Tensor | None = None,
        read_positions: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """One micro-batch.

        Args:
            input_ids, attention_mask, noisy_ids, t: as `ConceptModelForMaskedLM` takes them.
            read_positions: as `ConceptEncoder` takes them.
            labels: what `locate_labels` made of its labels and loss weights.
            num_items_in_batch: what the task loss is divided by: the weights of all labelled tokens of the step.
            share: this micro-batch's part of the step's samples; concept losses are means over a micro-batch.

        Returns:
            `total` to differentiate, `task`, and each concept loss by name; shares of the step's figures.
        """
        concepts = self.model.encoder(input_ids, attention_mask, read_positions)
        reads = self.model.decoder_input(input_ids, attention_mask, noisy_ids, t)
        # Smoothing is for training; held-out losses are plain nats.
        smoothing = self.label_smoothing if self.training else 0.0
        task = self.model.task_loss(concepts, reads, labels, smoothing, num_items_in_batch)
        losses = {"task": task}
        for name, concept_loss in self.concept_losses.items():
            # In float32: variances and exponentials lose too much in bf16.
            with torch.autocast(concepts.device.type, enabled=False):
                losses[name] = concept_loss(concepts.float()) * share
        total = self.weighting(torch.stack([loss.float() for loss in losses.values()]), share)
        return {"total": total, **losses}
