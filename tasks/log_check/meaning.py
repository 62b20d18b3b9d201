"""Rules about what a figure means: scores at a trivial baseline, noise called improvement, kinds of loss mixed.

The document alone has no predictions, so intervals here are computed from the value and the size of the split. They are
taken as narrow as the figure allows: what is called noise is noise by any reading, up to the pairing of two runs.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from tasks.log_check.document import FLOOR, SPLITS, Document, Figure, Row, sentences, tasks_in
from tasks.log_check.finding import Finding
from tasks.scores import METRICS

Z = 1.96  # two-sided 95 %
_CLAIM = re.compile(r"\b(?:best|better|improve\w*|wins?|beats?|outperform\w*|gains?|new (?:\w+ )?baselines?)\b|>", re.I)
_CURED = re.compile(
    r"\bcollapse\W+(?:\w+\W+){0,2}?(?:fixed|solved|resolved|cured|eliminated|gone)\b"
    r"|\b(?:fixed|solved|resolved|cured|eliminated)\W+(?:\w+\W+){0,3}?collapse\b",
    re.I,
)
_NOT = re.compile(r"\b(?:not|never|failed|fails|without|yet|un\w+)\b", re.I)
_UNIGRAM = re.compile(r"unigram(?: entropy| floor)?\D{0,4}(\d+\.\d+)", re.I)
UNIGRAM_MARGIN_NATS = 0.2


def floor_of(figure: Figure, metric: str | None = None) -> float | None:
    """What the best trivial answer scores on the published split."""
    counts = SPLITS[figure.task][1].class_counts
    metric = metric or figure.likely_metric
    if metric == "accuracy":
        return max(counts) / sum(counts)
    if metric == "f1":
        return 2 * counts[1] / (2 * counts[1] + counts[0]) if len(counts) == 2 else None
    return 0.0


def half_width(figure: Figure) -> float:
    """Half of a 95 % interval over examples, as narrow as the figure allows."""
    counts = SPLITS[figure.task][1].class_counts
    n, value = figure.examples or sum(counts), figure.value
    if figure.likely_metric == "accuracy":
        return Z * math.sqrt(max(value * (1 - value), 0) / n)
    if figure.likely_metric == "f1":
        return Z * _f1_deviation(value, counts[1], n)
    # Fisher's z has the deviation 1 / sqrt(n - 3); back on the scale of r that is (1 - r^2) of it
    return Z * (1 - min(value * value, 1)) / math.sqrt(max(n - 3, 1))


def _f1_deviation(f1: float, positive: int, n: int) -> float:
    """Delta method on F1 = 2 TP / (2 TP + E) with multinomial counts, all positives found: the narrowest case."""
    if not 0 < f1 < 1:
        return 0.0
    hits = positive / n
    errors = 2 * hits * (1 - f1) / f1
    total = 2 * hits + errors
    by_hits, by_errors = 2 * errors / total**2, -2 * hits / total**2
    variance = (
        by_hits**2 * hits * (1 - hits)
        + by_errors**2 * errors * max(1 - errors, 0)
        - 2 * by_hits * by_errors * hits * errors
    )
    return math.sqrt(max(variance, 0) / n)


def at_floor(document: Document) -> Iterator[Finding]:
    """A score that a trivial answer reaches too, without saying so."""
    said = {row.line: [one for one in sentences(row.conclusion) if FLOOR.search(one)] for row in document.rows}
    for figure in document.row_scores + [one for one in document.other_scores if one.place.column]:
        floor = floor_of(figure)
        if floor is None or figure.says_floor or (figure.examples or 0) not in (0, SPLITS[figure.task][1].examples):
            continue
        if figure.elsewhere or _is_made(document, figure):
            continue
        if any(figure.task in (tasks_in(one) or [figure.task]) for one in said.get(figure.place.line, ())):
            continue  # its conclusion says so
        low = figure.value - half_width(figure)
        if low > floor or (figure.is_ambiguous and figure.value > (floor_of(figure, figure.readings[1]) or 1)):
            continue
        name = METRICS[figure.likely_metric].floor_name
        shown = f"{100 * floor:.1f}%" if METRICS[figure.likely_metric].is_percent else f"{floor:.3f}"
        split = SPLITS[figure.task][1]
        if figure.value <= floor + 0.0005:
            message, confidence = f"the trivial answer ({name}) scores {shown}", 0.95
        else:
            message, confidence = f"not distinguishable from the trivial answer ({name}), which scores {shown}", 0.8
        if figure.metric is None:
            confidence -= 0.1
        yield Finding.at(
            figure.place, "at-floor", "warning", confidence * figure.certainty,
            f"{split.title} {figure.shown}: {message}",
            f"{figure.likely_metric}, n = {split.examples:,}, 95 % interval at least +-{half_width(figure):.3f}",
        )  # fmt: skip


def _is_made(document: Document, figure: Figure) -> bool:
    return "made data" in document.lines[figure.place.line - 1].casefold()


def noise(document: Document) -> Iterator[Finding]:
    """A difference inside its noise that is called an improvement, or stands in a column of deltas."""
    for row in document.rows:
        if _CLAIM.search(row.conclusion):
            yield from _evaluation_claim(row, document) if row.kind == "evaluation" else _best_claim(row, document)
    for table in document.others:
        deltas = [title for title in table.header if re.search(r"delta|Δ|diff|gain|improvement", title, re.I)]
        for place in table.rows:
            figures = [one for one in document.other_scores if one.place.line == place.line + 1 and one.place.column]
            if len(figures) != 2 or not deltas or figures[0].likely_metric != figures[1].likely_metric:
                continue
            if re.search(r"noise|n\.s\.|not significant|\bto\b.*\)", " ".join(place.cells), re.I):
                continue  # it says so, or has an interval of its own
            if _within_noise(*figures):
                yield Finding.at(
                    replace(figures[1].place, column=deltas[0]), "noise", "note", 0.6,
                    f"{_difference(*figures)} lies inside the noise of two runs; a paired test could still tell",
                    _widths(*figures),
                )  # fmt: skip


def _evaluation_claim(row: Row, document: Document) -> Iterator[Finding]:
    """An evaluation's conclusion claims more than the row of its checkpoint: task by task."""
    mine = {one.task: one for one in document.row_scores if one.place.line == row.line}
    theirs = {
        one.task: one for one in document.row_scores if one.run == row.checkpoint and one.place.line != row.line
    }  # fmt: skip
    pairs = [
        (theirs[task], mine[task])
        for task in mine
        if task in theirs and theirs[task].likely_metric == mine[task].likely_metric
    ]
    inside = [pair for pair in pairs if _within_noise(*pair)]
    if inside:
        yield Finding.at(
            row.at("conclusion"), "noise", "warning", 0.7,
            f"an improvement is claimed; inside the noise of two runs: {', '.join(_difference(*p) for p in inside)}",
            "; ".join(_widths(*pair) for pair in inside),
        )  # fmt: skip


