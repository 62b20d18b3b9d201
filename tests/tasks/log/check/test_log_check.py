"""`cogito log check`: what it finds in the user's log, what it must not find, and every planted kind of fault."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from command import ROOT
from factories import (
    make_analysis,
    make_checkpoint,
    make_corpus,
    make_environment,
    make_pretraining,
    make_record,
    make_score,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typed_log import (
    EVALUATION,
    OTHER,
    RUN,
    TRAINING,
    USER_LOG,
    evaluation_row,
    found,
    needs_user_log,
    of,
    serious,
    training_row,
)

from models.family import CONCEPT_LOSSES, HEADS, VARIANTS
from tasks.log.check import RULES, check_log
from tasks.log.check.document import SPLITS, Document
from tasks.log.experiment_log import write_row
from tasks.log.rows import render_row
from tasks.spec.benchmarks import TASKS
from tasks.spec.experiment import ExperimentSpec, fitting_heads
from tasks.store.records import AnalysisResult, CellResult, Divergence, PretrainingResult, RunRecord, Score, StageRecord

# The user's log


@needs_user_log
def test_the_facts_that_the_users_log_shows_by_itself() -> None:
    findings = check_log(USER_LOG)
    seen = {(one.line, one.column, one.rule, one.severity) for one in findings}
    for fact in [
        (9, "WandB Link", "wrong-link", "error"),
        *((line, "WandB Link", "wrong-link", "warning") for line in (10, 11, 15)),
        (24, "WandB", "wrong-link", "warning"),
        (16, "Date", "dates-disagree", "warning"),
        (16, "Eff. Rank", "wrong-percentage", "warning"),
        (15, "Eff. Rank", "wrong-percentage", "note"),
        (9, "Task Loss", "shared-value", "warning"),
        (11, "Task Loss", "shared-value", "warning"),
        (9, "Task Loss", "loss-kinds", "warning"),
        (18, "Task Loss", "loss-kinds", "note"),
        *((line, "Key GLUE Scores", "at-floor", "warning") for line in range(9, 17)),
        (24, "Key Scores", "at-floor", "warning"),
        (24, "Conclusion", "noise", "warning"),
        (9, "Conclusion / Takeaway", "noise", "warning"),
        (15, "Conclusion / Takeaway", "collapse-claim", "warning"),
        (15, "Git Tag", "missing-provenance", "note"),
        (17, "Speed (Steps/s)", "mixed-units", "note"),
        (18, "Eff. Rank", "open-entry", "warning"),
        (18, "Key GLUE Scores", "open-entry", "warning"),
        (34, "ViaDecoder (new)", "open-entry", "warning"),
        (31, "Delta", "mixed-units", "note"),
    ]:
        assert fact in seen
    assert [(one.line, one.rule) for one in findings if one.severity == "error"] == [(9, "wrong-link")]
    assert not of(findings, "contradiction") and not of(findings, "wrong-delta") and not of(findings, "identity")


@needs_user_log
def test_another_report_of_the_users_runs(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "glue.md").write_text(
        f"# Old head of `{RUN}`\n\n| Task | CLS-Query |\n|---|---|\n| MNLI-mm Acc | 61.4% |\n| MNLI-m Acc | 59.1% |\n\n"
        "## Baseline\n\nThe old baseline on MRPC: F1 81.33%, accuracy 74.26%.\n\n"
        f"## Losses of {OTHER}\n\nIts training loss was 4.089.\n",
        encoding="utf-8",
    )
    findings = check_log(USER_LOG, reports=tmp_path / "reports")
    (contradiction,) = of(findings, "contradiction")
    assert (contradiction.line, contradiction.column) == (34, "CLS-Query (old)")
    assert "61.4%" in contradiction.message and "glue.md" in contradiction.message
    (pair,) = of(findings, "impossible-pair")
    assert pair.severity == "error" and pair.file == str(tmp_path / "reports" / "glue.md") and pair.line == 10
    assert any(one.line == 9 and "training loss" in one.message for one in of(findings, "loss-kinds"))


# Nothing is found where nothing is wrong


def test_a_consistent_hand_typed_log_has_no_finding(tmp_path: Path) -> None:
    text = TRAINING + training_row() + training_row(OTHER) + EVALUATION
    text += evaluation_row() + "\n| Task | Old | New | Delta |\n|---|---|---|---|\n| QQP F1 | 72.5% | 75.0% | +2.5% |\n"
    assert found(tmp_path, text) == []


CORRECT_CELLS = {
    "run": [RUN, f"**{RUN}**", f"{RUN} / Perceiver MLM", f"`{RUN}` <br> Perceiver", f"[{RUN}](runs/{RUN}.md)"],
    "date": [
        "2026/02/08",
        "08.02.2026",
        "02/08/2026",
        "20260208",
        "2026-02-08 21:16",
        "2026-02-08T21:16:33Z",
        "8 Feb 2026",
        "February 8th, 2026",
        "2026-02-08 (Sun)",
        "2026-02-08 – 2026-02-10",
        "**2026-02-08**",
        "`2026-02-08`",
        "—",
    ],
    "architecture": [
        "H512L6C128",
        "H=512, L=6, C=128",
        "H512, **L6**, C128",
        "6 layers, 512 hidden, 128 concepts",
        "H512 L6 C128 (8 heads, H8)",
        "H512 L6 C128; decoder L2",
        "512/6/128",
    ],
    "loss": [
        "MLM 2.537 (eval)",
        "eval MLM: 2.537",
        "7.10 → 2.537",
        "MLM 2.537 (−0.1 against L2)",
        "2.537 (ppl 12.6)",
        "MLM train **2.894** / eval **2.537**",
        "MLM 2.537 ± 0.01",
        "diverged (NaN)",
    ],
    "rank": [
        "5.3/128 (4.1 %)",
        "12 of 128 (9.4%)",
        "12/128 (≈9.4%)",
        "12 / 128 (~9 %)",
        "9.4% (12/128)",
        "12/128 = 9.4%",
        "12 / 128 (0.094)",
        "12 → 64 / 128 (50%)",
        "64 / 128 <br> epoch 12/20",
        "5 / 128 (<5%)",
        "collapsed",
        "12.2",
    ],
    "scores": [
        "MRPC F1=86.4 <br/> QQP F1=72.5",
        "MRPC 86.4 (F1)<BR>QQP 72.5 (F1)",
        "MRPC F1: 0.864; QQP F1: 0.725",
        "**MRPC (acc/F1):** 79.9/86.1",
        "**MNLI (m/mm):** 59.1/60.9",
        "MNLI: 59.1 / 60.9 %",
        "MRPC 86.4 ± 0.5%",
        "**RTE:** 61.6 ± 1.2 (3 seeds)",
        "**RTE:** 61.5% (mean over seeds)",
        "**RTE:** 61.5 % (first 200 examples)",
        "**RTE:** 61.5% (n=200)",
        "**RTE (test):** 61.55%",
        "**RTE:** 61.55 (GLUE test server)",
        "**STS-B (P/S):** 0.894 / 0.891",
        "CoLA MCC: 41.2",
        "CoLA 52.1",
        "**CoLA:** 41.2%",
        "CoLA 65.2%",
        "SST-2: 0.8876",
        "MRPC macro-F1: 74.3%, MRPC acc: 79.2%",
        "**QQP:** 71.2% → 72.5%",
        "**QQP:** 72.5% (+1.2 pp)",
        "**MRPC F1/Acc:** 86.1/79.9 [84.0, 88.0]",
        "QQP F1: 72.5% (95% CI (72.0, 73.0), n 40,430)",
        "**MRPC:** 86,4 %",
        "**MRPC:** 86.4% @ ep 3",
        "MRPC=86.4% / QQP=72.5%",
        r"MRPC 86.4% \| QQP 72.5%",
        "MRPC – 86.4%, QQP – 72.5%",
        "__MRPC:__ 86.4%",
        "`MRPC` 86.4%",
        "SICK-E: 78.2%, SICK-R: 0.812",
        "**MRPC:** 82.2% (majority 81.2)",
        "**MRPC:** 81.2% (always positive)",
        "MRPC: 81.2%, the majority class",
        "MRPC: 82.2 % (not above chance)",
        "WNLI 56.3% (majority class)",
        "GLUE: 71.3 (MRPC 86.4, QQP 72.5)",
    ],
    "link": [
        f"https://wandb.ai/lab/c/runs/{RUN}",
        "<https://wandb.ai/lab/c/runs/1a2b3c4d>",
        f'[W](https://wandb.ai/lab/c/runs/{RUN} "run")',
        "[W](https://wandb.ai/lab/c/runs/1a2b3c4d?nw=nwuser)",
        f"[W](https://wandb.ai/lab/c/runs/{RUN}/overview)",
        "[W](https://wandb.ai/lab/c/runs/20260208_211633-1a2b3c4d)",
        "[W](https://wandb.ai/lab/c/runs/1a2b3c4d/workspace?nw=1)",
        "[g](https://wandb.ai/lab/c/groups/x/workspace)",
        f"[train](https://wandb.ai/lab/c/runs/{RUN}) / [glue](https://wandb.ai/lab/c/runs/glue-mrpc-{RUN})",
    ],
    "tag": [
        "[54ee870](https://github.com/a/b/commit/54ee870)",
        "`54ee870-dirty`",
        "`54ee870` (dirty)",
        "main@54ee870",
        "`arch/x-20260207`",
        "`20260311`",
    ],
    "epochs": ["20/20", "12 of 20", "20 (early stop at 17)", "20 - 2 warmup"],
    "conclusion": [
        "Did not improve on QQP (72.5%).",
        "QQP 72.5% is a good score.",
        "No gain on MNLI-m (59.1%).",
        "BERT reaches MNLI-m 84.6%.",
        "Goal: QQP F1 above 80.0%.",
    ],
}


@pytest.mark.parametrize(("column", "cell"), [(name, cell) for name, cells in CORRECT_CELLS.items() for cell in cells])
def test_a_correct_cell_is_not_blamed_however_it_is_written(tmp_path: Path, column: str, cell: str) -> None:
    text = TRAINING + training_row(**{column: cell})
    assert len(Document(tmp_path, text).rows) == 1
    assert serious(found(tmp_path, text)) == []
    assert serious(found(tmp_path, "\ufeff" + text.replace("\n", "\r\n"))) == []


DELTAS = [
    "| Task | Old | New | Delta |\n|---|---|---|---|\n| " + row + " |\n"
    for row in [
        "QQP F1 | 72.5% | 75.0% | +2.5 pp",
        "QQP F1 | 72.5 | 75.0 | +2.5 points",
        "QQP F1 | 72.5 | 75.0 | 2.5",
        "QQP F1 | 75.0% | 72.5% | −2.5%",
        "QQP F1 | 75.0% | 72.5% | –2.5",
        "QQP F1 | 72.5% | 75.0% | +3.4% (rel.)",
        "QQP F1 | 72.5% | 75.0% | +3.4% relative",
        "QQP F1 | 72.5% | 75.0% | +2.5 (+3.4%)",
        "QQP | 72.5% | 75.0% | ▲ 2.5",
        "STS-B | 0.627 | 0.650 | +0.023",
        "STS-B | 0.627 | 0.650 | +2.3 pts",
        "QQP F1 | 72.5 ± 0.2 | 75.0 ± 0.3 | +2.5 ± 0.4",
        "QQP F1 | 72.5% | 75.0% | +2.5 [1.9, 3.1]",
        "QQP F1 | 72.5% | 72.5% | ±0.0",
        "QQP F1 | 72.5% | — | —",
        "tokens | 1,200 | 1,350 | +150",
        "MRPC F1/Acc | 86.1/79.9 | 88.5/82.8 | +2.4/+2.9",
        "loss | 2.640 | 2.537 | 0.103",
    ]
] + [
    "| Task | New | Old | Δ (new − old) |\n|---|---|---|---|\n| QQP F1 | 75.0% | 72.5% | +2.5% |\n",
    "| Task | Ours | Baseline | Gain |\n|---|---|---|---|\n| QQP F1 | 75.0% | 72.5% | +2.5 |\n",
    "| Task | Delta | Old | New |\n|---|---|---|---|\n| QQP F1 | +2.5% | 72.5% | 75.0% |\n",
    "| Task | n | Old | New | Seeds | Delta |\n|---|---|---|---|---|---|\n"
    "| QQP F1 | 40,430 | 72.5% | 75.0% | 3 | +2.5% |\n",
    "| Task | Base | A | Δ A | B | Δ B |\n|---|---|---|---|---|---|\n"
    "| QQP F1 | 72.5% | 75.0% | +2.5 | 76.0% | +3.5 |\n",
    "| Task | L2 | L4 | L6 | Delta |\n|---|---|---|---|---|\n| QQP F1 | 61.4% | 72.5% | 75.0% | +13.6 |\n",
    "| Parameter | Before | After | Change |\n|---|---|---|---|\n| layers | 2 | 6 | 3x |\n| batch | 32 | 64 | 2 |\n",
    "| Layers | Steps | Change |\n|---|---|---|\n| 6 | 100 | 4 |\n",
    "| Case | A | B | Difficulty |\n|---|---|---|---|\n| X | 1 | 2 | 5 |\n",
]
CORRECT_PARTS = [
    "## GLUE leaderboard (published)\n\n| Model | MRPC (F1/Acc) | QQP F1/Acc | STS-B | CoLA | SST-2 | RTE |\n"
    "|---|---|---|---|---|---|---|\n| BERT-large (test) | 89.3 / 85.4 | 72.1/89.3 | 0.865 | 60.5 | 94.9 | 70.1 |\n",
    "## Trivial baselines\n\n| Task | Majority | Always positive F1 | n |\n|---|---|---|---|\n"
    "| MRPC | 68.4% | 81.2% | 408 |\n"
    "| PAWS | 55.8% | 61.3% | 8000 |\n",
    "| Answer | MRPC F1 | MRPC Acc | CoLA |\n|---|---|---|---|\n| always paraphrase | 81.2 | 68.4 | 0.0 |\n",
    f"## Notes on {RUN}\n\nBERT reaches MNLI-m 84.6%. We expect MNLI-m above 70.0%. MRPC 408 pairs, CoLA 2019.\n",
    "```\nMRPC F1 181.2, 15.9 / 128 (12.5%), TBD\n```\n",
    "Done 12/20 (60%), 1/3 (33%), 1,024/2,048 (50%). On 2026/01/17 (50% of it). MNLI 59.1/60.9 (95% CI).\n",
    f"| Run | QQP F1 | MNLI-m | Epochs |\n|---|---|---|---|\n| `{RUN}` | 72.5% | 59.1% | 20/20 |\n",
    f"| Task | `{RUN}` | `{OTHER}` |\n|---|---|---|\n| QQP F1 | 72.5% | 61.4% |\n",
    "No figure is pending; suspending and appending are words.\n",
]


@pytest.mark.parametrize("part", DELTAS + CORRECT_PARTS)
def test_a_correct_part_of_a_document_is_not_blamed(tmp_path: Path, part: str) -> None:
    text = TRAINING + training_row() + training_row(OTHER) + "\n" + part
    assert len(Document(tmp_path, text).others) == part.count("\n|---")
    assert [one for one in serious(found(tmp_path, text)) if one.line > 8] == []


FIGURES_OF_COLLAPSE = ("centred_effective_rank", "same_slot_similarity", "same_slot_similarity_centred")
NAMES = ["testbench", "odra|2", "Łódź-gpu №1", "`bench`", "<node> & co", "gpu_7*", "GPU 2/4"]
DATASETS = ["JeanKaddour/minipile", "local/мой|корпус", "data/`odd` name", "a/b_c*d", "wiki-2-v1", "data/2024_01/"]
MESSAGES = [
    "",
    "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 14.5 of 15.9 GiB in use)",
    "exit code -9 | killed",
    "no space left on device: [Errno 28]; fix: make room, then run it again",
    "<Error> 'x' → 0.009\nmore 140 / 128",
    "pretraining failed",
    "mrpc: seed 42 gave up after 3 of 3 tries; the loss is nan",
    "ä" * 300,
]
REASONS = [
    "the loss is nan",
    "the gradient norm is inf",
    "the held-out loss is inf",
    "the gradient norm 947 is 136 times its running median 6.97",
    "the held-out loss rose to 5.0312 from its best, 0.0090 at step 500",
]
WARNINGS = [
    "collapse: step 500: centred effective rank fell to 2.11 from 31.50",
    "collapse: step 1500: effective rank per sample mean fell to 1.03 from 12.90",
    "too good to be true: step 500: held-out loss 0.0131 against a unigram entropy of 7.25: does the model see the "
    "answers, or the training text hold the held-out one?",
]


@st.composite
def score_of(draw: st.DrawFn, label: str, metric: str | None = None, start: str = "checkpoint") -> Score:
    """A score with consistent fields, from confusion matrices or a correlation, over up to three seeds."""
    task, split = SPLITS[label]
    primary, metric = metric in (None, task.metrics[0]), metric or task.metrics[0]
    counts = split.class_counts
    if draw(st.booleans()):  # a subset of the split, as a mirror holds it
        counts = tuple(max(count // 3, 1) for count in counts)
    n, values = sum(counts), []
    for _ in range(draw(st.integers(1, 3))):
        if metric == "accuracy":
            values.append(draw(st.integers(0, n)) / n)
        elif metric == "f1":
            hits, wrong = draw(st.integers(0, counts[1])), draw(st.integers(0, counts[0]))
            values.append(2 * hits / (hits + wrong + counts[1]))
        else:
            values.append(draw(st.floats(-1, 1)))
    value = sum(values) / len(values)
    width = draw(st.floats(0.001, 0.05))
    floors = {"accuracy": max(counts) / n, "f1": 2 * counts[-1] / (2 * counts[-1] + counts[0])}
    fields: dict[str, Any] = {
        "metric": metric,
        "primary": primary,
        "start": start,
        "n": n,
        "seed_values": dict(enumerate(values)),
        "interval": (value - width, value + width),
        "unreliable": draw(st.booleans()),
        "start_from": draw(st.sampled_from([None, "mnli"])),
        "failed_seeds": draw(st.sampled_from([[], [7], [7, 8]])),
        "overlap_baseline": draw(st.none() | st.floats(0, 1)),
    }
    fate = draw(st.sampled_from(["scored"] * 6 + ["failed", "undefined"]))
    if fate == "failed":
        value_, fields = None, fields | {"seed_values": {}, "interval": None, "failed_seeds": [7]}
    else:
        value_ = value if fate == "scored" else math.nan
        fields |= {} if fate == "scored" else {"interval": None}
    floor = floors.get(metric, 0.0)
    above = fields["interval"] is not None and value - width > floor
    return make_score(label, value_, floor, **fields | {"above_floor": above})


@st.composite
def scores_of_run(draw: st.DrawFn) -> list[Score]:
    """The scores of a run by task, metric and start: fine-tuned, from random weights, without any training."""
    scores = []
    for label in draw(st.lists(st.sampled_from(sorted(SPLITS)), unique=True, max_size=6)):
        starts = ["checkpoint", *draw(st.sampled_from([[], [], ["random"], ["zero_shot"], ["random", "zero_shot"]]))]
        for start in starts:
            for metric in SPLITS[label][0].metrics:
                scores.append(draw(score_of(label, metric, start)))
    return scores


@st.composite
def pretraining_of(draw: st.DrawFn, loss: float, status: str) -> PretrainingResult:
    diverged = None
    if status == "diverged":
        diverged = Divergence(
            reason=draw(st.sampled_from(REASONS)),
            step=draw(st.integers(1, 10**6)),
            kept_step=500,
            loss=draw(st.sampled_from([math.nan, math.inf, 5.03125])),
            learning_rate=2e-4,
            gradient_norm=draw(st.sampled_from([math.nan, math.inf, 947.0])),
        )
        loss = draw(st.sampled_from([loss, math.nan, math.inf]))
    return make_pretraining(
        eval_loss=loss,
        train_loss=draw(st.just(loss + 0.0123) | st.just(math.nan)),
        diverged=diverged,
        steps_per_second=draw(st.floats(0.0001, 500)),
        epochs=draw(st.floats(0, 100)),
        wandb_url=draw(st.sampled_from([None, "https://wandb.ai/lab/my (odd) project/runs/PAGE"])),
        warnings=draw(st.lists(st.sampled_from(WARNINGS), unique=True, max_size=2)),
    )


@st.composite
def analysis_of(draw: st.DrawFn, concepts: int) -> AnalysisResult | None:
    """What a run's analysis holds: nothing, the old ranks, or all figures of collapse."""
    figures = {
        "nuclear_rank_of_mean": draw(st.floats(1, concepts)),
        "effective_rank_per_sample_mean": draw(st.floats(1, concepts)),
    }
    if draw(st.booleans()):
        figures |= {
            "input_variance_share": draw(st.floats(0, 1)),
            "retrieval_top_1": draw(st.floats(0, 1)),
            **{name: draw(st.floats(0, 1)) for name in FIGURES_OF_COLLAPSE},
        }
    return draw(st.sampled_from([None, *[make_analysis(num_concepts=concepts, figures=figures)] * 3]))


