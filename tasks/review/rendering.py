"""A comparison in words: its figures, its verdicts, and the log's table of updated baselines."""

from collections.abc import Sequence

from tasks.log.rows import escape_cell
from tasks.review.comparisons import HELD_OUT_LOSS, Comparison, Figure
from tasks.review.differences import value_text
from tasks.scores.metrics import METRICS


def shown(figure: Figure, value: float | None, *, sign: bool = False, fraction: bool = False) -> str:
    """A value of a figure as the log writes it: accuracy and F1 in percent, or as a fraction; all else as it is."""
    if value is None:
        return "--"
    plus, digits = "+" if sign else "", _digits(figure)
    percent = figure.metric in METRICS and METRICS[figure.metric].is_percent
    if percent and not fraction:
        return f"{100 * value:{plus}z.{digits - 2}f}%"
    return f"{value:{plus}z.{digits}f}"


def _digits(figure: Figure) -> int:
    """Decimals that are shown of a value, as a fraction."""
    if figure.metric in METRICS:
        return 4 if METRICS[figure.metric].is_percent else 3
    return 3 if figure.name == HELD_OUT_LOSS else 2


def delta_text(figure: Figure, *, fraction: bool = False) -> str:
    """The difference with its interval, its verdict and what weakens it; or why there is none."""
    if figure.refused is not None or figure.a is None or figure.b is None:
        return f"{figure.verdict}: {figure.refused}"
    notes = []
    if figure.interval is not None:
        ends = " to ".join(shown(figure, end, sign=True, fraction=fraction).rstrip("%") for end in figure.interval)
        notes += [ends, *([] if figure.paired else ["unpaired"]), figure.verdict]
    else:
        notes.append("interval not known" if figure.metric else "no interval: one value each")
    if figure.no_predictions:
        notes.append(f"no predictions of {' and '.join(figure.no_predictions)}")
    if figure.unreliable:
        notes.append("interval unreliable")
    if figure.sd is not None:
        sds = [shown(figure, sd, fraction=fraction).rstrip("%") for sd in figure.sd]
        notes.append("sd over seeds " + " and ".join(sds))
    for letters, mark in ((figure.at_floor, "at floor"), (figure.below_floor, "below floor")):
        notes += [f"{' and '.join(letters)} {mark}"] if letters else []
    # The difference of the columns as they are shown, so that the table adds up
    delta = round(figure.b, _digits(figure)) - round(figure.a, _digits(figure))
    return f"{shown(figure, delta, sign=True, fraction=fraction)} ({', '.join(notes)})"


def markdown_table(*rows: Sequence[str]) -> str:
    """Rows of cells as a Markdown table, of which the first is the head."""
    head, *body = (f"| {' | '.join(map(escape_cell, cells))} |" for cells in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body]) + "\n"


def updated_baselines(comparison: Comparison) -> str:
    """A comparison as the log's table of updated baselines, with what a reader must know of it below."""
    old, new = comparison.titles
    lines = [["Task", f"{old} (old)", f"{new} (new)", "Delta"]]
    for figure in comparison.figures:
        if figure.refused is None:
            value = shown(figure, figure.b)
            value = f"**{value}**" if figure.verdict == "better" else value
            lines.append([figure.name, shown(figure, figure.a), value, delta_text(figure)])
    notes = [
        ("Differs", [f"{each.key} {value_text(each.a)} -> {value_text(each.b)}" for each in comparison.differs]),
        *((f"Not known for {letter.upper()}", names) for letter, names in comparison.not_known.items()),
        ("Not compared", [f"{each.name} ({each.refused})" for each in comparison.figures if each.refused]),
    ]
    title = f"**Updated baselines (`{comparison.b}` beside `{comparison.a}`):**\n\n"
    return (
        title
        + markdown_table(*lines)
        + "".join(f"\n**{note}:** {'; '.join(texts)}.\n" for note, texts in notes if texts)
    )
