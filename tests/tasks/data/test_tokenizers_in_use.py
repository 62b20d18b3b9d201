"""Documents, batches and texts to encode, by tokenizers of the Hub: special tokens stand where we put them alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_folders import encoder_folder
from factories import labels_of

from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.text_encoder import TextEncoder
from models.tokenizing import text_only
from tasks.data.corpus import prepare_corpus
from tasks.data.sources import find_dataset
from tasks.data.token_blocks import BatchPlan, MicroBatches, TokenBlocks
from tasks.data.tokenizers import load_tokenizer
from tasks.errors import UserError
from tasks.pretraining.training import corruption_settings
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.pretraining import DataSpec
from tasks.store.home import Home
from tasks.store.records import CorpusResult

DOCUMENTS = [
    "In BERT's paper [MASK] hides a word, [CLS] begins a text and [SEP] ends it.",
    "RoBERTa writes <s> and </s>, pads with <pad> and hides with <mask>.",
    "An end is <|endoftext|>, a blank <extra_id_0>, and [UNK] or <unk> is unknown.",
    "A text without any of them, of ordinary words alone.",
] * 12
FAMILIES = ["bert", "roberta", "albert", "deberta-v2", "xlm-roberta", "modernbert"]


def corpus_of(family: str | None, root: Path, home: Home) -> CorpusResult:
    (root / "ada/texts").mkdir(parents=True)
    lines = [json.dumps({"text": f"{number} {text}"}) for number, text in enumerate(DOCUMENTS)]
    (root / "ada/texts/train.jsonl").write_text("\n".join(lines))
    fields: dict[str, object] = {"train_tokenizer_vocab_size": 400}
    if family is not None:
        encoder_folder(family, root / family)
        fields = {"tokenizer": family}
    spec = DataSpec(dataset="ada/texts", blocks="document", block_tokens=200, held_out_share=0.2, **fields)  # type: ignore[arg-type]
    return prepare_corpus(spec, find_dataset("ada/texts", home, root), home, root)


@pytest.mark.parametrize("family", [*FAMILIES, None])
def test_a_document_has_no_special_tokens_but_its_ends(family: str | None, tmp_path: Path, home: Home) -> None:
    root = tmp_path / "mirror"
    corpus = corpus_of(family, root, home)
    tokenizer = load_tokenizer(corpus.tokenizer)
    if family is not None:
        theirs = load_tokenizer(root / family)
        assert tokenizer.all_special_ids == theirs.all_special_ids
    assert corpus.special_token_ids == {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")
    }
    special, found = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}, 0
    for side in ("train", "held_out"):
        blocks = TokenBlocks(corpus.folder, side)
        for number in range(len(blocks)):
            ids = blocks.block(number).tolist()
            assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
            assert not special & {*ids[1:-1]}
            assert tokenizer.unk_token_id not in ids[1:-1], "every character of these texts is in the vocabulary"
            found += 1
    assert found == len(DOCUMENTS)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_batches_mask_ordinary_tokens_alone(family: str, tmp_path: Path, home: Home) -> None:
    corpus = corpus_of(family, tmp_path / "mirror", home)
    tokenizer = load_tokenizer(corpus.tokenizer)
    spec = ExperimentSpec(name="test", data=DataSpec(), objective={"mask_prob": 0.5, "whole_word": True})  # type: ignore[arg-type]
    settings = corruption_settings(spec, tokenizer, corpus.vocab_size)
    assert settings.mask_token_id == {"bert": 4, "roberta": 404}[family]
    blocks = TokenBlocks(corpus.folder, "train")
    plan = BatchPlan("mlm", settings, tokenizer.pad_token_id, 0, 8, 8)
    masked = 0
    batches = MicroBatches(blocks, plan, 4)
    for batch in (batches[number] for number in range(len(batches))):
        ids, labels, mask = batch["input_ids"], labels_of(batch), batch["attention_mask"]
        mask = torch.ones_like(ids) if mask is None else mask
        labelled = labels[labels >= 0].tolist()
        assert labelled and not {*tokenizer.all_special_ids} & {*labelled}
        assert (ids[mask == 0] == tokenizer.pad_token_id).all() and (ids[:, 0] == tokenizer.cls_token_id).all()
        assert ((ids == tokenizer.mask_token_id) <= (labels >= 0)).all(), "a mask hides a token that is asked for"
        masked += int((ids == tokenizer.mask_token_id).sum())
    assert masked > 100


def test_a_tokenizer_without_a_mask_cannot_pretrain(tmp_path: Path, home: Home) -> None:
    with pytest.raises(UserError, match=r"has no cls, sep, mask token; fix: use a tokenizer like BERT's, or train one"):
        corpus_of("t5", tmp_path / "mirror", home)
    assert not [*home.corpora.iterdir()]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_reads_literals_as_text(family: str, tmp_path: Path) -> None:
    folder = encoder_folder(family, tmp_path / family)
    tokenizer = load_tokenizer(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_concepts": 3, "num_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = ConceptModelForMaskedLM(ConceptConfig(vocab_size=512, max_sequence_length=200, **sizes))
    encoder = TextEncoder(model, tokenizer, "cpu")
    found = encoder.encode(DOCUMENTS[:3])
    for text, concepts in zip(DOCUMENTS[:3], found, strict=True):
        body = text_only(tokenizer).encode(text, add_special_tokens=False).ids
        assert not ({*tokenizer.all_special_ids} - {tokenizer.unk_token_id}) & {*body}
        ids = torch.tensor([[tokenizer.cls_token_id, *body, tokenizer.sep_token_id]])
        with torch.no_grad():
            torch.testing.assert_close(concepts, model.get_submodule("encoder")(ids)[0], rtol=1e-4, atol=1e-5)
    meant = tokenizer(f"a {tokenizer.mask_token} b", add_special_tokens=False)["input_ids"]
    assert tokenizer.mask_token_id in meant, "the tokenizer that was given still knows a mask that is meant"
    assert np.isfinite(found.numpy()).all()
