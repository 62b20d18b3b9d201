"""The first screen of a report: five lines that say the right thing of any record, and the contents below them."""

import re
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from factories import (
    make_analysis,
    make_checkpoint,
    make_corpus,
    make_pretraining,
    make_record,
    make_score,
    put_scored_run,
)

from tasks.artifacts import FlowRunContext
from tasks.report.explanations import FIGURES
from tasks.report.first_screen import duration, five_lines
from tasks.report.rendering import to_html, to_markdown
from tasks.report.run import run_report
from tasks.review.comparisons import Figure
from tasks.store.home import Home
from tasks.store.records import CellResult, Divergence, RunRecord, StageRecord

DONE = StageRecord(status="complete", seconds=60.0)
NOTHING: dict[str, Any] = {"pretraining": None, "scores": [], "analysis": None, "corpus": None}
HEALTHY = {
    "effective_rank_per_sample_mean": 9.5,
    "input_variance_share": 0.095,
    "retrieval_top_1": 0.371,
    "retrieval_chance": 1 / 256,
}
DIVERGED = Divergence(
    reason="the loss is nan", step=1200, kept_step=1000, loss=7.0, gradient_norm=1e9, learning_rate=1e-3
)
STAGES = {"finetuning": DONE, "analysis": StageRecord(status="complete", seconds=3.0)}


def of_checkpoint(family: str = "concept", **changes: Any) -> RunRecord:
    checkpoint = make_checkpoint(name="lab/enc", origin="hub", family=family, variant="bert")
    return make_record(kind="evaluation", **{"checkpoint": checkpoint, "stages": STAGES, **changes})


def asking(**evaluation: Any) -> dict[str, Any]:
    """A spec with these settings of its evaluation."""
    spec = make_record().spec
    spec["evaluation"] |= evaluation
    return spec


