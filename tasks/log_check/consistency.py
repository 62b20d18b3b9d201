"""Rules about figures that contradict each other: in the document, in another version of it, in reports."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.experiment_log import is_missing
from tasks.log_check.document import SPLITS, Document, Figure, Place, Row
from tasks.log_check.feasibility import Rounded
from tasks.log_check.finding import Finding

_NUMBER = re.compile(r"(?P<sign>[-−+]?)\s*(?P<value>\d+(?:\.\d+)?)\s*(?P<percent>%?)")
_OPEN = re.compile(
    r"\bTBD\b|\bTODO\b|\bTBA\b|\bFIXME\b|\?\?\?|\bpend(?:ing\b|\.)|\bin progress\b|\bto be (?:filled|added)\b", re.I
)
_FIGURE = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w-])")
VERSION_COLUMNS = (
    "date", "architecture", "pretraining_data", "machine", "epochs", "concept_losses", "task_loss", "eff_rank",
    "key_scores", "speed_steps_s", "git_tag",
)  # fmt: skip


def contradictions(document: Document, reports: Sequence[Document] = ()) -> Iterator[Finding]:
    """The same figure is stated differently in two places of the log or in a report."""
    stated = document.row_scores
    for figure in document.other_scores:
        yield from _against(figure, [other for other in stated if other.place.line != figure.place.line], None)
    in_log = stated + document.other_scores
    for report in reports:
        for figure in report.row_scores + report.other_scores:
            yield from _against(figure, in_log, report.path)
        for loss in report.row_losses + report.other_losses:
            yield from _loss_against(loss, document.row_losses, report.path)


def _against(figure: Figure, stated: Sequence[Figure], file: Path | None) -> Iterator[Finding]:
    """Whether none of the comparable statements says what this one says."""
    if figure.run is None:
        return
    same = [
        other
        for other in stated
        if other.run == figure.run and other.task == figure.task and other.likely_metric == figure.likely_metric
    ]
    exact = [other for other in same if other.head == figure.head and figure.head is not None]
    loose = [other for other in same if other.head is None or figure.head is None]
    comparable = exact or loose
    if not comparable or any(other.rounded.overlaps(figure.rounded) for other in comparable):
        return
    other = max(comparable, key=lambda one: one.certainty)
    certainty = 0.9 * figure.certainty * other.certainty * (1.0 if exact else 0.8)
    title = f"{SPLITS[figure.task][1].title} {figure.likely_metric} of {figure.run}"
    if file is None:
        yield Finding.at(
            figure.place, "contradiction", "warning", certainty,
            f"{title}: {figure.shown} here, {other.shown} in line {other.place.line}", f"{figure.shown}; {other.shown}",
        )  # fmt: skip
    else:
        yield Finding.at(
            other.place, "contradiction", "warning", certainty,
            f"{title}: {other.shown} here, {figure.shown} in {file.name} line {figure.place.line}",
            f"{other.shown}; {file}:{figure.place.line}: {figure.shown}",
        )  # fmt: skip


def _loss_against(loss: Figure, stated: Sequence[Figure], file: Path) -> Iterator[Finding]:
    rows = [other for other in stated if other.run == loss.run]
    same = [other for other in rows if other.rounded.overlaps(loss.rounded)]
    where = f"{file}:{loss.place.line}: {loss.text}"
    if same and loss.metric == "train" and same[0].metric is None:
        yield Finding.at(
            same[0].place, "loss-kinds", "warning", 0.9 * loss.certainty,
            f"{same[0].text} is the training loss of {loss.run}, says {file.name}; the column does not", where,
        )  # fmt: skip
    unlike = [other for other in rows if other.metric == loss.metric]
    if unlike and not same and loss.metric is not None:
        yield Finding.at(
            unlike[0].place, "contradiction", "warning", 0.8 * loss.certainty,
            f"{loss.metric} loss of {loss.run}: {unlike[0].text} here, {loss.text} in {file.name}",
            where,
        )  # fmt: skip


def versions_differ(document: Document, other: Document) -> Iterator[Finding]:
    """A figure of a row is another one in the other version of the log, or the row is missing there or here."""
    theirs = {(row.kind, row.run_id, row.checkpoint): row for row in other.rows}
    for row in document.rows:
        old = theirs.pop((row.kind, row.run_id, row.checkpoint), None)
        if old is None:
            continue
        for column in VERSION_COLUMNS:
            mine, before = row.text(column), old.text(column)
            if row.at(column).column is None or old.at(column).column is None or mine == before:
                continue
            if is_missing(before) or re.search(_OPEN, before):
                continue
            lost = _lost(before, mine)
            if lost:
                yield Finding.at(
                    row.at(column), "versions-differ", "warning", 0.8,
                    f"{other.path.name} line {old.line} says {', '.join(lost)}", f"{mine}; {before}",
                )  # fmt: skip
        yield from _disagreeing(row, document, other)
    for old in theirs.values():
        if old.run_id:
            yield Finding(
                1, old.run_id, None, "versions-differ", "warning", 0.7,
                f"{other.path.name} line {old.line} has a row that is missing here", old.run_id,
            )  # fmt: skip


def _lost(before: str, after: str) -> list[str]:
    """The figures of a cell that its other version no longer says, to the digits that both give."""
    strip = str.maketrans("", "", "*`")
    old, new = (_FIGURE.findall(text.translate(strip)) for text in (before, after))
    if not old:
        words = [re.sub(r"\W+", " ", text.translate(strip)).casefold().strip() for text in (before, after)]
        return [] if words[0] == words[1] else [before]
    return [text for text in old if not any(Rounded.of(text).overlaps(Rounded.of(one)) for one in new)]


def _disagreeing(row: Row, document: Document, other: Document) -> Iterator[Finding]:
    """Losses whose label changed: a training loss in one version, an evaluation loss in the other."""
    for mine in (figure for figure in document.row_losses if figure.run == row.run_id and row.kind == "training"):
        for theirs in (figure for figure in other.row_losses if figure.run == row.run_id):
            if mine.rounded.overlaps(theirs.rounded) and mine.metric and theirs.metric and mine.metric != theirs.metric:
                yield Finding.at(
                    mine.place, "versions-differ", "warning", 0.85,
                    f"{mine.text} is called {mine.metric} loss here and {theirs.metric} loss in {other.path.name}",
                    f"{mine.text}; line {theirs.place.line}",
                )  # fmt: skip


def wrong_deltas(document: Document) -> Iterator[Finding]:
    """A delta that is not the difference of the columns beside it."""
    for table in document.others:
        deltas = [
            place for place, title in enumerate(table.header)
            if re.search(r"delta|Δ|diff|gain|change|improvement", title, re.I)
        ]  # fmt: skip
        for row in table.rows:
            for place in deltas:
                if place < len(row.cells):
                    numbers = [_number(cell) for cell in row.cells[:place]]
                    columns = [
                        index for index, number in enumerate(numbers) if number is not None and index not in deltas
                    ]
                    if len(columns) >= 2:  # a count of examples or seeds may stand before them
                        old, new = (numbers[index] for index in columns[-2:])
                        assert old is not None and new is not None
                        spot = Place(row.line + 1, None, table.header[place])
                        yield from _delta(old, new, _number(row.cells[place]), row.cells, spot)


def _number(cell: str) -> re.Match[str] | None:
    """The figure of a cell that is one, brackets aside."""
    plain = re.sub(r"\([^()]*\)", "", cell.replace("*", "")).strip(" `_")
    return _NUMBER.fullmatch(re.sub(r"\s*(?:pp|points?|pts?|p\.p\.)$", "%", plain))


def _delta(
    old: re.Match[str], new: re.Match[str], delta: re.Match[str] | None, cells: tuple[str, ...], place: Place
) -> Iterator[Finding]:
    if delta is None:
        return
    is_percent = [bool(match["percent"]) for match in (old, new, delta)]
    real = _signed(new) - _signed(old)
    stated = _signed(delta)
    evidence = f"{new[0].strip()} - {old[0].strip()} against {delta[0].strip()}"
    shown = float(new["value"]) - float(old["value"])
    if real.overlaps(stated):
        return
    if is_percent == [False, False, True] and max(float(old["value"]), float(new["value"])) <= 1.5:
        hundred = Rounded(100 * real.low, 100 * real.high)
        relative = hundred / _signed(old) if float(old["value"]) else hundred
        if hundred.overlaps(stated) or relative.overlaps(stated):
            yield Finding.at(
                place, "mixed-units", "note", 0.6,
                f"the difference {shown:+.3f} of two correlations is written as {delta[0].strip()}", evidence,
            )  # fmt: skip
            return
    if float(old["value"]):
        relative = Rounded(100 * real.low, 100 * real.high) / _positive(old)
        if relative.overlaps(stated) and is_percent[2]:
            yield Finding.at(
                place,
                "mixed-units",
                "note",
                0.5,
                f"{delta[0].strip()} is the relative change, not the difference",
                evidence,
            )
            return
    lower_is_better = any(re.search(r"loss|perplexity|error", cell, re.I) for cell in cells)
    if lower_is_better and Rounded(-real.high, -real.low).overlaps(stated):
        return
    digits = max(len(match["value"].partition(".")[2]) for match in (old, new))
    yield Finding.at(
        place, "wrong-delta", "error", 0.95, f"the difference is {shown:+.{digits}f}, not {delta[0].strip()}", evidence
    )


def _signed(match: re.Match[str]) -> Rounded:
    return Rounded.of(("-" if match["sign"] in ("-", "−") else "") + match["value"])


def _positive(match: re.Match[str]) -> Rounded:
    return Rounded.of(match["value"])


def shared_values(document: Document) -> Iterator[Finding]:
    """The same loss to the last digit, or the same scores, in rows of different models."""
    losses: dict[str, list[Figure]] = defaultdict(list)
    for figure in document.row_losses:
        digits = figure.text.replace(".", "").lstrip("0")
        if len(digits) >= 4 and not figure.text.endswith("0"):
            losses[figure.text].append(figure)
    for text, figures in losses.items():
        kinds = {_model(document.runs[figure.run]) for figure in figures if figure.run in document.runs}
        if len(kinds) > 1:
            for figure in figures:
                lines = [other.place.line for other in figures if other is not figure and other.run != figure.run]
                if lines:
                    yield Finding.at(
                        figure.place, "shared-value", "warning", 0.6,
                        f"the loss {text} is also that of another model, in line {', '.join(map(str, lines))}",
                        text,
                    )  # fmt: skip
    scores: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in document.rows:
        cell = tuple(figure.text for figure in document.row_scores if figure.place.line == row.line)
        if len(cell) >= 2 and any(len(text.replace(".", "")) >= 3 and not text.endswith("0") for text in cell):
            scores[cell].append(row)
    for cell, rows in scores.items():
        if len({_model(row) for row in rows if row.kind == "training"}) > 1:
            for row in rows[1:]:
                yield Finding.at(
                    row.at("key_scores"), "shared-value", "warning", 0.6,
                    f"all its scores are those of line {rows[0].line}, a different model", ", ".join(cell),
                )  # fmt: skip


def _model(row: Row) -> str:
    """Everything of a run id but its moment."""
    return re.sub(r"_20\d{6}_\d{6}$", "", row.run_id or "")


def open_entries(document: Document) -> Iterator[Finding]:
    """TBD, pending and the like, left open."""
    rows = {row.line: row for row in document.rows}
    for number, line in enumerate(document.lines):
        row = rows.get(number + 1)
        if row is not None:
            for title, cell in zip(row.table.header, row.place.cells, strict=False):
                match = _OPEN.search(cell)
                if match:
                    place = Place(row.line, row.run_id, title)
                    yield Finding.at(place, "open-entry", "warning", 0.8, f"{match[0]} is left open", cell[:120])
            continue
        other = next((t for t in document.others for r in t.rows if r.line == number), None)
        if number in document.prose or other is not None:
            match = _OPEN.search(line)
            if match:
                column = None
                if other is not None:
                    cells = next(r.cells for r in other.rows if r.line == number)
                    column = next((t for t, c in zip(other.header, cells, strict=False) if match[0] in c), None)
                yield Finding.at(
                    Place(number + 1, None, column), "open-entry", "warning" if other is not None else "note",
                    0.7 if other is not None else 0.4, f"{match[0]} is left open", line.strip()[:120],
                )  # fmt: skip
