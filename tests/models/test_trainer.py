"""transformers' Trainer and pipelines call the models with arguments of their own, and get the right values."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments, pipeline

from models.autoencoder import ConceptModel, ConceptModelForMaskedLM
from models.classifier import ConceptModelForSequenceClassification
from models.configuration import ConceptConfig

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
CONFIG: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_concepts": 4,
    "num_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_sequence_length": 12,
    "mask_token_id": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
MODELS = (ConceptModel, ConceptModelForMaskedLM, ConceptModelForSequenceClassification)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """It adds token_type_ids to every batch, as BERT's does."""
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=core, model_input_names=inputs, **names)


def rows(tokenizer: PreTrainedTokenizerFast, downstream: bool) -> list[dict[str, Any]]:
    """Four texts of one length, two rows with more labels than the others."""
    encoded = tokenizer(["a b c d", "e f g h", "h g f e", "d c b a"])
    labels: list[Any] = [0, 2, 1, 2]
    if not downstream:
        labels = [ids if number < 2 else [-100] * 5 + ids[5:] for number, ids in enumerate(encoded["input_ids"])]
    return [{**{name: encoded[name][n] for name in encoded}, "labels": labels[n]} for n in range(4)]


@pytest.mark.parametrize("cls", MODELS[1:])
def test_a_step_of_trainer_is_a_step_on_the_mean_of_its_losses(
    cls: Any, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Whatever Trainer does with the loss of two micro-batches, its gradient must be that of their mean."""
    torch.manual_seed(0)
    model, mine = (cls(ConceptConfig(**CONFIG, num_labels=3)) for _ in range(2))
    mine.load_state_dict(model.state_dict())
    data = rows(tokenizer, cls is ConceptModelForSequenceClassification)
    arguments = TrainingArguments(
        str(tmp_path),
        use_cpu=True,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=1,
        learning_rate=0.5,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
        report_to=[],
        save_strategy="no",
    )
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data)
    trained = trainer.train()

    losses = [
        mine.train()(**batch).loss for batch in (trainer.data_collator(data[:2]), trainer.data_collator(data[2:]))
    ]
    mean = torch.stack(losses).mean()
    mean.backward()
    torch.optim.SGD(mine.parameters(), lr=0.5).step()
    assert trained.training_loss == pytest.approx(mean.item(), rel=1e-4)
    for name, weight in mine.named_parameters():
        torch.testing.assert_close(model.state_dict()[name], weight.detach(), rtol=1e-4, atol=1e-5, msg=name)
    with torch.no_grad():
        expected = mine.eval()(**trainer.data_collator(data)).loss.item()
        logits = mine(**trainer.data_collator(data)).logits
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-3)
    predicted = trainer.predict(data).predictions  # the logits alone: concepts of a whole data set fill the memory
    torch.testing.assert_close(torch.tensor(predicted), logits, rtol=1e-3, atol=1e-4)


def test_pipelines_answer_as_the_models(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    text = "a b [MASK] d"
    batch = tokenizer([text], return_tensors="pt")
    assert "token_type_ids" in batch
    encoder, language, classifier = (cls(ConceptConfig(**CONFIG, num_labels=3)).eval() for cls in MODELS)
    with torch.no_grad():
        features = pipeline("feature-extraction", model=encoder, tokenizer=tokenizer, device="cpu")(text)
        torch.testing.assert_close(torch.tensor(features), encoder(**batch).concepts)

        filled = pipeline("fill-mask", model=language, tokenizer=tokenizer, device="cpu")(text, top_k=2)
        best = functional.softmax(language(**batch).logits[0, 3], dim=-1).topk(2)
        assert [answer["token"] for answer in filled] == best.indices.tolist()
        assert [answer["score"] for answer in filled] == pytest.approx(best.values.tolist(), rel=1e-4)

        (named,) = pipeline("text-classification", model=classifier, tokenizer=tokenizer, device="cpu")(text)
        shares = functional.softmax(classifier(**batch).logits[0], dim=-1)
        assert named["label"] == f"LABEL_{int(shares.argmax())}"
        assert named["score"] == pytest.approx(shares.max().item(), rel=1e-4)


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("wrong", ["atention_mask", "mask", "label", "input_id", "head_mask", "past_key_values"])
def test_a_misspelt_argument_is_refused_by_name(cls: Any, wrong: str, tokenizer: PreTrainedTokenizerFast) -> None:
    batch = tokenizer(["a b", "c d e"], return_tensors="pt", padding=True)
    with pytest.raises(TypeError, match=f"'{wrong}'"):
        cls(ConceptConfig(**CONFIG))(batch["input_ids"], **{wrong: batch["attention_mask"]})
