"""The sections of an experiment file that decide the pretraining: data, model, objective and training."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.family import CONCEPT_LOSSES, LOSS_WEIGHTINGS, VARIANTS
from tasks.errors import unknown_name
from tasks.spec.base import BILLION, MAX_LAYERS, MAX_WIDTH, MILLION, Member, Share, Spec
from tasks.spec.values import Flag, Number, Text, Whole

PYTHON_DOCS = "builtin/python_docs"
MADE_TEXT = "builtin/made_text"

VariantName = Annotated[str, Member("variant", VARIANTS)]
LossName = Annotated[str, Member("concept loss", CONCEPT_LOSSES)]
WeightingName = Annotated[str, Member("loss weighting", LOSS_WEIGHTINGS)]


class DataSpec(Spec):
    """The pretraining text and its tokenizer."""

    dataset: Text = Field(
        "JeanKaddour/minipile",
        description=f"Hub data set or folder, or {PYTHON_DOCS} or {MADE_TEXT}, which need no network",
    )
    config: Text | None = Field(None, description="configuration of the data set; null: its only one")
    revision: Text | None = Field(None, description="Hub commit or tag; null: the newest, which is recorded")
    split: Text = Field("train", description="split to train on")
    text_column: Text = Field("text", description="column with the text")
    txt_document: Literal["file", "line"] | None = Field(
        None, description="what is a document of a data set of .txt files; null: the file"
    )
    held_out_split: Text | None = Field(None, description="split for the evaluation loss; null: a share of `split`")
    held_out_share: Share = Field(
        0.01, description="share of the documents that is held out where held_out_split is null"
    )
    max_documents: Whole | None = Field(
        None, ge=1, le=BILLION, description="documents that are read, from the first; null: all"
    )
    tokenizer: Text | None = Field(
        None, description="Hub tokenizer or folder; null: answerdotai/ModernBERT-base, unless one is trained"
    )
    train_tokenizer_vocab_size: Whole | None = Field(
        None,
        ge=300,
        le=500_000,
        description="entries of a byte-level BPE tokenizer that is trained on the corpus; null: none is",
    )
    blocks: Literal["concat", "document"] = Field(
        "concat", description="concat: documents joined into full blocks; document: documents never mixed"
    )
    block_tokens: Whole = Field(512, ge=8, le=1_000_000, description="tokens of a block")

    @model_validator(mode="after")
    def _one_tokenizer(self) -> "DataSpec":
        if self.tokenizer is not None and self.train_tokenizer_vocab_size is not None:
            raise ValueError("tokenizer and train_tokenizer_vocab_size exclude each other; fix: state one of them")
        return self

    @model_validator(mode="after")
    def _builtin_text_exists(self) -> "DataSpec":
        if self.is_builtin and self.dataset not in (allowed := (PYTHON_DOCS, MADE_TEXT)):
            raise ValueError(unknown_name("built-in text", self.dataset, allowed))
        return self

    @model_validator(mode="after")
    def _builtin_text_has_no_parts(self) -> "DataSpec":
        parts = ("config", "revision", "split", "text_column", "txt_document", "held_out_split")
        ignored = [key for key in parts if getattr(self, key) != type(self).model_fields[key].default]
        if self.is_builtin and ignored:
            raise ValueError(f"{', '.join(ignored)} would be ignored by {self.dataset}; fix: drop it")
        return self

    @property
    def is_builtin(self) -> bool:
        """Whether the text is a part of Cogito or made by it."""
        return self.dataset.startswith("builtin/")

    @property
    def tokenizer_name(self) -> str:
        """The Hub tokenizer to load, unless one is trained."""
        return self.tokenizer or "answerdotai/ModernBERT-base"


class ModelSpec(Spec):
    """The architecture of the model: its variant and its size."""

    variant: VariantName = Field("perceiver_mlm", description="encoder, decoder and objective: `cogito ls variants`")
    hidden_size: Whole = Field(512, ge=8, le=MAX_WIDTH, description="width H of concepts and layers")
    token_embedding_dim: Whole | None = Field(
        None, ge=4, le=MAX_WIDTH, description="width E of token embeddings; null: H"
    )
    num_layers: Whole = Field(6, ge=1, le=MAX_LAYERS, description="encoder layers L")
    num_concepts: Whole = Field(128, ge=1, le=MAX_WIDTH, description="concept vectors C")
    num_attention_heads: Whole | None = Field(
        None, ge=1, le=MAX_WIDTH, description="attention heads; null: max(1, min(8, H // 64))"
    )
    intermediate_size: Whole = Field(2048, ge=1, le=MILLION, description="width I of the feed-forward layers")
    max_sequence_length: Whole | None = Field(
        None, ge=8, le=MILLION, description="positions, in tokens; null: data.block_tokens"
    )
    hidden_dropout_prob: Number = Field(0.1, ge=0, lt=1, description="dropout of hidden states, a share")
    attention_probs_dropout_prob: Number = Field(0.1, ge=0, lt=1, description="dropout of attention weights, a share")
    concept_position_type: Literal["none", "sinusoidal", "learned"] = Field(
        "none", description="position embeddings that are added to the concepts"
    )
    use_bixt: Flag = Field(False, description="tokens read the concepts back in every layer")
    share_token_kv: Flag = Field(False, description="all layers read the tokens by the first one's keys and values")
    recursive: Flag = Field(False, description="one layer's weights are applied num_layers times")
    num_decoder_layers: Whole | None = Field(
        None, ge=1, le=MAX_LAYERS, description="layers D of a diffusion decoder; null: 2"
    )
    initializer_range: Number = Field(
        0.1, gt=0, le=1, description="standard deviation of new weights but attention inputs"
    )
    tie_word_embeddings: Flag | None = Field(
        None, description="whether the LM head shares the token embedding; null: the variant's default"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSpec":
        heads, width, token_width = self.attention_heads, self.hidden_size, self.token_embedding_dim
        if width % heads:
            raise ValueError(f"num_attention_heads {heads} must divide hidden_size {width}")
        if token_width is not None and token_width > width:
            raise ValueError(f"token_embedding_dim {token_width} must not exceed hidden_size {width}")
        for key, why in (("use_bixt", "tokens change"), ("recursive", "they are one layer's already")):
            if self.share_token_kv and getattr(self, key):
                raise ValueError(f"share_token_kv and {key}: {why}; allowed: one of them")
        if self.num_decoder_layers is not None and not VARIANTS[self.variant].has_decoder_layers:
            layered = ", ".join(name for name, row in VARIANTS.items() if row.has_decoder_layers)
            raise ValueError(f"num_decoder_layers would be ignored by {self.variant}; allowed with: {layered}")
        if self.tie_word_embeddings and (token_width or width) < width:
            raise ValueError(
                "tie_word_embeddings needs token_embedding_dim equal to hidden_size; fix: drop one of them"
            )
        return self

    @property
    def attention_heads(self) -> int:
        """The number of attention heads in effect."""
        return self.num_attention_heads or max(1, min(8, self.hidden_size // 64))

    @property
    def tied(self) -> bool:
        """Whether the LM head shares the token embedding, which requires E = H."""
        if self.tie_word_embeddings is not None:
            return self.tie_word_embeddings
        same_width = (self.token_embedding_dim or self.hidden_size) == self.hidden_size
        return VARIANTS[self.variant].tied and same_width and not self.recursive

    @property
    def decoder_layers(self) -> int:
        """The number D of decoder layers in effect; only diffusion decoders have them."""
        return self.num_decoder_layers or 2

    @property
    def size_name(self) -> str:
        """The size as it appears in run ids: `H512L6C128`, and D2 for the layers of a diffusion decoder."""
        layers = f"D{self.decoder_layers}" if VARIANTS[self.variant].has_decoder_layers else ""
        return f"H{self.hidden_size}L{self.num_layers}C{self.num_concepts}{layers}"


class ObjectiveSpec(Spec):
    """How a batch is corrupted, and which concept losses are added to the task loss."""

    mask_prob: Share = Field(0.15, description="MLM: share of the non-special tokens selected")
    whole_word: Flag = Field(False, description="MLM: select all tokens of a word together")
    deletion_prob: Share = Field(0.6, description="denoising: share of the non-special tokens deleted")
    t_min: Annotated[Number, Field(ge=0, lt=1)] | None = Field(
        None, description="diffusion: lowest noise level, a share of the tokens; null: the variant's default"
    )
    elbo: Flag = Field(False, description="diffusion: weight every token by 1 / max(t, 0.1)")
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] | None = Field(
        None, description="label smoothing of the task loss in training, a share; null: the variant's default"
    )
    concept_losses: dict[LossName, Annotated[Number, Field(gt=0, le=MILLION)]] = Field(
        default_factory=dict,
        description="concept losses (`cogito ls losses`) and their weights under `fixed` weighting",
    )
    loss_weighting: WeightingName = Field("fixed", description="how the task loss and the concept losses are combined")

    @model_validator(mode="after")
    def _weighting_used(self) -> "ObjectiveSpec":
        if self.loss_weighting != "fixed" and not self.concept_losses:
            raise ValueError(f"loss_weighting {self.loss_weighting} would be ignored without concept_losses")
        return self


class TrainingSpec(Spec):
    """The optimisation of pretraining. Results do not depend on the number of processes, so it is not stated here."""

    epochs: Number = Field(20.0, gt=0, le=MILLION, description="passes over the corpus")
    max_steps: Whole | None = Field(
        None, ge=1, le=BILLION, description="optimiser steps after which the schedule ends; null: epochs decide"
    )
    global_batch_size: Whole = Field(512, ge=1, le=MILLION, description="blocks per optimiser step over all processes")
    per_device_batch_size: Whole = Field(32, ge=1, le=MILLION, description="blocks per forward pass of one process")
    learning_rate: Number = Field(3e-4, gt=0, le=1, description="highest learning rate, after the warm-up")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="course of the learning rate after the warm-up"
    )
    warmup_steps: Whole = Field(
        1500, ge=0, le=BILLION, description="optimiser steps with a rising learning rate, at most half of all"
    )
    weight_decay: Number = Field(0.01, ge=0, le=MILLION, description="weight decay of AdamW")
    max_grad_norm: Number = Field(1.0, gt=0, le=BILLION, description="global norm to which gradients are clipped")
    mixed_precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 on a GPU, fp32 on a CPU; the weights themselves are fp32 in any case"
    )
    deterministic: Flag = Field(
        False, description="GPU: only algorithms that give the same bits again, which are slower; a CPU has no others"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="whether torch compiles the step; auto: on a GPU, with data.blocks concat"
    )
    seed: Whole = Field(42, ge=0, lt=2**31, description="seed of weights, order, masking and dropout")
    init_from: Text | None = Field(
        None, description="warm start: a run id, folder or Hub id[@revision]; null: random weights"
    )
    eval_every_steps: Whole = Field(
        500, ge=1, le=BILLION, description="optimiser steps from one held-out evaluation to the next"
    )
    max_eval_blocks: Whole = Field(2000, ge=1, le=BILLION, description="held-out blocks that the evaluation loss reads")
    checkpoint_every_steps: Whole = Field(
        500, ge=1, le=BILLION, description="optimiser steps from one training state to the next"
    )
    keep_checkpoints: Whole = Field(2, ge=1, le=MILLION, description="training states that are kept")

    def precision_on(self, device: Literal["cpu", "cuda"]) -> Literal["fp32", "bf16"]:
        """In what a training computes on a kind of device."""
        if self.mixed_precision == "auto":
            return "bf16" if device == "cuda" else "fp32"
        return self.mixed_precision
