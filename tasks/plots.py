"""The plots of a run, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.store.files import replacing


def _figure(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    try:
        with replacing(path) as part:
            figure.savefig(part, dpi=110, format="png", metadata={"Software": None})
    finally:
        pyplot.close(figure)


def plot_singular_values(values: np.ndarray, path: Path) -> None:
    """Singular values of the mean concept matrix [min(C, H)], relative to the largest, on a logarithmic axis."""
    figure, axes = _figure(6, 3.5)
    axes.semilogy(np.arange(1, len(values) + 1), np.maximum(values / values[0], 1e-6), marker=".")
    axes.set(xlabel="direction", ylabel="singular value / largest", title="Singular values of the mean concept matrix")
    axes.grid(alpha=0.3)
    _save(figure, path)


def plot_similarity(similarity: np.ndarray, path: Path) -> None:
    """Mean cosine between concepts [C, C]."""
    figure, axes = _figure(5, 4.2)
    image = axes.imshow(similarity, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    axes.set(xlabel="concept", ylabel="concept", title="Mean cosine between concepts")
    figure.colorbar(image, ax=axes)
    _save(figure, path)


def plot_live_geometry(points: Sequence[dict[str, float]], num_concepts: int, path: Path) -> None:
    """The ranks of the concepts at every evaluation of a training: a fall to 1, of the centred to 0, is collapse."""
    figure, axes = _figure(6, 3.5)
    seen = [p for p in points if "nuclear_rank_of_mean" in p]
    for name in (
        "nuclear_rank_of_mean",
        "effective_rank_of_mean",
        "effective_rank_per_sample_mean",
        "centred_effective_rank",
    ):
        values = [p.get(name, np.nan) for p in seen]  # earlier curves lack the last
        axes.plot([p["step"] for p in seen], values, marker=".", label=name.replace("_", " "))
    axes.axhline(num_concepts, ls="--", color="gray", lw=1, label=f"{num_concepts} concepts")
    axes.set(xlabel="step", ylabel="rank", ylim=(0, 1.05 * num_concepts), title="Concept ranks on held-out text")
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def plot_curve(points: Sequence[dict[str, float]], unigram_entropy: float | None, path: Path) -> None:
    """Training and evaluation loss over steps, beside what a model without context reaches."""
    figure, axes = _figure(6, 3.5)
    axes.plot([p["step"] for p in points], [p["task_loss"] for p in points], lw=0.8, alpha=0.6, label="training")
    evaluated = [p for p in points if "eval_loss" in p]
    axes.plot([p["step"] for p in evaluated], [p["eval_loss"] for p in evaluated], marker=".", label="held-out")
    if unigram_entropy is not None:
        axes.axhline(unigram_entropy, ls="--", color="gray", lw=1, label=f"unigram entropy {unigram_entropy:.2f}")
    axes.set(xlabel="step", ylabel="loss (nats per masked token)", title="Pretraining loss")
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def plot_curves(runs: Mapping[str, Sequence[dict[str, float]]], unigram_entropy: float | None, path: Path) -> None:
    """The losses of several runs over steps: training as a thin line, held-out text as dots."""
    figure, axes = _figure(9, 4 + 0.12 * len(runs))  # with room for the legend
    for number, (name, points) in enumerate(runs.items()):
        color = f"C{number % 10}"
        axes.plot([p["step"] for p in points], [p["task_loss"] for p in points], lw=0.6, alpha=0.35, color=color)
        evaluated = [p for p in points if "eval_loss" in p]
        steps, losses = [p["step"] for p in evaluated], [p["eval_loss"] for p in evaluated]
        style = ("-", "--", ":", "-.")[number // 10 % 4]  # there are ten colours
        label = name.replace("$", r"\$")  # which else begins a formula
        axes.plot(steps, losses, marker=".", color=color, ls=style, label=label)
    if unigram_entropy is not None:
        axes.axhline(unigram_entropy, ls="--", color="gray", lw=1, label=f"unigram entropy {unigram_entropy:.2f}")
    axes.set(xlabel="step", ylabel="loss (nats per masked token)", title="Pretraining losses: training and held-out")
    figure.legend(loc="outside lower center", ncols=2, fontsize="x-small")
    axes.grid(alpha=0.3)
    _save(figure, path)


def plot_over_steps(
    points: Sequence[dict[str, float]], path: Path, *, name: str, title: str, limit: float | None = None
) -> None:
    """One figure of the training curve over steps; `limit` is a line across it, on a logarithmic axis."""
    figure, axes = _figure(6, 3.5)
    axes.plot([p["step"] for p in points], [p[name] for p in points], lw=0.9)
    if limit is not None:
        axes.axhline(limit, ls="--", color="gray", lw=1, label=f"clipped at {limit:g}")
        axes.set_yscale("log")
        axes.legend()
    axes.set(xlabel="step", ylabel=name.replace("_", " "), title=title)
    axes.grid(alpha=0.3)
    _save(figure, path)
