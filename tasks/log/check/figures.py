"""The figures that a text states: its tasks, metrics, scores and losses, each with its place and the words around it.

What cannot be understood is left out rather than guessed.
"""

import re
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest

from models.family import HEADS
from tasks.log.check.feasibility import Rounded
from tasks.scores.metrics import METRICS
from tasks.spec.benchmarks import TASKS, Split, Task

SPLITS: dict[str, tuple[Task, Split]] = {
    split.label: (task, split) for task in TASKS.values() for split in task.eval_splits
}
# SICK of SICK-R and SICK-E
FAMILIES = {split.title.partition("-")[0] for _, split in SPLITS.values()}
METRIC_NAMES = {word: name for name, metric in METRICS.items() for word in (name, *metric.log_names)}
_LABELS = tuple(SPLITS)
# One group for each label, in this order.
_TASKS = "|".join(f"({split.log_pattern or split.title.replace('-', '-?')})" for _, split in SPLITS.values())
_TASK = re.compile(rf"(?<![A-Za-z0-9])(?:{_TASKS})(?![A-Za-z0-9])", re.I)
_COUNTED = r"pairs?|examples?|samples?|sentences?|rows|classes|epochs?|seeds?|steps?|runs?|tokens?|points?"
_METRIC = "|".join(sorted(METRIC_NAMES, key=len, reverse=True))
_TOKEN = re.compile(
    rf"(?<![A-Za-z0-9])(?P<average>(?:macro|micro|weighted|averaged?)[-_ ])?(?P<metric>{_METRIC})(?![A-Za-z0-9])"
    r"|(?<![\w.–])(?P<sign>[-−+±Δ]?)(?P<value>\d+(?:\.\d+)?)(?![\w]|\.\d)\s*(?P<percent>%?)"
    rf"(?!\s*(?:{_COUNTED})\b)",
    re.I,
)
_LONE = re.compile(
    rf"(?:(?P<before>{_METRIC})[\s:=]+)?(?P<sign>[-−]?)(?P<value>\d+(?:\.\d+)?)\s*(?P<percent>%?)"
    rf"(?(before)|\s*(?P<after>{_METRIC}))",
    re.I,
)
_NOTES = re.compile(r"\(([^()]*(?:\([^()]*\)[^()]*)*)\)")
_JOINED = re.compile(r"[\s:=*~≈/,|]*(?:score|of|at|is|was|reaches|reached)?[\s:=*/,]*", re.I)
_BOTH_MNLI = re.compile(
    r"MNLI(?:[-_ ]?\(?(?:m|matched)\s*/\s*(?:MNLI[-_ ]?)?(?:mm|mismatched)\)?)?(?P<between>[\s:=*]*(?:acc\w*)?[\s:=*]*)"
    r"(?P<m>\d+(?:\.\d+)?)\s*%?\s*/\s*(?P<mm>\d+(?:\.\d+)?)(?P<percent>\s*%?)",
    re.I,
)
_ASIDE = re.compile(  # what stands beside a score and is none
    r"\[[^\[\]]*\](?!\()|\bn\s*[=:]\s*[\d,]+|@?\s*\b(?:ep(?:och)?s?|seed|lr|steps?|best)\b[\s:=]*\d[\w.-]*", re.I
)
_BEFORE_ARROW = re.compile(r"[-−+]?\d+(?:\.\d+)?\s*%?[\s*]*(?:→|->|=>)")
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d{1,2}),(\d{1,2})(?![\d.,])")
FLOOR = re.compile(
    r"\bfloors?\b|\bmajority\b|\btrivial|\bchance\b|\balways\b|\ball[- ](?:positive|paraphrase|yes|one)|\bconstant\b"
    r"|\bdummy\b|\brandom (?:guess|baseline|answer)|\bbaselines?\W{0,3}\d|\bat (?:the |its )?baseline",
    re.I,
)
# figures of another split than the published one that is scored here
_ELSEWHERE = re.compile(
    r"\b(?:leaderboard|test[- ](?:set|server|split|scores?)|published|literature|reported (?:in|by)|papers?|et al|arxiv"
    r"|subset|subsample\w*|cross-validat\w+|held-out part|on train|training set)\b",
    re.I,
)
_TEST = re.compile(r"\btest\b", re.I)
MANY_RUNS = re.compile(r"\b(?:seeds?|mean|average|averaged|avg|median|best of)\b|±", re.I)


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
        task: label of the scored split; for a loss `loss`, for a rank `rank`.
        metric: key of METRICS, None where it is not said; for a loss `train`, `eval` or None.
        text, percent: the number as it was written, and whether as a percentage.
        run, head: what it is of, as far as the document tells; `certainty` of the run, 0 to 1.
        notes: what stands in brackets behind it.
        context: the words around it: of its cell up to the next task, of its column, its row, its caption.
        table: line of the header of its table where that is none of the two.
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
    context: str = ""
    table: int | None = None

    @cached_property
    def rounded(self) -> Rounded:
        """As a fraction of 1, a loss as it is. Correlations written as 89.4 are understood."""
        is_score = self.task in SPLITS
        return Rounded.of(self.text, percent=self.percent or (is_score and abs(float(self.text)) > 1.5))

    @cached_property
    def value(self) -> float:
        """The figure as a fraction of 1, a loss as it is."""
        return float(self.rounded.low + self.rounded.high) / 2

    @cached_property
    def readings(self) -> tuple[str, ...]:
        """The metrics it can be: the one that is said, else those of its task that are written with its unit."""
        if self.metric:
            return (self.metric,)
        metrics = SPLITS[self.task][0].metrics
        percent = self.is_percentage
        named = tuple(name for name in metrics if METRICS[name].is_percent == percent) or metrics
        if percent and not METRICS[metrics[0]].is_percent:  # Matthews' correlation is often given as 52.1
            named = tuple(dict.fromkeys((*named, *metrics) if self.percent else (*metrics, *named)))
        return named

    @property
    def likely_metric(self) -> str:
        """The first of its readings."""
        return self.readings[0]

    @property
    def is_ambiguous(self) -> bool:
        """Whether it can be a percentage or a correlation times 100."""
        return self.metric is None and len({METRICS[name].is_percent for name in self.readings}) > 1

    @cached_property
    def examples(self) -> int | None:
        """Stated number of examples."""
        match = re.search(r"\bn\s*[=:]?\s*(\d[\d,]*)(?![\d.]*k)", self.notes, re.I) or re.search(
            r"(?<![\d.,])(\d[\d,]*) (?:\w+ )?(?:examples|samples|pairs|sentences)\b", self.notes, re.I
        )
        return int(match[1].replace(",", "")) if match else None

    @cached_property
    def elsewhere(self) -> bool:
        """Whether the words around it say that it is of another split than the published one scored here."""
        around = f"{self.notes} {self.context}"
        is_test = SPLITS[self.task][1].name == "test"
        if self.examples is None and re.search(r"\bn\s*[≈~<>]|\b\d+k (?:examples|samples|pairs)", around, re.I):
            return True
        return bool(_ELSEWHERE.search(around)) or (not is_test and bool(_TEST.search(around)))

    @cached_property
    def evaluations(self) -> int | None:
        """Of how many evaluations it is the mean: 1 unless the text says otherwise, None if it does not say."""
        failed = re.search(r"(\d+) of (\d+) seeds failed", self.notes)
        if failed:
            return int(failed[2]) - int(failed[1])
        match = re.search(r"(\d+) (?:\w+ )?(?:seeds|runs)\b", self.notes)
        if match:
            return int(match[1])
        return None if self.several_runs else 1

    @cached_property
    def says_floor(self) -> bool:
        """Whether the words around it mention a floor or a trivial answer."""
        return bool(FLOOR.search(f"{self.notes} {self.context}"))

    @property
    def is_percentage(self) -> bool:
        """Whether it is written as one, with or without its sign."""
        return self.percent or abs(float(self.text)) > 1.5

    @property
    def title(self) -> str:
        """The name of its split in the log."""
        return SPLITS[self.task][1].title

    @property
    def shown(self) -> str:
        """The figure as it was written."""
        return f"{self.text}{'%' if self.percent else ''}"


