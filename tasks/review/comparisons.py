"""The one engine that compares runs: what differs between two sides, and the verdict on each of their figures.

`cogito compare`, `cogito report --baseline`, `cogito sweep` and `cogito reproduce` only render its answers. Figures are
compared with their like only (`likeness`). The difference of two scores has a paired bootstrap interval where both
sides have their predictions, else an unpaired one, which is wider. Example:
`cogito compare master_experiment_log.md#perceiver_mlm_H512L6C128_20260208_211633 RUN_ID`
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import computed_field

from tasks.errors import UserError
from tasks.log.check.figures import SPLITS
from tasks.plots import RANKS
from tasks.review.differences import Difference, differences, normalized
from tasks.review.likeness import NotComparableError, answers_of, unlike_losses, unlike_ranks, unlike_scores
from tasks.review.sides import Entry, ScoreKey, Side, find_side
from tasks.scores.intervals import paired_difference_interval, unpaired_difference_interval
from tasks.scores.metrics import METRICS
from tasks.spec.benchmarks import score_names
from tasks.store.home import Home, StrPath, cogito_home
from tasks.store.records import Result, Start

HELD_OUT_LOSS = "held-out loss"
# Of B beside A. Undecided: there is a difference, but no interval to judge it by.
Verdict = Literal["better", "worse", "within noise", "undecided", "not comparable"]
METRIC_TITLES = {name: "Acc" if name == "accuracy" else name.capitalize() for name in METRICS}


class Figure(Result):
    """One figure of both sides: either a difference, or the reason why there is none.

    Attributes:
        task, metric, start: of a score; None for a loss or a rank.
        delta, interval: B - A and its 95 % interval.
        sd: standard deviation over seeds of A and of B.
        at_floor, below_floor, no_predictions: `A`, `B` or both.
        refused: why the two cannot be compared.
    """

    name: str
    task: str | None = None
    metric: str | None = None
    start: Start | None = None
    a: float | None
    b: float | None
    n: int | None = None
    delta: float | None = None
    interval: tuple[float, float] | None = None
    paired: bool = False
    unreliable: bool = False
    sd: tuple[float, float] | None = None
    at_floor: tuple[str, ...] = ()
    below_floor: tuple[str, ...] = ()
    no_predictions: tuple[str, ...] = ()
    refused: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def inside_noise(self) -> bool:
        """Whether the interval of the difference holds 0."""
        return self.interval is not None and self.interval[0] <= 0 <= self.interval[1]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> Verdict:
        """What the difference shows of B. Of every metric more is better."""
        if self.refused is not None:
            return "not comparable"
        if self.interval is None:
            return "undecided"
        if self.inside_noise:
            return "within noise"
        return "better" if self.interval[0] > 0 else "worse"


class Comparison(Result):
    """B beside the baseline A.

    Attributes:
        titles: of the two columns.
        differs: the settings that the two do not share.
        not_known: for `a` and `b` the settings that are not known of that side.
    """

    a: str
    b: str
    titles: tuple[str, str]
    differs: list[Difference]
    not_known: dict[str, list[str]]
    figures: list[Figure]


def compare_all(references: Sequence[str], home: Home) -> list[Comparison]:
    """Every other side beside the first.

    Raises:
        UserError: fewer than two sides, or one that does not exist.
    """
    if len(references) < 2:
        raise UserError(
            f"compare: got {len(references)} run; needs the baseline and at least one other; fix: name both"
        )
    baseline, *others = (find_side(reference, home) for reference in references)
    return [compare(baseline, other) for other in others]


def compare(a: Side | StrPath, b: Side | StrPath) -> Comparison:
    """B beside the baseline A: what differs, and the verdict on every figure that they share.

    Args:
        a: the baseline: a side, or what names one: a run id, the path of a record.json, or a row as `LOG.md#RUN`.
        b: what is compared with it.

    Raises:
        UserError: there is no such run, record or row.
    """
    a, b = (one if isinstance(one, Side) else find_side(one, cogito_home()) for one in (a, b))
    differs, not_known = differences(a, b)
    titles = f"`{a.name}`", f"`{b.name}`"
    if a.source == b.source and a.head and b.head and normalized(a.head) != normalized(b.head):
        titles = _head_title(a.head), _head_title(b.head)  # two heads of one checkpoint
    loss = _single(HELD_OUT_LOSS, a.loss[0], b.loss[0], unlike_losses(a, b))
    figures = [loss, *_ranks(a, b), *compare_scores(a, b)]
    return Comparison(a=a.name, b=b.name, titles=titles, differs=differs, not_known=not_known, figures=figures)


def compare_scores(a: Side, b: Side, *, primary: bool = False) -> list[Figure]:
    """The scores of both sides in the order of the log.

    Args:
        primary: take the primary scores of the checkpoints only.
    """
    order = list(score_names())

    def place(key: ScoreKey) -> tuple[Any, ...]:
        label, metric, start = key
        secondary = label not in SPLITS or metric != SPLITS[label][0].primary_metric
        return start, order.index(label) if label in order else len(order), label, secondary

    keys = {*a.entries, *b.entries}
    if primary:
        scores = [score for side in (a, b) for entry in side.entries.values() for score in entry.scores]
        keys = {(each.task, each.metric, each.start) for each in scores if each.primary and each.start == "checkpoint"}
    return [_score(a, b, key) for key in sorted(keys, key=place)]


def compare_starts(side: Side, start: Start = "random") -> list[Figure]:
    """The scores of a run's checkpoint (B) beside those of the same tasks from another start (A)."""
    own = {key: entry for key, entry in side.entries.items() if key[2] == "checkpoint"}
    other: dict[ScoreKey, Entry] = {
        (label, metric, "checkpoint"): entry for (label, metric, began), entry in side.entries.items() if began == start
    }
    keys = {key: entry for key, entry in own.items() if key in other}
    return compare_scores(replace(side, entries={key: other[key] for key in keys}), replace(side, entries=keys))


