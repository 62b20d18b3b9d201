"""The plots of a run, as PNG or SVG files. matplotlib is imported when a plot is drawn: it takes a second to load.

An SVG is readable on a light and on a dark page: its ink and its ground follow what the reader's system prefers. All
other colours stand out on both.
"""

import io
import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tasks.store.files import replacing

Points = Sequence[Mapping[str, float]]
# Values of runs by line and by place on the axis: a number, or the name of a configuration.
Series = dict[str, dict[Any, list[float]]]
# The ranks that runs are compared by, of the figures of `models.geometry`. The first is the "Eff. Rank" of the log.
RANKS = ("nuclear_rank_of_mean", "effective_rank_of_mean", "effective_rank_per_sample_mean")


# Ink and ground of a PNG; of an SVG on a light and on a dark page.
INK, GROUND = "#1c2024", "#ffffff"
DARK_INK, DARK_GROUND = "#e4e7eb", "#14171b"
QUIET = "#8a939e"  # what is no result: limits, floors, grids
COLORS = ("#3f87d6", "#d9822b", "#2f9e77", "#c9529b", "#8b6fd6", "#a58a2f", "#d6504b", "#3fa3b5", "#7f8c2e", "#9a6b54")
_STYLE: Any = {
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "font.size": 9.0,
    "grid.color": QUIET,
    "legend.framealpha": 0.0,
    "svg.hashsalt": "cogito",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
# It warns where it cannot keep its list of fonts, which costs a second at the next start and nothing else.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

_one_at_a_time = threading.RLock()  # the style is the process's, and stages draw in threads


@contextmanager
def drawing(width: float, height: float) -> Iterator[Any]:
    """An empty figure to draw into, in the style of all plots; sizes in inches."""
    from cycler import cycler
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with _one_at_a_time, rc_context({**_STYLE, "axes.prop_cycle": cycler(color=COLORS)}):
        yield Figure(figsize=(width, height), layout="constrained")


def to_png(figure: Any) -> bytes:
    """A figure as PNG, on a light ground."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png", facecolor=GROUND, metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: Any) -> bytes:
    """A figure as SVG whose ink and ground follow the reader's light or dark page; its letters are outlines."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = text.replace(INK, "currentColor")
    style = (
        f"<style>svg{{color:{INK};background:{GROUND}}}"
        f"@media(prefers-color-scheme:dark){{svg{{color:{DARK_INK};background:{DARK_GROUND}}}}}</style>"
    )
    return text.replace(">", f">{style}", 1).encode()


@contextmanager
def _axes(path: Path, width: float = 6, height: float = 3.5) -> Iterator[tuple[Any, Any]]:
    """A figure with one pair of axes, written to `path` after the block as its suffix says."""
    with drawing(width, height) as figure:
        yield figure, figure.subplots()
        content = to_svg(figure) if path.suffix == ".svg" else to_png(figure)
    with replacing(path) as part:
        part.write_bytes(content)


def plot_singular_values(values: np.ndarray, path: Path) -> None:
    """Singular values of the mean concept matrix [min(C, H)], relative to the largest, on a logarithmic axis."""
    with _axes(path) as (_, axes):
        axes.semilogy(np.arange(1, len(values) + 1), np.maximum(values / values[0], 1e-6), marker=".")
        title = "Singular values of the mean concept matrix"
        axes.set(xlabel="direction", ylabel="singular value / largest", title=title)
        axes.grid(alpha=0.3)


def plot_similarity(similarity: np.ndarray, path: Path) -> None:
    """Mean cosine between concepts [C, C]."""
    with _axes(path, 5, 4.2) as (figure, axes):
        image = axes.imshow(similarity, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
        axes.set(xlabel="concept", ylabel="concept", title="Mean cosine between concepts")
        figure.colorbar(image, ax=axes)


def plot_live_geometry(points: Points, num_concepts: int, path: Path) -> None:
    """The ranks of the concepts at every evaluation of a training. They collapse where the ranks of the mean fall to 1
    or the centred rank to 0."""
    seen = [p for p in points if RANKS[0] in p]
    with _axes(path) as (_, axes):
        for name in (*RANKS, "centred_effective_rank"):
            values = [p.get(name, np.nan) for p in seen]  # earlier curves lack the last
            axes.plot([p["step"] for p in seen], values, marker=".", label=name.replace("_", " "))
        axes.axhline(num_concepts, ls="--", color=QUIET, lw=1, label=f"{num_concepts} concepts")
        axes.set(xlabel="step", ylabel="rank", ylim=(0, 1.05 * num_concepts), title="Concept ranks on held-out text")
        axes.legend()
        axes.grid(alpha=0.3)


def plot_curve(points: Points, unigram_entropy: float | None, path: Path) -> None:
    """Training and held-out loss over steps, beside the loss of a model without context."""
    evaluated = [p for p in points if "eval_loss" in p]
    with _axes(path) as (_, axes):
        axes.plot([p["step"] for p in points], [p["task_loss"] for p in points], lw=0.8, alpha=0.6, label="training")
        axes.plot([p["step"] for p in evaluated], [p["eval_loss"] for p in evaluated], marker=".", label="held-out")
        _finish_losses(axes, unigram_entropy, "Pretraining loss")
        axes.legend()


def plot_curves(runs: Mapping[str, Points], unigram_entropy: float | None, path: Path) -> None:
    """The losses of several runs over steps: training as a thin line, held-out text as dots."""
    with _axes(path, 7, 4 + 0.14 * len(runs)) as (figure, axes):  # with room for the legend
        for number, (name, points) in enumerate(runs.items()):
            color = COLORS[number % len(COLORS)]
            axes.plot([p["step"] for p in points], [p["task_loss"] for p in points], lw=0.8, alpha=0.6, color=color)
            evaluated = [p for p in points if "eval_loss" in p]
            steps, losses = [p["step"] for p in evaluated], [p["eval_loss"] for p in evaluated]
            style = ("-", "--", ":", "-.")[number // 10 % 4]  # there are ten colours
            axes.plot(steps, losses, marker=".", color=color, ls=style, label=_literal(name))
        _finish_losses(axes, unigram_entropy, "Pretraining losses: training and held-out")
        figure.legend(loc="outside lower center", ncols=2, fontsize="small")


def _finish_losses(axes: Any, unigram_entropy: float | None, title: str) -> None:
    if unigram_entropy is not None:
        axes.axhline(unigram_entropy, ls="--", color=QUIET, lw=1, label=f"unigram entropy {unigram_entropy:.2f}")
    axes.set(xlabel="step", ylabel="loss (nats per masked token)", title=title)
    axes.grid(alpha=0.3)


def plot_over_steps(points: Points, path: Path, *, name: str, title: str, limit: float | None = None) -> None:
    """One figure of the training curve over steps, on a logarithmic axis where `limit` draws a line across it."""
    with _axes(path) as (_, axes):
        axes.plot([p["step"] for p in points], [p[name] for p in points], lw=0.9)
        if limit is not None:
            axes.axhline(limit, ls="--", color=QUIET, lw=1, label=f"clipped at {limit:g}")
            axes.set_yscale("log")
            axes.legend()
        axes.set(xlabel="step", ylabel=name.replace("_", " "), title=title)
        axes.grid(alpha=0.3)


def plot_swept(measured: Mapping[str, Series], path: Path, *, axis: str, narrow: bool = False) -> None:
    """A panel per figure: every run as a dot, and per line the means of the runs at a place with their spread (sd).

    Args:
        axis: the swept key along the axis; empty where the places are configurations.
        narrow: one panel below the other.
    """
    columns = 1 if narrow else min(3, len(measured))
    rows = -(-len(measured) // columns)
    lines = list(dict.fromkeys(line for series in measured.values() for line in series))
    size = (4.2, 2.4 * rows + 0.5) if narrow else (10.0 * columns / 3, 2.4 * rows + 0.5)
    with drawing(*size) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(measured) :]:
            axes.set_axis_off()
        for axes, (name, series) in zip(panels, measured.items(), strict=False):
            for line, places in series.items():
                _swept_line(axes, places, COLORS[lines.index(line) % len(COLORS)], line, numeric=bool(axis))
            axes.set_title(_literal(name))
            axes.set_xlabel(_literal(axis))
            axes.grid(alpha=0.25)
            numbers = [place for places in series.values() for place in places if axis]
            if numbers and min(numbers) > 0 and max(numbers) / min(numbers) >= 20:
                axes.set_xscale("log")
            if not axis:
                axes.tick_params(axis="x", rotation=30 if len(next(iter(series.values()))) > 2 else 0)
                axes.margins(x=0.3)
        handles, labels = panels[0].get_legend_handles_labels()
        if any(lines):
            figure.legend(handles, labels, loc="outside lower center", ncols=1 if narrow else 3, fontsize="small")
        content = to_svg(figure) if path.suffix == ".svg" else to_png(figure)
    with replacing(path) as part:
        part.write_bytes(content)


def _swept_line(axes: Any, places: Mapping[Any, list[float]], color: str, label: str, *, numeric: bool) -> None:
    ordered = sorted(places) if numeric else list(places)
    positions = ordered if numeric else list(range(len(ordered)))
    for position, place in zip(positions, ordered, strict=True):
        axes.plot([position] * len(places[place]), places[place], "o", color=color, ms=3.5, alpha=0.55)
    means = [float(np.mean(places[place])) for place in ordered]
    spreads = [float(np.std(places[place], ddof=1)) if len(places[place]) > 1 else 0.0 for place in ordered]
    style = "-" if numeric else "none"
    axes.errorbar(
        positions, means, yerr=spreads, color=color, ls=style, marker="_", ms=11, lw=1.4, label=_literal(label)
    )
    if not numeric:
        axes.set_xticks(positions, [_literal(str(place)) for place in ordered])


def _literal(text: str) -> str:
    return text.replace("$", r"\$")  # a dollar sign begins a formula
