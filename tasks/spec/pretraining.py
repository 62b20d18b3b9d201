"""The sections of an experiment file that decide the pretraining: data, model, objective and training."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.family import CONCEPT_LOSSES, LOSS_WEIGHTINGS, VARIANTS
from tasks.errors import unknown_name
from tasks.spec.base import BILLION, MAX_LAYERS, MAX_WIDTH, MILLION, Share, Spec, member
from tasks.spec.values import Flag, Number, Text, Whole

PYTHON_DOCS = "builtin/python_docs"
MADE_TEXT = "builtin/made_text"

VariantName = Annotated[str, member("variant", VARIANTS)]
LossName = Annotated[str, member("concept loss", CONCEPT_LOSSES)]
WeightingName = Annotated[str, member("loss weighting", LOSS_WEIGHTINGS)]


class DataSpec(Spec):
    """The pretraining text and its tokenizer."""

    dataset: Text = Field(
        "JeanKaddour/minipile",
        description=f"Hub data set or folder, or {PYTHON_DOCS} or {MADE_TEXT}, which need no network",
    )
    config: Text | None = Field(None, description="configuration of the data set, where it has several")
    revision: Text | None = Field(None, description="Hub commit or tag; None takes the newest and records it")
    split: Text = Field("train", description="split to train on")
    text_column: Text = Field("text", description="column with the text")
    txt_document: Literal["file", "line"] | None = Field(
        None, description="what is a document of a data set of .txt files; None: the file"
    )
    held_out_split: Text | None = Field(None, description="split for the evaluation loss; None holds out a share")
    held_out_share: Share = Field(0.01, description="share of the documents held out when no split is named")
    max_documents: Whole | None = Field(
        None, ge=1, le=BILLION, description="read only the first documents; None reads all"
    )
    tokenizer: Text | None = Field(
        None, description="Hub tokenizer (default answerdotai/ModernBERT-base), unless one is trained"
    )
    train_tokenizer_vocab_size: Whole | None = Field(
        None, ge=300, le=500_000, description="train a byte-level BPE tokenizer of this size on the corpus"
    )
    blocks: Literal["concat", "document"] = Field(
        "concat", description="concat: documents joined into full blocks; document: documents never mixed"
    )
    block_tokens: Whole = Field(512, ge=8, le=1_000_000, description="tokens in a block")

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

    variant: VariantName = Field("perceiver_mlm", description="row of `cogito ls variants`")
    hidden_size: Whole = Field(512, ge=8, le=MAX_WIDTH, description="width H of concepts and layers")
    token_embedding_dim: Whole | None = Field(None, ge=4, le=MAX_WIDTH, description="width E of tokens; None: H")
    num_layers: Whole = Field(6, ge=1, le=MAX_LAYERS, description="encoder layers L")
    num_concepts: Whole = Field(128, ge=1, le=MAX_WIDTH, description="concept vectors C")
    num_attention_heads: Whole | None = Field(None, ge=1, le=MAX_WIDTH, description="None: max(1, min(8, H // 64))")
    intermediate_size: Whole = Field(2048, ge=1, le=MILLION, description="width I of the feed-forward layers")
    max_sequence_length: Whole | None = Field(None, ge=8, le=MILLION, description="positions; None: data.block_tokens")
    hidden_dropout_prob: Number = Field(0.1, ge=0, lt=1)
    attention_probs_dropout_prob: Number = Field(0.1, ge=0, lt=1)
    concept_position_type: Literal["none", "sinusoidal", "learned"] = "none"
    use_bixt: Flag = Field(False, description="tokens read the concepts back in every layer")
    recursive: Flag = Field(False, description="one layer's weights are applied num_layers times")
    num_decoder_layers: Whole | None = Field(
        None, ge=1, le=MAX_LAYERS, description="layers D of a diffusion decoder; None: 2"
    )
    initializer_range: Number = Field(
        0.1, gt=0, le=1, description="standard deviation of new weights but attention inputs"
    )
    tie_word_embeddings: Flag | None = Field(None, description="None: the variant's default")

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSpec":
        heads, width, token_width = self.attention_heads, self.hidden_size, self.token_embedding_dim
        if width % heads:
            raise ValueError(f"num_attention_heads {heads} must divide hidden_size {width}")
        if token_width is not None and token_width > width:
            raise ValueError(f"token_embedding_dim {token_width} must not exceed hidden_size {width}")
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
        None, description="diffusion: lowest noise level; None: the variant's default"
    )
    elbo: Flag = Field(False, description="diffusion: weight every token by 1 / max(t, 0.1)")
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] | None = Field(
        None, description="of the task loss in training; None: the variant's default"
    )
    concept_losses: dict[LossName, Annotated[Number, Field(gt=0, le=MILLION)]] = Field(
        default_factory=dict, description="concept losses and their weights under `fixed` weighting"
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
    max_steps: Whole | None = Field(None, ge=1, le=BILLION, description="stop the schedule after this many steps")
    global_batch_size: Whole = Field(
        512, ge=1, le=MILLION, description="sequences per optimiser step over all processes"
    )
    per_device_batch_size: Whole = Field(32, ge=1, le=MILLION, description="sequences per forward pass of one process")
    learning_rate: Number = Field(3e-4, gt=0, le=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Whole = Field(1500, ge=0, le=BILLION)
    weight_decay: Number = Field(0.01, ge=0, le=MILLION)
    max_grad_norm: Number = Field(1.0, gt=0, le=BILLION, description="gradient clipping by global norm")
    mixed_precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 on a GPU, fp32 on a CPU; the weights themselves are fp32 in any case"
    )
    seed: Whole = Field(42, ge=0, lt=2**31)
    init_from: Text | None = Field(
        None, description="warm start: a run id, folder or Hub id[@revision]; None: random weights"
    )
    eval_every_steps: Whole = Field(500, ge=1, le=BILLION)
    max_eval_blocks: Whole = Field(2000, ge=1, le=BILLION, description="held-out blocks that the evaluation loss reads")
    checkpoint_every_steps: Whole = Field(500, ge=1, le=BILLION)
    keep_checkpoints: Whole = Field(2, ge=1, le=MILLION, description="training checkpoints kept")
