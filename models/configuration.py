"""The configuration of a concept model: shape, composition (encoder x decoder x head) and special tokens."""

from typing import Any

from transformers import PretrainedConfig

from .family import MODEL_TYPE


class ConceptConfig(PretrainedConfig):
    """Everything that a checkpoint needs to rebuild its module.

    Args:
        vocab_size: size V of the vocabulary.
        hidden_size: width H of the concepts and of every layer.
        token_embedding_dim: width E of the token stream; None means H.
        num_concepts: number C of concept vectors.
        num_layers: number L of encoder layers, or how often the one layer of a recursive encoder is applied.
        num_attention_heads: must divide H.
        intermediate_size: width I of the feed-forward layers.
        max_sequence_length: number of token positions.
        concept_position_type: none, sinusoidal or learned.
        use_bixt: tokens read the concepts back in every layer (Hiller et al. 2024).
        recursive: one layer's weights serve all `num_layers` applications.
        decoder: row of `models.decoders.DECODERS`.
        num_decoder_layers: number D of layers of a diffusion decoder.
        decoder_reads_tokens: a diffusion decoder embeds every noisy token, as earlier ones do; else [MASK] alone.
        dead_token_update: the last layer has a token update that is never read, frozen: only in earlier checkpoints.
        head: row of `models.heads.HEADS` for fine-tuning.
        variant: the named variant this model was made as, for display.
        run_id: the run that trained the checkpoint, if any.
        mask_token_id: id of [MASK]; tells a diffusion model how noisy its input is where no timestep is given.
    """

    model_type = MODEL_TYPE
    attribute_map = {"num_hidden_layers": "num_layers"}  # noqa: RUF012  (transformers declares it so)

    def __init__(
        self,
        vocab_size: int = 50_368,
        hidden_size: int = 512,
        token_embedding_dim: int | None = None,
        num_concepts: int = 128,
        num_layers: int = 6,
        num_attention_heads: int = 8,
        intermediate_size: int = 2048,
        max_sequence_length: int = 512,
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        concept_position_type: str = "none",
        use_bixt: bool = False,
        recursive: bool = False,
        initializer_range: float = 0.1,
        decoder: str = "perceiver",
        num_decoder_layers: int = 2,
        decoder_reads_tokens: bool = False,
        dead_token_update: bool = False,
        head: str = "via_decoder",
        variant: str = "perceiver_mlm",
        run_id: str | None = None,
        tie_word_embeddings: bool = True,
        pad_token_id: int = 0,
        mask_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.token_embedding_dim = token_embedding_dim or hidden_size
        self.num_concepts = num_concepts
        self.num_layers = num_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.max_sequence_length = max_sequence_length
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.concept_position_type = concept_position_type
        self.use_bixt = use_bixt
        self.recursive = recursive
        self.initializer_range = initializer_range
        self.decoder = decoder
        self.num_decoder_layers = num_decoder_layers
        self.decoder_reads_tokens = decoder_reads_tokens
        self.dead_token_update = dead_token_update
        self.head = head
        self.variant = variant
        self.run_id = run_id
        self.mask_token_id = mask_token_id
        if hidden_size % num_attention_heads:
            raise ValueError(f"num_attention_heads {num_attention_heads} must divide hidden_size {hidden_size}")
        if tie_word_embeddings and self.token_embedding_dim != hidden_size:
            raise ValueError("tie_word_embeddings needs token_embedding_dim equal to hidden_size")
        super().__init__(**{"pad_token_id": pad_token_id, "tie_word_embeddings": tie_word_embeddings, **kwargs})
