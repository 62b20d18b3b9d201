"""The encoder: C learned concepts read the tokens by cross-attention, plain, with token updates (BiXT) or recursive.

No N x N attention anywhere. Legend: B batch, N tokens, C concepts, H hidden, E token embedding width, L layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration import ConceptConfig
from .layers import Attention, ConceptEmbedding, GatedFeedForward, KeysValues, keys_and_values, sinusoidal_positions


class EncoderLayer(GradientCheckpointingLayer):
    """Concepts read the tokens, then each other, then a gated feed-forward layer; Pre-LN on the concepts only.

    With BiXT (Hiller et al. 2024) the tokens read the concepts back, between the first two steps.
    """

    def __init__(self, config: ConceptConfig, *, updates_tokens: bool, own_context: bool) -> None:
        super().__init__()
        width, heads, dropout = config.hidden_size, config.num_attention_heads, config.attention_probs_dropout_prob
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, heads, dropout, own_context=own_context)
        if updates_tokens:
            self.token_norm = nn.LayerNorm(width)
            self.token_attention = Attention(width, heads, dropout)
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads, dropout)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = GatedFeedForward(width, config.intermediate_size, config.hidden_dropout_prob)

    def forward(
        self,
        concepts: Tensor,
        tokens: Tensor,
        keep: Tensor | None,
        keys_values: KeysValues | None,
        *,
        update_tokens: bool,
    ) -> tuple[Tensor, Tensor]:
        """One layer.

        Args:
            concepts, tokens: [B, C, H] and [B, N, H].
            keep: as in `Attention.read`.
            keys_values: those of the tokens for this layer; None makes them here.

        Returns:
            Both streams.
        """
        if keys_values is None:
            (keys_values,) = keys_and_values([self.cross_attention], tokens)
        concepts = concepts + self.cross_attention.read(self.cross_norm(concepts), keys_values, keep)
        if update_tokens:
            tokens = tokens + self.token_attention(self.token_norm(tokens), concepts)
        normed = self.self_norm(concepts)
        concepts = concepts + self.self_attention(normed, normed)
        return concepts + self.feed_forward(self.feed_forward_norm(concepts)), tokens


class ConceptEncoder(nn.Module):
    """Tokens [B, N] -> concepts [B, C, H] at a cost of O(N * C + C^2) per layer."""

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__()
        width, embedding_dim = config.hidden_size, config.token_embedding_dim
        self.token_embedding = nn.Embedding(config.vocab_size, embedding_dim, padding_idx=config.pad_token_id)
        self.position_embedding = nn.Embedding(config.max_sequence_length, embedding_dim)
        self.token_projection = nn.Linear(embedding_dim, width) if embedding_dim < width else nn.Identity()
        self.concept_embedding = ConceptEmbedding(config.num_concepts, width)
        self.concept_position: nn.Embedding | None = None
        if config.concept_position_type == "learned":
            self.concept_position = nn.Embedding(config.num_concepts, width)
        self.concept_position_table: Tensor | None
        self.register_buffer(
            "concept_position_table",
            sinusoidal_positions(config.num_concepts, width) if config.concept_position_type == "sinusoidal" else None,
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.num_layers, self.use_bixt = config.num_layers, config.use_bixt
        updates = _token_updates(config)
        self.layers = nn.ModuleList(
            EncoderLayer(
                config,
                updates_tokens=update or config.dead_token_update,
                own_context=number == 0 or not config.share_token_kv,
            )
            for number, update in enumerate(updates)
        )
        if config.dead_token_update and not updates[-1]:
            for part in (self.layers[-1].token_norm, self.layers[-1].token_attention):
                part.requires_grad_(False)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, read_positions: Tensor | None = None
    ) -> Tensor:
        """Tokens to concepts [B, C, H].

        Args:
            input_ids: [B, N].
            attention_mask: [B, N] with 1 = keep; None keeps all.
            read_positions: [B, R], the positions that are read at all, filled up with -1, instead of a mask: what it
                leaves out costs nothing.

        Raises:
            ValueError: N is more than max_sequence_length.
        """
        length, limit = input_ids.shape[1], self.position_embedding.num_embeddings
        if length > limit:
            raise ValueError(f"input_ids has {length} tokens; this model has {limit} positions")
        positions = torch.arange(length, device=input_ids.device)
        if read_positions is not None:
            attention_mask, positions = read_positions >= 0, read_positions.clamp(min=0)
            input_ids = input_ids.gather(1, positions)
        tokens = self.token_projection(self.token_embedding(input_ids) + self.position_embedding(positions))
        tokens = self.dropout(tokens)
        start = self.concept_embedding.weight
        if self.concept_position is not None:
            start = start + self.concept_position.weight
        if self.concept_position_table is not None:
            start = start + self.concept_position_table
        concepts = start.unsqueeze(0).expand(input_ids.shape[0], -1, -1)
        keep = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
        keys_values = self._keys_values(tokens)
        for number in range(self.num_layers):
            layer = self.layers[number % len(self.layers)]
            # What the last layer would tell the tokens is never read.
            update = self.use_bixt and number < self.num_layers - 1
            known = keys_values[number % len(keys_values)] if keys_values else None
            concepts, tokens = layer(concepts, tokens, keep, known, update_tokens=update)
        return self.norm(concepts)

    def _keys_values(self, tokens: Tensor) -> Sequence[KeysValues]:
        """Of all layers, in one product; none where each layer makes its own.

        That is so where the tokens change, and where one layer's at a time take less memory: what is kept for the
        backward pass is otherwise the same.
        """
        layers = [layer for layer in self.layers if isinstance(layer, EncoderLayer)]
        with_own = [layer.cross_attention for layer in layers if layer.cross_attention.kv_proj is not None]
        keeps_all = torch.is_grad_enabled() and not layers[0].gradient_checkpointing
        if self.use_bixt or (len(with_own) > 1 and not keeps_all):
            return ()
        return keys_and_values(with_own, tokens)


def _token_updates(config: ConceptConfig) -> list[bool]:
    """For every layer that has weights of its own, whether the token update in it is ever read."""
    if config.recursive:
        return [config.use_bixt and config.num_layers > 1]
    return [config.use_bixt and number < config.num_layers - 1 for number in range(config.num_layers)]
