"""The table of scores in a run's report: the checkpoint beside its random start and the zero-shot answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.review.comparisons import Figure
from tasks.review.rendering import shown
from tasks.store.records import RunRecord, Score


@dataclass(frozen=True)
class ScoreRow:
    """A task in one metric.

    Attributes:
        own, random, zero_shot: its scores by the start of their cells; None where there is none.
        beside_random: the comparison of the first two; None where it was not asked for.
    """

    task: str
    metric: str
    own: Score | None
    random: Score | None
    zero_shot: Score | None
    beside_random: Figure | None

    @property
    def primary(self) -> bool:
        """Whether the metric is the task's primary one."""
        return any(score.primary for score in (self.own, self.random, self.zero_shot) if score)

    @property
    def n(self) -> int:
        """The number of examples."""
        return next(score.n for score in (self.own, self.random, self.zero_shot) if score)

    @property
    def difference(self) -> str:
        """The checkpoint less the random start, with its interval and its verdict."""
        figure = self.beside_random
        if figure is None:
            return "--"
        if figure.delta is None:
            return f"not comparable: {figure.refused}"
        text = shown(figure, figure.delta, sign=True, fraction=True)
        if figure.interval is None:
            return f"{text} (interval not known)"
        ends = " to ".join(shown(figure, end, sign=True, fraction=True) for end in figure.interval)
        notes = [*([] if figure.paired else ["unpaired"]), *["interval unreliable"] * figure.unreliable]
        return f"{text} ({', '.join([ends, *notes])}): {figure.verdict}"


def score_rows(scores: Sequence[Score], beside_random: Sequence[Figure]) -> list[ScoreRow]:
    """A row per task and metric, in the order of the record."""
    found = {(score.task, score.metric, score.start): score for score in scores}
    figures = {(figure.task, figure.metric): figure for figure in beside_random}
    return [
        ScoreRow(
            task,
            metric,
            found.get((task, metric, "checkpoint")),
            found.get((task, metric, "random")),
            found.get((task, metric, "zero_shot")),
            figures.get((task, metric)),
        )
        for task, metric in dict.fromkeys((score.task, score.metric) for score in scores)
    ]


def primary(record: RunRecord, figures: Sequence[Figure]) -> list[Figure]:
    """The comparisons of primary scores."""
    keys = {(score.task, score.metric) for score in record.primary_scores()}
    return [figure for figure in figures if (figure.task, figure.metric) in keys]
