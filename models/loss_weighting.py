"""How the task loss and the concept losses become one number, in training only. A new one is one class
here and one row of `models.family.LOSS_WEIGHTINGS`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LossWeighting(nn.Module, ABC):
    """Coefficients of the losses [task, concept losses...], and a regulariser that is added once per step.

    Args:
        weights: of all n losses, the task loss first; only `fixed` reads their values.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.weights: Tensor
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))

    @abstractmethod
    def coefficients(self) -> Tensor:
        """One factor per loss: [n]."""

    def regulariser(self) -> Tensor:
        """What is added to the total of a step: a scalar."""
        return self.weights.new_zeros(())

    def forward(self, losses: Tensor, share: float = 1.0) -> Tensor:
        """The total of losses [n]: a scalar; `share` is the part of a step's samples in this micro-batch."""
        return (self.coefficients() * losses).sum() + share * self.regulariser()


class FixedWeighting(LossWeighting):
    """Each loss times its given weight."""

    def coefficients(self) -> Tensor:
        """The stated weights: [n]."""
        return self.weights


class LearnableWeighting(LossWeighting):
    """Softmax over raw parameters that start at zero."""

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__(weights)
        self.raw = nn.Parameter(torch.zeros(len(weights)))

    def coefficients(self) -> Tensor:
        """Positive factors with sum 1: [n]."""
        return torch.softmax(self.raw, dim=0)


class KendallGalWeighting(LossWeighting):
    """Sum of 0.5 * exp(-s) * L + 0.5 * s with learned s (after Kendall, Gal & Cipolla 2018)."""

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__(weights)
        self.log_variances = nn.Parameter(torch.zeros(len(weights)))

    def coefficients(self) -> Tensor:
        """0.5 * exp(-s): [n]."""
        return 0.5 * torch.exp(-self.log_variances)

    def regulariser(self) -> Tensor:
        """0.5 * sum(s), which keeps s from growing: a scalar."""
        return 0.5 * self.log_variances.sum()