def _best_claim(row: Row, document: Document) -> Iterator[Finding]:
    """A training row is called best on a task that it names, and others are as good within the noise."""
    named = tasks_in(row.conclusion)
    for mine in document.row_scores:
        if mine.place.line != row.line or mine.task not in named:
            continue
        others = [
            one
            for one in document.row_scores
            if one.task == mine.task and one.place.line != row.line and one.likely_metric == mine.likely_metric
        ]
        near = [one for one in others if _within_noise(one, mine)]
        if near:
            lines = ", ".join(f"line {one.place.line}: {one.shown}" for one in near[:5])
            yield Finding.at(
                row.at("conclusion"), "noise", "warning", 0.7,
                f"{SPLITS[mine.task][1].title} {mine.shown} is called best; inside the noise of it: {lines}",
                _widths(near[0], mine),
            )  # fmt: skip


def _within_noise(old: Figure, new: Figure) -> bool:
    return abs(new.value - old.value) < math.hypot(half_width(old), half_width(new))


def _difference(old: Figure, new: Figure) -> str:
    percent = METRICS[new.likely_metric].is_percent
    change = f"{100 * (new.value - old.value):+.2f} points" if percent else f"{new.value - old.value:+.3f}"
    return f"{SPLITS[new.task][1].title} {change}"


