"""Rules about figures that cannot be: no confusion matrix, no quotient, out of range, mixed units."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal

from tasks.log.check.document import Document
from tasks.log.check.feasibility import (
    accuracy_and_f1_are_possible,
    accuracy_and_matthews_are_possible,
    accuracy_is_possible,
    f1_is_possible,
    quotient_is_possible,
)
from tasks.log.check.figures import SPLITS, Figure, Place
from tasks.log.check.finding import Finding
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


def impossible_scores(document: Document) -> Iterator[Finding]:
    """No confusion matrix of the split gives this score, or these two scores together."""
    for figure in document.row_scores + document.other_scores:
        if not _out_of_range(figure) and not _is_possible(figure):
            n = _sizes(figure)[0] or 0
            yield Finding.at(
                figure.place,
                "impossible-score",
                "error",
                0.9,
                f"{_title(figure)} {figure.shown}: no result over {n:,} examples rounds to it",
                f"{' or '.join(figure.readings)} over {_runs(figure)} of n = {n:,}",
            )
    for first, second in _pairs(document.row_scores + document.other_scores):
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
        return  # one of them alone is found already
    yield Finding.at(
        other.place,
        "impossible-pair",
        "error",
        0.9,
        f"{_title(other)} {other.shown} and accuracy {accuracy.shown} cannot come from the same predictions",
        f"no confusion matrix over {n:,} examples ({positive:,} positive, {negative:,} negative) rounds to both",
    )


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
    if figure.elsewhere and stated is None:
        return None, None
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
                figure.place,
                "out-of-range",
                "error",
                0.95,
                f"{_title(figure)} {figure.shown} is outside {allowed}",
                figure.shown,
            )
    for row in document.rows:
        for match in _RANK.finditer(_plain(row.text("eff_rank"))):
            above, below = float(match["above"]), int(match["below"])
            if above > below or above == 0:
                yield Finding.at(
                    row.at("eff_rank"),
                    "out-of-range",
                    "error",
                    0.95,
                    f"rank {match['above']} of {below} concepts: a rank lies between 1 and the number of concepts",
                    match[0],
                )
        for name in ("task_loss", "speed_steps_s", "epochs"):
            text = re.sub(r"\([^()]*\)", " ", _plain(row.text(name)))
            match_ = re.search(r"(?<![\w.)\d])[-−]\d+(?:\.\d+)?(?![\w-])", text)
            if match_:
                yield Finding.at(row.at(name), "out-of-range", "error", 0.9, f"{match_[0]} is negative", match_[0])
        done = re.match(r"\W*(\d+)\s*(?:/|of)\s*(\d+)(?![\d.])", row.text("epochs"))
        if done and int(done[1]) > int(done[2]):
            yield Finding.at(
                row.at("epochs"), "out-of-range", "warning", 0.8, f"{done[1]} epochs of {done[2]}", done[0].strip()
            )


def _out_of_range(figure: Figure) -> bool:
    value = abs(float(figure.text)) / (100 if figure.percent else 1)
    is_percent = METRICS[figure.likely_metric].is_percent
    if figure.percent or value <= 1.5:
        return value > 1 or (is_percent and float(figure.text) < 0)
    return value > 100 or (is_percent and float(figure.text) < 0)


def wrong_percentages(document: Document) -> Iterator[Finding]:
    """A percentage that does not follow from the fraction beside it."""
    for number, line in document.statements.items():
        text = _plain(line)
        for match in _QUOTIENT.finditer(text):
            one = {name.rstrip("2"): value for name, value in match.groupdict().items() if value is not None}
            about = one.get("about")
            if about not in ("<", ">"):
                is_about = about in ("≈", "~")
                place = document.place(number, match[0], text=_plain)
                yield from _quotient(one["above"], one["below"], one["percent"], is_about, place, match[0])
        for match in _SHARE.finditer(text):
            percent = str(100 * Decimal(match["share"]))
            place = document.place(number, match[0], text=_plain)
            yield from _quotient(match["above"], match["below"], percent, False, place, match[0])


def _quotient(above: str, below: str, percent: str, is_about: bool, place: Place, text: str) -> Iterator[Finding]:
    above, below = above.replace(",", ""), below.replace(",", "")
    if float(below) == 0:
        return
    as_written, if_rounded = quotient_is_possible(above, below, percent)
    share = 100 * float(above) / float(below)
    if as_written or (is_about and abs(share - float(percent)) <= max(1, share / 10)):
        return
    message = f"{above} / {below} is {share:.2f} %, not {percent} %"
    if if_rounded and "." not in above:
        yield Finding.at(
            place, "wrong-percentage", "note", 0.3, f"{message}; possible only if {above} was rounded before", text
        )
    elif if_rounded:
        yield Finding.at(
            place,
            "wrong-percentage",
            "warning",
            0.8,
            f"{message}; possible only if the percentage was taken of more digits than are shown",
            text,
        )
    else:
        yield Finding.at(place, "wrong-percentage", "error", 0.98, message, text)


def mixed_units(document: Document) -> Iterator[Finding]:
    """The same score as a fraction in one place and as a percentage in another; speeds with and without a unit."""
    by_metric: dict[tuple[str, str], list[Figure]] = defaultdict(list)
    for figure in document.row_scores + [one for one in document.other_scores if one.table is not None]:
        by_metric[figure.task, figure.likely_metric].append(figure)
    for figures in by_metric.values():
        percent = [figure for figure in figures if _is_percentage(figure)]
        plain = [figure for figure in figures if not _is_percentage(figure) and float(figure.text) != 0]
        if not percent or not plain:
            continue
        fewer, more = sorted([percent, plain], key=len)
        for figure in fewer:
            yield Finding.at(
                figure.place,
                "mixed-units",
                "warning",
                0.85,
                f"{_title(figure)} {figure.shown} stands beside {more[0].shown} in line {more[0].place.line}: "
                "one is a percentage, the other is not",
                f"{figure.shown}; {', '.join(other.shown for other in more[:4])}",
            )
    speeds = [row for row in document.rows if re.search(r"\d", row.text("speed_steps_s"))]
    with_unit = [row for row in speeds if re.search(r"[A-Za-z]", row.text("speed_steps_s"))]
    if 0 < len(with_unit) < len(speeds):
        for row in with_unit:
            yield Finding.at(
                row.at("speed_steps_s"),
                "mixed-units",
                "note",
                0.7,
                "this speed has a unit and others in its column have none",
                row.text("speed_steps_s"),
            )


def _is_percentage(figure: Figure) -> bool:
    return figure.percent or abs(float(figure.text)) > 1.5


def _plain(text: str) -> str:
    return text.replace("*", "")


def _title(figure: Figure) -> str:
    title = SPLITS[figure.task][1].title
    return f"{title} {figure.metric}" if figure.metric else title


def _runs(figure: Figure) -> str:
    return "one evaluation" if figure.evaluations == 1 else f"{figure.evaluations} evaluations"
