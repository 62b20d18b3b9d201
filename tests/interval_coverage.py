"""How often the 95 % intervals hold the truth, on made classifiers and graders whose true figure is known.

`bootstrap_interval` draws the same resamples for any n examples, and these figures follow from sums over examples: so
the intervals of thousands of made sets come from a matrix product, just as the function gives them one by one.
`PYTHONPATH=. python tests/interval_coverage.py` prints the table of `docs/benchmarks.md`.
"""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from tasks.scores.intervals import CONFIDENCE, CORRELATION_MIN_EXAMPLES, RESAMPLES

SIZES = (408, 1000)
CHUNK = 500
TABLE_METRICS = ("accuracy", "f1", "matthews")
Cells = tuple[float | None, float | None, float | None, float | None]
# Expected cells of a confusion table: hits, false alarms, misses, rejections. Below 1 a share of all examples, else a
# number of them; None is the rest. All are at least 10 examples.
TABLES: dict[str, Cells] = {
    "balanced, 75 % right": (0.375, 0.125, 0.125, None),
    "balanced, 95 % right": (0.475, 0.025, 0.025, None),
    "as MRPC, near its floor": (0.615, 0.19, 0.069, None),
    "as CoLA": (0.60, 0.15, 0.09, None),
    "no better than chance": (0.47, 0.21, 0.22, None),
    "one in ten positive": (0.07, 0.03, 0.03, None),
    "10 hits": (10, 20, 20, None),
    "10 false alarms": (0.5, 10, 0.2, None),
    "10 misses": (0.12, 0.07, 10, None),
    "10 rejections": (0.68, None, 0.04, 10),
    "10 false alarms, 10 misses": (0.5, 10, 10, None),
    "10 of all but rejections": (10, 10, 10, None),
}
# A cell is smaller, and at least one interval no longer holds.
SMALL_TABLES: dict[str, Cells] = {
    "2 misses, 2 rejections": (0.68, None, 2, 2),
    "2 hits": (2, 10, 0.2, None),
    "5 wrong": (0.6, 2.5, 2.5, None),
}
CORRELATIONS = (0.0, 0.3, 0.6, 0.9)


def expected(cells: Cells, n: int) -> np.ndarray:
    """The four cells as expected numbers of examples."""
    counts = [cell * n if cell < 1 else cell for cell in cells if cell is not None]
    return np.array([n - sum(counts) if cell is None else cell * n if cell < 1 else cell for cell in cells])


def figure(metric: str, hits: np.ndarray, alarms: np.ndarray, misses: np.ndarray, rejections: np.ndarray) -> np.ndarray:
    """A metric from a confusion table; 0 where it is undefined, as in `tasks.scores.metrics`."""
    if metric == "accuracy":
        return (hits + rejections) / (hits + alarms + misses + rejections)
    if metric == "f1":
        above, below = 2.0 * hits, 2.0 * hits + alarms + misses
    else:
        above = 1.0 * hits * rejections - 1.0 * alarms * misses
        below = np.sqrt(1.0 * (hits + alarms) * (hits + misses) * (rejections + alarms) * (rejections + misses))
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)


@cache
def resample_counts(n: int) -> np.ndarray:
    """How often each resample of the bootstrap takes each example, [RESAMPLES, n]."""
    generator = np.random.default_rng(0)
    return np.stack([np.bincount(generator.integers(0, n, n), minlength=n) for _ in range(RESAMPLES)]).astype("float32")


def resampled(columns: list[np.ndarray]) -> list[np.ndarray]:
    """The sum of each column, [sets, n], over every resample: [sets, RESAMPLES]."""
    counts = resample_counts(columns[0].shape[1])
    return [column.astype("float32") @ counts.T for column in columns]


def ends(figures: np.ndarray) -> np.ndarray:
    """Percentile intervals [2, sets] of figures [sets, RESAMPLES]."""
    return np.quantile(figures, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=-1)


def share_holding(interval: np.ndarray, truth: float) -> float:
    return float(((interval[0] <= truth) & (truth <= interval[1])).mean())


