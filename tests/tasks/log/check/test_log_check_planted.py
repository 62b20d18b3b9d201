"""Every rule of `cogito log check` against drawn faults: of drawn size, at a drawn place, in a drawn document.

A document is rendered from records or written as a hand would; both are faultless before the fault. A rule without a
generator of its faults here fails `test_every_rule_has_a_generator_of_its_faults`.
"""

import atexit
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import ROOT
from factories import make_analysis, make_checkpoint, make_environment, make_pretraining, make_record, make_score
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st

from tasks.log.check import RULES, check_log
from tasks.log.check.consistency import (
    contradictions,
    open_entries,
    shared_values,
    stated_deltas,
    versions_differ,
    wrong_deltas,
)
from tasks.log.check.document import SPLITS, Document
from tasks.log.check.finding import RULE_NAMES
from tasks.log.check.meaning import at_floor, collapse_claims, loss_kinds, noise
from tasks.log.check.possibility import impossible_scores, mixed_units, out_of_range, wrong_percentages
from tasks.log.check.provenance import dates_disagree, identity_disagrees, missing_provenance, wrong_links, young_tags
from tasks.log.rows import EVALUATION_COLUMNS, TRAINING_COLUMNS, render_row
from tasks.spec.experiment import ExperimentSpec
from tasks.store.records import RunRecord

Draw = Callable[[st.SearchStrategy[Any]], Any]
ROLES = {
    "training": (
        "date",
        "run",
        "architecture",
        "data",
        "machine",
        "epochs",
        "losses",
        "loss",
        "rank",
        "scores",
        "speed",
        "link",
        "tag",
        "conclusion",
    ),
    "evaluation": ("date", "run", "checkpoint", "machine", "tasks", "scores", "link", "conclusion"),
}
COLUMNS = {"training": TRAINING_COLUMNS, "evaluation": EVALUATION_COLUMNS}
# what a hand may call them
HAND_TITLES = {
    "loss": ["Task Loss", "MLM Loss"],
    "rank": ["Eff. Rank", "Effective Rank"],
    "link": ["WandB Link", "W&B Link"],
    "scores": ["Key GLUE Scores", "GLUE Scores", "Key Scores"],
    "speed": ["Speed (Steps/s)", "Speed"],
    "tag": ["Git Tag", "Git Commit"],
    "conclusion": ["Conclusion / Takeaway", "Notes", "Takeaway"],
}
PAGES = "https://wandb.ai/lab/concepts/runs/"


# Documents


@dataclass
class Row:
    """A run and the cells of its row by role."""

    run: str
    moment: datetime
    sizes: dict[str, int]
    cells: dict[str, str]

    @property
    def model(self) -> str:
        return re.sub(r"_20\d{6}_\d{6}$", "", self.run)


@dataclass(repr=False)
class Sheet:
    """A log: the titles of both tables by role, their rows, and what stands below them."""

    is_rendered: bool
    titles: dict[str, dict[str, str]]
    rows: dict[str, list[Row]] = field(default_factory=lambda: {"training": [], "evaluation": []})
    below: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return self.text()

    def lines(self) -> list[str]:
        found = ["# Log"]
        for kind, heading in (("training", "## Training Runs"), ("evaluation", "## Evaluation Experiments")):
            titles = self.titles[kind]
            found += ["", heading, "", f"| {' | '.join(titles.values())} |", "|---" * len(titles) + "|"]
            found += [f"| {' | '.join(row.cells[role] for role in titles)} |" for row in self.rows[kind]]
        return [*found, "", *self.below]

    def text(self) -> str:
        return "\n".join(self.lines()) + "\n"

    def at(self, kind: str, place: int, role: str) -> tuple[int, str]:
        first = 7 if kind == "training" else 12 + len(self.rows["training"])
        return first + place, self.titles[kind][role]

    def put(self, place: int, role: str, text: str, kind: str = "training") -> tuple[int, str]:
        """Write a cell; its line and column."""
        self.rows[kind][place].cells[role] = text
        return self.at(kind, place, role)

    def add(self, *lines: str) -> int:
        """Write lines below the tables, apart from what is there; the number of the first one."""
        self.below += ["", *lines]
        return len(self.lines()) - len(lines) + 1

    def training(self) -> list[Row]:
        return self.rows["training"]


