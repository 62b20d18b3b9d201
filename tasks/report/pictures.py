"""The pictures of a run's report: what is drawn, what it shows in words, and why it is missing where it is."""

import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tasks.picture import Points, picture_text, points_with, summary_picture
from tasks.plots import RANKS, plot_curve, plot_live_geometry, plot_over_steps, plot_similarity, plot_singular_values
from tasks.report.rendering import NARROW, Plot
from tasks.spec.experiment import ExperimentSpec
from tasks.store.files import write_atomic
from tasks.store.home import RunFolder
from tasks.store.records import RunRecord


def summary_plots(record: RunRecord, points: Points, others: Mapping[str, RunRecord]) -> list[Plot]:
    """The summary picture in both its shapes; only the first stands in the Markdown."""

    def draw(path: Path, *, narrow: bool) -> None:
        write_atomic(path, summary_picture(record, points=points, others=others, form="svg", narrow=narrow))

    text = picture_text(record)
    return [
        Plot("summary" + NARROW * narrow, "Summary picture", partial(draw, narrow=narrow), alt=text)
        for narrow in (False, True)
    ]


def curve_plots(record: RunRecord, spec: ExperimentSpec | None, points: Points, gap: str) -> list[Plot]:
    """Loss, learning rate, gradient norm and ranks over the steps of a training."""
    entropy = record.corpus.unigram_entropy_nats if record.corpus else None
    concepts = spec.model.num_concepts if spec else record.analysis.num_concepts if record.analysis else None
    clipped = spec.training.max_grad_norm if spec else None

    def plot(name: str, title: str, needs: tuple[str, ...], draw: Callable[..., None], /, **options: Any) -> Plot:
        usable = points_with(needs, points)
        if not usable:
            reason = f"no step of the curve has {', '.join(key.replace('_', ' ') for key in needs)}"
            return Plot(name, title, None, gap or reason)
        courses = [_course(key, usable) for key in (*needs, *(("eval_loss",) if "task_loss" in needs else ()))]
        beside = f"; unigram entropy {entropy:.4g}" if entropy is not None and "task_loss" in needs else ""
        alt = f"{title}: {'; '.join(filter(None, courses))}{beside}"
        return Plot(name, title, partial(draw, usable, **options), alt=alt)

    plots = [plot("loss", "Loss over steps", ("task_loss",), plot_curve, unigram_entropy=entropy)]
    for name, limit in (("learning_rate", None), ("gradient_norm", clipped)):
        title = f"{name.replace('_', ' ').capitalize()} over steps"
        plots.append(plot(name, title, (name,), plot_over_steps, name=name, title=title, limit=limit))
    title = "Concept ranks over steps"
    if concepts is None:
        return [*plots, Plot("ranks", title, None, "the number of concepts is not known")]
    return [*plots, plot("ranks", title, RANKS, plot_live_geometry, num_concepts=concepts)]


def _course(name: str, points: Points) -> str:
    """A figure of a curve in words: `training loss 7.766 at step 1, 5.999 at step 416`."""
    known = points_with((name,), points)
    title = {"task_loss": "training loss", "eval_loss": "held-out loss"}.get(name, name.replace("_", " "))
    ends = dict.fromkeys(f"{point[name]:.4g} at step {point['step']:,}" for point in (known[:1] + known[-1:]))
    return f"{title} {', '.join(ends)}" if known else ""


def concept_plots(run: RunFolder) -> list[Plot]:
    """Singular values and similarity of the concepts."""
    arrays, gap = _geometry(run)
    plots = []
    drawings: list[tuple[str, str, str, int, Callable[..., None]]] = [
        ("singular_values", "Singular values of the mean concept matrix", "singular_values", 1, plot_singular_values),
        ("similarity", "Mean cosine between concepts", "mean_similarity", 2, plot_similarity),
    ]
    for name, title, key, dimensions, draw in drawings:
        values, fault = arrays.get(key), ""
        if values is None:
            fault = gap or f"analysis/geometry.npz has no {key}"
        elif values.ndim != dimensions or not values.size or not np.isfinite(values).all() or not values.flat[0] > 0:
            fault = "its values are not finite or all 0"
        if fault or values is None:
            plots.append(Plot(name, title, None, fault))
        else:
            plots.append(Plot(name, title, partial(draw, values), alt=f"{title}: {_spread(values)}"))
    return plots


def _spread(values: np.ndarray) -> str:
    """Singular values [K] or similarities [C, C] in words."""
    if values.ndim == 1:
        return f"{int((values >= values[0] / 10).sum())} of {len(values)} directions reach a tenth of the largest"
    others = values[~np.eye(len(values), dtype=bool)] if len(values) > 1 else values.ravel()
    return f"of {len(values)} concepts; between two of them {others.mean():.2f} on average, at most {others.max():.2f}"


def _geometry(run: RunFolder) -> tuple[dict[str, np.ndarray], str]:
    try:
        with np.load(run.analysis / "geometry.npz", allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name], dtype=np.float64) for name in arrays.files}, ""
    except FileNotFoundError:
        return {}, "there is no analysis/geometry.npz"
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        return {}, f"analysis/geometry.npz cannot be read: {error}"
