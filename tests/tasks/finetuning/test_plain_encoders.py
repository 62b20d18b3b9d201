"""Plain encoders of every family, from the data of a task to a step of training: segments, padding and positions."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_folders import FAMILIES, encoder_folder
from tokenizers import Tokenizer
from transformers import AutoConfig, PreTrainedTokenizerFast, XLNetConfig, XLNetForSequenceClassification

from models.plain import load_plain_classifier
from models.plain_inputs import check_pairs, longest_input, reads_segments
from models.tokenizing import TokenizerError
from tasks.data.plain_rows import plain_rows
from tasks.data.task_data import find_task_source, load_examples, padding, prepare_task
from tasks.data.tokenizers import PLAIN_TOKENS, load_tokenizer
from tasks.finetuning.loop import _examples, make_batch
from tasks.spec.benchmarks import TASKS
from tasks.spec.evaluation import EvaluationSpec
from tasks.store.home import Home

CPU = torch.device("cpu")
# T5 is refused: its decoder would classify.
ENCODERS = [family for family in FAMILIES if family != "t5"]
WITH_SEGMENTS = {"bert", "electra", "albert"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {family: encoder_folder(family, root / family) for family in FAMILIES}


@pytest.mark.parametrize("family", ENCODERS)
def test_a_step_of_training_reaches_the_segments_of_both_texts(
    folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    folder, home = folders[family], Home(tmp_path)
    protocol = EvaluationSpec(tasks=("mrpc",), data="made", max_length=40).for_task("mrpc")
    source = find_task_source(TASKS["mrpc"], "made", home, None)
    data = prepare_task(TASKS["mrpc"], protocol, folder, source, home, "plain")
    model, _ = load_plain_classifier(folder, 2)
    examples = _examples(data.folder, "train", model)
    batch = make_batch(examples, np.arange(8), device=CPU, **padding(data.folder))
    assert ("token_type_ids" in batch) is (family in WITH_SEGMENTS) is reads_segments(model)
    stored = load_examples(data.folder, "train")
    assert "first_lengths" not in stored and len(stored["ids"]) == len(stored["token_types"])
    with torch.autograd.detect_anomaly(check_nan=True):
        loss = model(**batch).loss
        loss.backward()
    assert torch.isfinite(loss)
    for name, table in model.named_parameters():
        if name.endswith("token_type_embeddings.weight"):
            assert table.grad is not None and (table.grad.abs().sum(dim=1) > 0).all(), name
    # A row of the batch is what the model alone reads: padding and types lie where they belong.
    model.eval()
    together = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    for number in range(3):
        alone = make_batch(examples, np.array([number]), device=CPU, **padding(data.folder))
        alone.pop("labels")
        torch.testing.assert_close(model(**alone).logits[0], together[number], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
def test_the_longest_input_is_read_and_no_longer_one(folders: dict[str, Path], family: str) -> None:
    folder, row = folders[family], FAMILIES[family]
    tokenizer = load_tokenizer(folder, PLAIN_TOKENS)
    longest = longest_input(folder, tokenizer)
    assert longest == (row.longest or 64)
    model, _ = load_plain_classifier(folder, 2)
    model.eval()

    def logits(length: int) -> torch.Tensor:
        texts = [["the quick brown fox " * length], ["a man is playing " * length]]
        arrays = plain_rows(tokenizer, texts, length) | {"labels": np.zeros(1, dtype=np.int64)}
        assert len(arrays["ids"]) == length
        return model(**make_batch(arrays, np.array([0]), tokenizer.pad_token_id, CPU)).logits

    with torch.no_grad():
        assert torch.isfinite(logits(longest)).all()
        if family in ("deberta-v2", "modernbert"):
            assert torch.isfinite(logits(longest + 9)).all(), "relative and rotary positions have no table"
        else:
            with pytest.raises((IndexError, RuntimeError)):
                logits(longest + 1)


def test_what_limits_an_encoder(folders: dict[str, Path]) -> None:
    """The table, a shorter model_max_length, and for DeBERTa whatever its tokenizer says."""
    bert, deberta = folders["bert"], folders["deberta-v2"]
    tokenizer = load_tokenizer(bert)
    assert tokenizer.model_max_length > 1e20 and longest_input(bert, tokenizer) == 64
    for stated, expected in ((48, 48), (512, 64), (int(1e30), 64)):
        tokenizer.model_max_length = stated
        assert longest_input(bert, tokenizer) == expected
    assert longest_input(folders["t5"], load_tokenizer(folders["t5"], PLAIN_TOKENS)) == 512
    tokenizer = load_tokenizer(deberta)
    for stated, expected in ((48, 48), (512, 512), (int(1e30), 64)):
        tokenizer.model_max_length = stated
        assert longest_input(deberta, tokenizer) == expected


def test_a_tokenizer_that_does_not_fit_the_encoder_is_told(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bert, roberta, modern = (load_tokenizer(folders[family]) for family in ("bert", "roberta", "modernbert"))
    with pytest.raises(TokenizerError, match="pads with id 0, the encoder counts positions after padding with id 1"):
        check_pairs(folders["roberta"], bert)
    with caplog.at_level(logging.WARNING, "cogito.tokenizer"):
        for family, folder in folders.items():
            check_pairs(folder, load_tokenizer(folder, PLAIN_TOKENS))
            assert caplog.text == "", family
        check_pairs(folders["bert"], roberta)
        assert "the second segment has no use" in caplog.text
    stated = json.loads(modern.backend_tokenizer.to_str())
    stated["post_processor"]["pair"][-1]["SpecialToken"]["type_id"] = 2
    three = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(stated)), pad_token="[PAD]")
    with pytest.raises(TokenizerError, match="tells 3 segments apart, the encoder has 2"):
        check_pairs(folders["bert"], three)


def test_an_encoder_that_pads_on_the_left_gets_its_padding_there(folders: dict[str, Path], tmp_path: Path) -> None:
    """XLNet reads its answer off the last token, and has its segments in every layer."""
    home = Home(tmp_path / "home")
    folder = tmp_path / "xlnet"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((folders["modernbert"] / name).read_bytes())
    stated = json.loads((folder / "tokenizer_config.json").read_text()) | {"padding_side": "left"}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    template = json.loads((folder / "tokenizer.json").read_text())
    for piece in template["post_processor"]["pair"][3:]:
        (piece.get("Sequence") or piece["SpecialToken"])["type_id"] = 1
    (folder / "tokenizer.json").write_text(json.dumps(template))
    protocol = EvaluationSpec(tasks=("mrpc",), data="made", max_length=200).for_task("mrpc")
    source = find_task_source(TASKS["mrpc"], "made", home, None)
    data = prepare_task(TASKS["mrpc"], protocol, folder, source, home, "plain")
    assert padding(data.folder) == {"pad_token_id": 403, "padding_side": "left"}
    torch.manual_seed(0)
    sizes = {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "num_labels": 2}
    model = XLNetForSequenceClassification(XLNetConfig(vocab_size=405, pad_token_id=403, **sizes)).eval()
    examples = _examples(data.folder, "train", model)
    batch = make_batch(examples, np.arange(6), device=CPU, **padding(data.folder))
    assert batch["attention_mask"][:, -1].all() and not batch["attention_mask"].all()
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 403).all()
    assert (
        batch["token_type_ids"][:, -1].eq(1).all() and batch["token_type_ids"][batch["attention_mask"] == 0].eq(0).all()
    )
    together = model(**batch)
    alone = make_batch(examples, np.array([2]), device=CPU, **padding(data.folder))
    torch.testing.assert_close(model(**alone).logits[0], together.logits[2], rtol=1e-4, atol=1e-5)
    together.loss.backward()
    grads = [table.grad for name, table in model.named_parameters() if name.endswith("seg_embed")]
    assert grads and all(grad is not None and (grad.abs().sum(dim=(1, 2)) > 0).all() for grad in grads)


def test_every_family_states_its_type(folders: dict[str, Path]) -> None:
    for family, folder in folders.items():
        assert AutoConfig.from_pretrained(folder).model_type == family
