"""Rules about what a figure means: scores at a trivial baseline, noise called improvement, kinds of loss mixed.

The document holds no predictions, so the intervals are computed from the score and the size of its split. They are as
narrow as the figure allows: what is called noise here is noise by any reading, except that of a paired test.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import islice

import numpy as np

from tasks.log.check.document import Document, Row
from tasks.log.check.figures import FAMILIES, FLOOR, SPLITS, Figure, metrics_in, plain, sentences, tasks_in
from tasks.log.check.finding import Finding, Kind
from tasks.scores.metrics import METRICS, UNIGRAM_MARGIN_NATS

Z = 1.96  # two-sided 95 %
_CLAIM = re.compile(
    r"\b(?:best(?! (?:at |on |was |is )?(?:epoch|checkpoint|step|seed))|better|improv\w*"
    r"|wins?|beats?|outperform\w*|gain(?:s|ed)?|surpass\w*|superior|new (?:\w+ )?baselines?)\b"
    rf"|>\s*(?!{'|'.join(sorted(FAMILIES))})[A-Za-z]",
    re.I,
)
_RISE = re.compile(
    r"(?P<old>(?<![\w.])\d+(?:\.\d+)?)\s*(?P<p1>%?)\s*(?:→|->|to)\s*(?P<new>\d+(?:\.\d+)?)(?![\w]|\.\d)\s*(?P<p2>%?)"
)
_MODEST = re.compile(r"\bnoise\b|\bn\.?s\.|\bsignifican|\bwithin\b|\binterval|\bp ?[<=>]|\bpaired\b|\bCI\b", re.I)
_CURED = re.compile(
    r"\bcollapse\W+(?:\w+\W+){0,2}?(?:fixed|solved|resolved|cured|eliminated|gone|prevented|avoided|removed|overcome)\b"
    r"|\b(?:fix|solv|resolv|cur|eliminat|prevent|avoid|overc[ao]m|remov)(?:e[sd]?|s|ed|ing)?\W+(?:\w+\W+){0,3}?collapse\b"
    r"|\bno longer collaps\w+|\bno (?:more |concept )*collapse\b",
    re.I,
)
_NOT = re.compile(
    r"\b(?:not|never|failed|fails|without|yet|un\w+|no (?:gain|improvement)s?|cannot|could|would|might|should|may"
    r"|try|trying|aims?|nothing|neither|hardly)\b|n't\b|\b(?:to|if|whether|did it|no|any)\W*$",
    re.I,
)
_UNIGRAM = re.compile(r"unigram(?: entropy| floor)?\D{0,4}(\d+\.\d+)", re.I)
_MEANT = re.compile(r"input|cent[er]{2}|retriev", re.I)

TRIVIAL = Kind("at-floor", "warning", 0.95, "{score}: the trivial answer ({answer}) scores {floor}")
LIKE_TRIVIAL = Kind(
    "at-floor", "warning", 0.8, "{score}: not distinguishable from the trivial answer ({answer}), which scores {floor}"
)
AT_UNIGRAM = Kind(
    "at-floor",
    "warning",
    0.9,
    f"within {UNIGRAM_MARGIN_NATS} nat of the unigram entropy {{entropy}}: no context was learned",
)
DELTA_IN_NOISE = Kind(
    "noise", "note", 0.6, "{change} lies inside the noise of two runs; a paired test could still tell"
)
RISE_IN_NOISE = Kind("noise", "warning", 0.7, "{change} lies inside the noise of two runs and is called an improvement")
CLAIM_IN_NOISE = Kind("noise", "warning", 0.7, "an improvement is claimed; inside the noise of two runs: {changes}")
BEST_IN_NOISE = Kind("noise", "warning", 0.7, "{score} is called best; inside the noise of it: {others}")
TRAINING_AMONG_UNNAMED = Kind(
    "loss-kinds", "warning", 0.7, "a training loss in a column whose other losses do not say that they are"
)
UNNAMED_LOSS = Kind(
    "loss-kinds",
    "warning",
    0.7,
    "the column holds training and evaluation losses, and this one does not say which it is",
)
TRAINING_AMONG_EVALUATION = Kind("loss-kinds", "warning", 0.8, "a training loss in a column of evaluation losses")
OTHER_OBJECTIVE = Kind(
    "loss-kinds", "note", 0.8, "a loss of another objective ({objective}) than most of its column ({common})"
)
RANK_AS_PROOF = Kind(
    "collapse-claim",
    "warning",
    0.6,
    "a rank is as high for constant concepts that carry nothing of the input; it cannot show this",
)
RATIO_AS_PROOF = Kind(
    "collapse-claim",
    "warning",
    0.75,
    "sum(S)/max(S) is as high for constant concepts that carry nothing of the input; it cannot show this",
)


@cache
def _trivial_score(label: str, metric: str) -> float:
    counts = SPLITS[label][1].class_counts
    return METRICS[metric].floor(np.repeat(np.arange(len(counts)), counts))


def floor_of(figure: Figure, metric: str | None = None) -> float | None:
    """What the best trivial answer scores on the published split; None where an F1 is an average over classes."""
    metric = metric or figure.likely_metric
    if metric == "f1" and len(SPLITS[figure.task][1].class_counts) != 2:
        return None
    return _trivial_score(figure.task, metric)


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
    """A score that a trivial answer reaches too, without saying so; a loss at the unigram entropy."""
    by_hand = [row for row in document.rows if not row.is_generated]  # a generated row marks its scores itself
    admitted = {row.line: [text for text in sentences(row.conclusion) if FLOOR.search(text)] for row in by_hand}
    generated = {row.line for row in document.rows if row.is_generated}
    others = [one for one in document.other_scores if one.place.column and one.place.line not in generated]
    for figure in document.row_scores + others:
        floor, split = floor_of(figure), SPLITS[figure.task][1]
        if floor is None or figure.says_floor or (figure.examples or 0) not in (0, split.examples):
            continue
        if figure.elsewhere or "made data" in document.lines[figure.place.line - 1].casefold():
            continue
        if any(figure.task in (tasks_in(text) or [figure.task]) for text in admitted.get(figure.place.line, ())):
            continue
        width = half_width(figure)
        if figure.value - width > floor:
            continue
        if figure.is_ambiguous and figure.value < floor - width:
            continue  # as an accuracy far worse than trivial, so it is a correlation times 100
        metric = METRICS[figure.likely_metric]
        kind = TRIVIAL if figure.value <= floor + 0.0005 else LIKE_TRIVIAL
        yield kind.with_confidence(kind.confidence - (0.1 if figure.metric is None else 0)).at(
            figure.place,
            f"{figure.likely_metric}, n = {split.examples:,}, 95 % interval at least +-{width:.3f}",
            score=f"{split.title} {figure.shown}",
            answer=metric.floor_name,
            floor=f"{100 * floor:.1f}%" if metric.is_percent else f"{floor:.3f}",
        )
    yield from _losses_at_floor(document)


def _losses_at_floor(document: Document) -> Iterator[Finding]:
    for row in _rows_with_losses(document):
        text = row.text("task_loss")
        unigram = _UNIGRAM.search(text)
        evaluated = [loss for loss in document.losses_by_line.get(row.line, ()) if loss.metric != "train"]
        if unigram and evaluated and "at unigram" not in text:
            entropy = float(unigram[1])
            if float(evaluated[0].text) > entropy - UNIGRAM_MARGIN_NATS + 0.01:
                yield AT_UNIGRAM.at(row.at("task_loss"), text[:80], entropy=entropy)


def noise(document: Document) -> Iterator[Finding]:
    """A difference inside its noise that is called an improvement, or stands in a column of deltas."""
    for number in document.statements:
        for piece in document.pieces(number):
            yield from _rise(number, plain(piece), document)
    widths = {id(one): half_width(one) for one in document.row_scores}
    for row in document.rows:
        if _claims(row.conclusion):
            yield from (
                _evaluation_claim(row, document) if row.kind == "evaluation" else _best_claim(row, document, widths)
            )
    for table in document.others:
        deltas = [title for title in table.header if re.search(r"delta|Δ|diff(?!usion)|gain|improvement", title, re.I)]
        for place in table.rows:
            figures = document.table_scores_by_line.get(place.line + 1, ())
            if len(figures) != 2 or not deltas or figures[0].likely_metric != figures[1].likely_metric:
                continue
            if re.search(r"noise|n\.s\.|not significant|\bto\b.*\)", " ".join(place.cells), re.I):
                continue  # it says so, or has an interval of its own
            if _within_noise(*figures):
                spot = replace(figures[1].place, column=deltas[0])
                yield DELTA_IN_NOISE.at(spot, _widths(*figures), change=_difference(*figures))


def _claims(text: str) -> bool:
    """Whether a text claims an improvement, and neither denies it nor speaks of its noise."""
    return not _MODEST.search(text) and any(
        not _is_denied(text, match.start(), match.start()) for match in _CLAIM.finditer(text)
    )


def _is_denied(text: str, start: int, end: int) -> bool:
    """Whether words of doubt stand right before a place in a text, or between it and an end."""
    before = text[max(start - 25, 0) : start]
    return bool(_NOT.search(before) or _NOT.search(text[start:end]))


def _rise(number: int, line: str, document: Document) -> Iterator[Finding]:
    """`MNLI-m improved from 59.1% to 59.4%` in one sentence."""
    for sentence in sentences(line):
        named, match = tasks_in(sentence), _RISE.search(sentence)
        if match is None or len(named) != 1 or not _claims(sentence):
            continue
        metric = next(iter(metrics_in(sentence)), None)
        old, new = (
            Figure(document.place(number, match[0], plain), named[0], metric, match[one], bool(match["p2"]))
            for one in ("old", "new")
        )
        if _within_noise(old, new):
            yield RISE_IN_NOISE.at(new.place, _widths(old, new), change=_difference(old, new))


def _evaluation_claim(row: Row, document: Document) -> Iterator[Finding]:
    """An evaluation's conclusion claims more than the row of its checkpoint: task by task."""
    mine = {one.task: one for one in document.scores_by_line.get(row.line, ())}
    theirs = {one.task: one for one in document.scores_by_run.get(row.checkpoint, ()) if one.place.line != row.line}
    pairs = [
        (theirs[task], mine[task])
        for task in mine
        if task in theirs and theirs[task].likely_metric == mine[task].likely_metric
    ]
    inside = [pair for pair in pairs if _within_noise(*pair)]
    if inside:
        evidence = "; ".join(_widths(*pair) for pair in inside)
        yield CLAIM_IN_NOISE.at(
            row.at("conclusion"), evidence, changes=", ".join(_difference(*pair) for pair in inside)
        )


