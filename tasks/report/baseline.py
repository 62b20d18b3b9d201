"""A run beside a baseline in its report: the verdicts of the comparison engine, and the scores behind them."""

from dataclasses import dataclass

from tasks.review.comparisons import Figure, compare, compare_scores
from tasks.review.differences import value_text
from tasks.review.rendering import delta_text, shown
from tasks.review.sides import Side
from tasks.scores.showing import show
from tasks.store.records import RunRecord, Score


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


@dataclass(frozen=True)
class Baseline:
    """A run to compare with.

    Attributes:
        compared, refused: the scores that can and that cannot be compared.
        figures: losses and ranks: name, here, there, difference.
        differences: setting, here, there.
        not_known: settings that only one of the two records holds, by the name of the other.
    """

    run: RunRecord
    compared: list[Pair]
    refused: list[Pair]
    figures: list[list[str]]
    differences: list[tuple[str, str, str]]
    not_known: dict[str, list[str]]


def pair_scores(run: Side, baseline: Side, figures: list[Figure]) -> list[Pair]:
    """The compared figures that are scores, with the scores behind them."""
    return [Pair(figure, _score(run, figure), _score(baseline, figure)) for figure in figures]


def _score(side: Side, figure: Figure) -> Score | None:
    wanted = figure.task, figure.metric, figure.start
    return next((entry.sources[0].score for key, entry in side.entries.items() if key == wanted), None)


def primary_pairs(run: Side, baseline: Side) -> dict[tuple[str, str], Pair]:
    """The primary scores of a run beside those of a baseline, by task and metric."""
    pairs = pair_scores(run, baseline, compare_scores(baseline, run, primary=True))
    return {(score.task, score.metric): pair for pair in pairs if (score := pair.here or pair.there)}


def against(run: Side, baseline: Side) -> Baseline:
    """What of a run can be compared with a baseline, and what else differs."""
    comparison = compare(baseline, run)
    pairs = pair_scores(run, baseline, [figure for figure in comparison.figures if figure.metric])
    assert baseline.record is not None
    return Baseline(
        run=baseline.record,
        compared=[pair for pair in pairs if pair.figure.refused is None],
        refused=[pair for pair in pairs if pair.figure.refused is not None],
        figures=[
            [figure.name, shown(figure, figure.b), shown(figure, figure.a), delta_text(figure)]
            for figure in comparison.figures
            if not figure.metric
        ],
        differences=[(each.key, value_text(each.b), value_text(each.a)) for each in comparison.differs],
        not_known={"the baseline": comparison.not_known["a"], "this run": comparison.not_known["b"]},
    )
