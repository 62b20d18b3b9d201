"""The assembled pretraining model: encoder -> concepts -> decoder -> LM head. This file only assembles.

Legend: B batch, N tokens, K positions per sample, C concepts, H hidden, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput
from transformers.utils.output_capturing import capture_outputs

from .configuration import ConceptConfig
from .decoders import DecoderInput, WeightedDecoder
from .encoder import ConceptEncoder, EncoderLayer
from .family import DECODERS, ELBO_MIN_T, VARIANTS
from .labels import Labels, locate_labels
from .layers import ConceptEmbedding, InputProjection, ZeroLinear
from .losses import summed_cross_entropy

if TYPE_CHECKING:
    # transformers copies the files that a model's file names: with this line a model that is loaded as remote code and
    # saved again keeps the code of all classes in its auto_map.
    from .classifier import ConceptModelForSequenceClassification  # noqa: F401


@dataclass
class ConceptOutput(ModelOutput):
    """What every concept model returns.

    Attributes:
        loss: scalar, when labels were given.
        logits: [B, N, V] or [B, num_labels]; None in training, where they are never built.
        concepts: [B, C, H]; transformers' other tools find them as `last_hidden_state`.
        pooler_output: [B, H], the mean of the concepts; of the encoder alone.
        hidden_states: with `output_hidden_states`, the concepts before the first layer and after each, the last of them
            normalised: L + 1 tensors [B, C, H].
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    concepts: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None

    @property
    def last_hidden_state(self) -> Tensor | None:
        """The concepts, under transformers' name."""
        return self.concepts


