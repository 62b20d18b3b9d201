"""The configuration of a concept model: shape, composition (encoder x decoder x head) and special tokens."""

from typing import Any

from transformers import PretrainedConfig

from .family import MODEL_TYPE


class ConceptConfig(PretrainedConfig):
    """Everything that a checkpoint needs to rebuild its module; transformers makes the annotated fields arguments.

    Raises:
        ValueError: the fields contradict each other.
    """

    model_type = MODEL_TYPE
    # What transformers' Trainer leaves out of its predictions, so that they are the logits.
    keys_to_ignore_at_inference = ["concepts", "concepts_b", "cosine", "hidden_states"]  # noqa: RUF012
    attribute_map = {"num_hidden_layers": "num_layers"}  # noqa: RUF012  (transformers declares it so)

    vocab_size: int = 50_368  # V
    hidden_size: int = 512  # H, width of the concepts and of every layer
    token_embedding_dim: int = 0  # E, width of the token stream; 0 or None means H
    num_concepts: int = 128  # C
    num_layers: int = 6  # L; how often the one layer of a recursive encoder is applied
    num_attention_heads: int = 8  # must divide H
    intermediate_size: int = 2048  # I, width of the feed-forward layers
    max_sequence_length: int = 512  # token positions
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    concept_position_type: str = "none"  # none, sinusoidal or learned
    use_bixt: bool = False  # tokens read the concepts back in every layer (Hiller et al. 2024)
    recursive: bool = False  # the weights of one layer serve all `num_layers` applications
    share_token_kv: bool = False  # all layers read the tokens by the first one's keys and values
    initializer_range: float = 0.1  # standard deviation of most new weights (see `_init_weights`)
    decoder_type: str = "perceiver"  # row of DECODERS; `decoder` would be a nested configuration to transformers
    num_decoder_layers: int = 2  # D, of a diffusion decoder
    decoder_reads_tokens: bool = False  # a diffusion decoder embeds every noisy token, as earlier checkpoints do
    dead_token_update: bool = False  # earlier checkpoints: the last layer has a frozen token update that nothing reads
    head: str = "via_decoder"  # row of HEADS, for fine-tuning
    variant: str = "perceiver_mlm"  # row of VARIANTS that it was made as; for display
    run_id: str | None = None  # the run that trained it
    tie_word_embeddings: bool = True  # the LM head is the token embedding
    pad_token_id: int = 0
    mask_token_id: int | None = None  # a diffusion model without a given noise level counts these

    def __post_init__(self, **more: Any) -> None:
        """Fill in E, check the widths, and leave all keys that are no fields to transformers."""
        if "decoder" in more:  # what config.json called the field until version 0.1
            self.decoder_type = more.pop("decoder")
        self.token_embedding_dim = self.token_embedding_dim or self.hidden_size
        heads, width = self.num_attention_heads, self.hidden_size
        if width % heads:
            raise ValueError(f"num_attention_heads {heads} must divide hidden_size {width}")
        if self.tie_word_embeddings and self.token_embedding_dim != self.hidden_size:
            raise ValueError("tie_word_embeddings needs token_embedding_dim equal to hidden_size")
        if self.share_token_kv and self.use_bixt:
            raise ValueError("share_token_kv needs tokens that do not change from layer to layer: use_bixt false")
        super().__post_init__(**more)
