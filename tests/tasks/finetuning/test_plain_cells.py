"""A cell of every family of plain encoders, from its name to its predictions: those that transformers itself makes."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from encoder_folders import FAMILIES, encoder_folder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from models.plain_inputs import reads_segments
from tasks.data.made_tasks import make_split
from tasks.data.task_data import prepare_task
from tasks.errors import UserError
from tasks.finetuning.loop import run_finetuning
from tasks.jobs.messages import FinetuningJob
from tasks.runs.preflight import EvaluationInputs, find_evaluation
from tasks.runs.request import Request
from tasks.spec.benchmarks import TASKS
from tasks.store.home import Home

ENCODERS = [family for family in FAMILIES if family != "t5"]
SMALL = {"data": "made", "max_train_examples": 50, "epochs": 0.1, "max_length": 40}


def find(folder: Path, home: Home, **changes: int) -> EvaluationInputs:
    overrides = [f"evaluation.{key}={value}" for key, value in (SMALL | changes).items()]
    return find_evaluation(str(folder), Request(home, None, home.root / "log.md"), tasks=["mrpc"], overrides=overrides)


@pytest.mark.parametrize("family", ENCODERS)
def test_a_cell_predicts_what_transformers_predicts(family: str, home: Home, tmp_path: Path) -> None:
    folder = encoder_folder(family, tmp_path / "encoder")
    inputs = find(folder, home)
    protocol = inputs.spec.evaluation.for_task("mrpc").model_copy(update={"keep_model": True})
    data = prepare_task(TASKS["mrpc"], protocol, inputs.tokenizer, inputs.tasks["mrpc"], home, inputs.checkpoint.family)
    shared = {"identity": "x", "task": "mrpc", "seed": 1, "start": "checkpoint", "head": "sequence_classification"}
    job = FinetuningJob(
        **shared,  # type: ignore[arg-type]
        checkpoint=inputs.checkpoint.folder,
        family="plain",
        precision="fp32",
        start_from=None,
        data=data.folder,
        protocol=protocol,
        device="cpu",
    )
    cell = run_finetuning(job, tmp_path)
    assert cell.model is not None and cell.train_examples == 50
    rows = pq.read_table(cell.predictions["mrpc"]).to_pandas()[:24]

    texts = make_split("mrpc", "validation")
    model = AutoModelForSequenceClassification.from_pretrained(cell.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = [list(texts[name][:24]) for name in TASKS["mrpc"].text_columns]
    segments = {"return_token_type_ids": reads_segments(model)}
    batch: Any = tokenizer(*pairs, truncation=True, max_length=40, padding=True, return_tensors="pt", **segments)
    assert int(batch["attention_mask"].sum(dim=1).max()) == 40, "some pairs are cut"
    with torch.no_grad():
        expected = model(**batch).logits.numpy()
    np.testing.assert_allclose(rows[["logit_0", "logit_1"]].to_numpy(), expected, rtol=1e-3, atol=1e-5)
    assert rows["label"].tolist() == list(texts["label"][:24])


def test_a_text_is_no_longer_than_the_encoder_reads(home: Home, tmp_path: Path) -> None:
    roberta = encoder_folder("roberta", tmp_path / "roberta")
    with pytest.raises(UserError, match=r"max_length: got 65; roberta reads at most 64 tokens; fix: .*max_length=64"):
        find(roberta, home, max_length=65)
    assert find(roberta, home, max_length=64).spec.evaluation.max_length == 64
    request = Request(home, None, home.root / "log.md")
    asked = find_evaluation(str(roberta), request, tasks=["mrpc"], overrides=["evaluation.data=made"])
    assert asked.spec.evaluation.max_length == 64, "the default fits"
    long = encoder_folder("bert", tmp_path / "long", config={"max_position_embeddings": 1024})
    assert find(long, home, max_length=1000).spec.evaluation.max_length == 1000
    t5 = tmp_path / "t5"
    with pytest.raises(UserError, match="t5 is an encoder-decoder"):
        find(encoder_folder("t5", t5), home)


def test_a_tokenizer_of_another_model_is_refused_or_warned_of(
    home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = encoder_folder("bert", tmp_path / "bert", config={"vocab_size": 162})
    with pytest.raises(UserError, match=r"tokenizer: has 163 tokens, bert has 162"):
        find(folder, home)
    padded = encoder_folder("bert", tmp_path / "padded", config={"vocab_size": 176})
    with caplog.at_level(logging.WARNING):
        assert find(padded, home).checkpoint.family == "plain"
        assert "tokenizer" not in caplog.text
        find(encoder_folder("bert", tmp_path / "other", config={"vocab_size": 400, "mask_token_id": 9}), home)
    assert "tokenizer: has 163 tokens, other has 400: is it that of another model? fix: --tokenizer" in caplog.text
    assert "tokenizer: its mask token has id 4, other states 9" in caplog.text
