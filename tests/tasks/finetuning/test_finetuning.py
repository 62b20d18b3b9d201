"""Fine-tuning without Prefect: zero-shot answers, a start from another task's model, texts encoded apart."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import load_checkpoint, save_checkpoint
from models.configuration import ConceptConfig
from models.weight_files import weights_size
from tasks.data.corpus import load_tokenizer, train_tokenizer
from tasks.data.python_docs import iterate_documents
from tasks.data.task_data import PreparedTask, find_task_source, load_examples, prepare_task
from tasks.finetuning.cell import Cell
from tasks.finetuning.loop import make_batch
from tasks.finetuning.scoring import read_predictions, score_task
from tasks.finetuning.stage import _is_whole, _report_weights, finetune
from tasks.jobs.history import past_jobs
from tasks.spec.benchmarks import TASKS
from tasks.spec.evaluation import EvaluationSpec
from tasks.store.files import file_sha256
from tasks.store.home import Home
from tasks.store.records import CellResult, Checkpoint, Start

pytestmark = pytest.mark.end_to_end

SETTINGS: dict[str, Any] = {
    "data": "made",
    "tasks": ("mnli", "mrpc", "stsb"),
    "epochs": 0.2,
    "max_length": 32,
    "global_batch_size": 32,
    "learning_rate": 1e-3,
    "max_train_examples": 200,
    "zero_shot": True,
    "per_task": {"mrpc": {"start_from": "mnli"}},
}


class Bench:
    """A small pretrained checkpoint and the made tasks."""

    def __init__(self, root: Path) -> None:
        self.home, self.spec = Home(root / "home"), EvaluationSpec(**SETTINGS)
        texts = [text for _, text in zip(range(40), iterate_documents(), strict=False)]
        train_tokenizer(iter(texts), 600, root / "tokenizer")
        tokenizer = load_tokenizer(root / "tokenizer")
        torch.manual_seed(0)
        config = ConceptConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_concepts=6,
            num_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_sequence_length=32,
            pad_token_id=tokenizer.pad_token_id,
        )
        folder = root / "checkpoint"
        save_checkpoint(ConceptModelForMaskedLM(config), folder)
        weights = file_sha256(folder / "model.safetensors")
        self.checkpoint = Checkpoint(
            name="bench", folder=folder, origin="local", weights_sha256=weights, variant="perceiver_mlm"
        )
        self.run, self.tokenizer = self.home.run("run"), root / "tokenizer"

    def task(self, name: str) -> PreparedTask:
        source = find_task_source(TASKS[name], "made", self.home, None)
        return prepare_task(TASKS[name], self.spec.for_task(name), self.tokenizer, source, self.home)

    def cell(self, name: str, head: str = "via_decoder", start: Start = "checkpoint", **more: Any) -> CellResult:
        protocol = self.spec.for_task(name)
        cell = Cell(name, 42, start, head, protocol)
        return finetune(cell, self.checkpoint, self.task(name), self.run, self.home, **more)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def test_zero_shot_is_the_cosine_of_the_mean_concepts(bench: Bench) -> None:
    cell = bench.cell("stsb", "sentence_pair", "zero_shot")
    assert cell.history == [] and cell.best_epoch is None and cell.train_examples == 0
    labels, answers = read_predictions(cell.predictions["stsb"])
    examples = load_examples(bench.task("stsb").folder, "eval-stsb")
    pad = load_tokenizer(bench.tokenizer).pad_token_id
    batch = make_batch(examples, np.arange(20), pad, torch.device("cpu"), apart=True)
    encoder = load_checkpoint(bench.checkpoint.folder).get_submodule("encoder")
    with torch.no_grad():
        means = [encoder(batch[f"input_ids_{side}"], batch[f"attention_mask_{side}"]).mean(dim=1) for side in "ab"]
    # The pooled vectors are normalised, and the norm is new: mean 0, variance 1 over the dimensions.
    a, b = (torch.nn.functional.layer_norm(mean, mean.shape[-1:]) for mean in means)
    expected = torch.nn.functional.cosine_similarity(a, b)
    np.testing.assert_allclose(answers[:20], expected.numpy(), atol=1e-5)
    (pearson, _) = score_task([cell], bench.task("stsb"), bench.run)
    assert pearson.start == "zero_shot" and pearson.value == pytest.approx(np.corrcoef(labels, answers)[0, 1])


def test_a_task_starts_from_the_model_fine_tuned_on_another(bench: Bench) -> None:
    mnli = bench.cell("mnli")
    assert mnli.model is not None and mnli.start_from is None
    (past,) = [job for job in past_jobs(bench.home) if (job.work.kind, job.work.task) == ("finetuning", "mnli")]
    with np.load(bench.task("mnli").folder / "train.npz") as train:
        assert past.work.tokens == 0.2 * train["ids"].size
    assert past.seconds == mnli.seconds and past.work.size == weights_size(bench.checkpoint.folder) > 10_000
    kept = load_file(mnli.model / "model.safetensors")
    mrpc = bench.cell("mrpc", begin=mnli)
    assert mrpc.start_from == "mnli" and mrpc.model is None
    assert mrpc.new_weights == ["head.classifier.bias", "head.classifier.weight"] == mrpc.dropped_weights
    assert mrpc.loaded_weights == len(kept) - 2
    assert bench.cell("mrpc", begin=mnli).reused and bench.cell("mnli").reused
    scores = score_task([mrpc], bench.task("mrpc"), bench.run)
    assert {score.start_from for score in scores} == {"mnli"}
    plain = bench.cell("mrpc", head="weighted_pooling")
    assert not plain.reused and plain.start_from is None, "without that start it is another cell"


def test_a_head_that_compares_texts_is_trained_too(bench: Bench) -> None:
    cell = bench.cell("stsb", "sentence_pair")
    assert cell.best_epoch is not None and all(name.startswith("head.") for name in cell.new_weights)
    _, answers = read_predictions(cell.predictions["stsb"])
    assert np.isfinite(answers).all() and np.ptp(answers) > 0


def make_cell(start: Start = "checkpoint", **changes: Any) -> CellResult:
    facts = {"task": "mrpc", "seed": 42, "start": start, "precision": "fp32", "status": "complete"}
    return CellResult(**facts, loaded_weights=64, new_weights=["head.a", "head.b"], **changes)


def test_a_cell_whose_predictions_are_gone_is_made_anew(tmp_path: Path) -> None:
    run = Home(tmp_path).run("run")
    here, moved = run.cell("mrpc", 42, "checkpoint") / "a.parquet", Path("/elsewhere/finetuning/mrpc-seed42-checkpoint")
    for stored in (here, moved / "a.parquet"):
        cell = make_cell(predictions={"mrpc": stored})
        assert not _is_whole(cell, run)
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_bytes(b"")
        assert _is_whole(cell, run)
        here.unlink()
    assert not _is_whole(make_cell(model=tmp_path / "gone"), run)


def test_only_a_start_that_takes_weights_says_what_it_took(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "cogito.finetuning"):
        _report_weights(make_cell("random"))
        _report_weights(make_cell())
    said = "mrpc seed 42 (checkpoint, fp32): 64 weights loaded, 2 (head.a, head.b) new, 0 dropped"
    assert caplog.messages == [said]
