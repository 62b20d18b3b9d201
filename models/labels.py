"""Where the labels of a batch are, as flat positions: what a decoder computes, and what of that the loss reads.

The loader makes them on the CPU, where counting waits for nobody. Legend: B batch, N tokens, K decoded positions of a
text, M labels of a batch.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .family import IGNORE_INDEX


class Labels(NamedTuple):
    """The labels of a batch.

    Attributes:
        positions: [B, K], what is decoded of each text: its labelled positions in their order, then others.
        chosen: [M], which of the B * K decoded positions have a label.
        targets: [M] token ids.
        weights: [M] float32, what each counts; zero for those that only fill up a budget.
    """

    positions: Tensor
    chosen: Tensor
    targets: Tensor
    weights: Tensor

    @property
    def total(self) -> Tensor:
        """What the labels count together: a float64 scalar."""
        return self.weights.sum(dtype=torch.float64)


@dataclass(frozen=True)
class LabelBudget:
    """Fixed sizes of `Labels`, so that all batches have one shape. A batch with more labels gets twice the size.

    Attributes:
        per_text: K.
        per_batch: M.
    """

    per_text: int
    per_batch: int


def locate_labels(labels: Tensor, loss_weights: Tensor | None = None, budget: LabelBudget | None = None) -> Labels:
    """Find the labels of a batch; on a GPU the host waits for their number.

    Args:
        labels: [B, N] token ids, IGNORE_INDEX where there is nothing to predict.
        loss_weights: [B, N], what each counts; None: 1.
        budget: the sizes to fill up to; None: K is the largest number of a text, M the number of all.
    """
    labelled = labels != IGNORE_INDEX
    counts = labelled.sum(dim=1)
    largest, total = int(counts.max()), int(counts.sum())
    width, filled = largest, total
    if budget is not None:
        width = min(grown(budget.per_text, largest), labels.shape[1])
        filled = min(grown(budget.per_batch, total), labels.numel())
    # A stable sort brings the labelled positions to the front and keeps their order.
    positions = labelled.logical_not().to(torch.int8).argsort(dim=1, stable=True)[:, :width]
    real = torch.arange(width, device=labels.device) < counts[:, None]
    chosen = real.flatten().nonzero()[:, 0]
    targets = labels.gather(1, positions).flatten()[chosen]
    weights = torch.ones(total, device=labels.device)
    if loss_weights is not None:
        weights = loss_weights.gather(1, positions).flatten()[chosen].float()
    rest = filled - total
    padded = (torch.cat([part, part.new_zeros(rest)]) if rest else part for part in (chosen, targets, weights))
    return Labels(positions, *padded)


def grown(size: int, needed: int) -> int:
    """A budget of at least 1, doubled until it holds what is needed: nothing is ever left out."""
    while size < needed:
        size *= 2
    return size