@st.composite
def consistent_record(draw: st.DrawFn, kind: str | None = None, known: tuple[RunRecord, ...] = ()) -> RunRecord:
    """A record whose parts agree: of a training, or of an evaluation of an earlier one or of an unknown checkpoint."""
    kind = kind or draw(st.sampled_from(["training", "evaluation"]))
    status = draw(st.sampled_from(["complete"] * 4 + ["running", "failed", "paused", "diverged"]))
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=draw(st.integers(0, 10**7)))
    variant = draw(st.sampled_from(sorted(VARIANTS)))
    losses = draw(
        st.dictionaries(st.sampled_from(list(CONCEPT_LOSSES)), st.sampled_from([0.1, 1.0, 0.02, 1e-5]), max_size=2)
    )
    asked = {
        "name": "test",
        "data": {"dataset": draw(st.sampled_from(DATASETS)), "max_documents": draw(st.none() | st.integers(1, 10**7))},
        "model": {
            "variant": variant,
            "hidden_size": draw(st.sampled_from([64, 512])),
            "num_attention_heads": 8,
            "num_layers": draw(st.integers(1, 12)),
            "num_concepts": draw(st.sampled_from([16, 32, 128])),
            "use_bixt": draw(st.booleans()),
            "num_decoder_layers": draw(st.integers(1, 3)) if VARIANTS[variant].has_decoder_layers else None,
        },
        "objective": {
            "concept_losses": losses,
            "loss_weighting": draw(st.sampled_from(["fixed", "learnable", "kendall_gal"])) if losses else "fixed",
        },
        "evaluation": {
            "tasks": draw(st.lists(st.sampled_from(sorted(TASKS)), unique=True, min_size=1)),
            "select_on": draw(st.sampled_from(["held_out", "held_out", "dev"])),
        },
    }
    spec = ExperimentSpec.model_validate(asked)
    analysis, checkpoint = draw(analysis_of(spec.model.num_concepts)), None
    head = draw(st.sampled_from([name for name in HEADS if name in fitting_heads(variant)]))
    run_id = f"{spec.run_prefix if kind == 'training' else head}_{moment:%Y%m%d_%H%M%S}"
    if kind == "evaluation":
        older = [one for one in known if one.kind == "training" and one.created < moment]
        source = draw(st.sampled_from([None, *older]))
        name = source.run_id if source else draw(st.sampled_from(["perceiver_mlm_H512L6C128_20251231_235959", "lab/x"]))
        origin = draw(st.sampled_from(["run", "local", "hub"]))
        checkpoint = make_checkpoint(name=name, origin=origin, revision="0123456789abcdef" if origin == "hub" else None)
    stages = {"pretraining": StageRecord(status="complete")} if kind == "training" else {}
    if status == "failed":
        stages |= {
            name: StageRecord(status=draw(st.sampled_from(["failed", "skipped"])), message=message)
            for name, message in draw(
                st.dictionaries(
                    st.sampled_from(["corpus", "pretraining", "publishing", "scores", "analysis"]),
                    st.sampled_from(MESSAGES),
                    min_size=1,
                    max_size=2,
                )
            ).items()
        }
    pretraining = draw(pretraining_of(draw(st.integers(9, 99_999)) / 10_000, status))
    has_result = kind == "training" and stages["pretraining"].status == "complete" and status != "running"
    failed = draw(st.lists(st.sampled_from(sorted(TASKS)), unique=True, max_size=2))
    tag = draw(st.sampled_from([None, None, "v1", f"runs/{moment:%Y%m%d}", f"arch/x-{moment:%Y-%m-%d}", "odd`tag|2"]))
    fields: dict[str, Any] = {
        "kind": kind,
        "run_id": run_id,
        "created": moment,
        "spec": spec.model_dump(mode="json"),
        "status": status,
        "head": head,
        "stages": stages,
        "checkpoint": checkpoint,
        "scores": draw(scores_of_run()),
        "pretraining": pretraining if has_result else None,
        "analysis": analysis,
        "cells": [CellResult(task=one, seed=7, start="checkpoint", status="failed", error="x") for one in failed],
        "corpus": draw(st.sampled_from([None, make_corpus(unigram_entropy_nats=draw(st.floats(1, 9)))])),
        "environment": make_environment(
            machine=draw(st.sampled_from(NAMES)),
            git_tag=tag,
            git_dirty=draw(st.booleans()),
            git_commit=draw(st.sampled_from([None, "54ee870c0ffee0123456789abcdef0123456789a"])),
        ),
        "made_data": draw(st.booleans()),
    }
    return make_record(**fields)


