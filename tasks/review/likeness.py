"""Which figures of two sides may be compared: the rules, each with the reason for which it refuses."""

import math

import numpy as np

from models.family import OBJECTIVES, VARIANTS
from tasks.review.sides import Entry, Rank, Side, is_possible, spec_section
from tasks.scores.metrics import METRICS


class NotComparableError(Exception):
    """The stored predictions of two scores do not belong together; the message states why."""


def unlike_scores(metric: str, sides: tuple[Side, Side], entries: tuple[Entry | None, Entry | None]) -> str | None:
    """Why two scores of one split, metric and start cannot be compared: missing, impossible, or of other examples."""
    a, b = sides
    one, other = entries
    for letter, entry in (("A", one), ("B", other)):
        if entry is None:
            return f"{letter} has no such score"
        if entry.value is None:
            return f"{letter} has no value"
        if metric not in METRICS:
            return f"no such metric: {metric!r}"
        if not is_possible(metric, entry.value):
            return f"{letter}: {entry.value:g} cannot be a figure of {metric}"
    assert one is not None and other is not None
    if a.made != b.made:
        return f"{'A' if a.made else 'B'} is of made data, which is another task"
    if one.n != other.n:
        counts = ["not known" if entry.n is None else f"{entry.n:,}" for entry in (one, other)]
        return f"other examples: n is {counts[0]} and {counts[1]}"
    floors = [score.floor for entry in (one, other) for score in entry.scores]
    if one.sources and other.sources and np.ptp(floors) > 1e-9:  # the trivial answer scores the same on the same labels
        return f"other examples: the floor is {floors[0]:.4f} and {floors[-1]:.4f}"
    return None


def answers_of(
    metric: str, letter: str, entry: Entry, references: np.ndarray | None = None
) -> tuple[np.ndarray, list[np.ndarray]] | None:
    """Labels [n] and predictions [n] per seed behind a score; None where not all are stored.

    Args:
        references: the labels of the other side, which must be the same.

    Raises:
        NotComparableError: the predictions are damaged, of other examples, or not those that were scored.
    """
    answers: list[np.ndarray] = []
    for source in entry.sources:
        try:
            labels, predictions = source.answers()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise NotComparableError(f"{letter}: its predictions cannot be read ({error})") from None
        if not labels:
            return None
        if any(not np.array_equal(labels[0], own) for own in labels):
            raise NotComparableError(f"{letter}: its seeds were not scored on the same examples")
        references = labels[0] if references is None else references
        if not np.array_equal(references, labels[0]):
            raise NotComparableError("other examples: their references differ")
        value = np.mean([METRICS[metric].compute(references, each) for each in predictions])
        if not math.isclose(value, source.score.value or 0.0, abs_tol=1e-9):
            raise NotComparableError(
                f"{letter}: its predictions give {value:.4f} instead of its score; "
                f"fix: `cogito rescore {source.record.run_id}`"
            )
        answers += predictions
    return None if references is None or not answers else (references, answers)


def unlike_losses(a: Side, b: Side) -> str | None:
    """Why two held-out losses cannot be compared: missing, or not of the same tokens of the same text."""
    for letter, side in (("A", a), ("B", b)):
        if side.loss[1]:
            return f"{letter}: {side.loss[1]}"
    records = [side.trained for side in (a, b) if side.trained is not None]
    corpora = [record.corpus.corpus_id for record in records if record.corpus is not None]
    if len(corpora) < 2:
        return "the corpus is not known"
    if corpora[0] != corpora[1]:
        return "another corpus or tokenizer"
    names = [spec_section(record, "model").get("variant", "") for record in records]
    if not set(names) <= VARIANTS.keys():
        return "the objective is not known"
    variants = [VARIANTS[name] for name in names]
    objective = variants[0].objective
    if objective != variants[1].objective:
        return f"another objective: {objective} and {variants[1].objective}"
    settings = [spec_section(record, "objective") | spec_section(record, "training") for record in records]
    # elbo weighs tokens in training alone
    for key in [*(name for name in OBJECTIVES[objective].reads if name != "elbo"), "max_eval_blocks"]:
        values = [setting.get(key) for setting in settings]
        if key == "t_min":
            values = [row.t_min if value is None else value for value, row in zip(values, variants, strict=True)]
        if values[0] != values[1]:
            return f"another {key}: {values[0]} and {values[1]}"
    return None


def unlike_ranks(one: Rank | None, other: Rank | None) -> str | None:
    """Why two ranks cannot be compared: missing, or not of as many concepts on the same texts."""
    if one is None or other is None:
        return f"{'A' if one is None else 'B'} has no such figure"
    if one.num_concepts != other.num_concepts:
        return f"of {one.num_concepts} concepts and of {other.num_concepts}"
    if one.texts != other.texts and None not in (one.texts, other.texts):
        return "measured on other texts"
    return None
