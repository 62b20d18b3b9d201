"""Rules about figures that contradict each other: in the document, in another version of it, in reports."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from tasks.log.check.document import COUNTS, Document, Row
from tasks.log.check.feasibility import Rounded
from tasks.log.check.figures import Figure, Place, metrics_in, plain, sentences, tasks_in
from tasks.log.check.finding import Finding, Kind
from tasks.log.check.meaning import floor_of
from tasks.log.experiment_log import LogTable, is_missing, machine_name
from tasks.log.markdown import TableRow
from tasks.log.rows import TRAINING_COLUMNS

MINUS = ("-", "−", "–")
_NUMBER = re.compile(r"(?P<sign>[-−–+]?)\s*(?P<value>\d+(?:\.\d+)?)\s*(?P<percent>%?)\s*(?:rel(?:ative|\.)?)?", re.I)
_DELTA_TITLE = re.compile(
    r"\bdeltas?\b|Δ|∆|\bdiff(?:\.|\b|erence)|\bgaps?\b|\bgains?\b|\bchange\b|\bimprovement\b", re.I
)
_VAGUE_TITLE = re.compile(r"\bdiff(?:\.|\b|erence)|\bgaps?\b|\bgains?\b|\bchange\b|\bimprovement\b", re.I)
_OLD = re.compile(r"\b(?:old|base\w*|before|previous|prior|from|reference|initial|original|control|without)\b", re.I)
_NEW = re.compile(r"\b(?:new|after|ours?|current|to|now|final|treatment|with)\b", re.I)
_OPEN = re.compile(
    r"\bTBD\b|\bTODO\b|\bTBA\b|\bFIXME\b|\bWIP\b|\?\?\?|\bpend(?:ing\b|\.)|\bin progress\b|\bcoming soon\b"
    r"|\bto be (?:filled|added|determined|evaluated|measured|computed|run|done|confirmed|decided)\b"
    r"|\bnot yet (?:run|evaluated|measured|computed|available|done)\b",
    re.I,
)
_CLOSED = re.compile(r"\b(?:no|nothing|none|never|was|were|had been|formerly|longer)\W+(?:\w+\W+){0,2}$", re.I)
_STATED_DELTA = re.compile(
    r"(?P<old>(?<![\w.])\d+(?:\.\d+)?)\s*(?P<p1>%?)\s*(?:→|->|to)\s*(?P<new>\d+(?:\.\d+)?)(?![\w]|\.\d)\s*(?P<p2>%?)\s*[(\[,:;]\s*"
    r"(?P<delta>[-+−–]\d+(?:\.\d+)?\s*(?:%|pp\b|points?\b|pts?\b)?)(?P<behind>[^.;|]{0,12})"
)
_FIGURE = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w-])")
_MARKS = str.maketrans("", "", "*`_")
_EMPHASIS = str.maketrans("", "", "*`")
GUESS = 0.45  # a contradiction that is less sure than this is a note
LOSS_SPREAD_NATS = 2.0  # within which the losses of a log lie, more or less

CONTRADICTION = Kind("contradiction", "warning", 1.0, "{title}: {this} here, {that} in {where}")
POSSIBLE_CONTRADICTION = Kind("contradiction", "note", 1.0, CONTRADICTION.message)
CALLED_TRAINING = Kind(
    "loss-kinds", "warning", 0.9, "{loss} is the training loss of {run}, says {source}; the column does not"
)
OLD_CELL = Kind("versions-differ", "warning", 0.8, "{where} says {lost}")
OLD_TABLE_CELL = Kind("versions-differ", "warning", 0.75, OLD_CELL.message)
OLD_SENTENCE = Kind("versions-differ", "warning", 0.7, "{file} line {line} says {lost} in the same words")
OLD_LABEL = Kind("versions-differ", "warning", 0.85, "{loss} is called {kind} loss here and {other} loss in {file}")
LOST_ROW = Kind("versions-differ", "warning", 0.7, "{file} line {line} has a row that is missing here")
LOST_TABLE_ROW = Kind(
    "versions-differ", "warning", 0.6, "{file} line {line} has a row of this table that is missing here"
)
WRONG_DELTA = Kind("wrong-delta", "error", 0.95, "the difference is {difference}, not {delta}")
DELTA_OF_FRACTIONS = Kind(
    "mixed-units", "note", 0.6, "the difference {difference} of two fractions is written as {delta}"
)
RELATIVE_DELTA = Kind("mixed-units", "note", 0.5, "{delta} is the relative change, not the difference")
SHARED_LOSS = Kind("shared-value", "warning", 0.6, "the loss {loss} is also that of another model, in line {lines}")
LOSS_SHARED_BY_CHANCE = Kind("shared-value", "note", 0.2, SHARED_LOSS.message)
SHARED_SCORES = Kind("shared-value", "warning", 0.6, "all its scores are those of line {line}, a different model")
OPEN_CELL = Kind("open-entry", "warning", 0.8, "{words} is left open")
OPEN_TABLE_CELL = Kind("open-entry", "warning", 0.7, OPEN_CELL.message)
OPEN_SENTENCE = Kind("open-entry", "note", 0.4, OPEN_CELL.message)
_OWN_COLUMNS = ("run_id", "wandb", "conclusion")  # compared by other rules
VERSION_COLUMNS = [name for name in map(machine_name, TRAINING_COLUMNS) if name not in _OWN_COLUMNS]


def contradictions(document: Document, reports: Sequence[Document] = ()) -> Iterator[Finding]:
    """The same figure is stated differently in two places of the log or in a report."""
    stated = _by_subject(document.row_scores)
    for figure in document.other_scores:
        yield from _against(figure, stated, None, document.table_scores_by_line.get(figure.place.line, ()))
    for group in _by_subject(document.table_scores).values():
        for before, figure in combinations(group, 2):
            if before.head == figure.head and before.head is not None and before.table != figure.table:
                yield from _against(figure, _by_subject([before]), None)
    for rank in document.other_ranks:
        yield from _rank_against(rank, document.row_ranks, None)
    for loss in document.other_losses:
        yield from _loss_against(loss, document.row_losses, None)
    in_log = _by_subject(document.scores)
    for report in reports:
        for figure in report.scores:
            yield from _against(figure, in_log, report.path)
        for loss in report.row_losses + report.other_losses:
            yield from _loss_against(loss, document.row_losses, report.path)
        for rank in report.row_ranks + report.other_ranks:
            yield from _rank_against(rank, document.row_ranks, report.path)


Subjects = dict[tuple[str, str, str], list[Figure]]


def _by_subject(figures: Iterable[Figure]) -> Subjects:
    """Figures by their run, task and metric, where the run is known."""
    found: Subjects = defaultdict(list)
    for figure in figures:
        if figure.run is not None:
            found[figure.run, figure.task, figure.likely_metric].append(figure)
    return found


def _against(figure: Figure, stated: Subjects, file: Path | None, beside: Sequence[Figure] = ()) -> Iterator[Finding]:
    """Whether none of the comparable statements says what this one says.

    A statement without a head that a figure of another head repeats, `beside` this one in its table row, is of that
    other head.
    """
    if figure.run is None:
        return
    subject = (figure.run, figure.task, figure.likely_metric)
    same = [
        other
        for other in stated.get(subject, ())
        if (other.examples, other.elsewhere) == (figure.examples, figure.elsewhere)
    ]
    exact = [other for other in same if other.head == figure.head and figure.head is not None]
    others = [
        one
        for one in beside
        if figure.head is not None
        and one.head not in (None, figure.head)
        and (one.run, one.task, one.likely_metric) == subject
    ]
    loose = [
        other
        for other in same
        if figure.head is None or (other.head is None and not any(one.rounded.agrees(other.rounded) for one in others))
    ]
    comparable = exact or loose
    if not comparable or any(figure.rounded.agrees(other.rounded) for other in comparable):
        return
    other = max(comparable, key=lambda one: one.certainty)
    certainty = 0.9 * figure.certainty * other.certainty * (1.0 if exact else 0.8)
    title = f"{figure.title} {figure.likely_metric} of {figure.run}"
    yield _contradiction(title, figure, other, certainty, file)


def _contradiction(title: str, figure: Figure, other: Figure, certainty: float, file: Path | None) -> Finding:
    """Placed at the figure, or at what the log says where the figure stands in another file."""
    kind = CONTRADICTION if certainty >= GUESS else POSSIBLE_CONTRADICTION
    here, there = (figure, other) if file is None else (other, figure)
    if file is not None:
        where = f"{file.name} line {there.place.line}"
        evidence = f"{here.shown}; {file}:{there.place.line}: {there.shown}"
    else:
        is_beside = there.place.line == here.place.line
        where = f"column {there.place.column}" if is_beside else f"line {there.place.line}"
        evidence = f"{here.shown}; {there.shown}"
    return kind.with_confidence(certainty).at(
        here.place, evidence, title=title, this=here.shown, that=there.shown, where=where
    )


def _rank_against(rank: Figure, stated: Sequence[Figure], file: Path | None) -> Iterator[Finding]:
    rows = [other for other in stated if other.run == rank.run and rank.run is not None]
    if rows and not any(other.rounded.agrees(rank.rounded) for other in rows):
        yield _contradiction(f"rank of {rank.run}", rank, rows[0], 0.8 * rank.certainty, file)


def _loss_against(loss: Figure, stated: Sequence[Figure], file: Path | None) -> Iterator[Finding]:
    rows = [other for other in stated if other.run == loss.run and loss.run is not None]
    same = [other for other in rows if other.rounded.agrees(loss.rounded)]
    source = f"line {loss.place.line}{f' of {file.name}' if file else ''}"
    if same and loss.metric == "train" and same[0].metric is None:
        kind = CALLED_TRAINING.with_confidence(0.9 * loss.certainty)
        yield kind.at(same[0].place, loss.text, loss=same[0].text, run=loss.run, source=source)
    unlike = [other for other in rows if other.metric == loss.metric]
    if unlike and not same and (loss.metric is not None or len(rows) == 1):
        name = f"{loss.metric or 'task'} loss of {loss.run}"
        yield _contradiction(name, loss, unlike[0], 0.8 * loss.certainty, file)


def versions_differ(document: Document, other: Document) -> Iterator[Finding]:
    """A figure of a row, another table or a sentence is another one in the other version, or a row is missing here."""
    theirs = {(row.kind, row.run_id, row.checkpoint): row for row in other.rows}
    for row in document.rows:
        old = theirs.pop((row.kind, row.run_id, row.checkpoint), None)
        if old is None:
            continue
        for column in VERSION_COLUMNS:
            mine, before = row.text(column), old.text(column)
            if row.at(column).column is not None and old.at(column).column is not None:
                yield from _cell_differs(OLD_CELL, row.at(column), mine, before, f"{other.path.name} line {old.line}")
        yield from _labels_differ(row, document, other)
    for old in theirs.values():
        if old.run_id:
            yield LOST_ROW.at(Place(1, old.run_id), old.run_id, file=other.path.name, line=old.line)
    yield from _tables_differ(document, other)
    yield from _sentences_differ(document, other)


def _cell_differs(kind: Kind, place: Place, mine: str, before: str, where: str) -> Iterator[Finding]:
    """A cell that no longer says what its other version said, unless that was missing or open."""
    if mine != before and not is_missing(before) and not _OPEN.search(before) and (lost := _lost(before, mine)):
        yield kind.at(place, f"{mine}; {before}", where=where, lost=", ".join(lost))


def _tables_differ(document: Document, other: Document) -> Iterator[Finding]:
    """Tables beside the two, such as that of baselines: their cells by row and column, and their rows."""
    unpaired = list(other.others)
    for table in document.others:
        theirs = max(unpaired, key=lambda one: _likeness(table, one), default=None)
        if theirs is None or _likeness(table, theirs) == (0, 0):
            continue
        unpaired.remove(theirs)
        rows = _labelled(table)
        for label, old in _labelled(theirs).items():
            row = rows.get(label)
            if row is None:
                line = old.line + 1
                yield LOST_TABLE_ROW.at(Place(table.line + 1), old.cells[0], file=other.path.name, line=line)
                continue
            where = f"{other.path.name} line {old.line + 1}"
            for title, mine in zip(table.header, row.cells, strict=False):
                if title in theirs.header:
                    before = old.cell(theirs.header.index(title))
                    yield from _cell_differs(OLD_TABLE_CELL, Place(row.line + 1, None, title), mine, before, where)


def _labelled(table: LogTable) -> dict[tuple[str, int], TableRow]:
    """The rows of a table by their first cell, and by how often that came before."""
    counted: Counter[str] = Counter()
    found = {}
    for row in table.rows:
        name = row.cell(0).translate(_MARKS).strip().casefold()
        found[name, counted[name]] = row
        counted[name] += 1
    return found


def _likeness(one: LogTable, other: LogTable) -> tuple[int, int]:
    """How many columns and rows two tables share by name; (0, 0) where they cannot be versions of one."""
    columns = len(set(one.header) & set(other.header))
    rows = len(_labelled(one).keys() & _labelled(other).keys())
    return (columns, rows) if one.header[:1] == other.header[:1] and columns > 1 and rows else (0, 0)


def _sentences_differ(document: Document, other: Document) -> Iterator[Finding]:
    """The same words with other figures, in prose and in the conclusions that people wrote."""
    theirs = _by_words(other)
    for words, mine in _by_words(document).items():
        olds = [(place, figures) for place, figures in theirs.get(words, []) if figures not in [f for _, f in mine]]
        news = [(place, figures) for place, figures in mine if figures not in [f for _, f in theirs.get(words, [])]]
        for (place, now), (before_place, before) in zip(news, olds, strict=False):
            if not all(Rounded.of(a).agrees(Rounded.of(b)) for a, b in zip(now, before, strict=True)):
                facts = {"file": other.path.name, "line": before_place.line, "lost": ", ".join(before)}
                yield OLD_SENTENCE.at(place, f"{', '.join(now)}; {', '.join(before)}", **facts)


Stated = tuple[Place, tuple[str, ...]]


def _by_words(document: Document) -> dict[tuple[str | None, str], list[Stated]]:
    """Places and figures of the sentences that have any, by their run, if they conclude a row, and their words."""
    found: dict[tuple[str | None, str], list[Stated]] = defaultdict(list)
    lines = [(None, Place(number + 1), line) for number, line in document.prose.items()]
    rows = [(row.run_id, row.at("conclusion"), row.conclusion) for row in document.rows if not row.is_generated]
    for run, place, text in [*lines, *rows]:
        for sentence in sentences(re.sub(r"^\s*\d+[.)]\s", "", text)):  # the number of a list
            bare = sentence.translate(_MARKS)
            figures = tuple(_FIGURE.findall(bare))
            if figures:
                found[run, " ".join(_FIGURE.sub("#", bare).split())].append((place, figures))
    return found


def _lost(before: str, after: str) -> list[str]:
    """The figures of a cell that its other version no longer says, to the digits that both give."""
    old, new = (_FIGURE.findall(text.translate(_EMPHASIS)) for text in (before, after))
    if not old:
        words = [re.sub(r"\W+", " ", text.translate(_EMPHASIS)).casefold().strip() for text in (before, after)]
        return [] if words[0] == words[1] else [before]
    return [text for text in old if not any(Rounded.of(text).agrees(Rounded.of(one)) for one in new)]


def _labels_differ(row: Row, document: Document, other: Document) -> Iterator[Finding]:
    """Losses whose label changed: a training loss in one version, an evaluation loss in the other."""
    for mine in document.losses_by_line.get(row.line, ()):
        for theirs in (figure for figure in other.row_losses if figure.run == row.run_id):
            if mine.rounded.agrees(theirs.rounded) and mine.metric and theirs.metric and mine.metric != theirs.metric:
                facts = {"loss": mine.text, "kind": mine.metric, "other": theirs.metric, "file": other.path.name}
                yield OLD_LABEL.at(mine.place, f"{mine.text}; line {theirs.place.line}", **facts)


def wrong_deltas(document: Document) -> Iterator[Finding]:
    """A delta that is not the difference of the columns beside it."""
    for table in document.others:
        counts = [bool(COUNTS.fullmatch(title)) for title in table.header]
        deltas = [place for place, title in enumerate(table.header) if _DELTA_TITLE.search(title)]
        for place in deltas:
            values = [
                index
                for index, title in enumerate(table.header)
                if index not in deltas and not counts[index] and any(_numbers(row.cell(index)) for row in table.rows)
            ]
            yield from _delta_column(table, place, values)


def stated_deltas(document: Document) -> Iterator[Finding]:
    """`61.4% → 72.5% (+12.1)`: a delta beside its two figures in one sentence."""
    for number, line in document.statements.items():
        for match in _STATED_DELTA.finditer(plain(line)):
            old, new = (_numbers(match[one] + match[percent]) for one, percent in (("old", "p1"), ("new", "p2")))
            delta = _numbers(match["delta"])
            if old and new and delta and not re.search(r"\brel", match["behind"], re.I):
                place = document.place(number, match[0], text=plain)
                yield from _delta(old[0], new[0], delta[0], line, place, signed=True)


def _delta_column(table: LogTable, place: int, values: list[int]) -> Iterator[Finding]:
    """The rows whose delta does not follow from the two columns that explain most of the others."""
    rows = [row for row in table.rows if _numbers(row.cell(place))]
    signed = any(number["sign"] for row in rows for number in _numbers(row.cell(place)))
    pairs = [(old, new) for old in values for new in values if old != new]
    if not rows or not pairs:
        return
    scores = {pair: sum(_explains(row, *pair, place, table, signed) for row in rows) for pair in pairs}
    pair = max(pairs, key=lambda one: (scores[one], _likeliness(table.header, one, place, values)))
    likely = max(pairs, key=lambda one: _likeliness(table.header, one, place, values))
    swapped = likely[::-1]
    if pair == swapped and _direction(table.header, *likely):
        pair = likely  # the titles say which is the new one
    if not scores[pair] and not signed and (len(values) > 2 or _VAGUE_TITLE.search(table.header[place])):
        return  # `Change | 4`: nothing says that it is a difference
    titles = [tasks_in(table.header[index]) + metrics_in(table.header[index]) for index in pair]
    if scores[pair] == 0 and titles[0] != titles[1]:
        return  # columns of different tasks
    for row in rows:
        yield from _faults(row, *pair, place, table, signed) or ()


def _direction(header: tuple[str, ...], old: int, new: int) -> int:
    """1 where the titles say that the columns are old and new in this order, -1 in the other, 0 where they do not."""
    ages = [1 if _NEW.search(header[index]) else -1 if _OLD.search(header[index]) else 0 for index in (old, new)]
    return (ages[1] > ages[0]) - (ages[1] < ages[0])


def _likeliness(header: tuple[str, ...], pair: tuple[int, int], place: int, values: list[int]) -> tuple[float, ...]:
    """How likely a delta is that of two columns, by their titles and by where they stand."""
    title, (old, new) = header[place].casefold(), pair
    named = sum(
        bool(re.search(rf"(?<!\w){re.escape(header[index].strip(' *`').casefold())}(?!\w)", title))
        for index in (old, new)
    )
    before = [index for index in values if index < place] or values
    nearest = before[-2:] if len(before) >= 2 else values[:2]
    return (named, _direction(header, old, new), (old in nearest) + (new in nearest), new > old)


def _explains(row: TableRow, old: int, new: int, place: int, table: LogTable, signed: bool) -> float:
    """1 where the row's delta is that of two columns, half where only its unit is another."""
    faults = _faults(row, old, new, place, table, signed)
    return 0 if faults is None or any(one.severity == "error" for one in faults) else 0.5 if faults else 1


