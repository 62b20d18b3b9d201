"""A new concept loss, head, objective, decoder, variant, metric or task is one row: nothing else needs to know it.

One row of each is added from outside, together with its code, and one tiny experiment that uses all of them goes from
the listing to the report. The rows reach every process of the run, since Python imports `sitecustomize` at its start;
Cogito itself has no such mechanism.
"""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, answer, cogito

pytestmark = pytest.mark.end_to_end

# Tables must be light, so the code of the family's rows is a module of its own.
ROWS = """
import pathlib

import numpy as np

import models
from models import family
from tasks.scores.metrics import METRICS, Metric
from tasks.spec.benchmarks import TASKS, Split, Task

models.__path__.append(str(pathlib.Path(__file__).parent / "code"))


def worst_recall(references, predictions):
    def recall(label):
        is_label = references == label
        return (is_label & (predictions == label)).sum(axis=-1) / np.maximum(is_label.sum(axis=-1), 1)

    return np.minimum(recall(0), recall(1))


def zero(references):
    return 0.0


def new(row_class, *fields, **more):
    # The code lies in a module of this test instead of that of its table.
    return type(row_class.__name__, (row_class,), {"module": "new_code"})(*fields, **more)


for table, row in (
    (family.CONCEPT_LOSSES, new(family.ConceptLoss, "centering", "centering", "squared norm of the mean concept")),
    (family.HEADS, new(family.Head, "max_pooling", "MaxPooling", "largest value of every dimension", "max pooling")),
    (family.OBJECTIVES, new(family.Objective, "span_mask", "mask_span", "one masked span", reads=("mask_prob",))),
    (family.DECODERS, new(family.Decoder, "mean", "MeanDecoder", "the mean concept and a position")),
    (
        family.VARIANTS,
        family.Variant("mean_span", "span_mask", "mean", "max_pooling", "spans from the mean concept"),
    ),
    (
        METRICS,
        Metric("worst_recall", worst_recall, worst_recall, "constant", zero, True, True, ("worst recall",)),
    ),
    (
        TASKS,
        Task(
            name="tense",
            dataset="lab/tense",
            config=None,
            text_columns=("before", "after"),
            label_column="is_past",
            labels=("present", "past"),
            metrics=("worst_recall", "accuracy"),
            eval_splits=(Split("validation", "tense", "TENSE", (30, 30)),),
            selection_split=None,
            epochs=1,
            source="made for this test",
        ),
    ),
):
    table[row.name] = row
"""

CODE = """
import numpy as np
from torch import nn

from .decoders import Decoder
from .family import IGNORE_INDEX
from .heads import Head
from .objectives import CorruptedSample


def centering(concepts):
    return concepts.mean(dim=1).square().sum(dim=-1).mean()


def mask_span(ids, generator, settings):
    ordinary = np.flatnonzero(~np.isin(ids, settings.special_ids))
    count = max(1, int(settings.mask_prob * len(ordinary)))
    first = generator.integers(len(ordinary) - count + 1)
    span = ordinary[first : first + count]
    labels, corrupted = np.full(len(ids), IGNORE_INDEX), ids.copy()
    labels[span], corrupted[span] = ids[span], settings.mask_token_id
    return CorruptedSample(corrupted, labels)


class MeanDecoder(Decoder):
    def __init__(self, config):
        super().__init__()
        self.position_embedding = nn.Embedding(config.max_sequence_length, config.hidden_size)

    def forward(self, concepts, positions, reads):
        return concepts.mean(dim=1, keepdim=True) + self.position_embedding(positions)


class MaxPooling(Head):
    def pool(self, concepts, input_ids, attention_mask, decode):
        return concepts.amax(dim=1)
"""

SPEC = """\
name: rows
data:
  dataset: builtin/python_docs
  max_documents: 100
  train_tokenizer_vocab_size: 400
  block_tokens: 32
  held_out_share: 0.1
model: {variant: mean_span, hidden_size: 32, num_layers: 1, num_concepts: 4, intermediate_size: 32}
objective: {mask_prob: 0.2, concept_losses: {centering: 0.5}}
training: {max_steps: 6, global_batch_size: 8, per_device_batch_size: 8, warmup_steps: 2, eval_every_steps: 3}
evaluation: {tasks: [tense], epochs: 4, max_length: 32, global_batch_size: 20, learning_rate: 3.0e-3}
analysis: {max_samples: 16}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the new rows, their code, the data of the new task and an experiment that uses all of them."""
    place = tmp_path_factory.mktemp("rows")
    for name, text in (("sitecustomize.py", ROWS), ("code/new_code.py", CODE), ("rows.yaml", SPEC)):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")
    texts = "You open it now.", "They wrote, closed, saved, moved, parsed."
    data = place / "data" / "lab" / "tense"
    data.mkdir(parents=True)
    for split, count in (("train", 200), ("validation", 60)):
        befores = [f"You read a file and close it, {split} {number}." for number in range(count)]
        rows = [{"before": before, "after": texts[i % 2], "is_past": i % 2} for i, before in enumerate(befores)]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return place


