"""Rules about figures that cannot be: no confusion matrix, no quotient, out of range, mixed units."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal

from tasks.log.check.document import Document
from tasks.log.check.feasibility import (
    accuracy_and_f1_are_possible,
    accuracy_and_matthews_are_possible,
    accuracy_is_possible,
    f1_is_possible,
    quotient_is_possible,
)
from tasks.log.check.figures import SPLITS, Figure, Place, plain
from tasks.log.check.finding import Finding, Kind
from tasks.scores.metrics import METRICS

_QUOTIENT = re.compile(
    r"(?<![\w.,/−-])(?P<above>\d[\d,]*(?:\.\d+)?)\s*(?:/|of|out of)\s*(?P<below>\d[\d,]*)(?:\s[a-z]+)?\s*"
    r"(?:[(=\[]|,? i\.e\.,?)\s*"
    r"(?P<about>[=≈~<>]?)\s*(?P<percent>\d+(?:\.\d+)?)\s*%(?!\s*(?:CI\b|conf|interval|percentile|quantile))"
    r"|(?<![\w.,−-])(?:(?P<about2>[≈~<>])\s*)?(?P<percent2>\d+(?:\.\d+)?)\s*%\s*\(\s*(?P<above2>\d[\d,]*(?:\.\d+)?)"
    r"\s*(?:/|of|out of)\s*(?P<below2>\d[\d,]*)(?:\s[a-z]+)?\s*\)"
)
_SHARE = re.compile(  # 12 / 128 (0.094)
    r"(?<![\w.,/−-])(?P<above>\d+(?:\.\d+)?)\s*(?:/|of)\s*(?P<below>\d+)\s*\(\s*[=≈~]?\s*(?P<share>0?\.\d+)\s*\)"
)
_RANK = re.compile(r"(?<![\w.,/])(?P<above>\d+(?:\.\d+)?)\s*(?:/|of)\s*(?P<below>\d+)(?![\d.])")

IMPOSSIBLE_SCORE = Kind("impossible-score", "error", 0.9, "{score}: no result over {n:,} examples rounds to it")
IMPOSSIBLE_PAIR = Kind(
    "impossible-pair", "error", 0.9, "{score} and accuracy {accuracy} cannot come from the same predictions"
)
SCORE_RANGE = Kind("out-of-range", "error", 0.95, "{score} is outside {allowed}")
RANK_RANGE = Kind(
    "out-of-range", "error", 0.95, "rank {above} of {below} concepts: a rank lies between 1 and the number of concepts"
)
NEGATIVE = Kind("out-of-range", "error", 0.9, "{figure} is negative")
EPOCHS_RANGE = Kind("out-of-range", "warning", 0.8, "{done} epochs of {all}")
WRONG_QUOTIENT = Kind("wrong-percentage", "error", 0.98, "{quotient}")
QUOTIENT_OF_UNROUNDED = Kind("wrong-percentage", "note", 0.3, "{quotient}; possible only if {above} was rounded before")
QUOTIENT_OF_MORE_DIGITS = Kind(
    "wrong-percentage",
    "warning",
    0.8,
    "{quotient}; possible only if the percentage was taken of more digits than are shown",
)
MIXED_UNITS = Kind(
    "mixed-units",
    "warning",
    0.85,
    "{score} stands beside {other} in line {line}: one is a percentage, the other is not",
)
MIXED_SPEEDS = Kind("mixed-units", "note", 0.7, "this speed has a unit and others in its column have none")


def impossible_scores(document: Document) -> Iterator[Finding]:
    """No confusion matrix of the split gives this score, or these two scores together."""
    for figure in document.scores:
        if not _out_of_range(figure) and not _is_possible(figure):
            n = _sizes(figure)[0] or 0
            runs = "one evaluation" if figure.evaluations == 1 else f"{figure.evaluations} evaluations"
            evidence = f"{' or '.join(figure.readings)} over {runs} of n = {n:,}"
            yield IMPOSSIBLE_SCORE.at(figure.place, evidence, score=_named(figure), n=n)
    for first, second in _pairs(document.scores):
        yield from _pair(first, second)


def _pair(accuracy: Figure, other: Figure) -> Iterator[Finding]:
    n, counts = _sizes(accuracy)
    if n is None or counts is None or len(counts) != 2 or accuracy.evaluations != 1 or other.evaluations != 1:
        return
    negative, positive = counts
    possible = {"f1": accuracy_and_f1_are_possible, "matthews": accuracy_and_matthews_are_possible}[other.likely_metric]
    if possible(accuracy.rounded, other.rounded, positive, negative):
        return
    if not (_is_possible(accuracy) and _is_possible(other)) or _out_of_range(accuracy) or _out_of_range(other):
        return  # one of them is reported by itself
    counted = f"{n:,} examples ({positive:,} positive, {negative:,} negative)"
    evidence = f"no confusion matrix over {counted} rounds to both"
    yield IMPOSSIBLE_PAIR.at(other.place, evidence, score=_named(other), accuracy=accuracy.shown)


def _pairs(figures: Iterable[Figure]) -> Iterator[tuple[Figure, Figure]]:
    """Accuracy and F1 or Matthews' correlation of one task in one line or one column, where each stands there once."""
    lines: dict[tuple[object, ...], list[Figure]] = defaultdict(list)
    columns: dict[tuple[object, ...], list[Figure]] = defaultdict(list)
    for figure in figures:
        lines[figure.place.line, figure.task, figure.head].append(figure)
        if figure.table is not None:
            columns[figure.table, figure.place.column, figure.task, figure.run].append(figure)
    apart = [group for group in columns.values() if len(group) == 2 and len({one.place.line for one in group}) == 2]
    for group in [*lines.values(), *apart]:
        by_metric: dict[str, list[Figure]] = defaultdict(list)
        for figure in group:
            by_metric[figure.likely_metric].append(figure)
        for other in ("f1", "matthews"):
            if len(by_metric["accuracy"]) == len(by_metric[other]) == 1:
                yield by_metric["accuracy"][0], by_metric[other][0]
            elif len(by_metric["accuracy"]) == len(by_metric[other]):
                for first, second in zip(by_metric["accuracy"], by_metric[other], strict=True):
                    if first.place.column == second.place.column:
                        yield first, second


