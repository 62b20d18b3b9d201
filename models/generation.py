"""Text from concepts by a diffusion decoder: start from masks, fill in what the model is surest of, step by step.

The concepts are computed once and never again. Legend: B batch, N tokens, C concepts, H hidden, V vocabulary.
"""

import torch
from torch import Tensor

from .autoencoder import ConceptModelForMaskedLM


@torch.no_grad()
def fill_masks(
    model: ConceptModelForMaskedLM,
    concepts: Tensor,
    ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    steps: int = 16,
    temperature: float = 0.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Replace every [MASK] of `ids`, the surest first (after MaskGIT, Chang et al. 2022).

    Args:
        model: in eval mode, with a diffusion decoder and a `mask_token_id`.
        concepts: [B, C, H] of the texts to write.
        ids: [B, N]; all masks to write a text from nothing, or a text with some.
        attention_mask: [B, N], 1 = keep; masks at padding stay.
        steps: at step k the ceil(masks left / steps left) surest are filled in, each text for itself.
        temperature: 0 takes the likeliest token; else tokens are drawn from logits / temperature.
        top_k: draw among this many likeliest tokens only.
        generator: of the draws.

    Returns:
        [B, N] without masks at real positions.
    """
    mask_id = model.config.mask_token_id
    if mask_id is None:
        raise ValueError("the model's configuration has no mask_token_id")
    if steps < 1 or temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(f"got steps {steps}, temperature {temperature}, top_k {top_k}; allowed: >= 1, >= 0, >= 1")
    ids = ids.clone()
    real = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    every = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    for step in range(steps):
        masked = (ids == mask_id) & real
        left = masked.sum(dim=1)
        if not left.any():
            break
        reads = model.decoder_input(ids, attention_mask, None, left / real.sum(dim=1).clamp(min=1))
        logits = model.lm_head(model.decoder(concepts, every, reads)).float()
        logits[..., mask_id] = -torch.inf  # a mask is no answer
        chosen, confidence = _choose(logits, temperature, top_k, generator)
        confidence = confidence.masked_fill(~masked, -torch.inf)
        count = -(-left // (steps - step))
        rank = confidence.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        now = masked & (rank < count[:, None])
        ids = torch.where(now, chosen, ids)
    return ids


def _choose(
    logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """A token for every position and how probable the model finds it: [B, N] each."""
    probability = logits.softmax(dim=-1)
    if temperature == 0:
        confidence, chosen = probability.max(dim=-1)
        return chosen, confidence
    scaled = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = scaled.topk(top_k, dim=-1).values[..., -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    flat = scaled.softmax(dim=-1).flatten(0, 1)
    chosen = torch.multinomial(flat, 1, generator=generator).view(logits.shape[:-1])
    return chosen, probability.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