def command(place: Path, *words: str, code: int = 0) -> Any:
    """The answer of a command that knows the rows: JSON with --json, else its output."""
    paths = {"PYTHONPATH": os.pathsep.join((str(place), str(ROOT))), "COGITO_DATA_ROOT": str(place / "data")}
    done = cogito(*words, home=place / "home", COGITO_SERVER="off", COGITO_LOG=str(place / "log.md"), **paths)
    assert done.returncode == code, done.stdout + done.stderr
    return answer(done) if "--json" in words else done.stdout


@pytest.fixture(scope="module")
def run(place: Path) -> dict[str, Any]:
    """The result of the experiment."""
    return command(place, "run", "rows.yaml", "--json")


def test_every_row_is_listed(place: Path) -> None:
    new = {"losses": "centering", "heads": "max_pooling", "objectives": "span_mask", "decoders": "mean"}
    new |= {"variants": "mean_span", "tasks": "tense"}
    with ThreadPoolExecutor(2) as pool:
        listed = pool.map(lambda kind: command(place, "ls", kind, "--json"), new)
    for name, rows in zip(new.values(), listed, strict=True):
        assert name in {row["name"] for row in rows}


def test_an_experiment_may_name_them(place: Path) -> None:
    assert command(place, "check", "rows.yaml") == "rows.yaml: ok\n"
    shown = command(place, "show", "rows.yaml", "--json")
    assert shown["spec"]["model"]["variant"] == "mean_span" and shown["parameters"] > 0


def test_they_are_trained_scored_and_logged(place: Path, run: dict[str, Any]) -> None:
    assert run["status"] == "complete" and run["scores"][0]["value"] > 0.5
    assert {(s["task"], s["metric"]): s["floor"] for s in run["scores"]} == {
        ("tense", "worst_recall"): 0,
        ("tense", "accuracy"): 0.5,
    }
    (row,) = command(place, "log", "show", "--json")
    assert row["run_id"] == run["run_id"] and row["scores"] == {"tense": run["scores"][0]["value"]}
    assert "`centering`" in row["concept_losses"] and "Span mask eval" in row["task_loss"]
    assert "**TENSE:**" in row["key_glue_scores"] and "MaxPooling:" in row["conclusion_takeaway"]


def test_the_log_check_knows_what_the_task_can_score(place: Path, run: dict[str, Any]) -> None:
    assert command(place, "log", "check", "log.md", "--json") == []
    stated = (place / "log.md").read_text(encoding="utf-8")
    (place / "wrong.md").write_text(re.sub(r"(?<=\*\*TENSE:\*\* )[\d.]+", "104.0", stated), encoding="utf-8")
    (finding,) = command(place, "log", "check", "wrong.md", "--json", code=1)
    assert finding["message"] == "TENSE 104.0% is outside 0 to 100 %"


def test_a_comparison_of_the_run_with_its_row_has_the_figure(place: Path, run: dict[str, Any]) -> None:
    (comparison,) = command(place, "compare", run["run_id"], f"log.md#{run['run_id']}", "--json")
    (figure,) = (figure for figure in comparison["figures"] if figure["metric"] == "worst_recall")
    assert figure["a"] == figure["b"] == run["scores"][0]["value"]
    assert not comparison["differs"], "variant, objective and concept loss of the row are those of the run"


def test_the_report_shows_them(place: Path, run: dict[str, Any]) -> None:
    command(place, "report", run["run_id"])
    report = (Path(run["record"]).parent / "report.md").read_text(encoding="utf-8")
    for part in (
        r"\| tense \| worst_recall \(primary\) ",
        "objective.concept_losses.centering",
        "max_pooling",
        "mean_span",
    ):
        assert re.search(part, report), part
