"""What a Markdown file states: its tables, its rows, and every figure with its place, its run and its task.

Reads any log or report, also hand-typed ones. `figures.py` reads what a text says by itself; here are the places.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from tasks.log.check.figures import (
    MANY_RUNS,
    SPLITS,
    Figure,
    Place,
    head_in,
    loss_kind,
    losses_in,
    metrics_in,
    plain,
    scores_in,
    sentences,
    tasks_in,
    values_alone,
)
from tasks.log.experiment_log import KEY_COLUMNS, LogTable, all_tables, machine_name, read_text
from tasks.log.markdown import BOM, LINE, TableRow
from tasks.log.rows import is_generated
from tasks.scores.metrics import METRICS

K = TypeVar("K")
RUN_ID = re.compile(r"[A-Za-z](?:[\w.-]|(?<=\d),(?=\d))*?_(?P<day>20\d{6})_(?P<time>\d{6})(?!\d)")
# what foreign logs call the columns
OTHER_NAMES = {
    "key_scores": ("glue_scores", "scores", "results", "key_results"),
    "wandb": ("w_b", "w_b_link", "wandb_run", "wandb_url", "link"),
    "git_tag": ("git", "tag", "git_commit", "commit", "git_tag_commit"),
    "eff_rank": ("effective_rank", "rank", "concept_rank"),
    "task_loss": ("loss", "eval_loss", "mlm_eval_loss", "train_loss"),
    "speed_steps_s": ("speed", "steps_s"),
    "conclusion": ("takeaway", "notes", "conclusions"),
}
_DELTA = re.compile(r"\b(?:delta|diff(?!usion)\w*|gap|gain|change|improvement|vs)\b|[Δ±]", re.I)
COUNTS = re.compile(
    r"\W*(?:n|num\w*|no\.?|#.*|seeds?|runs?|epochs?|steps?|examples?|pairs|samples?|size|batch.*|lr|learning rate|max.*"
    r"|time|hours?|speed.*|.*\brank|params?|parameters|layers?|lines?|dates?|sd|std.*|p|p-value|.*interval"
    r"|(?:95 ?% )?ci|train\w*|classes|positives?|negatives?|rows?|tokens?|ids?|years?|weight|steps/s)(?: \(.*\))?\W*",
    re.I,
)
_SETTING = re.compile(
    r"\b(?:epochs?|batch|lr|learning rate|length|size|classes|minutes|hours|seconds|cost|params|parameters|steps"
    r"|warm-?up|dropout|decay|positives?|negatives?|examples|pairs)\b",
    re.I,
)
_MEANS = re.compile(
    r"\b(?:means?|averages?|averaged)\s+(?:over|of|across)\s+(?:\w+\s+)?(?:\w+\s+)?(?:seeds|runs)\b", re.I
)
# a sentence with these speaks of something else than the run of its section
_NOT_OF_RUN = re.compile(
    r"BERT|ELECTRA|\bGPT|\bT5\b|\b(?:majority|trivial|always|random|target|goal|expect\w*|should|would|hope\w*|aim|need\w*"
    r"|plan\w*|published|literature|another|other)\b",
    re.I,
)
# a sentence with these gives a run's figures without its training, beside the real ones
_OTHER_START = re.compile(r"\brandom(?:ly)?[- ](?:start|init\w*|weights)|\bzero[- ]shot\b|\buntrained\b", re.I)
# a sentence with these may state the figure of another run or of another moment
COMPARES = re.compile(
    r"\b(?:from|than|over|vs|versus|against|compared|before|baseline|up|down|last|previous\w*|first|best|epochs?|ep\d*|steps?|until"
    r"|start\w*|initial\w*|peak\w*|seeds?|L\d+|after|at least|about|around|instead|without|minim\w*|lowest)\b"
    r"|→|->|>|<|≈|~",
    re.I,
)
_LOSS = re.compile(
    r"(?<![A-Za-z])(?:(?P<kind>train(?:ing)?|eval(?:uation)?|held-out|validation|valid|test|dev)[ _-]"
    r"(?:(?:MLM|CE|cross-entropy)[ _-])?|(?:MLM|CE|cross-entropy|TSDAE|diffusion|task)[ _-](?:CE )?"
    r"|(?<=its )|(?<=the )|^)"
    r"loss[\s:=*~≈|]*(?:(?:of|at|is|was)\s)?"
    r"[\s*]*(?P<value>\d+\.\d+)(?![\w→%]|\.\d)",
    re.I,
)
_RANK_STATED = re.compile(
    r"(?<![\w@])(?:eff(?:ective|\.)?[ -])?rank[\s:=]*(?:(?:of|is|at)\s)?"
    r"(?P<value>\d+(?:\.\d+)?)(?![\w%]|\.\d|\s*(?:%|→|->|to\b))",
    re.I,
)


@cache
def _column(header: tuple[str, ...], column: str) -> int | None:
    """Where a column stands, also under a name that foreign logs give it or with a remark in brackets."""
    whole = [machine_name(title) for title in header]
    bare = [machine_name(re.sub(r"\([^()]*\)", "", title)) for title in header]
    for names in (whole, bare):
        for name in (column, *OTHER_NAMES.get(column, ())):
            if name in names:
                return names.index(name)
    return None


@dataclass(frozen=True)
class Row:
    """A row of the training or the evaluation table."""

    table: LogTable
    place: TableRow

    @property
    def kind(self) -> str:
        """`training` or `evaluation`."""
        return self.table.kind

    @property
    def line(self) -> int:
        """Its line in the file, counted from 1."""
        return self.place.line + 1

    @cached_property
    def run_id(self) -> str | None:
        """The run id in the column that keys its table, None where there is none."""
        cell = self.table.cell(self.place, KEY_COLUMNS.get(self.kind, ""))
        named = RUN_ID.search(cell) if self.kind == "training" else None
        return named[0] if named else self.table.run_id(self.place)

    @cached_property
    def checkpoint(self) -> str | None:
        """The pretraining that its figures are of."""
        if self.kind == "training":
            return self.run_id
        match = RUN_ID.search(self.text("source_checkpoint"))
        return match[0] if match else None

    @property
    def started(self) -> datetime | None:
        """The moment in the run id, in whatever zone its machine had."""
        match = RUN_ID.fullmatch(self.run_id or "")
        try:
            return datetime.strptime(f"{match['day']}{match['time']}", "%Y%m%d%H%M%S") if match else None
        except ValueError:
            return None

    def text(self, column: str) -> str:
        """The cell under a column's machine name."""
        return self.place.cell(_column(self.table.header, column))

    def at(self, column: str) -> Place:
        """The place of its cell under a column's machine name."""
        place = _column(self.table.header, column)
        return Place(self.line, self.run_id, None if place is None else self.table.header[place])

    @property
    def conclusion(self) -> str:
        """The text of its conclusion."""
        return self.text("conclusion")

    @cached_property
    def is_generated(self) -> bool:
        """Whether its conclusion is the machine's, whose figures are means over seeds of a measurement of its own."""
        return is_generated(self.conclusion.replace("|", r"\|"))  # as the file has it, and its checksum