class ConceptPreTrainedModel(PreTrainedModel):
    """Initialisation and naming shared by all concept models."""

    config_class = ConceptConfig
    base_model_prefix = ""
    encoder: ConceptEncoder
    # The loss is already divided by `num_items_in_batch` or by its own count: transformers must not rescale it.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": EncoderLayer}  # noqa: RUF012  (transformers' declaration)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal with std `initializer_range` for Linear and embeddings, twice that for the concepts, biases zero.

        The queries, keys and values of an attention are Xavier uniform as one matrix [3H, H] (Glorot & Bengio 2010):
        at std 0.1 the scores of a wide model are so large that rounding decides which token a concept reads.
        """
        std = self.config.initializer_range
        if isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, InputProjection):
            bound = math.sqrt(6 / (4 * module.in_features))
            init.uniform_(module.weight, -bound, bound)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, mean=0.0, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=2 * std if isinstance(module, ConceptEmbedding) else std)
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, WeightedDecoder):
            init.normal_(module.concept_weights, mean=0.0, std=self.config.num_concepts**-0.5)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding, under the name that transformers calls."""
        return self.encoder.token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        assert isinstance(value, nn.Embedding)
        self.encoder.token_embedding = value

    def _resize_token_embeddings(
        self, new_num_tokens: int | None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As transformers does it, and a diffusion decoder's own token embedding with it."""
        special = max(self.config.pad_token_id, self.config.mask_token_id or 0)
        if new_num_tokens is not None and new_num_tokens <= special:
            raise ValueError(f"{new_num_tokens} tokens would leave out the special token {special} of the model")
        embedding = super()._resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        noisy = getattr(getattr(self, "decoder", None), "tokens", None)
        if noisy is not None and noisy.reads_tokens:
            noisy.token_embedding = self._get_resized_embeddings(
                noisy.token_embedding, embedding.num_embeddings, mean_resizing=mean_resizing
            )
        return embedding


class ConceptModel(ConceptPreTrainedModel):
    """The encoder alone, which `AutoModel` loads; decoder and LM head of a checkpoint are dropped by design."""

    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^lm_head\."]  # noqa: RUF012  (transformers' declaration)

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__(config)
        self.encoder = ConceptEncoder(config)
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> ConceptOutput:
        """input_ids [B, N], attention_mask [B, N] -> `.concepts` [B, C, H], `.pooler_output` [B, H].

        token_type_ids, which some tokenizers add, are not read: the model has no segments.
        """
        concepts = self.encoder(input_ids, attention_mask)
        return ConceptOutput(concepts=concepts, pooler_output=concepts.mean(dim=1))


class ConceptModelForMaskedLM(ConceptPreTrainedModel):
    """Encoder, decoder and LM head."""

    _tied_weights_keys = {"lm_head.weight": "encoder.token_embedding.weight"}  # noqa: RUF012

    def __init__(self, config: ConceptConfig) -> None:
        super().__init__(config)
        self.encoder = ConceptEncoder(config)
        self.decoder = DECODERS[config.decoder_type].load()(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        noisy_ids: Tensor | None = None,
        t: Tensor | None = None,
        loss_weights: Tensor | None = None,
        smoothing: float = 0.0,
        elbo: bool = False,
        num_items_in_batch: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> ConceptOutput:
        """Encode, decode, and compare with the labels.

        Args:
            input_ids: [B, N], what the encoder reads: masked for masked language models, clean for diffusion.
            attention_mask: [B, N], 1 = keep; None keeps all.
            labels: [B, N], -100 where there is nothing to predict.
            noisy_ids: [B, N], what the decoder reads; None: what the encoder reads.
            t: [B], noise level of diffusion; None: the share of masks in what the decoder reads.
            loss_weights: [B, N], factor of every labelled position; None: 1.
            smoothing: share of the probability spread over the vocabulary. Not `label_smoothing`: transformers' Trainer
                takes whatever has `label` in its name for labels, and without it reports no evaluation loss.
            elbo: weight every position by 1 / max(t, ELBO_MIN_T).
            num_items_in_batch: what the summed loss is divided by; None divides by the weights of the labels here.
            token_type_ids: not read: the model has no segments.
            output_hidden_states: also return the concepts of every layer.

        Returns:
            loss (with labels), concepts, and logits unless in training with labels.

        Raises:
            ValueError: `elbo` without `t`, or masks to fill for a model that was not trained to.
        """
        if labels is None and noisy_ids is None:
            self._check_fills_masks(input_ids)
        concepts = self.encoder(input_ids, attention_mask)
        reads = self.decoder_input(input_ids, attention_mask, noisy_ids, t)
        loss = logits = None
        if labels is None or not self.training:
            every = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
            logits = self.lm_head(self.decoder(concepts, every, reads))
        if labels is not None:
            if elbo:
                if t is None:
                    raise ValueError("elbo weights tokens by 1 / t, but t is not given")
                loss_weights = t.clamp(min=ELBO_MIN_T).reciprocal()[:, None].expand_as(labels)
            loss = self.task_loss(concepts, reads, locate_labels(labels, loss_weights), smoothing, num_items_in_batch)
        return ConceptOutput(loss=loss, logits=logits, concepts=concepts)

    def _check_fills_masks(self, input_ids: Tensor) -> None:
        """Refuse masks in what the encoder reads where it was trained without: its answers would mean nothing."""
        variant = VARIANTS.get(self.config.variant)
        if variant is not None and not variant.fills_masks and bool((input_ids == self.config.mask_token_id).any()):
            raise ValueError(
                f"a {variant.name} model cannot fill the masks of its own input: its encoder was trained without any; "
                "allowed: a text without masks in input_ids, and for diffusion one with masks in noisy_ids"
            )

    def decoder_input(
        self, input_ids: Tensor, attention_mask: Tensor | None, noisy_ids: Tensor | None, t: Tensor | None
    ) -> DecoderInput:
        """What the decoder reads of a batch, as `forward` takes it."""
        ids = input_ids if noisy_ids is None else noisy_ids
        return DecoderInput(ids, attention_mask, t, self.encoder.token_embedding)

    def task_loss(
        self,
        concepts: Tensor,
        reads: DecoderInput,
        labels: Labels,
        label_smoothing: float = 0.0,
        num_items_in_batch: Tensor | float | None = None,
    ) -> Tensor:
        """Weighted cross-entropies of the labels over `num_items_in_batch` (None: their weights); no other logits."""
        decoded = self.decoder(concepts, labels.positions, reads).flatten(0, 1)
        states = decoded.index_select(0, labels.chosen)
        total = summed_cross_entropy(states, self.lm_head.weight, labels.targets, label_smoothing, labels.weights)
        return total / (labels.weights.sum() if num_items_in_batch is None else num_items_in_batch)

    @staticmethod
    def count_parameters(config: ConceptConfig) -> int:
        """Number of parameters of a new model, tied weights counted once; the module takes no memory."""
        with torch.device("meta"):
            model = ConceptModelForMaskedLM(config)
        return sum(parameter.numel() for parameter in model.parameters())