def plain(text: str) -> str:
    """A text without the asterisks of its emphasis."""
    return text.replace("*", "")


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text."""
    return re.split(r"(?<=[.!?])\s+(?=[\W_]*[A-Z])|<br\s*/?>", text)


def tasks_in(text: str) -> list[str]:
    """Labels of the splits that a text names, each once."""
    return list(dict.fromkeys(_label(match) for match in _TASK.finditer(text)))


def metrics_in(text: str) -> list[str]:
    """The metrics that a text names, in their order, as keys of METRICS."""
    matches = re.finditer(rf"(?<![A-Za-z0-9])(?:{_METRIC})(?![A-Za-z0-9])", text, re.I)
    return [METRIC_NAMES[match[0].casefold()] for match in matches]


def head_in(text: str) -> str | None:
    """The one classification head that a text names."""
    found = [name for name, row in HEADS.items() if re.search(row.log_pattern or name, text, re.I)]
    return found[0] if len(found) == 1 else None


def scores_in(text: str, place: Place, *, prose: bool = False) -> list[Figure]:
    """The scores of a text: `**MRPC:** 82.2% <br> **STS-B P:** 0.627 (note)`.

    With `prose` only figures that directly follow their task or metric count.
    """
    figures: list[Figure] = []
    text = _BOTH_MNLI.sub(r"MNLI-m\g<between>\g<m>\g<percent>; MNLI-mm\g<between>\g<mm>\g<percent>", text)
    for part in re.split(r"<br\s*/?>|;|\n", text):
        starts = [*_TASK.finditer(part)]
        for match, following in zip_longest(starts, starts[1:]):
            rest = part[match.end() : following.start() if following else len(part)]
            figures += _task_scores(_label(match), rest, place, prose)
    return figures


def losses_in(text: str, place: Place, run: str | None) -> list[Figure]:
    """`MLM 4.089`, `train **2.894** / eval **1.433**`, `MLM eval **4.010** (unigram 7.25) <br> train 3.900`."""
    plain = re.sub(r"(\d+\.\d+) \(((?:train|eval)\w*)(?: loss)?\)", r"\2 \1", text.replace("*", ""))
    plain = _NOTES.sub(" ", plain)
    pattern = (
        r"(?:(?P<kind>train(?:ing)?|eval(?:uation)?|held-out|validation|test)\b[\s:=]*)?(?<![\w.])(?P<value>\d+\.\d+)"
    )
    return [
        Figure(place, "loss", loss_kind(match["kind"]), match["value"], False, run)
        for match in re.finditer(pattern, plain, re.I)
    ]


def loss_kind(word: str | None) -> str | None:
    """`train` or `eval` for the word before a loss, None without one."""
    return None if word is None else "train" if word.casefold().startswith("train") else "eval"


def _label(match: re.Match[str]) -> str:
    assert match.lastindex is not None
    return _LABELS[match.lastindex - 1]


def _task_scores(task: str, rest: str, place: Place, prose: bool) -> list[Figure]:
    plain = re.sub(rf"\(\s*(({_METRIC})(\s*/\s*({_METRIC}))*)\s*\)", r" \1 ", rest.replace("**", ""), flags=re.I)
    bracketed = plain
    notes = " ".join(match[1] for match in _NOTES.finditer(plain))
    plain = _NOTES.sub(" ", plain)
    sensible = SPLITS[task][0].metrics
    notes += "".join(f" {match[0]}" for match in _ASIDE.finditer(plain))
    plain = _BEFORE_ARROW.sub(" ", _DECIMAL_COMMA.sub(r"\1.\2", _ASIDE.sub(" ", plain)))
    metrics: list[str | None] = []
    values: list[re.Match[str]] = []
    end = 0
    for match in _TOKEN.finditer(plain):
        if prose and not _JOINED.fullmatch(plain, end, match.start()):
            break
        end = match.end()
        if match["metric"]:
            metrics.append(None if match["average"] else METRIC_NAMES[match["metric"].casefold()])
        elif match["sign"] not in ("+", "±", "Δ"):
            values.append(match)
    if not values:
        return []
    several = bool(MANY_RUNS.search(notes + plain))
    paired: list[tuple[str | None, re.Match[str]]]
    if len(metrics) == len(values):
        paired = list(zip(metrics, values, strict=True))
    elif len(metrics) <= 1:
        paired = [(metrics[0] if metrics else None, values[0])]
    else:
        return []
    if metrics:  # an average over classes is none of the metrics known here
        paired = [(metric, match) for metric, match in paired if metric is not None]
    if not metrics and len(values) == 2 and all(not METRICS[one].is_percent for one in sensible):
        between = plain[values[0].end() : values[1].start()]
        if between.strip() == "/":  # `STS-B: 89.4/89.1`
            paired = list(zip(sensible, values, strict=True))
    if prose:  # `CoLA 2019`, `MRPC 408`
        paired = [(metric, m) for metric, m in paired if metric or m["percent"] or "." in m["value"]]
    for note in _NOTES.finditer(bracketed):  # `F1 84.2% (acc 78.4%)`
        inside = _LONE.fullmatch(note[1].strip())
        if inside and metrics and len(paired) == 1:
            paired.append((METRIC_NAMES[(inside["before"] or inside["after"]).casefold()], inside))
    blank = Figure(place, task, None, "", False, notes=notes, several_runs=several, context=rest)
    return [
        replace(blank, metric=metric, text=(m["sign"] or "").replace("−", "-") + m["value"], percent=bool(m["percent"]))
        for metric, m in paired
        if metric is None or metric in sensible or METRICS[metric].of_classes == METRICS[sensible[0]].of_classes
    ]


def values_alone(cell: str, task: str, metrics: str, place: Place, *, percent: bool) -> list[Figure]:
    """The figures of a cell that holds nothing else, whose task and metrics stand in its row and column."""
    cell = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", cell)
    notes = " ".join(match[1] for match in _NOTES.finditer(cell))
    plain = _NOTES.sub(" ", cell).replace("**", "").strip(" *_`")
    figures = r"[-−]?\d+(?:\.\d+)?\s*%?(?:\s*[/,]\s*[-−]?\d+(?:\.\d+)?\s*%?)*(?:\s*±.*)?"
    if re.fullmatch(r"\d{4,}", plain) or not re.fullmatch(figures, plain):  # a count, or words
        return []
    found = _task_scores(task, f" {metrics} {plain} {f'({notes})' if notes else ''}", place, prose=False)
    return [replace(figure, percent=True) for figure in found] if percent else found
