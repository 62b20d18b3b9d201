"""Rules about figures that cannot be: no confusion matrix, no quotient, out of range, mixed units."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from tasks.log_check.document import SPLITS, Document, Figure, Place
from tasks.log_check.feasibility import (
    accuracy_and_f1_are_possible,
    accuracy_and_matthews_are_possible,
    accuracy_is_possible,
    f1_is_possible,
    quotient_is_possible,
)
from tasks.log_check.finding import Finding
from tasks.scores import METRICS

_QUOTIENT = re.compile(
    r"(?<![\w.,/])(?P<above>\d+(?:\.\d+)?)\s*/\s*(?P<below>\d+(?:\.\d+)?)\s*\(\s*[=≈~]?\s*(?P<percent>\d+(?:\.\d+)?)\s*%"
)
_RANK = re.compile(r"(?<![\w.,/])(?P<above>\d+(?:\.\d+)?)\s*/\s*(?P<below>\d+)(?![\d.])")


def impossible_scores(document: Document) -> Iterator[Finding]:
    """No confusion matrix of the split gives this score, or these two scores together."""
    for figure in document.row_scores + document.other_scores:
        if not _out_of_range(figure) and not _is_possible(figure):
            n = _sizes(figure)[0]
            yield Finding.at(
                figure.place, "impossible-score", "error", min(figure.certainty, 0.9),
                f"{_title(figure)} {figure.shown}: no result over {n:,} examples rounds to it",
                f"{' or '.join(figure.readings)} over {_runs(figure)} of n = {n:,}",
            )  # fmt: skip
    for first, second in _pairs(document.row_scores + document.other_scores):
        yield from _pair(first, second)


def _pair(accuracy: Figure, other: Figure) -> Iterator[Finding]:
    n, counts = _sizes(accuracy)
    if counts is None or len(counts) != 2 or accuracy.evaluations != 1 or other.evaluations != 1:
        return
    negative, positive = counts
    possible = {"f1": accuracy_and_f1_are_possible, "matthews": accuracy_and_matthews_are_possible}[other.likely_metric]
    if possible(accuracy.rounded, other.rounded, positive, negative):
        return
    if not (_is_possible(accuracy) and _is_possible(other)) or _out_of_range(accuracy) or _out_of_range(other):
        return  # one of them alone is found already
    yield Finding.at(
        other.place, "impossible-pair", "error", 0.9,
        f"{_title(other)} {other.shown} and accuracy {accuracy.shown} cannot come from the same predictions",
        f"no confusion matrix over {n:,} examples ({positive:,} positive, {negative:,} negative) rounds to both",
    )  # fmt: skip


def _pairs(figures: Iterable[Figure]) -> Iterator[tuple[Figure, Figure]]:
    """Accuracy and F1 or Matthews' correlation of one task in one row or line, where each stands there once."""
    groups: dict[tuple[object, ...], list[Figure]] = defaultdict(list)
    for figure in figures:
        groups[figure.place.line, figure.task, figure.head].append(figure)
    for group in groups.values():
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
    for metric in figure.readings:
        if metric == "accuracy":
            possible = accuracy_is_possible(figure.rounded, n, evaluations)
        elif metric == "f1" and evaluations == 1 and counts is not None and len(counts) == 2:
            possible = f1_is_possible(figure.rounded, counts[1], counts[0])
        else:
            possible = True
        if possible:
            return True
    return False


def _sizes(figure: Figure) -> tuple[int | None, tuple[int, ...] | None]:
    """Examples, and their classes where they are known: those of the published split unless the text says another n."""
    split = SPLITS[figure.task][1]
    stated = figure.examples
    if stated is not None and stated != split.examples:
        return stated, None
    if stated is None and figure.says_floor and "%" in figure.shown:
        return None, None  # a split of its own, whose floor is stated and whose size is not
    return split.examples, split.class_counts