def shown(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


@st.composite
def good_score(draw: st.DrawFn) -> tuple[str, str, float, int]:
    """Label, text, value and examples of a score of the published split, far above its floor."""
    label = draw(st.sampled_from(sorted(SPLITS)))
    task, split = SPLITS[label]
    if task.primary_metric == "accuracy":
        value = draw(st.integers(9 * split.examples // 10, split.examples)) / split.examples
    elif task.primary_metric == "f1":
        negative, positive = split.class_counts
        hits, wrong = draw(st.integers(95 * positive // 100, positive)), draw(st.integers(0, negative // 10))
        value = 2 * hits / (hits + wrong + positive)
    else:
        value = draw(st.integers(500, 950)) / 1000
        return label, f"{value:.3f}", value, split.examples
    return label, f"{shown(100 * value, draw(st.integers(1, 2)))}%", value, split.examples


@st.composite
def moments(draw: st.DrawFn, after: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> datetime:
    return after + timedelta(seconds=draw(st.integers(1, 10**7)))


@st.composite
def hand_row(draw: st.DrawFn, loss: int) -> Row:
    """A training row as a person types it."""
    moment = draw(moments())
    sizes = {
        "H": draw(st.sampled_from([256, 512])),
        "L": draw(st.integers(1, 12)),
        "C": draw(st.sampled_from([16, 32, 64, 128])),
    }
    variant = draw(st.sampled_from(["perceiver_mlm", "weighted_mlm", "perceiver_posonly_mlm"]))
    run = f"{variant}_{''.join(f'{letter}{size}' for letter, size in sizes.items())}_{moment:%Y%m%d_%H%M%S}"
    rank = draw(st.integers(10, 10 * sizes["C"])) / 10
    share = shown(100 * rank / sizes["C"], draw(st.integers(0, 2)))
    scores = draw(st.lists(good_score(), unique_by=lambda one: one[0], min_size=1, max_size=3))
    days = ["%Y-%m-%d", "**%Y-%m-%d**", "%Y/%m/%d", "%d.%m.%Y", "%d %b %Y", "%Y-%m-%d %H:%M"]
    cells = {
        "date": f"{moment:{draw(st.sampled_from(days))}}",
        "run": draw(st.sampled_from([f"`{run}`", f"**{run}**"])),
        "architecture": draw(st.sampled_from(["H{H} L{L} C{C}", "H{H}L{L}C{C}", "H{H} **L{L}** C{C}"])).format(**sizes),
        "data": "Minipile (1x)",
        "machine": "Odra",
        "epochs": "20",
        "losses": "None",
        "loss": draw(st.sampled_from(["MLM {}", "MLM **{}**", "{}"])).format(f"{loss / 1000:.3f}"),
        "rank": draw(st.sampled_from([f"{rank:g} / {sizes['C']} ({share}%)", f"**{rank:g}/{sizes['C']}**", "--"])),
        "scores": " <br> ".join(f"**{SPLITS[label][1].title}:** {text}" for label, text, *_ in scores),
        "speed": draw(st.sampled_from(["2.14", "--"])),
        "link": f"[Link]({PAGES}{run})",
        "tag": "`54ee870`",
        "conclusion": draw(st.sampled_from(["Fine.", "", "Plateau after epoch 10.", "Failed to fix collapse."])),
    }
    return Row(run, moment, sizes, cells)


def spec_of(variant: str, sizes: dict[str, int], losses: dict[str, float]) -> ExperimentSpec:
    model = {"variant": variant, "hidden_size": sizes["H"], "num_layers": sizes["L"], "num_concepts": sizes["C"]}
    return ExperimentSpec.model_validate(
        {"name": "test", "data": {}, "model": model, "objective": {"concept_losses": losses}}
    )


@st.composite
def rendered_record(draw: st.DrawFn, loss: int, source: RunRecord | None = None) -> RunRecord:
    """The record of a training, or of an evaluation of a training, with scores far above their floors."""
    sizes = {"H": 512, "L": draw(st.integers(1, 12)), "C": draw(st.sampled_from([16, 64, 128]))}
    losses = draw(st.sampled_from([{}, {"combined": 0.1}, {"vicreg": 0.1, "uniformity": 0.02}]))
    spec = spec_of(draw(st.sampled_from(["perceiver_mlm", "weighted_mlm", "tsdae", "diffusion"])), sizes, losses)
    moment = draw(moments(source.created if source else datetime(2026, 1, 1, tzinfo=UTC)))
    figures = {"nuclear_rank_of_mean": draw(st.floats(1, sizes["C"])), "effective_rank_per_sample_mean": 1.5}
    scores = [
        make_score(
            label,
            value,
            0.0,
            metric=SPLITS[label][0].primary_metric,
            n=n,
            interval=(value - 0.01, value + 0.01),
            above_floor=True,
        )
        for label, _, value, n in draw(st.lists(good_score(), unique_by=lambda one: one[0], min_size=1, max_size=3))
    ]
    fields: dict[str, Any] = {
        "kind": "evaluation" if source else "training",
        "created": moment,
        "scores": scores,
        "run_id": f"{'via_decoder' if source else spec.run_prefix}_{moment:%Y%m%d_%H%M%S}",
        "spec": spec.model_dump(mode="json"),
        "environment": make_environment(),
        "analysis": make_analysis(num_concepts=sizes["C"], figures=figures),
        "pretraining": make_pretraining(
            eval_loss=loss / 1000,
            train_loss=loss / 1000 + 0.062,
            wandb_url=draw(st.sampled_from([None, f"{PAGES}a{loss}"])),
        ),
    }
    if source:
        fields |= {"checkpoint": make_checkpoint(name=source.run_id), "pretraining": None}
    return make_record(**fields)


@st.composite
def sheets(draw: st.DrawFn) -> Sheet:
    """A log of two to four trainings and up to two evaluations with nothing wrong in it."""
    is_rendered = draw(st.booleans())
    titles = {kind: dict(zip(ROLES[kind], COLUMNS[kind], strict=True)) for kind in ROLES}
    losses = draw(st.lists(st.integers(1000, 6800).filter(lambda loss: loss % 10), unique=True, min_size=2, max_size=4))
    evaluations = draw(st.integers(0, 2))
    if not is_rendered:
        titles["training"] = {
            role: draw(st.sampled_from(HAND_TITLES.get(role, [title]))) for role, title in titles["training"].items()
        }
        order = draw(st.permutations(ROLES["training"]))
        titles["training"] = {role: titles["training"][role] for role in order}
        sheet = Sheet(False, titles)
        sheet.rows["training"] = [draw(hand_row(loss)) for loss in losses]
        for _ in range(evaluations):
            add_evaluation(draw, sheet, draw(st.integers(0, len(losses) - 1)))
    else:
        sheet = Sheet(True, titles)
        records = [draw(rendered_record(loss)) for loss in losses]
        records += [draw(rendered_record(1000, draw(st.sampled_from(records)))) for _ in range(evaluations)]
        for record in records:
            cells = dict(zip(ROLES[record.kind], render_row(record).values(), strict=True))
            model = record.spec["model"]
            sizes = {"H": model["hidden_size"], "L": model["num_layers"], "C": model["num_concepts"]}
            sheet.rows[record.kind].append(Row(record.run_id, record.created, sizes, cells))
    for rows in sheet.rows.values():
        for texts in ([row.run for row in rows], [row.cells["scores"] for row in rows]):
            assume(len(set(texts)) == len(rows))
    return sheet


def add_evaluation(draw: Draw, sheet: Sheet, place: int, **cells: str) -> int:
    """An evaluation of a training, with nothing wrong in it; its place."""
    row = sheet.training()[place]
    moment, place = draw(moments(row.moment)), len(sheet.rows["evaluation"])
    label, text, *_ = draw(good_score())
    texts = {
        "date": f"{moment:%Y-%m-%d}",
        "run": f"`sweep_{place}` (ViaDecoder)",
        "checkpoint": f"`{row.run}`",
        "machine": "Odra",
        "tasks": SPLITS[label][0].name,
        "scores": f"**{SPLITS[label][1].title}:** {text}",
        "link": "--",
        "conclusion": "Measured.",
    } | cells
    sheet.rows["evaluation"].append(Row(f"sweep_{place}", moment, row.sizes, texts))
    return place


# Faults


@dataclass(frozen=True)
class Fault:
    """What must be found: lines and columns of the rule's findings; `also` may be found beside them."""

    places: set[tuple[int, str | None]]
    also: set[str] = field(default_factory=set)
    notes: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plant:
    """A generator of one kind of fault, the function that must find it and the name of its rule."""

    function: Callable[..., Iterator[Any]]
    rule: str
    make: Callable[[Draw, Sheet, Path], Fault]

    @property
    def name(self) -> str:
        return self.make.__name__


PLANTS: list[Plant] = []
Maker = Callable[[Draw, Sheet, Path], Fault]


def plants(function: Callable[..., Iterator[Any]], rule: str) -> Callable[[Maker], Maker]:
    def register(make: Maker) -> Maker:
        PLANTS.append(Plant(function, rule, make))
        return make

    return register


def any_row(draw: Draw, sheet: Sheet) -> int:
    return draw(st.integers(0, len(sheet.training()) - 1))


def two_rows(draw: Draw, sheet: Sheet) -> tuple[int, int]:
    """Two rows in the order of their lines."""
    first, second = sorted(draw(st.permutations(range(len(sheet.training()))))[:2])
    return first, second


def state(draw: Draw, sheet: Sheet, text: str) -> tuple[int, str | None]:
    """Write a score into a drawn place where scores are stated."""
    where = draw(st.sampled_from(["row", "row", "evaluation", "prose"]))
    if where == "prose":
        return sheet.add(f"At the end {text}."), None
    if where == "evaluation" and sheet.rows["evaluation"]:
        return sheet.put(draw(st.integers(0, len(sheet.rows["evaluation"]) - 1)), "scores", text, "evaluation")
    return sheet.put(any_row(draw, sheet), "scores", text)


# what no count gives, by trying all


@cache
def shares(n: int) -> np.ndarray:
    """All shares of n examples, in percent."""
    return 100 * np.arange(n + 1) / n


def rounds_to(values: np.ndarray, figure: float, digits: int) -> np.ndarray:
    return np.abs(values - figure) <= 0.5 / 10**digits + 1e-9


@cache
def matrix_figures(label: str) -> dict[str, np.ndarray]:
    """Accuracy and F1 in percent and Matthews' correlation of every confusion matrix, by [TP, FP]."""
    negative, positive = SPLITS[label][1].class_counts
    tp, fp = np.arange(positive + 1)[:, None], np.arange(negative + 1)[None, :]
    fn, tn = positive - tp, negative - fp
    below = np.sqrt(1.0 * (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "accuracy": 100 * (tp + tn) / (positive + negative),
        "f1": 100 * 2 * tp / (2 * tp + fp + fn),
        "matthews": np.divide(tp * tn - fp * fn, below, out=np.zeros(below.shape), where=below > 0),
    }


@cache
def impossible_shares(label: str, digits: int) -> list[int]:
    """Figures of so many digits, times 10^digits, from 85 % on, that no number of hits rounds to."""
    all_, scale = shares(SPLITS[label][1].examples), 10**digits
    return [one for one in range(85 * scale, 100 * scale) if not rounds_to(all_, one / scale, digits).any()]


@plants(impossible_scores, "impossible-score")
def accuracy_that_no_number_of_hits_gives(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    label, digits = draw(st.sampled_from([("rte", 1), ("rte", 2), ("wnli", 1), ("wnli", 2), ("sst2", 2), ("qnli", 2)]))
    value, title = draw(st.sampled_from(impossible_shares(label, digits))) / 10**digits, SPLITS[label][1].title
    form = draw(st.sampled_from(["**{}:** {}%", "{} accuracy: {}%", "{}: {}% acc", "**{} Acc:** {}%"]))
    place = state(draw, sheet, form.format(title, shown(value, digits)))
    return Fault({place}, {"contradiction"})


@plants(impossible_scores, "impossible-score")
def f1_that_no_matrix_gives(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    value = draw(st.sampled_from([one / 100 for one in range(9900, 10_000)]))
    assume(not rounds_to(matrix_figures("mrpc")["f1"], value, 2).any())
    return Fault({state(draw, sheet, f"**MRPC F1:** {value:.2f}%")}, {"contradiction"})


@plants(impossible_scores, "impossible-pair")
def accuracy_beside_an_f1_of_other_predictions(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    label, other = draw(st.sampled_from([("mrpc", "f1"), ("rte", "f1"), ("cola", "matthews")]))
    figures, (negative, positive) = matrix_figures(label), SPLITS[label][1].class_counts
    tp, fp = draw(st.integers(95 * positive // 100, positive)), draw(st.integers(0, negative // 6))
    second, digits = figures[other][tp, fp], 2 if other == "f1" else 3
    text = shown(float(second), digits)
    both = rounds_to(figures[other], float(text), digits)
    hits = tp + negative - fp - draw(st.integers(1, 25))
    accuracy = shown(100 * hits / (positive + negative), 2)
    assume(not (both & rounds_to(figures["accuracy"], float(accuracy), 2)).any())
    title, name = SPLITS[label][1].title, "F1" if other == "f1" else "MCC"
    form = draw(st.sampled_from(["one", "two", "slash", "table"]))
    if form == "table":
        rows = [f"| {title} {name} | {text} |", f"| {title} Acc | {accuracy} |"]
        return Fault({(sheet.add("| Metric | Value |", "|---|---|", *rows) + 2, "Value")}, {"contradiction"})
    cell = {
        "one": f"{title} {name} {text}, acc {accuracy}",
        "slash": f"**{title} ({name}/Acc):** {text} / {accuracy}",
        "two": f"**{title} {name}:** {text} <br> **{title} Acc:** {accuracy}",
    }[form]
    return Fault({sheet.put(any_row(draw, sheet), "scores", cell)})


@plants(out_of_range, "out-of-range")
def score_that_no_score_can_be(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    above = draw(st.integers(1001, 9999)) / 10
    texts = [
        f"**MRPC:** {above}%",
        f"**QQP F1:** -{above % 90 + 1:.1f}%",
        f"RTE acc: {above}",
        f"CoLA MCC: -{draw(st.integers(101, 150)) / 100}",
        f"**STS-B:** {draw(st.integers(1010, 1500)) / 1000}",
    ]
    return Fault({state(draw, sheet, draw(st.sampled_from(texts)))}, {"mixed-units", "contradiction", "at-floor"})


@plants(out_of_range, "out-of-range")
def rank_over_the_number_of_concepts(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place = any_row(draw, sheet)
    concepts = sheet.training()[place].sizes["C"]
    rank = draw(st.integers(concepts + 1, 3 * concepts) | st.just(0))
    form = draw(st.sampled_from(["{} / {}", "**{}/{}**", "{} of {}"]))
    return Fault({sheet.put(place, "rank", form.format(rank, concepts))})


@plants(out_of_range, "out-of-range")
def negative_figure_or_too_many_epochs(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    figure = draw(st.integers(1, 99_999)) / 1000
    cells = [
        ("loss", f"MLM -{figure}"),
        ("loss", f"MLM eval **−{figure}**"),
        ("speed", f"-{figure}"),
        ("epochs", f"{draw(st.integers(21, 40))}/20"),
        ("epochs", "-20"),
    ]
    return Fault({sheet.put(any_row(draw, sheet), *draw(st.sampled_from(cells)))}, {"loss-kinds"})


@plants(wrong_percentages, "wrong-percentage")
def percentage_that_is_not_that_of_its_fraction(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place = any_row(draw, sheet)
    concepts = sheet.training()[place].sizes["C"]
    rank, digits = draw(st.integers(1, concepts)), draw(st.integers(0, 2))
    rounding = 50 / concepts + 1  # of the rank, of the percentage and of its writing here
    off = draw(st.floats(rounding + 0.1, 60)) * draw(st.sampled_from([-1, 1]))
    percent = 100 * rank / concepts + off
    assume(0 <= percent <= 100)
    forms = ["{r} / {c} ({p}%)", "{r} of {c} ({p}%)", "{p}% ({r}/{c})", "{r}/{c} = {p}%", "**{r}/{c}** [{p} %]"]
    prose = "Of the slots {r} of {c} live ({p}%)."
    form = draw(st.sampled_from([*forms, prose]))
    text = form.format(r=rank, c=concepts, p=shown(percent, digits))
    return Fault({(sheet.add(text), None) if form == prose else sheet.put(place, "rank", text)})


@plants(mixed_units, "mixed-units")
def correlation_as_a_percentage_beside_others(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    title = draw(st.sampled_from(["STS-B", "SICK-R"]))
    place = any_row(draw, sheet)
    for other in range(len(sheet.training())):
        sheet.put(other, "scores", f"**{title}:** {draw(st.integers(500, 950)) / 1000}")
    for other in range(len(sheet.rows["evaluation"])):
        sheet.put(other, "scores", "**MNLI-m:** 93.1%", "evaluation")
    form = draw(st.sampled_from(["**{}:** {}", "{} {}%", "**{} P:** {}"]))
    return Fault({sheet.put(place, "scores", form.format(title, draw(st.integers(500, 950)) / 10))}, {"shared-value"})


@plants(mixed_units, "mixed-units")
def speed_with_a_unit_beside_others(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    for other in range(len(sheet.training())):
        sheet.put(other, "speed", f"{draw(st.integers(1, 999)) / 100}")
    text = f"{draw(st.integers(1, 999)) / 100} {draw(st.sampled_from(['step/s', 'steps/s', 'it/s']))}"
    return Fault({sheet.put(any_row(draw, sheet), "speed", text)}, notes=True)


@plants(wrong_links, "wrong-link")
def links_of_two_rows_swapped(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    first, second = two_rows(draw, sheet)
    runs = [sheet.training()[place].run for place in (first, second)]
    form = draw(st.sampled_from(["[Link]({})", "<{}>", "[W&B](<{}>)", "[W]({}/overview?nw=1)"]))
    return Fault(
        {
            sheet.put(first, "link", form.format(PAGES + runs[1])),
            sheet.put(second, "link", form.format(PAGES + runs[0])),
        }
    )


@plants(wrong_links, "wrong-link")
def link_to_a_fine_tuning(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place, other = any_row(draw, sheet), any_row(draw, sheet)
    run = sheet.training()[other].run
    task = draw(st.sampled_from(["mrpc", "qqp", "stsb", "paws", "mnli"]))
    tuned = [f"glue-{task}-{run.replace('_', '-').lower()}-36M-20260210_1200", f"{run}-{task}-ft", f"finetune_{run}"]
    return Fault({sheet.put(place, "link", f"[Link]({PAGES}{draw(st.sampled_from(tuned))})")})


@plants(wrong_links, "wrong-link")
def link_to_a_run_that_has_no_row(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place, moment = any_row(draw, sheet), draw(moments())
    row = sheet.training()[place]
    assume(moment not in {one.moment for one in sheet.training()})
    return Fault({sheet.put(place, "link", f"[Link]({PAGES}{row.model}_{moment:%Y%m%d_%H%M%S})")})


@plants(wrong_links, "wrong-link")
def one_page_for_two_runs(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    first, second = two_rows(draw, sheet)
    page = f"[Link]({PAGES}{draw(st.sampled_from(['1a2b3c4d', 'zz9y8x7w', '4kd0s2qp']))})"
    sheet.put(first, "link", page)
    return Fault({sheet.put(second, "link", page)})


@plants(wrong_links, "wrong-link")
def link_to_a_project(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    page = draw(st.sampled_from(["", "/workspace", "/table", "/runs", "/"]))
    return Fault({sheet.put(any_row(draw, sheet), "link", f"[W&B](https://wandb.ai/lab/concepts{page})")})


@plants(dates_disagree, "dates-disagree")
def date_of_another_day_than_the_run_id(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place = any_row(draw, sheet)
    day = sheet.training()[place].moment + timedelta(days=draw(st.integers(1, 700)) * draw(st.sampled_from([-1, 1])))
    form = draw(st.sampled_from(["%Y-%m-%d", "%Y/%m/%d", "%d %b %Y", "%B %d, %Y", "**%Y-%m-%d** 10:00", "`%Y%m%d`"]))
    return Fault({sheet.put(place, "date", f"{day:{form}}")})


@plants(dates_disagree, "dates-disagree")
def evaluation_before_its_training(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place = any_row(draw, sheet)
    day = sheet.training()[place].moment - timedelta(days=draw(st.integers(1, 300)))
    new = add_evaluation(draw, sheet, place, date=f"{day:%Y-%m-%d}")
    return Fault({sheet.at("evaluation", new, "date")})


@plants(dates_disagree, "dates-disagree")
def day_that_no_month_has(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    day = draw(st.sampled_from(["2026-02-30", "2026-13-01", "2026-04-31", "31.06.2026", "2025-02-29", "0.2.2026"]))
    return Fault({sheet.put(any_row(draw, sheet), "date", day)})


@plants(identity_disagrees, "identity")
def sizes_that_are_not_those_of_the_run_id(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place, letter = any_row(draw, sheet), draw(st.sampled_from("HLC"))
    sizes = dict(sheet.training()[place].sizes)
    sizes[letter] = draw(st.integers(1, 1024).filter(lambda size: size != sizes[letter]))
    forms = [
        "H{H} L{L} C{C}",
        "H{H}L{L}C{C}",
        "H{H} **L{L}** C{C}",
        "H={H}, L={L}, C={C}",
        "{H}/{L}/{C}",
        "{L} layers, {H} hidden, {C} concepts",
    ]
    return Fault({sheet.put(place, "architecture", draw(st.sampled_from(forms)).format(**sizes))})


@plants(identity_disagrees, "identity")
def rank_of_another_number_of_concepts(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place = any_row(draw, sheet)
    concepts = draw(st.integers(2, 512).filter(lambda size: size != sheet.training()[place].sizes["C"]))
    return Fault({sheet.put(place, "rank", f"{draw(st.integers(1, concepts))} / {concepts}")})


@plants(identity_disagrees, "identity")
def run_with_two_rows(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    row = sheet.training()[any_row(draw, sheet)]
    sheet.training().append(Row(row.run, row.moment, row.sizes, dict(row.cells)))
    return Fault({sheet.at("training", len(sheet.training()) - 1, "run")})


@plants(missing_provenance, "missing-provenance")
def row_without_what_older_rows_have(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    rows, role = sheet.training(), draw(st.sampled_from(["link", "tag"]))
    for place, row in enumerate(rows):
        sheet.put(place, "link", f"[Link]({PAGES}{row.run})")
        sheet.put(place, "tag", "`54ee870`")
    newest = max(range(len(rows)), key=lambda place: rows[place].moment)
    return Fault({sheet.put(newest, role, draw(st.sampled_from(["--", "—", "", "n/a"])))}, notes=True)


@plants(wrong_deltas, "wrong-delta")
def delta_that_is_not_the_difference(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    names = draw(
        st.sampled_from([("Old", "New", "Delta"), ("CLS-Query", "ViaDecoder", "Δ"), ("Before", "After", "Gain")])
    )
    unit, digits = draw(st.sampled_from(["%", "", " pp"])), draw(st.integers(1, 2))
    names_of_rows = draw(st.permutations(["QQP F1", "MNLI-m Acc", "throughput", "depth"]))[: draw(st.integers(1, 4))]
    wrong, lines = draw(st.integers(0, len(names_of_rows) - 1)), []
    for place, name in enumerate(names_of_rows):
        old, new = (
            draw(st.integers(900 * 10 ** (digits - 1), 990 * 10 ** (digits - 1))) / 10**digits for _ in range(2)
        )
        delta = new - old
        if place == wrong:
            delta += draw(st.floats(0.4, 30)) * draw(st.sampled_from([-1, 1]))
            assume(abs(delta - 100 * (new - old) / old) > 0.2)  # the relative change
            assume(abs(delta + new - old) > 0.3)  # the columns the other way round
        sign = unit if unit == "%" else ""
        lines.append(
            f"| {name} | {shown(old, digits)}{sign} | {shown(new, digits)}{sign} | {delta:+.{digits}f}{unit} |"
        )
    first = sheet.add(f"| Task | {' | '.join(names)} |", "|---|---|---|---|", *lines)
    # the figures may be taken for those of the section's one run
    return Fault({(first + 2 + wrong, names[2])}, {"contradiction", "impossible-score"})


@plants(stated_deltas, "wrong-delta")
def delta_in_a_sentence_that_is_not_the_difference(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    old, new = (draw(st.integers(100, 990)) / 10 for _ in range(2))
    delta = new - old + draw(st.floats(0.4, 30)) * draw(st.sampled_from([-1, 1]))
    arrow, unit = draw(st.sampled_from([" → ", " -> ", " to "])), draw(st.sampled_from([" points", " pp", ""]))
    text = f"The figure went from {old}{arrow}{new} ({delta:+.1f}{unit})."
    if draw(st.booleans()):
        return Fault({(sheet.add(text), None)})
    return Fault({sheet.put(any_row(draw, sheet), "conclusion", text)})


@plants(shared_values, "shared-value")
def loss_of_two_models_to_the_last_digit(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    first, second = two_rows(draw, sheet)
    assume(sheet.training()[first].model != sheet.training()[second].model)
    loss = f"{draw(st.integers(7301, 9998)) / 1000:.3f}"
    text = f"MLM eval **{loss}** <br> train {{}}" if sheet.is_rendered else f"MLM {loss}"
    return Fault({sheet.put(place, "loss", text.format(f"3.{place}17")) for place in (first, second)})


@plants(shared_values, "shared-value")
def all_scores_of_two_models(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    first, second = two_rows(draw, sheet)
    assume(sheet.training()[first].model != sheet.training()[second].model)
    figures = [draw(st.integers(901, 989).filter(lambda one: one % 10)) / 10 for _ in range(2)]
    cell = f"**QQP F1:** {figures[0]}% <br> **MNLI-m:** {figures[1]}%"
    sheet.put(first, "scores", cell)
    return Fault({sheet.put(second, "scores", cell)})


OPEN_WORDS = [
    "TBD",
    "**TBD**",
    "TODO: measure",
    "pending",
    "to be evaluated",
    "coming soon",
    "not yet run",
    "WIP",
    "???",
]


@plants(open_entries, "open-entry")
def cell_left_open(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    role = draw(
        st.sampled_from(["data", "machine", "epochs", "losses", "loss", "rank", "scores", "speed", "conclusion"])
    )
    return Fault({sheet.put(any_row(draw, sheet), role, draw(st.sampled_from(OPEN_WORDS)))})


@plants(open_entries, "open-entry")
def entry_left_open_below(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    word = draw(st.sampled_from(OPEN_WORDS))
    if draw(st.booleans()):
        line = sheet.add("| Question | Answer |", "|---|---|", "| a | b |", f"| why | {word} |") + 3
        return Fault({(line, "Answer")}, notes=True)
    return Fault({(sheet.add(f"The ablation: {word}"), None)}, notes=True)


def floor_score(draw: Draw) -> str:
    """A score of the published split that is no better than the best trivial answer."""
    label = draw(st.sampled_from(sorted(SPLITS)))
    task, split = SPLITS[label]
    if task.primary_metric == "accuracy":
        most = max(split.class_counts)
        text = f"{shown(100 * draw(st.integers(most // 2, most)) / split.examples, draw(st.integers(1, 2)))}%"
    elif task.primary_metric == "f1":
        negative, positive = split.class_counts
        hits = draw(st.integers(positive // 2, positive))
        text = f"{shown(200 * hits / (hits + negative + positive), draw(st.integers(1, 2)))}%"
    else:
        text = f"{draw(st.integers(-50, 20)) / 1000:.3f}"
    return f"**{split.title}:** {text}"


@plants(at_floor, "at-floor")
def score_of_a_trivial_answer(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    if sheet.rows["evaluation"] and draw(st.booleans()):
        place = draw(st.integers(0, len(sheet.rows["evaluation"]) - 1))
        return Fault({sheet.put(place, "scores", floor_score(draw), "evaluation")})
    return Fault({sheet.put(any_row(draw, sheet), "scores", floor_score(draw))})


def label_losses(sheet: Sheet) -> None:
    """Say of every loss which it is."""
    for place in range(len(sheet.training())):
        sheet.put(place, "loss", f"MLM eval **4.{place}13** <br> train 3.{place}17")


@plants(at_floor, "at-floor")
def loss_at_the_unigram_entropy(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    label_losses(sheet)
    entropy = draw(st.integers(200, 900)) / 100
    loss = entropy + draw(st.floats(-0.18, 2))
    text = f"MLM eval **{loss:.3f}** (unigram {entropy:.2f}, 1.00 bits/byte)"
    return Fault({sheet.put(any_row(draw, sheet), "loss", text)})


@plants(loss_kinds, "loss-kinds")
def loss_that_does_not_say_its_kind(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    label_losses(sheet)
    loss = f"{draw(st.integers(1001, 8999)) / 1000:.3f}"
    form = draw(st.sampled_from(["MLM {}", "MLM **{}**", "{}", "MLM train {}", "{} (train)", "training loss {}"]))
    return Fault({sheet.put(any_row(draw, sheet), "loss", form.format(loss))})


@plants(loss_kinds, "loss-kinds")
def loss_of_another_objective(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    first = draw(rendered_losses)
    sheet.training().append(Row(**vars(sheet.training()[0]) | {"cells": dict(sheet.training()[0].cells)}))
    label_losses(sheet)
    place = any_row(draw, sheet)
    return Fault({sheet.put(place, "loss", f"{first} eval **4.5{place}1** <br> train 4.2{place}3")}, {"identity"}, True)


rendered_losses = st.sampled_from(["Diffusion CE", "Masked diffusion", "Denoising", "TSDAE"])


@plants(contradictions, "loss-kinds")
def training_loss_that_passes_for_another(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place, loss = any_row(draw, sheet), f"{draw(st.integers(7001, 8999)) / 1000:.3f}"
    for other in range(len(sheet.training())):
        sheet.put(other, "loss", f"MLM 4.{other}13")
    found = sheet.put(place, "loss", f"MLM {loss}")
    text = f"`{sheet.training()[place].run}`: its training loss was {loss}."
    if draw(st.booleans()):
        sheet.add(text)
        return Fault({found})
    return Fault({found}, options={"reports": report(folder, text)})


@plants(noise, "noise")
def improvement_inside_noise(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place, old = any_row(draw, sheet), draw(st.integers(900, 950))
    new = old + draw(st.integers(1, 4))  # of 9,815 examples, whose interval is half a point wide at 95 %
    claim = draw(
        st.sampled_from(["Consistent improvement.", "Better than before.", "ViaDecoder > CLS-Query.", "It wins."])
    )
    sheet.rows["evaluation"].clear()
    sheet.put(place, "scores", f"**MNLI-m:** {old / 10}%")
    scores = f"**MNLI-m:** {new / 10}%"
    evaluation = add_evaluation(draw, sheet, place, scores=scores, conclusion=claim)
    return Fault({sheet.at("evaluation", evaluation, "conclusion")})


@plants(noise, "noise")
def best_of_equals(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    first, second = draw(st.permutations(range(len(sheet.training()))))[:2]
    score = draw(st.integers(900, 950))
    sheet.put(first, "scores", f"**MNLI-m:** {score / 10}%")
    sheet.put(second, "scores", f"**MNLI-m:** {(score - draw(st.integers(1, 5))) / 10}%")
    claim = draw(st.sampled_from(["Best on MNLI-m.", "MNLI-m: beats the others.", "Outperforms all on MNLI-m."]))
    return Fault({sheet.put(first, "conclusion", claim)})


@plants(noise, "noise")
def rise_inside_noise(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    task, room = draw(st.sampled_from([("MNLI-m", 4), ("QQP", 2), ("PAWS", 4), ("RTE accuracy", 20)]))
    old = draw(st.integers(900, 950))
    text = f"{task} improved from {old / 10}% to {(old + draw(st.integers(1, room))) / 10}%."
    also = {"contradiction", "impossible-score"}
    if draw(st.booleans()):
        return Fault({(sheet.add(text), None)}, also)
    return Fault({sheet.put(any_row(draw, sheet), "conclusion", text)}, also)


CURES = [
    "**Collapse fixed.**",
    "Collapse solved by the combined loss.",
    "Eliminates collapse.",
    "No longer collapsed.",
    "No collapse.",
    "Concept collapse prevented, at last.",
    "This loss cures the collapse.",
]


@plants(collapse_claims, "collapse-claim")
def collapse_called_cured(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place, claim = any_row(draw, sheet), draw(st.sampled_from(CURES))
    concepts = sheet.training()[place].sizes["C"]
    rank = f"{draw(st.integers(1, concepts))} / {concepts}"
    if draw(st.booleans()):
        return Fault({(sheet.add(f"{claim.rstrip('.*')} (rank {rank})."), None)}, {"contradiction"})
    sheet.put(place, "rank", rank)
    return Fault({sheet.put(place, "conclusion", claim)})


@plants(young_tags, "young-tag")
def tag_of_a_later_day(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place = any_row(draw, sheet)
    day = sheet.training()[place].moment + timedelta(days=draw(st.integers(1, 400)))
    forms = ["`arch/x-%Y%m%d`", "`v1_%Y-%m-%d`", "release-%Y.%m.%d", "[`x-%Y%m%d`](https://git.example/x)"]
    return Fault({sheet.put(place, "tag", f"{day:{draw(st.sampled_from(forms))}}")})


FIRST_COMMIT = datetime(2025, 11, 1, 12, tzinfo=UTC)


@cache
def repository() -> Path:
    """A commit every third day, each with a light tag `t0`, `t1`, ..."""
    folder = Path(tempfile.mkdtemp(prefix="cogito-tags-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    stream = []
    for number in range(100):
        seconds = int((FIRST_COMMIT + timedelta(days=3 * number)).timestamp())
        stream.append(f"commit refs/heads/work\ncommitter Ada <a@example.org> {seconds} +0000\ndata 1\nx\n")
        stream.append(f"reset refs/tags/t{number}\nfrom refs/heads/work\n\n")
    git = ["git", "-C", str(folder), "fast-import", "--quiet"]
    subprocess.run(git, check=True, input="".join(stream).encode())
    return folder


@plants(young_tags, "young-tag")
def tag_whose_commit_is_younger(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place = any_row(draw, sheet)
    for other in range(len(sheet.training())):
        sheet.put(other, "tag", f"`t{draw(st.integers(0, 19))}`")  # of 2025
    since = (sheet.training()[place].moment - FIRST_COMMIT).total_seconds() / 86400
    tag = draw(st.integers(int(since // 3) + 1, 99))
    return Fault({sheet.put(place, "tag", f"`t{tag}`")}, options={"repository": repository()})


def report(folder: Path, *lines: str) -> Path:
    (folder / "reports").mkdir(exist_ok=True)
    (folder / "reports" / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "reports"


@plants(contradictions, "contradiction")
def score_that_is_another_elsewhere(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place, score = any_row(draw, sheet), draw(st.integers(900, 989))
    other = draw(st.integers(900, 989).filter(lambda one: one != score))
    title = draw(st.sampled_from(["QQP F1", "MNLI-m", "MNLI-mm", "PAWS Acc"]))
    run, here = sheet.training()[place].run, sheet.put(place, "scores", f"**{title}:** {score / 10}%")
    text = f"`{run}` has {title} {other / 10}%."
    where = draw(st.sampled_from(["prose", "table", "other table", "report"]))
    if where == "prose":
        return Fault({(sheet.add(text), None)})
    if where == "table":
        line = sheet.add(f"| Run | {title} |", "|---|---|", f"| `{run}` | {other / 10}% |") + 2
        return Fault({(line, title)})
    if where == "other table":
        line = sheet.add(f"| Task | `{run}` |", "|---|---|", f"| {title} | {other / 10}% |") + 2
        return Fault({(line, f"`{run}`")})
    return Fault({here}, options={"reports": report(folder, text)})


@plants(contradictions, "contradiction")
def loss_or_rank_that_is_another_elsewhere(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place = any_row(draw, sheet)
    row, concepts = sheet.training()[place], sheet.training()[place].sizes["C"]
    if draw(st.booleans()):
        loss, other = draw(st.lists(st.integers(7001, 9999), unique=True, min_size=2, max_size=2))
        form = "MLM eval **{}** <br> train 3.917" if sheet.is_rendered else "MLM {}"
        here = sheet.put(place, "loss", form.format(f"{loss / 1000:.3f}"))
        kind = "eval" if sheet.is_rendered else "MLM"
        text = f"`{row.run}` ends with an {kind} loss of {other / 1000:.3f}."
    else:
        rank, other = draw(st.lists(st.integers(1, concepts), unique=True, min_size=2, max_size=2))
        here, text = sheet.put(place, "rank", f"{rank} / {concepts}"), f"`{row.run}` has rank {other}/{concepts}."
        assume(str(other) != str(concepts))
    if draw(st.booleans()):
        return Fault({(sheet.add(text), None)})
    return Fault({here}, options={"reports": report(folder, text)})


@plants(versions_differ, "versions-differ")
def figure_that_the_other_version_states_otherwise(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    place, role = (
        any_row(draw, sheet),
        draw(st.sampled_from(["loss", "rank", "scores", "speed", "date", "architecture"])),
    )
    before = {
        "loss": f"MLM {draw(st.integers(7301, 9998)) / 1000:.3f}",
        "rank": f"{draw(st.integers(601, 699))} / 700",
        "scores": f"**QQP F1:** {draw(st.integers(201, 299)) / 10}%",
        "date": "2024-05-06",
        "architecture": f"H{draw(st.integers(2000, 2099))} L99 C99",
        "speed": f"{draw(st.integers(90001, 90009)) / 100}",
    }[role]
    now = sheet.training()[place].cells[role]
    sheet.put(place, role, before)
    (folder / "old.md").write_text(sheet.text(), encoding="utf-8")
    return Fault({sheet.put(place, role, now)}, options={"against": folder / "old.md"})


@plants(versions_differ, "versions-differ")
def last_digit_that_the_other_version_states_otherwise(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    digits, whole = draw(st.integers(0, 3)), draw(st.integers(12, 999))
    numbers = (whole, whole + draw(st.sampled_from([-1, 1, 10])))
    before, now = (shown(number / 10**digits, digits) for number in numbers)
    lines = draw(
        st.sampled_from(
            [
                ["The norm peaked at {} in April."],
                ["1. Of all models, {} learned.", "2. None has 3 layers."],
                ["| Setting | Value |", "|---|---|", "| depth | 7 |", "| width | **{}** |"],
            ]
        )
    )
    first = sheet.add(*lines)
    text = sheet.text()
    (folder / "old.md").write_text(text.replace("{}", before), encoding="utf-8")
    sheet.below = [line.replace("{}", now) for line in sheet.below]
    table = len(lines) == 4
    place = (first + 3, "Value") if table else (first, None)
    return Fault({place}, options={"against": folder / "old.md"})


@plants(versions_differ, "versions-differ")
def row_that_only_the_other_version_has(draw: Draw, sheet: Sheet, folder: Path) -> Fault:
    (folder / "old.md").write_text(sheet.text(), encoding="utf-8")
    gone = sheet.training().pop(any_row(draw, sheet))
    sheet.rows["evaluation"] = [one for one in sheet.rows["evaluation"] if gone.run not in one.cells["checkpoint"]]
    missing = len(Document.read(folder / "old.md").rows) - sum(map(len, sheet.rows.values()))
    assume(missing == 1)
    return Fault({(1, None)}, options={"against": folder / "old.md"})


# Tests


def test_every_rule_has_a_generator_of_its_faults() -> None:
    beside = {contradictions, versions_differ, young_tags}  # which need more than the document
    assert {plant.function for plant in PLANTS} == {*RULES, *beside}
    assert {plant.rule for plant in PLANTS} == set(RULE_NAMES)


def test_every_rule_stands_in_the_document_of_the_rules() -> None:
    table = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| ([a-z]+(?:-[a-z]+)*) \|(?! finds)", table, re.M)) == set(RULE_NAMES)


@settings(max_examples=50)
@given(sheet=sheets())
def test_a_drawn_document_has_no_finding(tmp_path_factory: pytest.TempPathFactory, sheet: Sheet) -> None:
    log = tmp_path_factory.mktemp("sheet") / "log.md"
    log.write_text(sheet.text(), encoding="utf-8")
    assert [one for one in check_log(log) if one.severity != "note"] == []


@pytest.mark.parametrize("plant", PLANTS, ids=[plant.name for plant in PLANTS])
@settings(max_examples=25)
@given(data=st.data())
def test_a_drawn_fault_is_found_at_its_place(
    tmp_path_factory: pytest.TempPathFactory, plant: Plant, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("planted")
    sheet = data.draw(sheets())
    fault = plant.make(data.draw, sheet, folder)
    log = folder / "log.md"
    log.write_text(sheet.text(), encoding="utf-8")
    note(sheet.text())
    findings = check_log(log, **fault.options)
    grave = [one for one in findings if one.severity != "note"]
    found = [one for one in (findings if fault.notes else grave) if one.rule == plant.rule]
    assert {(one.line, one.column) for one in found} == fault.places
    assert {one.rule for one in grave} <= {plant.rule} | fault.also
    if plant.function in RULES:
        assert plant.rule in {one.rule for one in plant.function(Document.read(log))}
