"""A run beside a baseline in its report: the verdicts of the comparison engine, and the scores behind them."""

from dataclasses import dataclass
from typing import Any

from tasks.review.comparisons import Figure, compare, compare_scores
from tasks.review.differences import value_text
from tasks.review.rendering import delta_text, shown
from tasks.review.sides import Side
from tasks.scores.showing import show
from tasks.store.records import Score


@dataclass(frozen=True)
class Pair:
    """A score beside the same score of a baseline.

    Attributes:
        here, there: of the run and of the baseline; None where that side has no such score.
    """

    figure: Figure
    here: Score | None
    there: Score | None

    @property
    def starts(self) -> str:
        """The start of both scores; both starts where they differ in the task whose model they began with."""
        return " and ".join(dict.fromkeys(show(score).start for score in (self.here, self.there) if score))

    @property
    def seeds(self) -> str:
        """The numbers of seeds behind both scores."""
        return " and ".join(str(len(score.seed_values)) for score in (self.here, self.there) if score)

    @property
    def difference(self) -> str:
        """The difference as fractions, with its interval and its verdict."""
        return delta_text(self.figure, fraction=True)


def pair_scores(run: Side, baseline: Side, figures: list[Figure]) -> list[Pair]:
    """The compared figures that are scores, with the scores behind them."""
    here, there = ({key: entry.sources[0].score for key, entry in side.entries.items()} for side in (run, baseline))
    keys: list[Any] = [(figure.task, figure.metric, figure.start) for figure in figures]
    return [Pair(figure, here.get(key), there.get(key)) for figure, key in zip(figures, keys, strict=True)]


def primary_pairs(run: Side, baseline: Side) -> dict[tuple[str, str], Pair]:
    """The primary scores of a run beside those of a baseline, by task and metric."""
    pairs = pair_scores(run, baseline, compare_scores(baseline, run, primary=True))
    return {(score.task, score.metric): pair for pair in pairs if (score := pair.here or pair.there)}


def against(run: Side, baseline: Side) -> dict[str, Any]:
    """What of a run can be compared with a baseline, and what else differs: the facts of `templates/baseline.md.j2`."""
    comparison = compare(baseline, run)
    pairs = pair_scores(run, baseline, [figure for figure in comparison.figures if figure.metric])
    figures = [figure for figure in comparison.figures if not figure.metric]  # losses and ranks
    return {
        "run": baseline.record,
        "compared": [pair for pair in pairs if pair.figure.refused is None],
        "refused": [pair for pair in pairs if pair.figure.refused is not None],
        "figures": [(each.name, shown(each, each.b), shown(each, each.a), delta_text(each)) for each in figures],
        "differences": [(each.key, value_text(each.b), value_text(each.a)) for each in comparison.differs],
        "not_known": {"the baseline": comparison.not_known["a"], "this run": comparison.not_known["b"]},
    }