@dataclass(frozen=True)
class Document:
    """A Markdown file with all that the rules read."""

    path: Path
    text: str
    known: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def read(cls, path: Path, known: tuple[str, ...] = ()) -> "Document":
        """
        Args:
            known: run ids of the log that a report is read for.

        Raises:
            UserError: the file cannot be read.
        """
        return cls(path, read_text(path).removeprefix(BOM), known)

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the file with their line breaks."""
        return LINE.findall(self.text)

    @cached_property
    def tables(self) -> list[LogTable]:
        """Every table of the file."""
        return all_tables(self.text)

    @cached_property
    def rows(self) -> list[Row]:
        """Of every training and evaluation table."""
        return [Row(table, row) for table in self.tables if table.kind != "other" for row in table.rows]

    @cached_property
    def others(self) -> list[LogTable]:
        """The tables beside the training and evaluation tables."""
        return [table for table in self.tables if table.kind == "other"]

    @cached_property
    def runs(self) -> dict[str, Row]:
        """The training rows by run id."""
        return {row.run_id: row for row in self.rows if row.kind == "training" and row.run_id}

    @cached_property
    def run_ids(self) -> tuple[str, ...]:
        """The run ids of this file and of the log that it is read for."""
        return (*self.runs, *self.known)

    @cached_property
    def prose(self) -> dict[int, str]:
        """Lines outside tables and code fences, by number from 0."""
        inside = {line for table in self.tables for line in range(table.line, table.line + 2)}
        inside |= self._table_of.keys()
        found, fence = {}, False
        for number, line in enumerate(self.lines):
            if re.match(r"\s*(?:```|~~~)", line):
                fence = not fence
            elif not fence and number not in inside:
                found[number] = line
        return found

    @cached_property
    def statements(self) -> dict[int, str]:
        """The lines that state something: prose and the rows of tables, by number from 0."""
        rows = {number: self.lines[number] for number in self._table_of}
        return dict(sorted((self.prose | rows).items()))

    @cached_property
    def _table_of(self) -> dict[int, tuple[LogTable, TableRow]]:
        return {row.line: (table, row) for table in self.tables for row in table.rows}

    def pieces(self, number: int) -> tuple[str, ...]:
        """What of a line belongs together: the cells of a row, else the line."""
        row = self._table_of.get(number)
        return row[1].cells if row else (self.lines[number],)

    @cached_property
    def _row_of(self) -> dict[int, Row]:
        return {row.place.line: row for row in self.rows}

    def place(self, number: int, words: str, text: Callable[[str], str] = str) -> Place:
        """Where words stand in a line: its row's run, and the first column whose cell, by `text`, holds them."""
        column = None
        if number in self._table_of:
            table, row = self._table_of[number]
            cells = zip(table.header, row.cells, strict=False)
            column = next((title for title, cell in cells if words in text(cell)), None)
        mine = self._row_of.get(number)
        return Place(number + 1, mine.run_id if mine else self._run_at(number, self.lines[number])[0], column)

    @cached_property
    def row_scores(self) -> list[Figure]:
        """The scores in the columns of the two tables that are for them."""
        figures = []
        for row in self.rows:
            place, head = row.at("key_scores"), None
            words = place.column or ""
            if row.kind == "evaluation":
                head = head_in(row.text("eval_type"))
                words = f"{row.text('eval_type')} {row.text('tasks')} {words}"
            several = self.has_means or bool(MANY_RUNS.search(words))
            for figure in scores_in(row.text("key_scores"), place):
                figures.append(_with(figure, words, several, run=row.checkpoint, head=head))
        return figures

    @cached_property
    def other_scores(self) -> list[Figure]:
        """The scores in all other tables, in conclusions and in prose."""
        figures = [figure for table in self.others for figure in self._table_scores(table)]
        for sentence, place, run, certainty, is_doubtful in self._sentences(str):
            row, line = self._row_of.get(place.line - 1), self.lines[place.line - 1]
            head = None if row else head_in(sentence) or head_in(line)
            if is_doubtful:
                place, run = replace(place, row=None), None
            for figure in scores_in(sentence, place, prose=True):
                figure = _of_machine(figure) if row and row.is_generated else figure
                figures.append(_with(figure, sentence, run=run, head=head, certainty=certainty))
        return figures

    def _sentences(self, text: Callable[[str], str]) -> Iterator[tuple[str, Place, str | None, float, bool]]:
        """The sentences of conclusions and prose, as `text` gives them: each with its place and its run.

        Behind them how sure that is, and whether a sentence of prose may speak of another run.
        """
        for row in self.rows:
            for sentence in sentences(text(row.conclusion)):
                yield sentence, row.at("conclusion"), *self._run_of_sentence(row, sentence), False
        for number, line in self.prose.items():
            run, certainty = self._run_at(number, line)
            for sentence in sentences(text(line)):
                is_doubtful = certainty < 0.95 and bool(_NOT_OF_RUN.search(sentence))
                sure = min(certainty, 0.5) if is_doubtful or COMPARES.search(sentence) else certainty
                yield sentence, Place(number + 1, run), run, sure, is_doubtful

    @cached_property
    def scores(self) -> list[Figure]:
        """All stated scores."""
        return self.row_scores + self.other_scores

    @cached_property
    def table_scores(self) -> list[Figure]:
        """The scores in tables beside the two."""
        return [figure for figure in self.other_scores if figure.table is not None]

    @cached_property
    def table_scores_by_line(self) -> dict[int, list[Figure]]:
        """The scores in tables beside the two by line."""
        return _grouped(self.table_scores, lambda score: score.place.line)

    @cached_property
    def scores_by_line(self) -> dict[int, list[Figure]]:
        """The scores of the two tables by line."""
        return _grouped(self.row_scores, lambda score: score.place.line)

    @cached_property
    def scores_by_run(self) -> dict[str | None, list[Figure]]:
        """The scores of the two tables by the pretraining that they are of."""
        return _grouped(self.row_scores, lambda score: score.run)

    @cached_property
    def scores_by_task(self) -> dict[tuple[str, str], list[Figure]]:
        """The scores of the two tables by task and metric."""
        return _grouped(self.row_scores, lambda score: (score.task, score.likely_metric))

    def _run_of_sentence(self, row: Row, sentence: str) -> tuple[str | None, float]:
        """The run that a sentence of a conclusion speaks of: its row's, unless it compares or names another."""
        named = self._named(sentence)
        if named:
            return (next(iter(named)), 0.9) if len(named) == 1 else (None, 0.0)
        if _NOT_OF_RUN.search(sentence) or _OTHER_START.search(sentence):
            return None, 0.0
        return row.checkpoint, 0.5 if COMPARES.search(sentence) else 0.9

    @cached_property
    def has_means(self) -> bool:
        """Whether the text says that its scores are means over seeds."""
        return any(_MEANS.search(line) for line in self.prose.values())

    @cached_property
    def row_losses(self) -> list[Figure]:
        """The losses in the column of the training table that is for them."""
        figures = []
        for row in self.rows:
            if row.kind == "training":
                place = row.at("task_loss")
                kind = loss_kind(next(iter(re.findall(r"train|eval", (place.column or "").casefold())), None))
                found = losses_in(row.text("task_loss"), place, row.run_id)
                figures += [replace(one, metric=one.metric or kind) for one in found]
        return figures

    @cached_property
    def losses_by_line(self) -> dict[int, list[Figure]]:
        """The losses of the training table by line."""
        return _grouped(self.row_losses, lambda loss: loss.place.line)

    @cached_property
    def other_losses(self) -> list[Figure]:
        """Losses that prose, conclusions or other tables state with the word loss."""
        return list(self._elsewhere_stated(_LOSS, "loss", re.compile(r"\bloss$", re.I)))

    @cached_property
    def row_ranks(self) -> list[Figure]:
        """The ranks of the column for them, as fractions of their number of concepts where that is said."""
        figures = []
        for row in self.rows:
            if row.kind == "training":
                text, place = plain(row.text("eff_rank")), row.at("eff_rank")
                for match in re.finditer(r"(?<![\w./])(?P<value>\d+(?:\.\d+)?)(?![\w%]|\.\d|\s*%)", text):
                    figures.append(Figure(place, "rank", None, match["value"], False, row.run_id))
        return figures

    @cached_property
    def other_ranks(self) -> list[Figure]:
        """Ranks that prose, conclusions or other tables state with the word rank."""
        return list(self._elsewhere_stated(_RANK_STATED, "rank", re.compile(r"\brank$", re.I)))

    def _elsewhere_stated(self, pattern: re.Pattern[str], task: str, title: re.Pattern[str]) -> Iterator[Figure]:
        for sentence, place, run, certainty, _ in self._sentences(plain):
            row = self._row_of.get(place.line - 1)
            for match in () if row and row.is_generated else pattern.finditer(sentence):
                yield _stated(match, task, place, run, certainty)
        for table in self.others:
            caption = self._caption(table)
            for table_row in table.rows:
                run, certainty = self._run_at(table_row.line, self.lines[table_row.line], caption)
                for name, cell in zip(table.header, table_row.cells, strict=False):
                    if run is None or certainty < 0.9 or _DELTA.search(name):
                        continue
                    bare = re.sub(r"\s*\([^()]*\)", "", name)
                    words = bare if title.search(bare.strip()) else ""
                    for match in pattern.finditer(f"{words} {plain(cell)}"):
                        yield _stated(match, task, Place(table_row.line + 1, run, name), run, certainty)

    def _table_scores(self, table: LogTable) -> Iterator[Figure]:
        heads = [machine_name(title) for title in table.header]
        caption = self._caption(table)
        heading, _, _ = self._sections[table.line]
        for row in table.rows:
            run_of_row, certainty_of_row = self._run_at(row.line, self.lines[row.line], caption)
            if certainty_of_row < 0.95 and any(_NOT_OF_RUN.search(cell) for cell in row.cells):
                run_of_row, certainty_of_row = None, 0.0
            label = " ".join(
                cell
                for name, cell in zip(heads, row.cells, strict=False)
                if (not re.search(r"\d\.\d", cell) and not re.fullmatch(r"\W*[\d,]+\W*", cell)) or name == "task"
            )
            for title, cell in zip(table.header, row.cells, strict=False):
                if _DELTA.search(title) or COUNTS.fullmatch(title):
                    continue
                run, certainty = self._runs_in(title), 0.95
                if run is None:
                    run, certainty = run_of_row, certainty_of_row
                place = Place(row.line + 1, run, title)
                words = f"{title} {label} {caption} {heading}"
                several = bool(MANY_RUNS.search(words))
                found = scores_in(cell, place)
                if not found:
                    of_title, of_row = tasks_in(title), tasks_in(label)
                    named = of_title or of_row
                    if len(named) != 1 or (of_title and of_row and of_title != of_row):
                        continue
                    if _SETTING.search(re.sub(r"\([^()]*\)", "", f"{title} {row.cells[0]}" if of_row else label)):
                        continue
                    metrics = " / ".join(metrics_in(title) or metrics_in(label))
                    if re.search(r"MNLI.*\bm\s*/\s*(?:MNLI-?)?mm\b", title if of_title else label, re.I):
                        found = scores_in(f"MNLI: {cell}", place)
                    else:
                        found = values_alone(cell, named[0], metrics, place, percent="%" in title)
                for figure in found:
                    head = head_in(title) or head_in(label) or head_in(caption)
                    yield _with(figure, words, several, run=run, head=head, certainty=certainty, table=table.line)

    def _caption(self, table: LogTable) -> str:
        """The prose right above a table, and its heading."""
        above = [self.lines[line] for line in range(max(table.line - 3, 0), table.line) if line in self.prose]
        return " ".join(above)

    def _run_at(self, number: int, line: str, caption: str = "") -> tuple[str | None, float]:
        """The run that a line speaks of and how sure that is: named in it, above it, in its section, in the file."""
        _, in_section, in_heading = self._sections[number]
        places = self._named(line), self._named(caption), in_section, in_heading, self._in_text
        for named, certainty in zip(places, (0.95, 0.9, 0.75, 0.7, 0.5), strict=True):
            if len(named) == 1:
                return next(iter(named)), certainty
            if len(named) > 1:
                return None, 0.0
        return None, 0.0

    def _runs_in(self, text: str) -> str | None:
        named = self._named(text)
        return next(iter(named)) if len(named) == 1 else None

    def _named(self, text: str) -> frozenset[str]:
        """The known runs that a text names."""
        found = {word for word in re.findall(r"[\w-]+(?:\.[\w-]+)*", text) if word in self._words}
        return frozenset(found | {name for name in self._phrases if name in text})

    @cached_property
    def _in_text(self) -> frozenset[str]:
        return self._named(self.text)

    @cached_property
    def _words(self) -> frozenset[str]:
        """The run ids that are one word."""
        return frozenset(name for name in self.run_ids if re.fullmatch(r"[\w-]+(?:\.[\w-]+)*", name))

    @cached_property
    def _phrases(self) -> frozenset[str]:
        return frozenset(self.run_ids) - self._words

    def _level(self, number: int) -> int:
        match = re.match(r"(#{1,6})\s", self.prose.get(number, ""))
        return len(match[1]) if match else 0

    @cached_property
    def _sections(self) -> list[tuple[str, frozenset[str], frozenset[str]]]:
        """For every line the heading above it, and two sets of runs.

        Those that its section has named so far, and those of the innermost heading above it that names any.
        """
        found, heading, named = [], "", frozenset[str]()
        open_: list[tuple[int, frozenset[str]]] = []
        for number, line in enumerate(self.lines):
            level, in_line = self._level(number), self._named(line)
            named = in_line if level else in_line | named
            if level:
                heading, open_ = line, [*(one for one in open_ if one[0] < level), (level, in_line)]
            found.append((heading, named, next((runs for _, runs in reversed(open_) if runs), frozenset[str]())))
        return found


def _grouped(figures: Iterable[Figure], key: Callable[[Figure], K]) -> dict[K, list[Figure]]:
    groups: dict[K, list[Figure]] = {}
    for figure in figures:
        groups.setdefault(key(figure), []).append(figure)
    return groups


def _with(figure: Figure, words: str, several: bool = False, **known: Any) -> Figure:
    """A figure with what its document tells: more of the words around it, and fields such as its run."""
    several = several or figure.several_runs
    return replace(figure, several_runs=several, context=f"{figure.context} {words}", **known)


def _of_machine(figure: Figure) -> Figure:
    """A figure of a generated conclusion: the mean of the task's primary metric, a percentage without its sign."""
    metric = SPLITS[figure.task][0].primary_metric
    return replace(figure, metric=metric, percent=METRICS[metric].is_percent, several_runs=True)


def _stated(match: re.Match[str], task: str, place: Place, run: str | None, certainty: float) -> Figure:
    kind = loss_kind(match["kind"]) if task == "loss" else None
    return Figure(place, task, kind, match["value"], False, run, certainty=certainty)