def shown_scores(record: RunRecord) -> str:
    return render_row(record)["Key GLUE Scores" if record.kind == "training" else "Key Scores"].partition("*made")[0]


@st.composite
def consistent_records(draw: st.DrawFn, kinds: Sequence[str | None] = (None,) * 4) -> list[RunRecord]:
    """Records whose run ids, W&B pages, losses and scores differ, as those of different runs do."""
    records: list[RunRecord] = []
    for kind in kinds[: draw(st.integers(1, len(kinds)))]:
        record = draw(consistent_record(kind, tuple(records)))
        if done := record.pretraining:
            page = f"{len(records)}a{draw(st.integers(0, 16**6)):06x}"
            url = done.wandb_url.replace("PAGE", page) if done.wandb_url else None
            record = record.model_copy(update={"pretraining": done.model_copy(update={"wandb_url": url})})
        losses = {f"{one.pretraining.eval_loss:.3f}" for one in records if one.pretraining}
        assume(record.run_id not in {one.run_id for one in records})
        assume(not record.primary_scores() or shown_scores(record) not in map(shown_scores, records))
        assume(not record.pretraining or f"{record.pretraining.eval_loss:.3f}" not in losses - {"nan", "inf"})
        records.append(record)
    return records


@settings(max_examples=50)
@given(consistent_records())
def test_a_document_rendered_from_consistent_records_is_not_blamed(
    tmp_path_factory: pytest.TempPathFactory, records: list[RunRecord]
) -> None:
    folder = tmp_path_factory.mktemp("rendered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGITO_HOME", str(folder / "home"))
        for record in records:
            write_row(folder / "log.md", record)
    assert serious(check_log(folder / "log.md")) == []


