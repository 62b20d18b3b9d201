"""What a Markdown file states: its tables, its rows, and every figure with its place, its run and its task.

Reads any log or report, also hand-typed ones. What cannot be understood is left out rather than guessed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from tasks.benchmarks import TASKS, Split, Task
from tasks.experiment_log import BOM, LINE, LogRow, LogTable, all_tables, machine_name, read_text
from tasks.log_check.feasibility import Rounded
from tasks.scores import METRICS

RUN_ID = re.compile(r"[A-Za-z][\w.-]*?_(?P<day>20\d{6})_(?P<time>\d{6})")
SPLITS: dict[str, tuple[Task, Split]] = {
    split.label: (task, split) for task in TASKS.values() for split in task.eval_splits
}
METRIC_NAMES = {
    "f1": "f1", "accuracy": "accuracy", "acc": "accuracy", "pearson": "pearson", "p": "pearson", "r": "pearson",
    "spearman": "spearman", "s": "spearman", "rho": "spearman", "matthews": "matthews", "mcc": "matthews",
}  # fmt: skip
_ALIASES = {re.sub(r"[\W_]", "", label): label for label in SPLITS} | {
    "mnlimatched": "mnli-m", "mnlimismatched": "mnli-mm", "sst": "sst2",
}  # fmt: skip
_TASK = re.compile(
    r"(?<![A-Za-z0-9])(?:MNLI(?:[-_ ]?\(?(?:mismatched|matched|mm|m)\b\)?)|MRPC|QQP|STS-?B|PAWS|CoLA|SST-?2|QNLI"
    r"|RTE|WNLI|SICK[-_ ]?[RE])(?![A-Za-z0-9])",
    re.I,
)
_METRIC = r"F1|accuracy|acc|Pearson|Spearman|Matthews|MCC|P|S|r|rho"
_TOKEN = re.compile(
    rf"(?<![A-Za-z0-9])(?P<metric>{_METRIC})(?![A-Za-z0-9])"
    r"|(?<![\w.–])(?P<sign>[-−+±Δ]?)(?P<value>\d+(?:\.\d+)?)(?![\w]|\.\d)\s*(?P<percent>%?)",
    re.I,
)
_NOTES = re.compile(r"\(([^()]*(?:\([^()]*\)[^()]*)*)\)")
_JOINED = re.compile(r"[\s:=*~≈/,|]*(?:score|of|at|is|was|reaches|reached)?[\s:=*/,]*", re.I)
_HEADS = {
    "via_decoder": r"via[\W_]?decoder|perceiver_decoder", "cls_query": r"cls[\W_]?query",
    "weighted_decoder": r"weighted[\W_]?decoder", "weighted_pooling": r"weighted[\W_](?:concept[\W_])?pooling",
    "sentence_pair": r"sentence[\W_]pair",
}  # fmt: skip
_DELTA = re.compile(r"\b(?:delta|diff\w*|gain|change|improvement|vs)\b|[Δ±]", re.I)
_MANY_RUNS = re.compile(r"\b(?:seeds?|mean|average|averaged|avg|median|best of)\b|±", re.I)
_LOSS = re.compile(
    r"(?<![A-Za-z])(?P<kind>train(?:ing)?|eval(?:uation)?|held-out|validation|valid|test|dev)?"
    r"(?:[ _-](?:MLM|CE|cross-entropy))?[ _-]loss[\s:=*~≈|]*(?:(?:of|at|is|was)\s)?"
    r"[\s*]*(?P<value>\d+\.\d+)(?![\w→%]|\.\d)",
    re.I,
)


@dataclass(frozen=True)
class Place:
    """Where something stands: line from 1, the run id of its row, the header of its column."""

    line: int
    row: str | None = None
    column: str | None = None


@dataclass(frozen=True)
class Figure:
    """One stated score or loss.

    Attributes:
        task: label of the scored split; for a loss `loss`.
        metric: key of METRICS, None where it is not said; for a loss `train`, `eval` or None.
        text, percent: the number as it was written, and whether as a percentage.
        run, head: what it is of, as far as the document tells; `certainty` of the run, 0 to 1.
        notes: what stands in brackets behind it.
    """

    place: Place
    task: str
    metric: str | None
    text: str
    percent: bool
    run: str | None = None
    head: str | None = None
    certainty: float = 1.0
    notes: str = ""
    several_runs: bool = False

    @property
    def rounded(self) -> Rounded:
        """As a fraction of 1, a loss as it is. Correlations written as 89.4 are understood."""
        return Rounded.of(self.text, percent=self.percent or (self.task != "loss" and abs(float(self.text)) > 1.5))

    @property
    def value(self) -> float:
        return float(self.rounded.low + self.rounded.high) / 2

    @property
    def readings(self) -> tuple[str, ...]:
        """The metrics it can be: the one that is said, else those of its task that are written with its unit."""
        if self.metric:
            return (self.metric,)
        metrics = SPLITS[self.task][0].metrics
        percent = self.percent or abs(float(self.text)) > 1.5
        return tuple(name for name in metrics if METRICS[name].is_percent == percent) or metrics

    @property
    def likely_metric(self) -> str:
        return self.readings[0]

    @property
    def examples(self) -> int | None:
        """Stated number of examples."""
        match = re.search(r"\bn\s*=?\s*([\d,]+)", self.notes)
        return int(match[1].replace(",", "")) if match else None

    @property
    def evaluations(self) -> int | None:
        """Of how many evaluations it is the mean: 1 unless the text says otherwise, None if it does not say."""
        failed = re.search(r"(\d+) of (\d+) seeds failed", self.notes)
        if failed:
            return int(failed[2]) - int(failed[1])
        match = re.search(r"(\d+) (?:\w+ )?seeds", self.notes)
        if match:
            return int(match[1])
        return None if self.several_runs else 1

    @property
    def says_floor(self) -> bool:
        return "floor" in self.notes or "baseline" in self.notes

    @property
    def shown(self) -> str:
        return f"{self.text}{'%' if self.percent else ''}"


@dataclass(frozen=True)
class Row:
    """A row of the training or the evaluation table."""

    table: LogTable
    place: LogRow

    @property
    def kind(self) -> str:
        return self.table.kind

    @property
    def line(self) -> int:
        return self.place.line + 1

    @cached_property
    def run_id(self) -> str | None:
        return self.table.run_id(self.place)

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
        return self.table.cell(self.place, column)

    def at(self, column: str) -> Place:
        title = next((title for title in self.table.header if machine_name(title) == column), None)
        return Place(self.line, self.run_id, title)

    @property
    def conclusion(self) -> str:
        return self.text("conclusion")


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
        return LINE.findall(self.text)

    @cached_property
    def tables(self) -> list[LogTable]:
        return all_tables(self.text)

    @cached_property
    def rows(self) -> list[Row]:
        """Of every training and evaluation table."""
        return [Row(table, row) for table in self.tables if table.kind != "other" for row in table.rows]

    @cached_property
    def others(self) -> list[LogTable]:
        return [table for table in self.tables if table.kind == "other"]

    @cached_property
    def runs(self) -> dict[str, Row]:
        """The training rows by run id."""
        return {row.run_id: row for row in self.rows if row.kind == "training" and row.run_id}

    @cached_property
    def run_ids(self) -> tuple[str, ...]:
        return (*self.runs, *self.known)

    @cached_property
    def prose(self) -> dict[int, str]:
        """Lines outside tables and code fences, by number from 0."""
        inside = {line for table in self.tables for line in range(table.line, table.line + 2)}
        inside |= {row.line for table in self.tables for row in table.rows}
        found, fence = {}, False
        for number, line in enumerate(self.lines):
            if re.match(r"\s*(?:```|~~~)", line):
                fence = not fence
            elif not fence and number not in inside:
                found[number] = line
        return found

    @cached_property
    def row_scores(self) -> list[Figure]:
        """The scores in the columns of the two tables that are for them."""
        figures = []
        for row in self.rows:
            head = head_in(row.text("eval_type")) if row.kind == "evaluation" else None
            several = bool(_MANY_RUNS.search(row.text("eval_type")))
            for figure in scores_in(row.text("key_scores"), row.at("key_scores")):
                figures.append(_with(figure, run=row.checkpoint, head=head or figure.head, several=several))
        return figures

    @cached_property
    def other_scores(self) -> list[Figure]:
        """The scores in all other tables, in conclusions and in prose."""
        figures = [figure for table in self.others for figure in self._table_scores(table)]
        for row in self.rows:
            for figure in scores_in(row.conclusion, row.at("conclusion"), prose=True):
                figures.append(_with(figure, run=row.checkpoint, certainty=0.6))
        for number, line in self.prose.items():
            run, certainty = self._run_at(number, line)
            for figure in scores_in(line, Place(number + 1, run), prose=True):
                figures.append(_with(figure, run=run, head=head_in(line), certainty=certainty))
        return figures

    @cached_property
    def row_losses(self) -> list[Figure]:
        figures = []
        for row in self.rows:
            if row.kind == "training":
                figures += losses_in(row.text("task_loss"), row.at("task_loss"), row.run_id)
        return figures

    @cached_property
    def other_losses(self) -> list[Figure]:
        """Losses that prose or other tables state with the word loss."""
        figures = []
        for number, line in enumerate(self.lines):
            if number not in self.prose and not any(number == row.line for t in self.others for row in t.rows):
                continue
            run, certainty = self._run_at(number, line)
            for match in _LOSS.finditer(line.replace("**", "")):
                kind = _loss_kind(match["kind"])
                place = Place(number + 1, run)
                figures.append(Figure(place, "loss", kind, match["value"], False, run, certainty=certainty))
        return figures

    def _table_scores(self, table: LogTable) -> Iterator[Figure]:
        heads = [machine_name(title) for title in table.header]
        caption = self._caption(table)
        for row in table.rows:
            run, certainty = self._run_at(row.line, self.lines[row.line], caption)
            label = " ".join(
                cell
                for name, cell in zip(heads, row.cells, strict=False)
                if (not re.search(r"\d\.\d", cell) and not re.fullmatch(r"\W*[\d,]+\W*", cell)) or name == "task"
            )
            for title, cell in list(zip(table.header, row.cells, strict=False)):
                place = Place(row.line + 1, run, title)
                if _DELTA.search(title):
                    continue
                several = bool(_MANY_RUNS.search(f"{title} {caption}"))
                found = scores_in(cell, place)
                if not found:
                    of_title, of_row = tasks_in(title), tasks_in(label)
                    named = of_title or of_row
                    if len(named) != 1 or (of_title and of_row and of_title != of_row):
                        continue
                    metrics = " / ".join(metrics_in(title) or metrics_in(label))
                    found = _values_alone(cell, named[0], metrics, place, percent="%" in title)
                for figure in found:
                    head = head_in(title) or head_in(label) or head_in(caption)
                    yield _with(figure, run=run, head=head, certainty=certainty, several=several)

    def _caption(self, table: LogTable) -> str:
        """The prose right above a table, and its heading."""
        above = [self.lines[line] for line in range(max(table.line - 3, 0), table.line) if line in self.prose]
        return " ".join(above)

    def _run_at(self, number: int, line: str, caption: str = "") -> tuple[str | None, float]:
        """The run that a line speaks of and how sure that is: named in it, above it, in its section, in the file."""
        for text, certainty in ((line, 0.95), (caption, 0.9), (self._section(number), 0.75), (self.text, 0.5)):
            named = {run for run in self.run_ids if run in text}
            if len(named) == 1:
                return named.pop(), certainty
            if len(named) > 1:
                return None, 0.0
        return None, 0.0

    def _section(self, number: int) -> str:
        first = next((line for line in range(number, -1, -1) if self.lines[line].startswith("#")), 0)
        return "".join(self.lines[first : number + 1])


def _with(
    figure: Figure, run: str | None, head: str | None = None, certainty: float = 1.0, several: bool = False
) -> Figure:
    return replace(
        figure, run=run, head=head or figure.head, certainty=certainty, several_runs=several or figure.several_runs
    )


def tasks_in(text: str) -> list[str]:
    """Labels of the splits that a text names, each once."""
    return list(dict.fromkeys(_label(match[0]) for match in _TASK.finditer(text)))


def metrics_in(text: str) -> list[str]:
    matches = re.finditer(rf"(?<![A-Za-z0-9])(?:{_METRIC})(?![A-Za-z0-9])", text, re.I)
    return [METRIC_NAMES[match[0].casefold()] for match in matches]


def head_in(text: str) -> str | None:
    """The one classification head that a text names."""
    found = [head for head, pattern in _HEADS.items() if re.search(pattern, text, re.I)]
    return found[0] if len(found) == 1 else None


def scores_in(text: str, place: Place, *, prose: bool = False) -> list[Figure]:
    """The scores of a text: `**MRPC:** 82.2% <br> **STS-B P:** 0.627 (note)`.

    With `prose` only figures that directly follow their task or metric count.
    """
    figures: list[Figure] = []
    for part in re.split(r"<br\s*/?>|;|\n", text):
        starts = [*_TASK.finditer(part)]
        for match, following in zip_longest(starts, starts[1:]):
            rest = part[match.end() : following.start() if following else len(part)]
            figures += _task_scores(_label(match[0]), rest, place, prose)
    return figures


def losses_in(text: str, place: Place, run: str | None) -> list[Figure]:
    """`MLM 4.089`, `train **2.894** / eval **1.433**`, `MLM eval **4.010** (unigram 7.25) <br> train 3.900`."""
    plain = _NOTES.sub(" ", text.replace("**", ""))
    pattern = (
        r"(?:(?P<kind>train(?:ing)?|eval(?:uation)?|held-out|validation|test)\b[\s:=]*)?(?<![\w.])(?P<value>\d+\.\d+)"
    )
    return [
        Figure(place, "loss", _loss_kind(match["kind"]), match["value"], False, run)
        for match in re.finditer(pattern, plain, re.I)
    ]


def _loss_kind(word: str | None) -> str | None:
    return None if word is None else "train" if word.casefold().startswith("train") else "eval"


def _label(text: str) -> str:
    return _ALIASES[re.sub(r"[\W_]", "", text.casefold())]


def _task_scores(task: str, rest: str, place: Place, prose: bool) -> list[Figure]:
    plain = re.sub(rf"\(\s*(({_METRIC})(\s*/\s*({_METRIC}))*)\s*\)", r" \1 ", rest.replace("**", ""), flags=re.I)
    notes = " ".join(match[1] for match in _NOTES.finditer(plain))
    plain = _NOTES.sub(" ", plain)
    metrics: list[str] = []
    values: list[re.Match[str]] = []
    order = ""
    end = 0
    for match in _TOKEN.finditer(plain):
        if prose and not _JOINED.fullmatch(plain, end, match.start()):
            break
        end = match.end()
        if match["metric"]:
            metrics.append(METRIC_NAMES[match["metric"].casefold()])
            order += "m"
        elif match["sign"] not in ("+", "±", "Δ"):
            values.append(match)
            order += "v"
    if not values:
        return []
    several = bool(_MANY_RUNS.search(notes + plain))
    paired: list[tuple[str | None, re.Match[str]]]
    if len(metrics) == len(values):
        paired = list(zip(metrics, values, strict=True))
    elif len(metrics) <= 1:
        paired = [(metrics[0] if metrics else None, values[0])]
    else:
        return []
    sensible = SPLITS[task][0].metrics
    return [
        Figure(
            place, task, metric, match["sign"].replace("−", "-") + match["value"], bool(match["percent"]), notes=notes,
            several_runs=several,
        )
        for metric, match in paired
        if metric is None or metric in sensible or METRICS[metric].of_classes == METRICS[sensible[0]].of_classes
    ]  # fmt: skip


def _values_alone(cell: str, task: str, metrics: str, place: Place, *, percent: bool) -> list[Figure]:
    """The figures of a cell that holds nothing else, whose task and metrics stand in its row and column."""
    notes = " ".join(match[1] for match in _NOTES.finditer(cell))
    plain = _NOTES.sub(" ", cell).replace("**", "").strip(" *_`")
    if not re.fullmatch(r"[-−]?\d+(?:\.\d+)?\s*%?(?:\s*[/,]\s*[-−]?\d+(?:\.\d+)?\s*%?)*(?:\s*±.*)?", plain):
        return []
    found = _task_scores(task, f" {metrics} {plain} {f'({notes})' if notes else ''}", place, prose=False)
    if percent:
        found = [replace(figure, percent=True) for figure in found]
    return found