def _single(name: str, a: float | None, b: float | None, refused: str | None) -> Figure:
    """A figure that is a single value of each side, so that no interval is known."""
    delta = None if refused or a is None or b is None else b - a
    return Figure(name=name, a=a, b=b, delta=delta, refused=refused)


def _ranks(a: Side, b: Side) -> list[Figure]:
    pairs = [(name.replace("_", " "), a.ranks.get(name), b.ranks.get(name)) for name in RANKS]
    return [
        _single(name, one.value if one else None, other.value if other else None, unlike_ranks(one, other))
        for name, one, other in pairs
        if one or other
    ]


def _score(a: Side, b: Side, key: ScoreKey) -> Figure:
    label, metric, start = key
    one, other = a.entries.get(key), b.entries.get(key)
    lettered = [(letter, entry) for letter, entry in (("A", one), ("B", other)) if entry]
    suffix = "" if start == "checkpoint" else f" ({start.replace('_', '-')})"
    refused, facts = unlike_scores(metric, (a, b), (one, other)), {}
    if refused is None and one and other:
        try:
            facts = {"n": one.n, **_difference(metric, one, other)}
        except NotComparableError as error:
            refused = str(error)
    return Figure(
        name=f"{score_names().get(label, label)} {METRIC_TITLES.get(metric, metric)}{suffix}",
        task=label,
        metric=metric,
        start=start,
        a=one and one.value,
        b=other and other.value,
        at_floor=tuple(letter for letter, entry in lettered if entry.floor_mark == "at floor"),
        below_floor=tuple(letter for letter, entry in lettered if entry.floor_mark == "below floor"),
        refused=refused,
        **facts,
    )


def _difference(metric: str, one: Entry, other: Entry) -> dict[str, Any]:
    """The difference of two scores of the same examples; its interval is paired where both have their predictions."""
    assert one.value is not None and other.value is not None
    facts: dict[str, Any] = {
        "delta": other.value - one.value,
        "unreliable": any(score.unreliable for score in [*one.scores, *other.scores]),
        "sd": None if one.sd is None or other.sd is None else (one.sd, other.sd),
    }
    first = answers_of(metric, "A", one)
    second = answers_of(metric, "B", other, first[0] if first else None)
    if first and second:
        return facts | {"interval": paired_difference_interval(metric, *first, second[1]), "paired": True}
    lettered = (("A", one, first), ("B", other, second))
    facts["no_predictions"] = tuple(letter for letter, entry, stored in lettered if entry.sources and not stored)
    if one.interval and other.interval:
        facts["interval"] = unpaired_difference_interval(one.value, one.interval, other.value, other.interval)
    return facts


def _head_title(head: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in head.split("_"))
