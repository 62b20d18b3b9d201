"""What a cell starts from and in what precision it computes: stated in its result, part of its identity."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM

from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import save_checkpoint
from models.configuration import ConceptConfig
from models.plain import load_plain_classifier
from tasks.data.corpus import load_tokenizer, train_tokenizer
from tasks.data.python_docs import iterate_documents
from tasks.data.task_data import PreparedTask, find_task_source, load_examples, padding, prepare_task
from tasks.errors import StageError
from tasks.finetuning import stage
from tasks.finetuning.cell import Cell
from tasks.finetuning.loop import _predict, run_finetuning
from tasks.finetuning.scoring import read_predictions, score_task
from tasks.finetuning.stage import finetune
from tasks.jobs import devices
from tasks.jobs.devices import Device
from tasks.jobs.messages import FinetuningJob
from tasks.runs.claiming import evaluation_identity
from tasks.spec.benchmarks import TASKS
from tasks.spec.evaluation import EvaluationSpec
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.pretraining import DataSpec
from tasks.store.home import Home
from tasks.store.records import CellResult, Checkpoint

SETTINGS: dict[str, Any] = {
    "data": "made",
    "tasks": ("mnli", "stsb"),
    "epochs": 0.2,
    "max_length": 32,
    "global_batch_size": 32,
    "learning_rate": 1e-3,
    "max_train_examples": 120,
    "per_task": {"stsb": {"start_from": "mnli"}},
}
SIZES: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}


class Bench:
    """A plain encoder and a concept checkpoint, both stored in bf16, and the made tasks."""

    def __init__(self, root: Path) -> None:
        self.root, self.home, self.spec = root, Home(root / "home"), EvaluationSpec(**SETTINGS)
        texts = [text for _, text in zip(range(20), iterate_documents(), strict=False)]
        train_tokenizer(iter(texts), 400, root / "tokenizer")
        tokenizer = load_tokenizer(root / "tokenizer")
        shared = SIZES | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        torch.manual_seed(0)
        bert = BertForMaskedLM(BertConfig(**shared, num_hidden_layers=1, max_position_embeddings=32))
        bert.to(torch.bfloat16).save_pretrained(root / "plain")
        concept = ConceptModelForMaskedLM(ConceptConfig(**shared, num_layers=1, num_concepts=4, max_sequence_length=32))
        save_checkpoint(concept.to(torch.bfloat16), root / "concept")
        self.data = {name: self._prepared(name) for name in self.spec.tasks}

    def _prepared(self, name: str) -> PreparedTask:
        source = find_task_source(TASKS[name], "made", self.home, None)
        return prepare_task(TASKS[name], self.spec.for_task(name), self.root / "tokenizer", source, self.home)

    def run(self, task: str, folder: Path, **changes: Any) -> CellResult:
        """Run a cell in this process."""
        fields: dict[str, Any] = {
            "identity": "x",
            "task": task,
            "seed": 42,
            "start": "checkpoint",
            "head": "sequence_classification",
            "checkpoint": self.root / "plain",
            "family": "plain",
            "precision": "fp32",
            "start_from": None,
            "data": self.data[task].folder,
            "protocol": self.spec.for_task(task),
        }
        folder.mkdir(parents=True, exist_ok=True)
        return run_finetuning(FinetuningJob(**fields | changes), folder)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def test_a_plain_encoder_starts_a_regression_from_its_model_of_three_classes(bench: Bench, tmp_path: Path) -> None:
    mnli = bench.run("mnli", tmp_path / "mnli")
    assert mnli.model is not None and (mnli.precision, mnli.stored_precision) == ("fp32", "bf16")
    assert mnli.notes == ["stored in bf16, used in fp32"]
    assert mnli.new_weights == [
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "classifier.bias",
        "classifier.weight",
    ]
    kept = load_file(mnli.model / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    stsb = bench.run("stsb", tmp_path / "stsb", checkpoint=mnli.model, start_from="mnli")
    assert stsb.new_weights == stsb.dropped_weights == ["classifier.bias", "classifier.weight"]
    assert stsb.loaded_weights == len(kept) - 2 and stsb.notes == [] and stsb.stored_precision == "fp32"
    _, answers = read_predictions(stsb.predictions["stsb"])
    assert np.ptp(answers) > 0, "a regression of its own"
    (score, _) = score_task([stsb], bench.data["stsb"], bench.home.run("run"))
    assert (score.start_from, score.precision) == ("mnli", "fp32")


def test_bf16_autocast_computes_in_bf16_over_fp32_weights(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[bool, torch.dtype]] = set()
    forward = torch.nn.Linear.forward

    def watched(self: torch.nn.Linear, features: torch.Tensor) -> torch.Tensor:
        answer = forward(self, features)
        seen.add((torch.is_autocast_enabled("cpu"), self.weight.dtype))
        return answer

    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    exact = bench.run("stsb", tmp_path / "exact")
    assert seen == {(False, torch.float32)}
    seen.clear()
    mixed = bench.run("stsb", tmp_path / "mixed", precision="bf16 autocast")
    assert seen == {(True, torch.float32)} and mixed.precision == "bf16 autocast"
    answers = [read_predictions(cell.predictions["stsb"])[1] for cell in (exact, mixed)]
    assert not np.array_equal(*answers)
    seen.clear()
    concept = {"family": "concept", "checkpoint": bench.root / "concept", "head": "sentence_pair"}
    cosine = bench.run("stsb", tmp_path / "cosine", start="zero_shot", **concept)
    assert (cosine.precision, cosine.stored_precision) == ("fp32", "bf16") and seen == {(False, torch.float32)}


def test_precision_and_config_are_part_of_the_identity(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[FinetuningJob] = []

    def started(folder: Path, job: FinetuningJob, *_: Any) -> CellResult:
        jobs.append(job)
        return CellResult(**job.model_dump(include={"task", "seed", "start"}), status="complete")

    monkeypatch.setattr(stage, "run_on_one_device", started)
    spec = ExperimentSpec(name="test", data=DataSpec(), evaluation=EvaluationSpec(**SETTINGS))

    def evaluation() -> str:
        return evaluation_identity(spec, "via_decoder", None, bench.data)

    def identity(start: Any = "checkpoint", **changes: Any) -> str:
        fields: dict[str, Any] = {"weights_sha256": "0" * 64, "config_sha256": "1" * 64, "variant": "bert"}
        one = Checkpoint(name="it", folder=bench.root / "plain", origin="local", family="plain", **fields | changes)
        cell = Cell("stsb", 42, start, "sequence_classification", bench.spec.for_task("stsb"))
        finetune(cell, one, bench.data["stsb"], bench.home.run("identities"), bench.home)
        return jobs[-1].identity

    monkeypatch.setattr("tasks.finetuning.cell.visible_devices", lambda: (Device("cpu", "0", 1),))
    on_cpu, cosine, whole = identity(), identity("zero_shot"), evaluation()
    assert identity() == on_cpu and jobs[-1].precision == "fp32"
    assert identity(config_sha256="2" * 64) != on_cpu, "the same weights under another config are another model"
    monkeypatch.setattr("tasks.finetuning.cell.visible_devices", lambda: (Device("cuda", "0", 1),))
    assert identity() != on_cpu and jobs[-1].precision == "bf16 autocast"
    assert identity("zero_shot") == cosine and jobs[-1].precision == "fp32"
    assert evaluation() != whole


def test_a_cpu_without_bf16_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "visible_devices", lambda: (Device("cpu", "0", 1),))
    for found, slow in (
        ({"avx512_bf16": False, "amx_bf16": False}, True),
        ({"avx512_bf16": True, "amx_bf16": False}, False),
        ({"bf16": True}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        devices.emulates_bf16.cache_clear()
        assert bool(devices.precision_warnings("bf16")) is slow
        assert devices.precision_warnings("auto") == devices.precision_warnings("fp32") == []
    devices.emulates_bf16.cache_clear()


def test_a_config_in_another_folder_does_not_change_the_weights(bench: Bench, tmp_path: Path) -> None:
    from tasks.checkpoints.finding import resolve_checkpoint

    folder = Path(shutil.copytree(bench.root / "plain", tmp_path / "plain"))
    before = resolve_checkpoint(str(folder), bench.home)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_attention_heads": 4}))
    after = resolve_checkpoint(str(folder), bench.home)
    assert after.weights_sha256 == before.weights_sha256 and after.model_hashes != before.model_hashes


def test_answers_that_are_not_finite_are_no_class(bench: Bench) -> None:
    """The largest of logits that are all NaN is the first: a split would be scored as if every answer were class 0."""
    model, _ = load_plain_classifier(bench.root / "plain", 3)
    data = bench.data["mnli"].folder
    arguments = (load_examples(data, "selection"), padding(data), torch.device("cpu"), "fp32", "logits")
    assert _predict(model, *arguments).shape[1] == 3
    torch.nn.init.constant_(model.get_parameter("classifier.bias"), float("nan"))
    with pytest.raises(StageError, match="logits of the model are not finite"):
        _predict(model, *arguments)
