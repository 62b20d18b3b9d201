"""A concept encoder as a textbook would write it: what `benchmarks/step.py` compares the training step with.

nn.MultiheadAttention, a key padding mask in every batch, a decoder at every position, logits of every position (or, if
careful, of the labelled ones), and cross-entropy. Shapes and numbers of weights are those of `models/`.
Legend: B batch, N tokens, C concepts, H hidden, I intermediate, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

DROPOUT = 0.1


class GatedFeedForward(nn.Module):
    """Linear, gated GELU, dropout, Linear."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.wi, self.wo = nn.Linear(width, 2 * inner), nn.Linear(inner, width)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., H] -> [..., H]."""
        a, b = self.wi(x).chunk(2, dim=-1)
        return self.wo(self.dropout(functional.gelu(a) * b))


def attention(width: int) -> nn.MultiheadAttention:
    """Multi-head attention of heads 64 wide."""
    return nn.MultiheadAttention(width, width // 64, dropout=DROPOUT, batch_first=True)


class EncoderLayer(nn.Module):
    """Cross-attention to the tokens, self-attention, feed-forward; with `bixt` the tokens read the concepts back."""

    def __init__(self, width: int, inner: int, bixt: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4 if bixt else 3))
        self.cross, self.own, self.feed_forward = attention(width), attention(width), GatedFeedForward(width, inner)
        self.back = attention(width) if bixt else None

    def forward(self, concepts: Tensor, tokens: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """concepts [B, C, H], tokens [B, N, H], padding [B, N] -> both streams."""
        read = self.cross(self.norms[0](concepts), tokens, tokens, key_padding_mask=padding, need_weights=False)[0]
        concepts = concepts + read
        if self.back is not None:
            normed = self.norms[3](tokens)
            tokens = tokens + self.back(normed, concepts, concepts, need_weights=False)[0]
        normed = self.norms[1](concepts)
        concepts = concepts + self.own(normed, normed, normed, need_weights=False)[0]
        return concepts + self.feed_forward(self.norms[2](concepts)), tokens


class PerceiverDecoder(nn.Module):
    """One cross-attention layer from every position, whose queries hold the tokens or only their places."""

    def __init__(self, width: int, inner: int, positions: int) -> None:
        super().__init__()
        self.position = nn.Embedding(positions, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.cross = attention(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width), nn.Dropout(DROPOUT)
        )

    def forward(self, concepts: Tensor, tokens: Tensor | None) -> Tensor:
        """concepts [B, C, H], embedded tokens [B, N, H] or None for places alone -> [B, N, H]."""
        queries = self.position.weight.expand(len(concepts), -1, -1)
        if tokens is not None:
            queries = queries + tokens
        states = queries + self.cross(self.norms[0](queries), concepts, concepts, need_weights=False)[0]
        return states + self.feed_forward(self.norms[1](states))


class DiffusionLayer(nn.Module):
    """Cross-attention and a gated feed-forward under AdaLN-Zero."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.cross, self.feed_forward = attention(width), GatedFeedForward(width, inner)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, concepts: Tensor, time: Tensor) -> Tensor:
        """x [B, N, H], concepts [B, C, H], time [B, H] -> [B, N, H]."""
        scale_a, shift_a, gate_a, scale_f, shift_f, gate_f = self.modulation(time)[:, None].chunk(6, dim=-1)
        queries = self.norms[0](x) * (1 + scale_a) + shift_a
        x = x + gate_a * self.cross(queries, concepts, concepts, need_weights=False)[0]
        return x + gate_f * self.feed_forward(self.norms[1](x) * (1 + scale_f) + shift_f)


class DiffusionDecoder(nn.Module):
    """Layers over all noisy tokens, under the noise level."""

    def __init__(self, width: int, inner: int, positions: int, vocabulary: int, layers: int = 2) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.time = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.layers = nn.ModuleList(DiffusionLayer(width, inner) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, concepts: Tensor, noisy_ids: Tensor, t: Tensor) -> Tensor:
        """concepts [B, C, H], noisy_ids [B, N], t [B] -> [B, N, H]."""
        half = self.norm.weight.numel() // 2
        angles = t[:, None] * torch.exp(-math.log(10_000.0) * torch.arange(half) / half)
        time = self.time(torch.cat([angles.sin(), angles.cos()], dim=-1))
        x = self.token(noisy_ids) + self.position.weight
        for layer in self.layers:
            x = layer(x, concepts, time)
        return self.norm(x)


class TextbookEncoder(nn.Module):
    """Encoder, decoder and LM head of a variant; `forward` gives its mean loss.

    Args:
        decoder: `perceiver`, `perceiver_posonly` or `diffusion`.
        careful: compute logits at labelled positions only, as better implementations do.
    """

    def __init__(
        self, decoder: str, vocabulary: int, width: int, layers: int, inner: int, length: int, bixt: bool, careful: bool
    ) -> None:
        super().__init__()
        self.careful = careful
        self.kind, self.smoothing = decoder, 0.1 if decoder == "diffusion" else 0.0
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.concepts = nn.Parameter(torch.randn(128, width) * 0.2)
        self.layers = nn.ModuleList(EncoderLayer(width, inner, bixt and n < layers - 1) for n in range(layers))
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(DROPOUT)
        self.decoder: nn.Module
        if decoder == "diffusion":
            self.decoder = DiffusionDecoder(width, inner, length, vocabulary)
        else:
            self.decoder = PerceiverDecoder(width, inner, length)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        if decoder != "diffusion":
            self.lm_head.weight = self.token.weight
        for weight in (self.token.weight, self.lm_head.weight):
            nn.init.normal_(weight, std=0.1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, noisy_ids: Tensor | None, t: Tensor | None
    ) -> Tensor:
        """All [B, N] but t [B] -> scalar."""
        tokens = self.dropout(self.token(input_ids) + self.position.weight)
        concepts = self.concepts.expand(len(input_ids), -1, -1)
        for layer in self.layers:
            concepts, tokens = layer(concepts, tokens, attention_mask == 0)
        concepts = self.norm(concepts)
        if self.kind == "diffusion":
            states = self.decoder(concepts, noisy_ids, t)
        else:
            states = self.decoder(concepts, self.token(input_ids) if self.kind == "perceiver" else None)
        if self.careful:
            states, labels = states[labels != -100], labels[labels != -100]
        logits = self.lm_head(states)
        return functional.cross_entropy(
            logits.view(-1, logits.shape[-1]), labels.view(-1), ignore_index=-100, label_smoothing=self.smoothing
        )
