"""What transformers and its users expect of a model beside its forward pass: sizes, embeddings, memory, outputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from models.autoencoder import ConceptModel, ConceptModelForMaskedLM
from models.checkpoints import load_checkpoint, save_checkpoint
from models.classifier import ConceptModelForSequenceClassification
from models.configuration import ConceptConfig
from models.family import HEADS, VARIANTS

VOCAB, MASK, PAD = 41, 4, 0


def make_config(variant: str = "perceiver_mlm", **changes: Any) -> ConceptConfig:
    row = VARIANTS[variant]
    fields: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "num_concepts": 6,
        "num_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "max_sequence_length": 20,
        "decoder_type": row.decoder,
        "head": row.default_head,
        "variant": variant,
        "tie_word_embeddings": row.tied,
        "pad_token_id": PAD,
        "mask_token_id": MASK,
    }
    return ConceptConfig(**fields | changes)


def make_model(variant: str, **changes: Any) -> ConceptModelForMaskedLM:
    torch.manual_seed(3)
    model = ConceptModelForMaskedLM(make_config(variant, **changes)).eval()
    for name, weight in model.named_parameters():
        if "modulation" in name:  # open gates, so that a diffusion decoder's tokens count
            torch.nn.init.normal_(weight, std=0.1)
    return model


def make_batch(**changes: Tensor) -> dict[str, Tensor]:
    ids = torch.randint(5, VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = PAD, 0
    return {"input_ids": ids, "attention_mask": mask} | changes


# --- the vocabulary's size ---

OWN_TABLE = {"decoder_reads_tokens": True}
RESIZED = [
    pytest.param(variant, changes, id="-".join([variant, *changes]))
    for variant, row in VARIANTS.items()
    for changes in [{}, {"tie_word_embeddings": not row.tied}, *([OWN_TABLE] if row.decoder == "diffusion" else [])]
]


@pytest.mark.parametrize("size", [VOCAB + 7, VOCAB - 6])
@pytest.mark.parametrize(("variant", "changes"), RESIZED)
def test_the_vocabulary_grows_and_shrinks(variant: str, changes: dict[str, Any], size: int, tmp_path: Path) -> None:
    model = make_model(variant, **changes)
    batch = make_batch()
    batch["input_ids"] = batch["input_ids"].clamp(max=VOCAB - 7)
    with torch.no_grad():
        before = model(**batch)
        embedding = model.resize_token_embeddings(size)
        after = model(**batch)
    kept = min(size, VOCAB)
    assert embedding is model.get_input_embeddings() is model.encoder.token_embedding
    assert (embedding.num_embeddings, embedding.padding_idx) == (size, PAD)
    assert model.config.vocab_size == len(model.lm_head.weight) == after.logits.shape[-1] == size
    assert (model.lm_head.weight is embedding.weight) is model.config.tie_word_embeddings
    torch.testing.assert_close(after.concepts, before.concepts)
    torch.testing.assert_close(after.logits[..., :kept], before.logits[..., :kept])
    if size > VOCAB:  # a new token can be read and predicted, by the decoder's own table too
        batch["input_ids"][0, 2] = size - 1
        batch["labels"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
        loss = model.train()(**batch).loss
        loss.backward()
        assert embedding.weight.grad is not None and embedding.weight.grad[size - 1].any()
    save_checkpoint(model, tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.config.vocab_size == size
    own = [name for name in loaded.state_dict() if "token_embedding" in name or "lm_head" in name]
    assert all(torch.equal(loaded.state_dict()[name], model.state_dict()[name]) for name in own)


def test_a_diffusion_decoder_reads_its_new_tokens() -> None:
    model = make_model("diffusion_selfattn")
    model.resize_token_embeddings(VOCAB + 3)
    batch = make_batch()
    with torch.no_grad():
        noisy = batch["input_ids"].clone()
        first = model(**batch, noisy_ids=noisy).logits
        noisy[0, 0] = VOCAB + 2
        assert not torch.allclose(model(**batch, noisy_ids=noisy).logits[0], first[0])


def test_a_vocabulary_keeps_its_special_tokens() -> None:
    with pytest.raises(ValueError, match="would leave out the special token 4"):
        make_model("perceiver_mlm").resize_token_embeddings(MASK)
    assert make_model("perceiver_mlm").resize_token_embeddings(MASK + 1).num_embeddings == MASK + 1
    assert make_model("perceiver_mlm").resize_token_embeddings(None, 8).num_embeddings == 48


def test_a_classifier_and_an_encoder_are_resized_too() -> None:
    for cls in (ConceptModel, ConceptModelForSequenceClassification):
        model = cls(make_config("diffusion_selfattn")).eval()
        assert model.resize_token_embeddings(50).num_embeddings == model.config.vocab_size == 50
        assert model.get_output_embeddings() is None
        model(torch.tensor([[49, 5]]))


def test_embeddings_are_found_and_replaced() -> None:
    model = make_model("weighted_mlm")
    assert model.get_output_embeddings() is model.lm_head
    tokens, head = torch.nn.Embedding(VOCAB, 16), torch.nn.Linear(16, VOCAB, bias=False)
    model.set_input_embeddings(tokens)
    model.set_output_embeddings(head)
    assert model.encoder.token_embedding is model.get_input_embeddings() is tokens
    assert model.lm_head is model.get_output_embeddings() is head


# --- the configuration ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_configuration_is_its_own_text_configuration(variant: str) -> None:
    """transformers takes fields of certain names for nested configurations."""
    config = make_config(variant)
    assert config.get_text_config() is config.get_text_config(decoder=True) is config
    assert ConceptConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_a_folder_of_before_names_its_decoder_otherwise() -> None:
    stated = make_config("weighted_mlm").to_dict()
    stated["decoder"] = stated.pop("decoder_type")
    config = ConceptConfig.from_dict(stated)
    assert config.decoder_type == "weighted"
    assert not hasattr(config, "decoder") and "decoder" not in config.to_dict()


# --- memory ---


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_checkpointing_changes_no_gradient(variant: str, recursive: bool) -> None:
    model = make_model(variant, recursive=recursive, use_bixt=True).train()
    batch = make_batch()
    batch["labels"] = batch["input_ids"]

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        torch.manual_seed(5)  # dropout is on
        model(**batch).loss.backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    plain = gradients()
    model.gradient_checkpointing_enable()
    calls = []
    inner = model.encoder.layers[0].cross_attention.q_proj
    inner.register_forward_hook(lambda *_: calls.append(1))
    checkpointed = gradients()
    assert len(calls) == 2 * (model.config.num_layers if recursive else 1), "each layer is computed again"
    assert plain.keys() == checkpointed.keys()
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    model.gradient_checkpointing_disable()
    assert all(torch.equal(plain[name], gradient) for name, gradient in gradients().items())


# --- outputs ---


@pytest.mark.parametrize("recursive", [False, True])
def test_hidden_states_are_the_concepts_of_every_layer(recursive: bool) -> None:
    torch.manual_seed(0)
    model = ConceptModel(make_config(recursive=recursive)).eval()
    with torch.no_grad():
        out = model(**make_batch(), output_hidden_states=True)
        start = model.encoder.concept_embedding.weight.expand(2, -1, -1)
        assert len(out.hidden_states) == model.config.num_layers + 1
        assert torch.equal(out.hidden_states[0], start)
        assert torch.equal(out.hidden_states[-1], out.concepts)
        two = ConceptModel(make_config(recursive=recursive, num_layers=2)).eval()
        two.load_state_dict(model.state_dict(), strict=False)
        assert torch.equal(two.encoder.norm(out.hidden_states[2]), two(**make_batch()).concepts)
    assert model(**make_batch()).hidden_states is None
    model.config.output_hidden_states = True
    assert len(model(**make_batch()).hidden_states) == model.config.num_layers + 1


def test_outputs_are_named_and_numbered() -> None:
    encoder = ConceptModel(make_config()).eval()
    batch = make_batch()
    out = encoder(**batch)
    assert out[0] is out.concepts is out.last_hidden_state
    torch.testing.assert_close(out.pooler_output, out.concepts.mean(dim=1))
    assert [part.shape for part in encoder(**batch, return_dict=False)] == [(2, 6, 16), (2, 16)]
    model = make_model("perceiver_mlm")
    assert [part.shape for part in model(**batch, return_dict=False)] == [(2, 9, VOCAB), (2, 6, 16)]
    loss, logits, concepts, states = model(**batch, labels=batch["input_ids"], output_hidden_states=True).to_tuple()
    assert (loss.shape, logits.shape, concepts.shape, len(states)) == ((), (2, 9, VOCAB), (2, 6, 16), 4)
    model.config.return_dict = False
    assert isinstance(model(**batch), tuple)


@pytest.mark.parametrize("name", ["output_attentions", "inputs_embeds", "position_ids", "label"])
def test_an_argument_that_would_be_ignored_is_refused(name: str) -> None:
    models: list[PreTrainedModel] = [
        cls(make_config()) for cls in (ConceptModel, ConceptModelForMaskedLM, ConceptModelForSequenceClassification)
    ]
    for model in models:
        with pytest.raises(TypeError, match=name):
            model(**make_batch(), **{name: torch.ones(2, 9)})


def test_segments_are_taken_and_not_read() -> None:
    """A tokenizer like BERT's adds them to every batch."""
    model = make_model("perceiver_mlm")
    assert torch.equal(
        model(**make_batch(), token_type_ids=torch.ones(2, 9, dtype=torch.long)).logits, model(**make_batch()).logits
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_masks_are_filled_by_models_that_were_trained_to(variant: str) -> None:
    model, batch = make_model(variant), make_batch()
    batch["input_ids"][0, 3] = MASK
    if VARIANTS[variant].objective == "mlm":
        assert model(**batch).logits.isfinite().all()
        return
    with pytest.raises(ValueError, match=f"a {variant} model cannot fill the masks of its own input"):
        model(**batch)
    clean = make_batch()
    assert model(**clean, noisy_ids=batch["input_ids"]).logits.isfinite().all()
    assert model(**batch, labels=clean["input_ids"]).loss.isfinite()


@pytest.mark.parametrize("head", HEADS)
def test_what_a_classifier_cannot_give_is_refused(head: str) -> None:
    variant = "weighted_mlm" if head == "weighted_decoder" else "perceiver_mlm"
    with pytest.raises(ValueError, match="problem_type: got 'multi_label_classification'"):
        ConceptModelForSequenceClassification(
            make_config(variant, head=head, problem_type="multi_label_classification")
        )
    model = ConceptModelForSequenceClassification(make_config(variant, head=head, num_labels=3)).eval()
    if head != "sentence_pair":
        assert len(model(**make_batch(), output_hidden_states=True).hidden_states) == 4
        return
    batch = make_batch()
    pair = {f"{name}_{side}": value for name, value in batch.items() for side in "ab"}
    assert model(**pair).logits.shape == (2, 3)
    with pytest.raises(ValueError, match="compares two texts: encode each for its hidden states"):
        model(**pair, output_hidden_states=True)