# Planted faults


def plant(name: str) -> tuple[str, str]:
    """A document with one fault and the rule that must find it."""
    both = TRAINING + training_row() + training_row(OTHER)
    if name == "pair":
        scores = "**MRPC F1:** 86.22% <br> **MRPC Acc:** 81.86%"
        return TRAINING + training_row(scores=scores), "impossible-pair"
    if name == "pair in one line":
        return TRAINING + training_row(scores="**MRPC (F1/Acc):** 86.22% / 81.86%"), "impossible-pair"
    if name == "accuracy":
        return TRAINING + training_row(scores="**RTE:** 61.5%"), "impossible-score"
    if name == "swapped links":
        mine, theirs = (f"[Link](https://wandb.ai/lab/c/runs/{run})" for run in (RUN, OTHER))
        return TRAINING + training_row(link=theirs) + training_row(OTHER, link=mine), "wrong-link"
    if name == "fine-tuning link":
        link = f"[Link](https://wandb.ai/lab/c/runs/glue-mrpc-{RUN.replace('_', '-').lower()}-36M-20260210_1200)"
        return TRAINING + training_row(link=link), "wrong-link"
    if name == "project link":
        return TRAINING + training_row(link="[W](https://wandb.ai/lab/concepts)"), "wrong-link"
    if name == "same page twice":
        return both.replace(f"runs/{RUN}", "runs/1a2b3c4d").replace(f"runs/{OTHER}", "runs/1a2b3c4d"), "wrong-link"
    if name == "percentage":
        return TRAINING + training_row(rank="64 / 128 (55%)"), "wrong-percentage"
    if name == "rank":
        return TRAINING + training_row(rank="140 / 128"), "out-of-range"
    if name == "score out of range":
        return TRAINING + training_row(scores="**STS-B:** 1.27"), "out-of-range"
    if name == "units":
        rows = training_row(scores="**STS-B:** 0.627") + training_row(OTHER, scores="**STS-B:** 89.4")
        return TRAINING + rows, "mixed-units"
    if name == "date":
        return TRAINING + training_row(date="2026-02-18"), "dates-disagree"
    if name == "old evaluation":
        return TRAINING + training_row() + EVALUATION + evaluation_row(date="2026-01-02"), "dates-disagree"
    if name == "tag":
        return TRAINING + training_row(tag="`arch/decoder-20260301`"), "young-tag"
    if name == "architecture":
        return TRAINING + training_row(architecture="H512 **L2** C128"), "identity"
    if name == "concepts":
        return TRAINING + training_row(rank="16 / 64 (25%)"), "identity"
    if name == "twice":
        return TRAINING + training_row() + training_row(), "identity"
    if name == "delta":
        table = "\n| Task | Old | New | Delta |\n|---|---|---|---|\n| QQP F1 | 72.5% | 75.0% | +4.5% |\n"
        return both + table, "wrong-delta"
    if name == "sign":
        table = "\n| Task | Old | New | Delta |\n|---|---|---|---|\n| QQP F1 | 75.0% | 72.5% | +2.5% |\n"
        return both + table, "wrong-delta"
    if name == "contradiction":
        table = f"\n## Baselines of {RUN}\n\n| Task | CLS-Query |\n|---|---|\n| MNLI-m Acc | 61.4% |\n"
        return both + table, "contradiction"
    if name == "shared loss":
        return TRAINING + training_row(loss="MLM 4.089") + training_row(OTHER, loss="MLM 4.089"), "shared-value"
    if name == "shared scores":
        scores = "**QQP F1:** 72.5% <br> **MNLI-m:** 59.1%"
        return TRAINING + training_row(scores=scores) + training_row(OTHER, scores=scores), "shared-value"
    if name == "open":
        return TRAINING + training_row(scores="**TBD**"), "open-entry"
    if name == "floor":
        return TRAINING + training_row(scores="**MRPC:** 81.2%"), "at-floor"
    if name == "unigram":
        return TRAINING + training_row(loss="MLM eval **7.100** (unigram 7.25)"), "at-floor"
    if name == "best":
        rows = training_row(scores="**MRPC:** 88.1%", conclusion="Best on MRPC.") + training_row(
            OTHER, scores="**MRPC:** 87.0%"
        )
        return TRAINING + rows, "noise"
    if name == "improvement":
        row = evaluation_row(scores="**MNLI-m:** 59.75%", conclusion="Consistent improvement.")
        return TRAINING + training_row() + EVALUATION + row, "noise"
    if name == "kinds of loss":
        rows = training_row(loss="MLM eval **3.100** / train 3.2") + training_row(OTHER, loss="MLM 4.010")
        return TRAINING + rows, "loss-kinds"
    assert name == "collapse"
    return TRAINING + training_row(conclusion="**Collapse fixed.**"), "collapse-claim"


