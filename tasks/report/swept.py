"""What the runs of a sweep differ in: the swept keys with their values, the order of the runs, and their plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

from tasks.picture import RANK_TITLES
from tasks.plots import Series, plot_swept
from tasks.report.facts import setting_text
from tasks.report.rendering import NARROW, Plot
from tasks.review.sweeps import HELD_OUT_LOSS
from tasks.spec.benchmarks import score_names
from tasks.spec.settings import differing
from tasks.store.records import RunRecord

SEED = "training.seed"
# With more keys than this a run is told apart by its experiment's name, with its seed.
MOST_IN_A_LABEL = 3


@dataclass(frozen=True)
class Swept:
    """The keys that differ among the runs of a sweep.

    Attributes:
        keys: in the order of the spec.
        values: those of every run by run id, as they stand in its spec; None where it has no such key.
        experiments: the names of the runs' experiments.
    """

    keys: tuple[str, ...]
    values: Mapping[str, Mapping[str, Any]]
    experiments: Mapping[str, str]

    @property
    def titles(self) -> list[str]:
        """The keys as columns: their last name where it is clear."""
        return [self.title(key) for key in self.keys]

    def title(self, key: str) -> str:
        """A key by its last name, or in full where two keys share that."""
        last = key.rpartition(".")[2]
        return last if sum(other.rpartition(".")[2] == last for other in self.keys) == 1 else key

    def cells(self, run_id: str) -> list[str]:
        """The values of a run under `titles`."""
        return [self._text(run_id, key) for key in self.keys]

    def _text(self, run_id: str, key: str) -> str:
        value = self.values.get(run_id, {}).get(key)
        return "--" if value is None else setting_text(value)

    def label(self, run_id: str, *, without: Sequence[str] = ()) -> str:
        """A run in words: `learning_rate 0.001, seed 1`; its run id where nothing differs.

        Args:
            without: keys to leave out.
        """
        keys = [key for key in self.keys if key not in without]
        parts = [f"{self.title(key)} {self._text(run_id, key)}" for key in keys]
        if len(keys) > MOST_IN_A_LABEL:
            seeds = [part for part, key in zip(parts, keys, strict=True) if key == SEED]
            parts = [self.experiments.get(run_id, run_id), *seeds]
        return ", ".join(parts) if parts or without else run_id

    def place(self, run_id: str) -> list[tuple[bool, bool, float, str]]:
        """Where a run stands among the others: by the values of the keys, numbers before words."""
        values = [self.values.get(run_id, {}).get(key) for key in self.keys]
        return [
            (value is None, not _is_number(value), value if _is_number(value) else 0.0, str(value)) for value in values
        ]


def swept(records: Sequence[tuple[str, RunRecord]]) -> Swept:
    """What differs among runs, given as experiment and record; names, tracking and publishing do not count."""
    values = differing({record.run_id: record.spec for _, record in records})
    return Swept(tuple(next(iter(values.values()), {})), values, {record.run_id: name for name, record in records})


def swept_plots(found: Swept, records: Sequence[RunRecord]) -> list[Plot]:
    """Losses, ranks and scores over the numeric key with the most values, or by configuration where seeds alone differ.

    Returns:
        The picture and its narrow shape; nothing where there is no such key and no second seed.
    """
    numeric = [key for key in found.keys if key != SEED and _values(found, key)]
    axis = max(numeric, key=lambda key: len(_values(found, key)), default=None)
    if axis is None and SEED not in found.keys:
        return []
    without = (SEED,) if axis is None else (axis, SEED)
    measured: dict[str, Series] = {}
    for record in records:
        where = "all runs" if axis is None else found.values[record.run_id][axis]
        line = found.label(record.run_id, without=without)
        place, line = (line or where, "") if axis is None else (where, line)
        for name, value in _figures(record).items():
            measured.setdefault(name, {}).setdefault(line, {}).setdefault(place, []).append(value)
    if not measured:
        return []
    title = "Figures by configuration" if axis is None else f"Figures over {found.title(axis)}"
    draw = partial(plot_swept, measured, axis="" if axis is None else found.title(axis))
    alt = f"{title}: {'; '.join(f'{name} {_extent(series)}' for name, series in measured.items())}"
    return [Plot("swept" + NARROW * narrow, title, partial(draw, narrow=narrow), alt=alt) for narrow in (False, True)]


def _values(found: Swept, key: str) -> set[float]:
    """The values of a key, where all of them are numbers; else nothing."""
    values = [flat.get(key) for flat in found.values.values()]
    numbers = {float(value) for value in values if _is_number(value)}
    return numbers if all(map(_is_number, values)) else set()


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float)


def _figures(record: RunRecord) -> dict[str, float]:
    """What is drawn of a run."""
    figures = {HELD_OUT_LOSS: record.pretraining.eval_loss} if record.pretraining else {}
    known = record.analysis.figures if record.analysis else {}
    figures |= {f"rank: {title}": known[name] for name, title in RANK_TITLES.items() if name in known}
    scores = [(score, score.value) for score in record.primary_scores() if score.value is not None]
    return figures | {f"{score_names().get(score.task, score.task)} {score.metric}": value for score, value in scores}


def _extent(series: Series) -> str:
    values = [value for places in series.values() for group in places.values() for value in group]
    return f"{min(values):.3g} to {max(values):.3g}"