def _best_claim(row: Row, document: Document, widths: dict[int, float]) -> Iterator[Finding]:
    """A training row is called best on a task that it names, and others are as good within the noise."""
    named = tasks_in(row.conclusion)
    for mine in document.scores_by_line.get(row.line, ()):
        if mine.task not in named:
            continue
        near = (
            other
            for other in document.scores_by_task[mine.task, mine.likely_metric]
            if abs(other.value - mine.value) < math.hypot(widths[id(other)], widths[id(mine)])
            and other.place.line != row.line
        )
        shown = list(islice(near, 5))
        if shown:
            others = ", ".join(f"line {other.place.line}: {other.shown}" for other in shown)
            score = f"{mine.title} {mine.shown}"
            yield BEST_IN_NOISE.at(row.at("conclusion"), _widths(shown[0], mine), score=score, others=others)


def _within_noise(old: Figure, new: Figure) -> bool:
    return abs(new.value - old.value) < math.hypot(half_width(old), half_width(new))


def _difference(old: Figure, new: Figure) -> str:
    percent = METRICS[new.likely_metric].is_percent
    change = f"{100 * (new.value - old.value):+.2f} points" if percent else f"{new.value - old.value:+.3f}"
    return f"{new.title} {change}"


def _widths(old: Figure, new: Figure) -> str:
    scale, unit = (100, " points") if METRICS[new.likely_metric].is_percent else (1, "")
    return (
        f"{old.shown} to {new.shown}: over n = {SPLITS[new.task][1].examples:,} the difference of two runs has a 95 % "
        f"interval of at least +-{scale * math.hypot(half_width(old), half_width(new)):.3g}{unit}"
    )