COLUMNS = {
    "date": "Date",
    "run": "Run ID / Model Type",
    "architecture": "Architecture",
    "loss": "Task Loss",
    "rank": "Eff. Rank",
    "scores": "Key GLUE Scores",
    "link": "WandB Link",
    "tag": "Git Tag",
    "conclusion": "Conclusion / Takeaway",
}
THEIRS = "https://wandb.ai/lab/c/runs/" + OTHER
PLANTED_CELLS = {
    ("scores", "impossible-pair"): [
        "**MRPC F1/Acc:** 81.33/74.26",
        "**MRPC (acc/F1):** 74.26/81.33",
        "MRPC F1: 0.8133, acc: 0.7426",
        "MRPC F1=81.33, Acc=74.26",
        "MRPC 81.33 F1, 74.26 acc",
        "**MRPC:** F1 81.33% (acc 74.26%)",
        "**MRPC:** 81.33% F1 (74.26% accuracy)",
        "QQP F1: 95.00% <br> QQP Acc: 70.00%",
        "CoLA MCC 0.900, acc 72.0%",
    ],
    ("scores", "impossible-score"): ["RTE 0.615", "WNLI: 57.0%", "CoLA acc: 70.05%", "SICK-E: 78.191%"],
    ("scores", "out-of-range"): ["MRPC: 182.2%", "QQP: -72.5%", "STS-B: 0.627 / 1.2", "CoLA: -1.20"],
    ("scores", "open-entry"): ["to be evaluated", "WIP", "coming soon", "PAWS not yet run", "QQP: 72.5% (+ep3 pend.)"],
    ("scores", "at-floor"): [
        "MRPC accuracy: 68.4%",
        "QQP acc: 63.2%",
        "CoLA: 69.1%",
        "CoLA MCC: 2.1",
        "MRPC: 82.2% (baseline head)",
        "STS-B: 0.03",
        "MNLI-m: 35.4%",
        "SICK-E: 56.9%",
        "MRPC F1/Acc: 81.2/68.4",
    ],
    ("rank", "wrong-percentage"): [
        "12 of 128 (12.5%)",
        "9.9% (12/128)",
        "12/128 = 10.4%",
        "**5 / 128** (14%)",
        "12 / 128 (0.194)",
        "12/128 [10.4%]",
        "12/128, i.e. 10.4%",
        "12/128 (≈15%)",
    ],
    ("rank", "out-of-range"): ["130 of 128", "0 / 128"],
    ("rank", "identity"): ["12 of 64 (18.8%)"],
    ("architecture", "identity"): [
        "H512L2C128",
        "H=512, L=2, C=128",
        "2 layers, 128 concepts",
        "hidden 256, L6, C128",
        "512/2/128",
    ],
    ("date", "dates-disagree"): [
        "18.02.2026",
        "2026/02/18 10:00",
        "18 Feb 2026",
        "2025-02-08",
        "2026-02-30",
        "2026-02-09",
    ],
    ("tag", "young-tag"): ["[`x-2026-03-01`](https://github.com/a/b/tree/x)", "`release/2026.03.01`", "v1_20260301"],
    ("link", "wrong-link"): [
        THEIRS,
        f"[W](<{THEIRS}>)",
        f"[{OTHER}](https://wandb.ai/lab/c/runs/1a2b3c4d)",
        f"[W]({THEIRS}/overview?x=1)",
        "[W](https://wandb.ai/lab/c/runs/perceiver-mlm-H512L2C128-seed1)",
        "https://wandb.ai/lab/c/table",
        "[perceiver_mlm_H512L2C128_20260118_172328](https://wandb.ai/lab/c/runs/1a2b3c4d)",
        f"[W](https://wandb.ai/lab/c/runs/{RUN}-mrpc-ft)",
        f"[W](https://wandb.ai/lab/c/runs/finetune_{RUN})",
    ],
    ("conclusion", "contradiction"): ["QQP F1 of 74.5% is good.", "Rank 5/128: collapse.", "Its MLM loss is 2.640."],
    ("conclusion", "wrong-delta"): [
        "QQP rose from 61.4% to 72.5% (+12.1 points).",
        "QQP 61.4% → 72.5% (+12.1%).",
        "It went from 10.0 to 10.0 (-0.4 points).",
    ],
    ("conclusion", "noise"): ["MNLI-m improved from 58.8% to 59.1%.", "MNLI-m 58.8% → 59.1%: better than before."],
    ("conclusion", "collapse-claim"): [
        "No collapse: rank 64/128.",
        "Concept collapse prevented.",
        "No longer collapsed.",
        "Eliminates collapse.",
    ],
    ("conclusion", "wrong-percentage"): ["A rank share of 64/128 (55%)."],
}