# Of every kind of record, what the five lines say: alarm and text.
CASES: dict[str, tuple[RunRecord, dict[str, str]]] = {
    "complete": (
        make_record(analysis=make_analysis(figures=HEALTHY, num_concepts=16)),
        {
            "Run": "perceiver_mlm H512 L6 C128, 36,000,000 parameters, 100 steps (20 epochs) on JeanKaddour/minipile.",
            "Loss": "left the unigram plateau: held-out loss 4.010, 3.24 nats below the unigram entropy 7.250.",
            "Tasks": "above floor: QQP, STS-B; at floor (not decided): MRPC.",
            "Concepts": "not collapsed: 9.5 of 16 directions in use; the text decides 9.5% of their variance; 37.1% of "
            "texts with tokens left out are found again (chance 0.4%).",
            "Problems": "none; 1 min 0 s of work.",
        },
    ),
    "on the plateau, collapsed": (
        make_record(
            pretraining=make_pretraining(eval_loss=7.3, warnings=["collapse: step 9: rank fell"]),
            analysis=make_analysis(figures=HEALTHY | {"retrieval_top_1": 3 / 256}, num_concepts=16),
        ),
        {
            "Loss": "**Still on the unigram plateau**; held-out loss 7.300, 0.05 nats above the unigram entropy 7.250; "
            "less than 0.2 below: nothing contextual was learned.",
            "Concepts": "**Collapsed: the concepts do not tell texts apart**; 9.5 of 16 directions",
            "Problems": "**collapse: step 9: rank fell**; 1 min 0 s of work.",
        },
    ),
    "diverged": (
        make_record(status="diverged", **NOTHING | {"pretraining": make_pretraining(diverged=DIVERGED)}),
        {
            "Loss": "held-out loss 4.010 nats; the unigram entropy is not recorded.",
            "Tasks": "none scored: finetuning was not reached.",
            "Problems": "**diverged at step 1,200: the loss is nan**; 1 min 0 s of work.",
        },
    ),
    "not finite": (
        make_record(pretraining=make_pretraining(eval_loss=float("inf"))),
        {"Loss": "**The held-out loss is inf**; so nothing was learned that could be used."},
    ),
    "failed early": (
        make_record(
            status="failed",
            stages={"data": StageRecord(status="failed", seconds=2.0, message="no such data\nsecond")},
            **NOTHING,
        ),
        {
            "Run": "perceiver_mlm H512 L6 C128 on JeanKaddour/minipile.",
            "Loss": "not measured: pretraining was not reached.",
            "Tasks": "none scored: finetuning was not reached.",
            "Concepts": "not measured: analysis was not reached.",
            "Problems": "**data failed (no such data)**; 2 s of work.",
        },
    ),
    "failed cells": (
        make_record(
            scores=[make_score(value=None), make_score("paws", 0.36, 0.558), make_score("qqp", 0.9, 0.5)],
            cells=[
                CellResult(task="mrpc", seed=n, start="checkpoint", status="failed", error="no memory")
                for n in range(5)
            ],
        ),
        {
            "Tasks": "**Below floor: PAWS (worse than the trivial answer by more than chance: a mistake in labels, "
            "head or metric, or, for F1, little learned)**; above floor: QQP; failed: MRPC.",
            "Problems": "**fine-tuning of mrpc, seed 0, checkpoint failed (no memory); fine-tuning of mrpc, seed 1, "
            "checkpoint failed (no memory); fine-tuning of mrpc, seed 2, checkpoint failed (no memory); 2 more**;",
        },
    ),
    "evaluation": (
        of_checkpoint(head="mean_pool", spec=asking(select_on="dev"), scores=[make_score()]),
        {
            "Run": "bert lab/enc was evaluated with head mean_pool; nothing was pretrained.",
            "Loss": "no pretraining to judge.",
            "Tasks": "above floor: none; at floor (not decided): MRPC. The epoch was chosen on the scored split, so "
            "the scores are optimistic.",
            "Concepts": "33.3 of 128 directions in use; a rank alone cannot tell collapse",
        },
    ),
    "analysis alone": (
        of_checkpoint(scores=[], spec=asking(tasks=[])),
        {"Run": "bert lab/enc was analysed; nothing was pretrained.", "Tasks": "none were asked for."},
    ),
    "plain encoder": (
        of_checkpoint("plain", analysis=None),
        {
            "Run": "plain encoder (bert) lab/enc was evaluated with head via_decoder; nothing was pretrained.",
            "Concepts": "none: a plain encoder has no concepts.",
        },
    ),
    "old": (
        make_record(spec={"name": "old"}, stages={}, corpus=None, analysis=make_analysis(figures={})),
        {
            "Run": "a model, 36,000,000 parameters, 100 steps (20 epochs).",
            "Concepts": "no rank is recorded; a rank alone cannot tell collapse",
            "Problems": "none; no stage has ended.",
        },
    ),
    "one task, running": (
        make_record(status="running", made_data=True, scores=[make_score(value=0.9)]),
        {
            "Run": "on JeanKaddour/minipile; text or tasks are made data.",
            "Tasks": "above floor: MRPC.",
            "Problems": "still running; 1 min 0 s of work.",
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_screen_of_any_record_says_what_came_out(home: Home, name: str) -> None:
    record, expected = CASES[name]
    run = home.run(record.run_id)
    run.root.mkdir()
    record.save(run)
    text = to_markdown(run_report(run)).replace("\\", "")
    lines = dict(re.findall(r"^- (\w+): (.*)$", text.partition("Contents: ")[0], flags=re.M))
    assert list(lines) == ["Run", "Loss", "Tasks", "Concepts", "Problems"]
    for about, words in expected.items():
        assert words in lines[about]
    unmarked = {about for about in lines if "**" in lines[about]}
    assert unmarked == {about for about, words in expected.items() if "**" in words}, "nothing else is an alarm"
    assert "![Summary picture: " in text and text.index("![Summary") < text.index("Contents: ")


def test_a_random_start_stands_in_the_line_of_the_tasks() -> None:
    verdicts = {"mrpc": (0.1, 0.2), "qqp": (-0.1, 0.1), "stsb": (-0.2, -0.1)}
    figures = [Figure(name=task, task=task, a=0.5, b=0.6, delta=0.1, interval=ends) for task, ends in verdicts.items()]
    line = five_lines(make_record(), make_record(), figures)[2]
    assert line.text.endswith("Beside a random start: better on MRPC; within noise on QQP; worse on STS-B.")


def test_the_contents_lead_to_every_section(home: Home) -> None:
    record = make_record(stages={"data": StageRecord(status="failed", message="a\n## b")}, status="failed")
    run = home.run(record.run_id)
    run.root.mkdir()
    record.save(run)
    text = to_markdown(run_report(run))
    page = to_html(text, "x", {})
    links = re.findall(r'href="#([\w-]+)"', page)
    assert links == re.findall(r'<h2 id="([\w-]+)"', page)[1:], "a heading inside a message is none"
    assert links[:2] == ["skipped-and-failed", "scores"] and "planned-and-done" in links


def test_every_figure_of_the_geometry_is_explained() -> None:
    import torch

    from models.geometry import GeometryStream, compare_texts

    concepts = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(0))
    stream = GeometryStream(4, 8)
    stream.update(concepts)
    known = stream.figures() | compare_texts(concepts, concepts)
    assert set(FIGURES) == set(known), "each has a sentence, and no sentence is left over"


def test_times_are_short() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.6, 160, 3780)] == ["0 s", "1 min 0 s", "2 min 40 s", "1 h 3 min"]


def test_the_first_screen_is_shown_in_the_ui(home: Home) -> None:
    from tasks import artifacts, stages

    labels = np.array([0, 1] * 50)
    record = put_scored_run(home, "run_1", labels, {1: labels}, corpus=make_corpus())
    shown: list[tuple[str, str]] = []
    with (
        patch.object(FlowRunContext, "get", return_value=object()),
        patch.object(artifacts, "create_markdown_artifact", lambda text, key, description: shown.append((key, text))),
    ):
        stages.make_report.fn(home.run(record.run_id).root)
    ((key, text),) = shown
    assert key == "summary-run-1" and "](data:image/png;base64,iVBOR" in text and "report/summary" not in text
    assert "- Tasks: above floor: MRPC." in text and "Contents" not in text and "## Scores" not in text