def chunks(sets: int) -> Iterator[int]:
    yield from [CHUNK] * (sets // CHUNK)


def made_tables(cells: Cells, n: int, sets: int, generator: np.random.Generator) -> np.ndarray:
    """In which cell each example of each set falls, [sets, n]."""
    return generator.choice(4, p=expected(cells, n) / n, size=(sets, n))


def table_intervals(made: np.ndarray) -> dict[str, np.ndarray]:
    sums = resampled([made == cell for cell in range(4)])
    return {metric: ends(figure(metric, *sums)) for metric in TABLE_METRICS}


def table_coverage(cells: Cells, n: int, sets: int) -> dict[str, float]:
    """Metric -> share of the sets whose interval holds the figure of the expected table."""
    generator = np.random.default_rng(1)
    found: dict[str, list[float]] = {metric: [] for metric in TABLE_METRICS}
    for size in chunks(sets):
        made = made_tables(cells, n, size, generator)
        for metric, interval in table_intervals(made).items():
            truth = figure(metric, *map(np.array, expected(cells, n)))
            found[metric].append(share_holding(interval, float(truth)))
    return {metric: float(np.mean(shares)) for metric, shares in found.items()}


def pearson_of_sums(x: np.ndarray, y: np.ndarray, xx: np.ndarray, yy: np.ndarray, xy: np.ndarray, n: int) -> np.ndarray:
    x, y, xx, yy, xy = (total.astype("float64") / n for total in (x, y, xx, yy, xy))
    return (xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y))


def pearson_intervals(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    n = x.shape[1]
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    return ends(pearson_of_sums(*resampled([x, y, x * x, y * y, x * y]), n))


def graded(correlation: float, shape: tuple[int, int], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Grades of 0 to 5 in fifths, as those of STS-B, and answers that follow them."""
    x = generator.standard_normal(shape)
    y = correlation * x + np.sqrt(1 - correlation**2) * generator.standard_normal(shape)
    return np.round(np.clip(2.6 + 1.5 * x, 0, 5) * 5) / 5, np.clip(2.6 + y, 0, 5)


def normal(correlation: float, shape: tuple[int, int], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = generator.standard_normal(shape)
    return x, correlation * x + np.sqrt(1 - correlation**2) * generator.standard_normal(shape)


def pearson_coverage(
    make: Callable[..., tuple[np.ndarray, np.ndarray]], correlation: float, n: int, sets: int
) -> float:
    generator = np.random.default_rng(1)
    truth = correlation
    if make is graded:
        truth = float(np.corrcoef(*(side[0] for side in make(correlation, (1, 4_000_000), generator)))[0, 1])
    shares = [
        share_holding(pearson_intervals(*make(correlation, (size, n), generator)), truth) for size in chunks(sets)
    ]
    return float(np.mean(shares))


def paired_coverage(both: float, a_alone: float, b_alone: float, n: int, sets: int) -> float:
    """How often the interval of a difference of two accuracies on the same examples holds the true one.

    Args:
        both, a_alone, b_alone: shares of the examples that both answer right, and that one of them alone does.
    """
    generator = np.random.default_rng(1)
    shares = []
    for size in chunks(sets):
        made = generator.choice(4, p=[both, a_alone, b_alone, 1 - both - a_alone - b_alone], size=(size, n))
        a, b = resampled([made == 1, made == 2])
        shares.append(share_holding(ends((b - a) / n), b_alone - a_alone))
    return float(np.mean(shares))


def main() -> None:
    sets = 4000
    print("| n | case | accuracy | F1 | Matthews | Pearson |\n|---|---|---|---|---|---|")
    for n in SIZES:
        for name, cells in (TABLES | SMALL_TABLES).items():
            found = " | ".join(f"{100 * share:.1f}" for share in table_coverage(cells, n, sets).values())
            print(f"| {n:,} | {name} | {found} | |", flush=True)
    for n in (CORRELATION_MIN_EXAMPLES, *SIZES):
        for make in (normal, graded):
            for correlation in CORRELATIONS:
                share = pearson_coverage(make, correlation, n, sets)
                print(f"| {n:,} | {make.__name__}, correlation {correlation} | | | | {100 * share:.1f} |", flush=True)


if __name__ == "__main__":
    main()