@pytest.mark.parametrize(
    ("column", "rule", "cell"), [(*key, cell) for key, cells in PLANTED_CELLS.items() for cell in cells]
)
def test_a_fault_is_found_at_its_place_however_it_is_written(tmp_path: Path, column: str, rule: str, cell: str) -> None:
    text = TRAINING + training_row(OTHER) + training_row(**{column: cell})
    assert (8, RUN, COLUMNS[column]) in [(one.line, one.row, one.column) for one in of(found(tmp_path, text), rule)]


@pytest.mark.parametrize(
    ("part", "rule", "line", "row", "column"),
    [
        (f"| Run | QQP F1 |\n|---|---|\n| `{RUN}` | 74.5% |\n", "contradiction", 12, RUN, "QQP F1"),
        (
            f"| Task | `{RUN}` | {OTHER} |\n|---|---|---|\n| QQP F1 | 72.5% | 63.4% |\n",
            "contradiction",
            12,
            OTHER,
            OTHER,
        ),
        (f"| Run | Eff. rank |\n|---|---|\n| `{RUN}` | 5 / 128 |\n", "contradiction", 12, RUN, "Eff. rank"),
        (f"| Run | MLM loss |\n|---|---|\n| `{RUN}` | 2.640 |\n", "contradiction", 12, RUN, "MLM loss"),
        (f"`{RUN}` ends with an MLM loss of 2.640.\n", "contradiction", 10, RUN, None),
        (f"# {RUN}\n## GLUE\n| Task | Head |\n|---|---|\n| QQP F1 | 74.5% |\n", "contradiction", 14, RUN, "Head"),
        ("| Model | STS-B |\n|---|---|\n| X | 0.812 |\n| Y | 89.4 |\n", "mixed-units", 13, None, "STS-B"),
        (
            "| Metric | Value |\n|---|---|\n| MRPC F1 | 88.00 |\n| MRPC Acc | 70.10 |\n",
            "impossible-pair",
            12,
            None,
            "Value",
        ),
        (
            "| Task | Old | A | Δ A | B | Δ B |\n|---|---|---|---|---|---|\n| X | 1.0 | 3.0 | +2.0 | 5.0 | +4.0 |\n"
            "| Y | 2.0 | 5.0 | +3.0 | 6.0 | +5.0 |\n",
            "wrong-delta",
            13,
            None,
            "Δ B",
        ),
        (
            "| Case | Old | New | Gain |\n|---|---|---|---|\n| X | 86.1/79.9 | 88.5/82.8 | +2.4/+3.9 |\n",
            "wrong-delta",
            12,
            None,
            "Gain",
        ),
        ("The combined loss fixed the collapse (rank 122/128).\n", "collapse-claim", 10, None, None),
        (f"With `{RUN}` MNLI-m improved from 58.8% to 59.1%.\n", "noise", 10, RUN, None),
    ],
)
def test_a_fault_outside_the_two_tables_is_found_at_its_place(
    tmp_path: Path, part: str, rule: str, line: int, row: str | None, column: str | None
) -> None:
    findings = found(tmp_path, TRAINING + training_row() + training_row(OTHER) + "\n" + part)
    assert (line, row, column) in [(one.line, one.row, one.column) for one in of(findings, rule)]