def out_of_range(document: Document) -> Iterator[Finding]:
    """A score, a rank or a loss outside what it can be."""
    for figure in document.row_scores + document.other_scores:
        if _out_of_range(figure):
            allowed = "0 to 100 %" if METRICS[figure.likely_metric].is_percent else "-1 to 1"
            yield Finding.at(
                figure.place, "out-of-range", "error", 0.95, f"{_title(figure)} {figure.shown} is outside {allowed}",
                figure.shown,
            )  # fmt: skip
    for row in document.rows:
        for match in _RANK.finditer(_plain(row.text("eff_rank"))):
            above, below = float(match["above"]), int(match["below"])
            if above > below or above == 0:
                yield Finding.at(
                    row.at("eff_rank"), "out-of-range", "error", 0.95,
                    f"rank {match['above']} of {below} concepts: a rank lies between 1 and the number of concepts",
                    match[0],
                )  # fmt: skip
        for name in ("task_loss", "speed_steps_s", "epochs"):
            match_ = re.search(r"(?<![\w.)\d])[-−]\d+(?:\.\d+)?(?![\w-])", _plain(row.text(name)))
            if match_:
                yield Finding.at(row.at(name), "out-of-range", "error", 0.9, f"{match_[0]} is negative", match_[0])


def _out_of_range(figure: Figure) -> bool:
    value = abs(float(figure.text)) / (100 if figure.percent else 1)
    is_percent = METRICS[figure.likely_metric].is_percent
    if figure.percent or value <= 1.5:
        return value > 1 or (is_percent and float(figure.text) < 0)
    return value > 100 or (is_percent and float(figure.text) < 0)


def wrong_percentages(document: Document) -> Iterator[Finding]:
    """A percentage that does not follow from the fraction beside it."""
    places = {row.line: row for row in document.rows}
    for number, line in enumerate(document.lines):
        for match in _QUOTIENT.finditer(_plain(line)):
            above, below, percent = match["above"], match["below"], match["percent"]
            if float(below) == 0:
                continue
            as_written, if_rounded = quotient_is_possible(above, below, percent)
            if as_written:
                continue
            row = places.get(number + 1)
            column = _column_of(row.table.header, row.place.cells, match[0]) if row else None
            place = Place(number + 1, row.run_id if row else None, column)
            share = 100 * float(above) / float(below)
            message = f"{above} / {below} is {share:.2f} %, not {percent} %"
            if if_rounded and "." not in above:
                yield Finding.at(
                    place, "wrong-percentage", "note", 0.3,
                    f"{message}; possible only if {above} was rounded before", match[0],
                )  # fmt: skip
            elif if_rounded:
                yield Finding.at(
                    place, "wrong-percentage", "warning", 0.8,
                    f"{message}; possible only if the percentage was taken of more digits than are shown", match[0],
                )  # fmt: skip
            else:
                yield Finding.at(place, "wrong-percentage", "error", 0.98, message, match[0])


def mixed_units(document: Document) -> Iterator[Finding]:
    """The same score as a fraction in one place and as a percentage in another; speeds with and without a unit."""
    by_metric: dict[tuple[str, str], list[Figure]] = defaultdict(list)
    for figure in document.row_scores:
        by_metric[figure.task, figure.likely_metric].append(figure)
    for figures in by_metric.values():
        percent = [figure for figure in figures if figure.percent or abs(float(figure.text)) > 1.5]
        plain = [figure for figure in figures if figure not in percent and float(figure.text) != 0]
        if not percent or not plain:
            continue
        fewer, more = sorted([percent, plain], key=len)
        for figure in fewer:
            yield Finding.at(
                figure.place, "mixed-units", "warning", 0.85,
                f"{_title(figure)} {figure.shown} stands beside {more[0].shown} in line {more[0].place.line}: "
                "one is a percentage, the other is not",
                f"{figure.shown}; {', '.join(other.shown for other in more[:4])}",
            )  # fmt: skip
    speeds = [row for row in document.rows if re.search(r"\d", row.text("speed_steps_s"))]
    with_unit = [row for row in speeds if re.search(r"[A-Za-z]", row.text("speed_steps_s"))]
    if 0 < len(with_unit) < len(speeds):
        for row in with_unit:
            yield Finding.at(
                row.at("speed_steps_s"), "mixed-units", "note", 0.7,
                "this speed has a unit and others in its column have none", row.text("speed_steps_s"),
            )  # fmt: skip


def _plain(text: str) -> str:
    return text.replace("*", "")


def _column_of(header: tuple[str, ...], cells: tuple[str, ...], text: str) -> str | None:
    return next((title for title, cell in zip(header, cells, strict=False) if text in _plain(cell)), None)


def _title(figure: Figure) -> str:
    title = SPLITS[figure.task][1].title
    return f"{title} {figure.metric}" if figure.metric else title


def _runs(figure: Figure) -> str:
    return "one evaluation" if figure.evaluations == 1 else f"{figure.evaluations} evaluations"
