"""Can these figures come from any confusion matrix? Exact integer search, aware of rounding.

In the spirit of the GRIM test (Brown & Heathers 2017): a share of n examples can take n + 1 values only, and an F1
beside it fewer still. A figure is a decimal as it was written; it stands for every number that rounds to it.
Legend: n examples, P of them positive, TP true positives, FP false positives, E = FP + FN errors.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache


@dataclass(frozen=True)
class Rounded:
    """A figure as written, as a fraction of 1: all numbers from `low` to `high`, both included."""

    low: Fraction
    high: Fraction

    @classmethod
    @lru_cache(maxsize=65536)
    def of(cls, text: str, *, percent: bool = False) -> "Rounded":
        """`82.2` with percent stands for 0.8215 to 0.8225."""
        value = Decimal(text)
        exponent = value.as_tuple().exponent
        assert isinstance(exponent, int)
        half = Fraction(1, 2) * Fraction(10) ** exponent
        scale = 100 if percent else 1
        return cls((Fraction(value) - half) / scale, (Fraction(value) + half) / scale)

    def __contains__(self, value: Fraction) -> bool:
        return self.low <= value <= self.high

    def overlaps(self, other: "Rounded") -> bool:
        """Whether any number rounds to both figures."""
        return self.low <= other.high and other.low <= self.high

    def agrees(self, other: "Rounded") -> bool:
        """Whether both are one figure, given to more or fewer digits: 2.64 is 2.641, and 2.640 is not."""
        return self.low < other.high and other.low < self.high

    @property
    def turned(self) -> "Rounded":
        """The figure with the other sign."""
        return Rounded(-self.high, -self.low)

    def __sub__(self, other: "Rounded") -> "Rounded":
        return Rounded(self.low - other.high, self.high - other.low)

    def __truediv__(self, other: "Rounded") -> "Rounded":
        """The quotient of figures whose divisor is positive."""
        ends = [a / b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Rounded(min(ends), max(ends))


def _whole(low: Fraction, high: Fraction) -> range:
    """The whole numbers from low to high."""
    return range(math.ceil(low), math.floor(high) + 1)


def accuracy_is_possible(accuracy: Rounded, n: int, runs: int = 1) -> bool:
    """Whether a mean accuracy over `runs` evaluations of n examples rounds to this figure."""
    total = n * runs
    return any(0 <= hits <= total for hits in _whole(accuracy.low * total, accuracy.high * total))


def f1_is_possible(f1: Rounded, positive: int, negative: int) -> bool:
    """Whether any confusion matrix has this F1."""
    if f1.low <= 0 <= f1.high:
        return True  # no true positive
    low, high = max(f1.low, Fraction(1, 10**9)), f1.high
    if high <= 0:
        return False
    for tp in range(positive, 0, -1):  # most figures have their matrix among the first
        # 2 TP / (2 TP + E) lies within, solved for E
        fewest = -(2 * tp * (high.numerator - high.denominator) // high.numerator)
        most = 2 * tp * (low.denominator - low.numerator) // low.numerator
        if max(fewest, positive - tp) <= min(most, positive - tp + negative):
            return True
    return False


def _f1(tp: int, errors: int) -> Fraction:
    return Fraction(2 * tp, 2 * tp + errors) if tp else Fraction(0)


def _holds_one(figure: Rounded, counts: range, rising: Callable[[int], Fraction]) -> bool:
    """Whether a function that rises over the counts takes a value that rounds to the figure."""
    place = bisect_left(counts, figure.low, key=rising)
    return place < len(counts) and rising(counts[place]) <= figure.high


def matrices(accuracy: Rounded, positive: int, negative: int) -> Iterator[tuple[int, range]]:
    """Number of errors, and the true positives that it allows, for every accuracy that rounds to the figure."""
    n = positive + negative
    for hits in _whole(accuracy.low * n, accuracy.high * n):
        errors = n - hits
        if 0 <= errors <= n:  # FN = P - TP and FP = E - FN must lie within their classes
            yield errors, range(max(0, positive - errors), min(positive, positive + negative - errors) + 1)


def accuracy_and_f1_are_possible(accuracy: Rounded, f1: Rounded, positive: int, negative: int) -> bool:
    """Whether one confusion matrix has both."""
    return any(
        _holds_one(f1, true_positives, lambda tp, errors=errors: _f1(tp, errors))  # type: ignore[misc]
        for errors, true_positives in matrices(accuracy, positive, negative)
    )


def accuracy_and_matthews_are_possible(accuracy: Rounded, matthews: Rounded, positive: int, negative: int) -> bool:
    """Whether one confusion matrix has both."""
    for errors, true_positives in matrices(accuracy, positive, negative):
        for hits in true_positives:
            missed = positive - hits
            wrong = errors - missed
            if _matthews_within(matthews, hits, missed, wrong, negative - wrong):
                return True
    return False


def _matthews_within(figure: Rounded, tp: int, fn: int, fp: int, tn: int) -> bool:
    """Matthews' correlation compared by its square, so that no root is rounded."""
    above = tp * tn - fp * fn
    below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    if below == 0:
        return figure.low <= 0 <= figure.high
    square = Fraction(above * above, below) * (1 if above >= 0 else -1)
    return _signed_square(figure.low) <= square <= _signed_square(figure.high)


def _signed_square(value: Fraction) -> Fraction:
    return value * abs(value)


def quotient_is_possible(above: str, below: str, percent: str) -> tuple[bool, bool]:
    """Whether a percentage follows from the fraction beside it: as written, and if its upper figure was rounded."""
    stated = Rounded.of(percent, percent=True)
    exact = Fraction(Decimal(above)) / Fraction(Decimal(below))
    rounded = Rounded.of(above) / Rounded(Fraction(Decimal(below)), Fraction(Decimal(below)))
    return exact in stated, rounded.overlaps(stated)