def _is_possible(figure: Figure) -> bool:
    """Whether any reading of a score can be; True where nothing is known of its split."""
    n, counts = _sizes(figure)
    evaluations = figure.evaluations
    if n is None or evaluations is None:
        return True
    possible = {"accuracy": lambda: accuracy_is_possible(figure.rounded, n, evaluations)}
    if evaluations == 1 and counts is not None and len(counts) == 2:
        possible["f1"] = lambda: f1_is_possible(figure.rounded, counts[1], counts[0])
    return any(metric not in possible or possible[metric]() for metric in figure.readings)


def _sizes(figure: Figure) -> tuple[int | None, tuple[int, ...] | None]:
    """Examples, and their classes where they are known: those of the published split unless the text says another n."""
    split = SPLITS[figure.task][1]
    stated = figure.examples
    if figure.elsewhere and stated is None:
        return None, None
    if stated is not None and stated != split.examples:
        return stated, None
    if stated is None and figure.says_floor and "%" in figure.shown:
        return None, None  # a split of its own, whose floor is stated and whose size is not
    return split.examples, split.class_counts


def out_of_range(document: Document) -> Iterator[Finding]:
    """A score, a rank or a loss outside what it can be."""
    for figure in document.scores:
        if _out_of_range(figure):
            allowed = "0 to 100 %" if METRICS[figure.likely_metric].is_percent else "-1 to 1"
            yield SCORE_RANGE.at(figure.place, figure.shown, score=_named(figure), allowed=allowed)
    for row in document.rows:
        for match in _RANK.finditer(plain(row.text("eff_rank"))):
            if not 0 < float(match["above"]) <= int(match["below"]):
                facts = {"above": match["above"], "below": int(match["below"])}
                yield RANK_RANGE.at(row.at("eff_rank"), match[0], **facts)
        for name in ("task_loss", "speed_steps_s", "epochs"):
            text = re.sub(r"\([^()]*\)", " ", plain(row.text(name)))
            negative = re.search(r"(?<![\w.)\d])[-−]\d+(?:\.\d+)?(?![\w-])", text)
            if negative:
                yield NEGATIVE.at(row.at(name), negative[0], figure=negative[0])
        done = re.match(r"\W*(\d+)\s*(?:/|of)\s*(\d+)(?![\d.])", row.text("epochs"))
        if done and int(done[1]) > int(done[2]):
            yield EPOCHS_RANGE.at(row.at("epochs"), done[0].strip(), done=done[1], all=done[2])


