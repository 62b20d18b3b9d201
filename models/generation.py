"""Text from concepts by a diffusion decoder: starting from masks, the most confident tokens are filled in step by step.

The concepts are computed only once. Legend: B batch, N tokens, C concepts, H hidden, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .autoencoder import ConceptModelForMaskedLM


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        steps: at step k the ceil(masks left / steps left) most confident masks of each text are filled in.
        temperature: 0 takes the most probable token; otherwise tokens are drawn from logits / temperature.
        top_k: draw only among this many most probable tokens; None: among all.
        generator: source of the draws; None: torch's own.

    Raises:
        ValueError: a number is out of range.
    """

    steps: int = 16
    temperature: float = 0.0
    top_k: int | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.temperature < 0 or (self.top_k is not None and self.top_k < 1):
            raise ValueError(
                f"got steps {self.steps}, temperature {self.temperature}, top_k {self.top_k}; allowed: >= 1, >= 0, >= 1"
            )

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """A token for every position of logits [B, N, V] and its probability under the model: [B, N] each."""
        probability = logits.softmax(dim=-1)
        if self.temperature == 0:
            confidence, chosen = probability.max(dim=-1)
            return chosen, confidence
        scaled = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = scaled.topk(self.top_k, dim=-1).values[..., -1:]
            scaled = scaled.masked_fill(scaled < least, -torch.inf)
        flat = scaled.softmax(dim=-1).flatten(0, 1)
        chosen = torch.multinomial(flat, 1, generator=self.generator).view(logits.shape[:-1])
        return chosen, probability.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)


@torch.no_grad()
def fill_masks(
    model: ConceptModelForMaskedLM,
    concepts: Tensor,
    ids: Tensor,
    attention_mask: Tensor | None = None,
    sampling: Sampling = Sampling(),
) -> Tensor:
    """Replace every [MASK] of `ids`, the most confident first (after MaskGIT, Chang et al. 2022).

    Args:
        model: in eval mode, with a diffusion decoder and a `mask_token_id`.
        concepts: [B, C, H] of the texts to write.
        ids: [B, N]; all masks to write a text from nothing, or a text with some.
        attention_mask: [B, N], 1 = keep; masks at padding stay.
        sampling: how tokens are chosen, and in how many steps.

    Returns:
        [B, N] without masks at real positions.

    Raises:
        ValueError: the configuration has no mask_token_id.
    """
    mask_id = model.config.mask_token_id
    if mask_id is None:
        raise ValueError("the model's configuration has no mask_token_id")
    ids = ids.clone()
    real = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    every = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    for step in range(sampling.steps):
        masked = (ids == mask_id) & real
        left = masked.sum(dim=1)
        if not left.any():
            break
        reads = model.decoder_input(ids, attention_mask, None, left / real.sum(dim=1).clamp(min=1))
        logits = model.lm_head(model.decoder(concepts, every, reads)).float()
        logits[..., mask_id] = -torch.inf  # a mask must not be filled with a mask
        chosen, confidence = sampling.choose(logits)
        confidence = confidence.masked_fill(~masked, -torch.inf)
        count = -(-left // (sampling.steps - step))
        rank = confidence.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        now = masked & (rank < count[:, None])
        ids = torch.where(now, chosen, ids)
    return ids