def _widths(old: Figure, new: Figure) -> str:
    scale, unit = (100, " points") if METRICS[new.likely_metric].is_percent else (1, "")
    return (
        f"{old.shown} to {new.shown}: over n = {SPLITS[new.task][1].examples:,} the difference of two runs has a 95 % "
        f"interval of at least +-{scale * math.hypot(half_width(old), half_width(new)):.3g}{unit}"
    )


def loss_kinds(document: Document) -> Iterator[Finding]:
    """Training and evaluation losses, or losses of several objectives, in one column."""
    rows = [row for row in document.rows if row.kind == "training" and re.search(r"\d\.\d", row.text("task_loss"))]
    labelled = {figure.place.line for figure in document.row_losses if figure.metric is not None}
    unlabelled = [row for row in rows if row.line not in labelled and any(
        figure.place.line == row.line for figure in document.row_losses
    )]  # fmt: skip
    if labelled and unlabelled:
        for row in unlabelled:
            yield Finding.at(
                row.at("task_loss"), "loss-kinds", "warning", 0.7,
                "the column holds training and evaluation losses, and this one does not say which it is",
                row.text("task_loss")[:80],
            )  # fmt: skip
    kinds = {row.line: _objective(row.text("task_loss")) for row in rows}
    if len(set(kinds.values())) > 1:
        common = Counter(kinds.values()).most_common(1)[0][0]
        for row in rows:
            if kinds[row.line] != common:
                yield Finding.at(
                    row.at("task_loss"), "loss-kinds", "note", 0.8,
                    f"a loss of another objective ({kinds[row.line]}) than most of its column ({common})",
                    row.text("task_loss")[:80],
                )  # fmt: skip
    for row in rows:
        text = row.text("task_loss")
        unigram = _UNIGRAM.search(text)
        evaluated = [one for one in document.row_losses if one.place.line == row.line and one.metric != "train"]
        if unigram and evaluated and "at unigram" not in text:
            entropy = float(unigram[1])
            if float(evaluated[0].text) > entropy - UNIGRAM_MARGIN_NATS + 0.01:
                yield Finding.at(
                    row.at("task_loss"), "at-floor", "warning", 0.9,
                    f"within {UNIGRAM_MARGIN_NATS} nat of the unigram entropy {entropy}: no context was learned",
                    text[:80],
                )  # fmt: skip


def _objective(text: str) -> str:
    words = re.findall(r"[A-Za-z]+", re.sub(r"\([^()]*\)", "", text.replace("*", "")))
    kept = [word for word in words if word.casefold() not in ("train", "eval", "ce", "loss", "br", "at", "evaluation")]
    return " ".join(kept[:2]).casefold() or "unnamed"


def collapse_claims(document: Document) -> Iterator[Finding]:
    """Collapse is called cured on the strength of a rank that says nothing about the input."""
    for row in document.rows:
        match = _CURED.search(row.conclusion)
        if match is None or _NOT.search(row.conclusion[max(match.start() - 25, 0) : match.end()]):
            continue
        rank = row.text("eff_rank").replace("*", "")
        if re.search(r"input|centred|retriev", rank + row.conclusion, re.I):
            continue
        yield Finding.at(
            row.at("conclusion"), "collapse-claim", "warning", 0.75,
            "sum(S)/max(S) is as high for constant concepts that carry nothing of the input; it cannot show this",
            f"{match[0]}; {rank}"[:160],
        )  # fmt: skip