def _rows_with_losses(document: Document) -> list[Row]:
    return [row for row in document.rows if row.kind == "training" and re.search(r"\d\.\d", row.text("task_loss"))]


def loss_kinds(document: Document) -> Iterator[Finding]:
    """Training and evaluation losses, or losses of several objectives, in one column."""
    rows = _rows_with_losses(document)
    kinds = {line: {loss.metric for loss in losses} for line, losses in document.losses_by_line.items()}
    unnamed = [row for row in rows if kinds.get(row.line) == {None}]
    trained = [row for row in rows if kinds.get(row.line) == {"train"}]
    is_evaluated = any("eval" in named for named in kinds.values())
    mixed: list[tuple[Kind, list[Row]]] = []
    if not is_evaluated and 0 < len(trained) <= len(unnamed):
        mixed.append((TRAINING_AMONG_UNNAMED, trained))
    elif any(named != {None} for named in kinds.values()):
        mixed.append((UNNAMED_LOSS, unnamed))
    if is_evaluated:
        mixed.append((TRAINING_AMONG_EVALUATION, trained))
    for kind, of_kind in mixed:
        for row in of_kind:
            yield kind.at(row.at("task_loss"), row.text("task_loss")[:80])
    objectives = {row.line: _objective(row.text("task_loss")) for row in rows}
    common = next(iter(Counter(objectives.values()).most_common(1)), ("", 0))[0]
    for row in rows:
        if objectives[row.line] != common:
            facts = {"objective": objectives[row.line], "common": common}
            yield OTHER_OBJECTIVE.at(row.at("task_loss"), row.text("task_loss")[:80], **facts)


def _objective(text: str) -> str:
    words = re.findall(r"[A-Za-z]+", re.sub(r"\([^()]*\)", "", plain(text)))
    kept = [word for word in words if word.casefold() not in ("train", "eval", "ce", "loss", "br", "at", "evaluation")]
    return " ".join(kept[:2]).casefold() or "unnamed"


def _cured(text: str) -> re.Match[str] | None:
    """Where a text says that collapse is over."""
    return next((one for one in _CURED.finditer(text) if not _is_denied(text, *one.span())), None)


def collapse_claims(document: Document) -> Iterator[Finding]:
    """Collapse is called cured on the strength of a rank that says nothing about the input."""
    for number, line in document.prose.items():
        for sentence in sentences(plain(line)):
            match = _cured(sentence)
            if match and re.search(r"\brank\b|\d\s*/\s*\d", sentence) and not _MEANT.search(sentence):
                yield RANK_AS_PROOF.at(document.place(number, match[0]), sentence.strip()[:160])
    for row in document.rows:
        match, rank = _cured(row.conclusion), plain(row.text("eff_rank"))
        if match and not _MEANT.search(rank + row.conclusion):
            yield RATIO_AS_PROOF.at(row.at("conclusion"), f"{match[0]}; {rank}"[:160])
