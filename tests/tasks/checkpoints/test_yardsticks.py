"""Plain encoders through the same fan-out, and earlier checkpoints through the same command."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command import answer, cogito
from old_checkpoints import LANGUAGE_MODELS, old_config, old_weights
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from models.checkpoints import CheckpointError, load_checkpoint
from models.plain import load_plain_classifier
from tasks.data.corpus import load_tokenizer, train_tokenizer
from tasks.data.python_docs import iterate_documents
from tasks.store.home import Home
from tasks.store.records import load_record

SMALL = [
    "--set",
    "evaluation.data=made",
    "--set",
    "evaluation.epochs=0.2",
    "--set",
    "evaluation.max_length=32",
    "--set",
    "evaluation.max_train_examples=200",
    "--set",
    "evaluation.learning_rate=1e-3",
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random BERT with its tokenizer, as a folder from the Hub would be."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    texts = [text for _, text in zip(range(40), iterate_documents(), strict=False)]
    train_tokenizer(iter(texts), 600, folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(load_tokenizer(folder)),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=48,
        pad_token_id=0,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def test_a_plain_encoder_reports_what_it_starts_from(bert: Path, tmp_path: Path) -> None:
    stored = load_file(bert / "model.safetensors")
    model, report = load_plain_classifier(bert, 3)
    state = model.state_dict()
    assert all(torch.equal(state[name], stored[name]) for name in report.loaded if name in stored)
    assert "bert.embeddings.word_embeddings.weight" in report.loaded
    assert {"classifier.weight", "classifier.bias"} <= {*report.new}
    assert report.dropped and all(name.startswith("cls.") for name in report.dropped)
    model.save_pretrained(tmp_path / "tuned")
    _, report = load_plain_classifier(tmp_path / "tuned", 2)
    assert report.new == ["classifier.bias", "classifier.weight"] == report.dropped
    random, report = load_plain_classifier(bert, 3, random_start=True)
    assert report.loaded == [] and report.new == sorted(random.state_dict())

    broken = tmp_path / "broken"
    shutil.copytree(bert, broken)
    weights = load_file(broken / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"] = torch.zeros(5, 32)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"bert\.embeddings\.word_embeddings\.weight"):
        load_plain_classifier(broken, 3)


@pytest.mark.prefect
@pytest.mark.end_to_end
def test_a_plain_encoder_is_evaluated_by_the_same_command(bert: Path, tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log.md"
    words = ["evaluate", bert, "--tasks", "mrpc,stsb", "--log", log, *SMALL]
    done = cogito(*words, "--json", home=home, COGITO_SERVER="off")
    assert done.returncode == 0, done.stderr
    result = answer(done)
    assert [score["task"] for score in result["scores"] if score["metric"] in ("f1", "pearson")] == ["mrpc", "stsb"]
    record = load_record(Home(home).run(result["run_id"]))
    assert record.checkpoint is not None and (record.checkpoint.family, record.checkpoint.variant) == ("plain", "bert")
    assert record.status == "complete" and record.stages["analysis"].status == "skipped"
    assert not {"model", "objective", "training"} & set(record.spec), "nothing is claimed of how it was made"
    assert all(cell.loaded_weights > 10 and "classifier.weight" in cell.new_weights for cell in record.cells)
    row = next(line for line in log.read_text().splitlines() if result["run_id"] in line)
    assert "`tiny-bert` (local)" in row and "analysis skipped (a plain encoder has no concepts)" in row

    assert "weights loaded, 4 (bert.pooler" in done.stderr
    facts = answer(cogito("checkpoint", "show", bert, "--json", home=home))
    assert facts["weights"].startswith("21 weights loaded, 4 (bert.pooler.dense.bias, ")
    assert (facts["model_type"], facts["class"], facts["tokenizer"]) == ("bert", "BertForMaskedLM", "in the folder")

    kept = words[: words.index("evaluation.max_length=32") - 1] + words[words.index("evaluation.max_length=32") + 1 :]
    for more, message in (
        (["--head", "via_decoder"], "tiny-bert is a plain bert without concepts"),
        (["--set", "evaluation.max_length=64"], "evaluation.max_length: got 64; tiny-bert reads at most 48 tokens"),
    ):
        refused = cogito(*kept, *more, home=home, COGITO_SERVER="off")
        assert refused.returncode == 2 and message in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr
    refused = cogito("analyse", bert, home=home)
    assert refused.returncode == 2 and "no concepts to analyse" in refused.stderr


@pytest.mark.prefect
@pytest.mark.end_to_end
def test_an_earlier_checkpoint_is_shown_converted_and_evaluated(bert: Path, tmp_path: Path) -> None:
    old, new, home = tmp_path / "old", tmp_path / "new", tmp_path / "home"
    old.mkdir()
    row = {**LANGUAGE_MODELS["perceiver"], "vocab_size": 600, "max_sequence_length": 64}
    config = {**old_config(row), **{key: row[key] for key in ("vocab_size", "max_sequence_length")}}
    weights = old_weights(row, config)
    for name, length in (
        ("encoder.token_embeddings", 600),
        ("encoder.token_position_embeddings", 64),
        ("decoder_query_embeddings", 64),
    ):
        weights[f"{name}.weight"] = torch.randn(length, 16)
    (old / "config.json").write_text(json.dumps(config))
    torch.save(weights, old / "pytorch_model.bin")

    facts = answer(cogito("checkpoint", "show", old, "--json", home=home))
    assert (facts["variant"], facts["size"], facts["tokenizer"]) == ("perceiver_mlm", "H16 L2 C5", "none")
    assert facts["parameters"] == sum(tensor.numel() for tensor in weights.values())
    done = cogito("checkpoint", "convert", old, new, "--tokenizer", bert, home=home)
    assert "%|" not in done.stderr, "no bar of transformers"
    assert done.returncode == 0, done.stderr
    one, two = load_checkpoint(old).state_dict(), load_checkpoint(new).state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert (new / "tokenizer.json").is_file() and (new / "manifest.json").is_file()
    again = cogito("checkpoint", "convert", old, new, home=home)
    assert again.returncode == 2 and "exists already" in again.stderr

    settings: list[Any] = [
        *SMALL,
        "--set",
        "data.dataset=builtin/python_docs",
        "--set",
        "data.max_documents=60",
        "--set",
        "data.block_tokens=32",
        "--set",
        "data.held_out_share=0.2",
    ]
    words = ["evaluate", old, "--tasks", "mrpc", "--log", tmp_path / "log.md", *settings]
    refused = cogito(*words, home=home, COGITO_SERVER="off")
    assert refused.returncode == 2 and "has no tokenizer; fix: --tokenizer" in refused.stderr
    done = cogito(*words, "--tokenizer", bert, "--json", home=home, COGITO_SERVER="off")
    assert done.returncode == 0, done.stderr
    record = load_record(Home(home).run(answer(done)["run_id"]))
    assert record.head == "via_decoder" and record.analysis is not None and record.analysis.num_concepts == 5
    (cell,) = record.cells
    assert cell.dropped_weights == [] and all(name.startswith("head.") for name in cell.new_weights)