def _out_of_range(figure: Figure) -> bool:
    value = abs(float(figure.text)) / (100 if figure.percent else 1)
    if float(figure.text) < 0 and METRICS[figure.likely_metric].is_percent:
        return True
    return value > (1 if figure.percent or value <= 1.5 else 100)


def wrong_percentages(document: Document) -> Iterator[Finding]:
    """A percentage that does not follow from the fraction beside it."""
    for number, line in document.statements.items():
        text = plain(line)
        for match in _QUOTIENT.finditer(text):
            parts = {name.rstrip("2"): value for name, value in match.groupdict().items() if value is not None}
            if parts.get("about") not in ("<", ">"):
                place = document.place(number, match[0], text=plain)
                yield from _quotient(parts, place, match[0])
        for match in _SHARE.finditer(text):
            parts = match.groupdict() | {"percent": str(100 * Decimal(match["share"]))}
            yield from _quotient(parts, document.place(number, match[0], text=plain), match[0])


def _quotient(parts: Mapping[str, str], place: Place, text: str) -> Iterator[Finding]:
    """Compare a stated percentage with its quotient.

    Args:
        parts: the figures `above`, `below` and `percent`, and `about` where a sign says that it is rounded.
    """
    above, below, percent = (parts[name].replace(",", "") for name in ("above", "below", "percent"))
    if float(below) == 0:
        return
    as_written, if_rounded = quotient_is_possible(above, below, percent)
    share = 100 * float(above) / float(below)
    is_about = parts.get("about") in ("≈", "~")
    if as_written or (is_about and abs(share - float(percent)) <= max(1, share / 10)):
        return
    kind = WRONG_QUOTIENT if not if_rounded else QUOTIENT_OF_MORE_DIGITS if "." in above else QUOTIENT_OF_UNROUNDED
    yield kind.at(place, text, quotient=f"{above} / {below} is {share:.2f} %, not {percent} %", above=above)


def mixed_units(document: Document) -> Iterator[Finding]:
    """The same score as a fraction in one place and as a percentage in another; speeds with and without a unit."""
    by_metric: dict[tuple[str, str], list[Figure]] = defaultdict(list)
    for figure in document.row_scores + document.table_scores:
        by_metric[figure.task, figure.likely_metric].append(figure)
    for figures in by_metric.values():
        percent = [figure for figure in figures if figure.is_percentage]
        fractions = [figure for figure in figures if not figure.is_percentage and float(figure.text) != 0]
        if not percent or not fractions:
            continue
        fewer, more = sorted([percent, fractions], key=len)
        other = more[0]
        for figure in fewer:
            evidence = f"{figure.shown}; {', '.join(one.shown for one in more[:4])}"
            facts = {"score": _named(figure), "other": other.shown, "line": other.place.line}
            yield MIXED_UNITS.at(figure.place, evidence, **facts)
    speeds = [row for row in document.rows if re.search(r"\d", row.text("speed_steps_s"))]
    with_unit = [row for row in speeds if re.search(r"[A-Za-z]", row.text("speed_steps_s"))]
    if len(with_unit) < len(speeds):
        for row in with_unit:
            yield MIXED_SPEEDS.at(row.at("speed_steps_s"), row.text("speed_steps_s"))


def _named(figure: Figure) -> str:
    """A score with its split, its metric where that is stated, and its value."""
    return " ".join(filter(None, (figure.title, figure.metric, figure.shown)))