def _faults(row: TableRow, old: int, new: int, place: int, table: LogTable, signed: bool) -> list[Finding] | None:
    """What is wrong with a row's delta if it is that of these columns; None if they cannot be compared."""
    numbers = [_numbers(row.cell(index)) for index in (old, new, place)]
    if not all(numbers) or len({len(one) for one in numbers}) > 1:
        return None
    spot = Place(row.line + 1, None, table.header[place])
    words = " ".join((*row.cells, *table.header))
    return [
        finding
        for before, after, delta in zip(*numbers, strict=True)
        for finding in _delta(before, after, delta, words, spot, signed)
    ]


def _numbers(cell: str) -> list[re.Match[str]]:
    """The figures of a cell that holds nothing else, brackets and deviations aside: one, or several between slashes."""
    bare = re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "", plain(cell)).strip(" `_↔")
    bare = re.sub(r"(?<=\d)\s*(?:±|\+/-|\+-)\s*\d[\d.]*\s*%?", "", re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", bare))
    bare = re.sub(r"^[▲↑]\s*\+?", "+", re.sub(r"^[▼↓]\s*[-−–]?", "-", bare)).removeprefix("±")
    bare = re.sub(r"[\s-]*(?:pp|%-?points?|points?|pts?\.?|p\.p\.)$", "", bare)  # never a relative change
    parts = [_NUMBER.fullmatch(part.strip()) for part in re.split(r"\s*/\s*", re.sub(r"%+", "%", bare))]
    return [part for part in parts if part is not None] if None not in parts else []


def _delta(
    old: re.Match[str], new: re.Match[str], delta: re.Match[str], words: str, place: Place, signed: bool
) -> Iterator[Finding]:
    real, stated, shown = _signed(new) - _signed(old), _signed(delta), delta[0].strip()
    if real.overlaps(stated) or (not signed and real.turned.overlaps(stated)):
        return
    evidence = f"{new[0].strip()} - {old[0].strip()} against {shown}"
    values, difference = (float(old["value"]), float(new["value"])), _value(new) - _value(old)
    hundred = Rounded(100 * real.low, 100 * real.high)
    relative = hundred / Rounded.of(old["value"]) if values[0] else hundred
    are_fractions = not old["percent"] and not new["percent"] and max(values) <= 1.5
    if are_fractions and (hundred.overlaps(stated) or (delta["percent"] and relative.overlaps(stated))):
        yield DELTA_OF_FRACTIONS.at(place, evidence, difference=f"{difference:+.3f}", delta=shown)
        return
    lower_is_better = bool(re.search(r"loss|perplexity|\bppl\b|error|nats|time|hours", words, re.I))
    if values[0] and (delta["percent"] or re.search(r"%|\brel", place.column or "")):
        may_turn = lower_is_better or not signed
        if relative.overlaps(stated) or (may_turn and relative.turned.overlaps(stated)):
            yield RELATIVE_DELTA.at(place, evidence, delta=shown)
            return
    if lower_is_better and real.turned.overlaps(stated):
        return
    digits = max(len(match["value"].partition(".")[2]) for match in (old, new))
    yield WRONG_DELTA.at(place, evidence, difference=f"{difference:+.{digits}f}", delta=shown)


def _value(match: re.Match[str]) -> float:
    return float(match["value"]) * (-1 if match["sign"] in MINUS else 1)


def _signed(match: re.Match[str]) -> Rounded:
    return Rounded.of(("-" if match["sign"] in MINUS else "") + match["value"])


def shared_values(document: Document) -> Iterator[Finding]:
    """The same loss to the last digit, or the same scores, in rows of different models."""
    losses: dict[tuple[str, str | None], list[Figure]] = defaultdict(list)
    for figure in document.row_losses:
        if len(figure.text.replace(".", "").lstrip("0")) >= 4:
            losses[figure.text, figure.metric].append(figure)
    for (text, _), figures in losses.items():
        kinds = {_model(document.runs[figure.run]) for figure in figures if figure.run in document.runs}
        if len(kinds) > 1:
            for figure in figures:
                lines = [other.place.line for other in figures if other is not figure and other.run != figure.run]
                if lines:
                    chance = _coincidences(len(document.row_losses), text, LOSS_SPREAD_NATS)
                    kind = SHARED_LOSS if chance < 0.2 else LOSS_SHARED_BY_CHANCE
                    evidence = f"{text}; {chance:.2g} such pairs are expected by chance"
                    yield kind.at(figure.place, evidence, loss=text, lines=", ".join(map(str, lines)))
    scores: dict[tuple[tuple[str, str], ...], list[Row]] = defaultdict(list)
    for row in document.rows:
        figures = document.scores_by_line.get(row.line, [])
        if len(figures) >= 2 and any(map(_tells_apart, figures)):
            scores[tuple((figure.task, figure.text) for figure in figures)].append(row)
    for cell, rows in scores.items():
        if len({_model(row) for row in rows if row.kind == "training"}) > 1:
            for row in rows[1:]:
                yield SHARED_SCORES.at(row.at("key_scores"), ", ".join(text for _, text in cell), line=rows[0].line)


def _tells_apart(figure: Figure) -> bool:
    """Whether two models hardly share this score: it has digits enough and is not that of a trivial answer."""
    if len(figure.text.replace(".", "")) < 3 or figure.text.endswith("0"):
        return False
    floors = [floor_of(figure, metric) for metric in figure.readings]
    return not any(floor is not None and abs(figure.value - floor) < 0.001 for floor in floors)


def _coincidences(count: int, text: str, spread: float) -> float:
    """How many pairs of `count` figures share one value of so many digits by chance."""
    return math.comb(count, 2) * 10 ** -len(text.partition(".")[2]) / spread


def _model(row: Row) -> str:
    """Everything of a run id but its moment."""
    return re.sub(r"_20\d{6}_\d{6}$", "", row.run_id or "")


def _open_in(text: str) -> re.Match[str] | None:
    return next((match for match in _OPEN.finditer(text) if not _CLOSED.search(text[: match.start()])), None)


def open_entries(document: Document) -> Iterator[Finding]:
    """TBD, pending and the like, left open."""
    for row in document.rows:
        for title, cell in zip(row.table.header, row.place.cells, strict=False):
            if match := _open_in(cell):
                yield OPEN_CELL.at(Place(row.line, row.run_id, title), cell[:120], words=match[0])
    lines = {row.line for table in document.others for row in table.rows}
    for number in sorted(document.prose.keys() | lines):
        line = document.lines[number]
        if match := _open_in(line):
            kind = OPEN_TABLE_CELL if number in lines else OPEN_SENTENCE
            place = replace(document.place(number, match[0]), row=None)
            yield kind.at(place, line.strip()[:120], words=match[0])