def test_other_starts_than_the_checkpoint_are_no_other_statement_of_its_scores(tmp_path: Path) -> None:
    scores = [
        make_score("stsb", 0.627, 0.0, n=1500),
        make_score("stsb", 0.412, 0.0, n=1500, start="zero_shot"),
        make_score("wnli", 0.174, 0.563, metric="accuracy", n=71, start="random", seed_values={1: 0.169, 2: 0.179}),
        make_score("sst2", 0.011, 0.509, metric="accuracy", n=872, start="random", seed_values={1: 0.01, 2: 0.012}),
    ]
    cells = render_row(make_record(run_id=RUN, scores=scores))
    row = training_row(scores=cells["Key GLUE Scores"], conclusion=cells["Conclusion / Takeaway"])
    assert serious(found(tmp_path, TRAINING + row)) == []
    for start in ("", "Zero-shot: ", "From random weights: ", "Randomly initialised: "):
        row = training_row(scores="**STS-B:** 0.627", conclusion=f"{start}STS-B 0.412.")
        rules = {one.rule for one in serious(found(tmp_path, TRAINING + row))}
        assert rules == (set() if start else {"contradiction"})


def test_an_interval_is_no_rise_that_another_cell_praises(tmp_path: Path) -> None:
    row = training_row(scores="**MNLI-m:** 59.1% (58.8 to 59.4, n 9,815)", conclusion="Better than the L2 run.")
    assert serious(found(tmp_path, TRAINING + row)) == []


def test_models_may_share_the_scores_of_a_trivial_answer(tmp_path: Path) -> None:
    trivial, good = ("81.2%", "55.8%"), ("83.2%", "55.8%")
    for figures, rules in ((trivial, []), (good, ["shared-value"])):
        scores = "**MRPC:** {} (**at floor**) <br> **PAWS:** {} (**at floor**)".format(*figures)
        rows = training_row(scores=scores) + training_row(OTHER, scores=scores)
        assert [one.rule for one in serious(found(tmp_path, TRAINING + rows))] == rules


def test_training_and_evaluation_losses_in_one_column(tmp_path: Path) -> None:
    rows = training_row(loss="MLM 2.537 (train)") + training_row(OTHER, loss="MLM eval 3.1")
    (one,) = of(found(tmp_path, TRAINING + rows), "loss-kinds")
    assert (one.line, one.severity) == (7, "warning")


def test_one_training_loss_among_losses_without_a_kind_is_found_at_its_own_row(tmp_path: Path) -> None:
    third = "perceiver_mlm_H512L6C128_20260210_211633"
    rows = (
        training_row(loss="MLM 2.537") + training_row(OTHER, loss="MLM train 3.1") + training_row(third, loss="MLM 2.9")
    )
    (one,) = of(found(tmp_path, TRAINING + rows), "loss-kinds")
    assert (one.row, one.column, one.severity) == (OTHER, "Task Loss", "warning")


def test_an_impossible_or_trivial_score_is_as_sure_where_its_run_is_unknown(tmp_path: Path) -> None:
    rows = training_row() + training_row(OTHER)
    findings = found(
        tmp_path, TRAINING + rows + "\nMRPC F1 was 99.999%.\n\n| Task | Score |\n|---|---|\n| PAWS | 55.8% |\n"
    )
    (impossible,), (trivial,) = of(findings, "impossible-score"), of(findings, "at-floor")
    assert (impossible.row, trivial.row) == (None, None)
    assert (impossible.confidence, trivial.confidence) == (0.9, 0.85)


@pytest.mark.parametrize(("old", "columns"), [("72.5%", []), ("71.5%", ["CLS-Query (old)", "ViaDecoder (new)"])])
def test_a_head_is_not_held_against_the_score_that_its_table_gives_to_another(
    tmp_path: Path, old: str, columns: list[str]
) -> None:
    run = "perceiver_mlm_H512L6C128_20260208_211633"
    table = f"""
Heads of `{run}`:

| Task | CLS-Query (old) | ViaDecoder (new) |
|---|---|---|
| QQP F1 | {old} | 79.35% |
"""
    findings = found(tmp_path, TRAINING + training_row(run, scores="**QQP F1:** 72.5%") + table)
    assert [one.column for one in of(findings, "contradiction")] == columns


def test_a_shared_loss_counts_less_the_more_rows_there_are(tmp_path: Path) -> None:
    few = training_row(loss="MLM 2.640") + training_row(OTHER, loss="MLM 2.640")
    assert {one.severity for one in of(found(tmp_path, TRAINING + few), "shared-value")} == {"warning"}
    many = "".join(
        training_row(f"perceiver_mlm_H512L6C128_20260208_1{place:05}", loss=f"MLM 2.{place:03}") for place in range(200)
    )
    assert {one.severity for one in of(found(tmp_path, TRAINING + few + many), "shared-value")} == {"note"}


NOT_CONTRADICTED = [
    "Eval loss 2.9 at epoch 10, 2.537 at the end.",
    "Concept loss 0.31; MLM loss 2.537.",
    "Rank rose from 5/128 to 64/128.",
    "Could not fix collapse.",
    "To fix collapse we try TSDAE next.",
    "Collapse fixed: retrieval 92%, input share 0.8.",
    "No improvement over L2 on MNLI-m.",
    "MNLI-m 59.1 against 58.8: within noise.",
    "QQP 61.4% → 72.5% (+18.1% rel.).",
    "QQP F1 72.5% (L2 had 61.4%).",
    "Warm-up 2000 → 4000 (+2000).",
    "QQP best at epoch 3 with 72.0%.",
    "MNLI-m > QQP.",
    "Was TBD in January, now done.",
    "3 of 8 GLUE tasks (37.5%).",
    "GPU use 95% (7/8 GPUs busy).",
]


@pytest.mark.parametrize("conclusion", NOT_CONTRADICTED)
def test_a_conclusion_that_compares_is_not_taken_for_a_contradiction(tmp_path: Path, conclusion: str) -> None:
    rows = training_row(conclusion=conclusion) + training_row(OTHER, scores="**QQP F1:** 61.4% <br> **MNLI-m:** 58.8%")
    assert serious(found(tmp_path, TRAINING + rows)) == []


def test_five_hundred_rows_are_checked_in_seconds(tmp_path: Path) -> None:
    names = [f"perceiver_mlm_H512L6C128_20260208_1{place:05}" for place in range(500)]
    rows = [
        training_row(
            name,
            loss=f"MLM 2.{place:03}",
            conclusion=f"Best QQP: {60 + place / 20:.2f}%.",
            scores=f"**MRPC F1:** {83 + place / 100:.2f}% <br> **QQP F1:** {60 + place / 20:.2f}%",
        )
        for place, name in enumerate(names)
    ]
    table = "\n| Run | QQP F1 | Speed |\n|---|---|---|\n" + "".join(f"| `{name}` | 72.5% | 2 |\n" for name in names)
    prose = "\n" + "".join(f"`{name}` was good.\n" for name in names)
    started = time.process_time()
    found(tmp_path, TRAINING + "".join(rows) + table + prose)
    assert time.process_time() - started < 12  # about one second on a free core


PLANTED = [
    "pair",
    "pair in one line",
    "accuracy",
    "swapped links",
    "fine-tuning link",
    "project link",
    "same page twice",
    "percentage",
    "rank",
    "score out of range",
    "units",
    "date",
    "old evaluation",
    "tag",
    "architecture",
    "concepts",
    "twice",
    "delta",
    "sign",
    "contradiction",
    "shared loss",
    "shared scores",
    "open",
    "floor",
    "unigram",
    "best",
    "improvement",
    "kinds of loss",
    "collapse",
]


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_and_nothing_else(tmp_path: Path, name: str) -> None:
    text, rule = plant(name)
    findings = serious(found(tmp_path, text))
    assert findings and {one.rule for one in findings} == {rule}
    for one in findings:
        assert 0 < one.confidence <= 1 and one.message and one.evidence and one.line >= 7


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_planted_figures_of_every_size(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("planted")
    old, new = (data.draw(st.integers(600, 990)) / 10 for _ in range(2))
    wrong = round(new - old + data.draw(st.sampled_from([-3.1, -0.4, 0.4, 2.2])), 1)
    relative = 100 * (new - old) / old
    assume(abs(wrong - relative) > 0.3)
    table = f"# T\n\n| Task | Old | New | Delta |\n|---|---|---|---|\n| QQP F1 | {old}% | {new}% | {wrong:+}% |\n"
    assert of(found(folder, table), "wrong-delta")
    right = table.replace(f"{wrong:+}%", f"{round(new - old, 1):+}%")
    assert not of(found(folder, right), "wrong-delta")
    rank, concepts = data.draw(st.integers(1, 128)), 128
    share = round(100 * rank / concepts, 1)
    off = round(share + data.draw(st.sampled_from([-1.5, 1.5, 9])), 1)
    assume(0 < off < 100)
    assert of(found(folder, TRAINING + training_row(rank=f"{rank} / 128 ({off}%)")), "wrong-percentage")
    assert not of(found(folder, TRAINING + training_row(rank=f"{rank} / 128 ({share}%)")), "wrong-percentage")


# The command


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "log", "check", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_says_what_and_where_and_changes_nothing(tmp_path: Path) -> None:
    text, _ = plant("percentage")
    log = tmp_path / "log.md"
    log.write_bytes(text.encode())
    done = command(str(log), "--json")
    assert done.returncode == 1
    (one,) = json.loads(done.stdout)
    assert {"line", "row", "column", "rule", "severity", "confidence", "message", "evidence"} <= set(one)
    assert (one["line"], one["row"], one["column"]) == (7, RUN, "Eff. Rank")
    assert log.read_bytes() == text.encode()
    shown = command(str(log))
    assert shown.returncode == 1 and "1 errors, 0 warnings, 0 notes" in shown.stdout
    log.write_text(TRAINING + training_row(), encoding="utf-8")
    clean = command(str(log), "--json")
    assert (clean.returncode, json.loads(clean.stdout)) == (0, [])


@pytest.mark.parametrize(
    "arguments",
    [["missing.md"], ["LOG", "--reports", "missing"], ["LOG", "--against", "missing.md"], ["LOG", "--git", "missing"]],
)
def test_what_cannot_be_read_is_one_message(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "log.md").write_text(TRAINING, encoding="utf-8")
    given_ = [str(tmp_path / "log.md") if one == "LOG" else one for one in arguments]
    done = command(*given_)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "missing" in done.stderr


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=10), st.lists(st.text(max_size=200), max_size=4))
def test_no_text_breaks_a_rule(tmp_path_factory: pytest.TempPathFactory, cells: list[str], lines: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    row = "| " + " | ".join(cell.replace("\n", " ") for cell in cells) + " |\n"
    text = TRAINING + row + EVALUATION + row + "\n" + "\n".join(lines)
    (folder / "log.md").write_bytes(text.encode("utf-8", "replace"))
    check_log(folder / "log.md")
    assert len(RULES) >= 15
