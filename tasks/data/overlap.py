"""Held-out examples that stand in train as well: they are learned by heart, and their score says nothing.

The rule, for corpora and tasks alike: if at least half of the held-out examples are also in train, the data is refused,
since one is a copy or a part of the other. Fewer are a warning with their number: real data sets have some duplicates.
Two examples are the same if their texts agree but for white space, whatever their labels.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable

from tasks.errors import UserError

REFUSED_SHARE = 0.5


class Overlap:
    """Counts the held-out examples that are met in train."""

    def __init__(self, held_out: Iterable[tuple[str, ...]], what: str, fix: str) -> None:
        """`held_out`: the texts of each example; `what` and `fix`: the sides and the cure, for messages."""
        self._left = Counter(map(_key, held_out))
        self._what, self._fix = what, fix
        self.total, self.found = self._left.total(), 0

    def meet(self, texts: tuple[str, ...]) -> None:
        """Take note of an example of train.

        Raises:
            UserError: with this one, too many of the held-out examples have been met.
        """
        self.found += self._left.pop(_key(texts), 0)
        if self.found and self.found >= REFUSED_SHARE * self.total:
            raise UserError(
                f"{self._what}: {self.found:,} or more of the {self.total:,} held-out examples are in both; "
                f"allowed: less than half; fix: {self._fix}"
            )

    def warnings(self) -> list[str]:
        """After all of train: a warning with the number of held-out examples that it holds, if any."""
        if not self.found:
            return []
        share = f"{self.found:,} of the {self.total:,} held-out examples ({self.found / self.total:.1%})"
        return [f"{self._what}: {share} are in both: what is measured on them is too good"]


def check_overlap(
    train: Iterable[tuple[str, ...]], held_out: Iterable[tuple[str, ...]], what: str, fix: str
) -> list[str]:
    """Refuse held-out examples that are in train, or return a warning of them.

    Raises:
        UserError: half of them or more are.
    """
    overlap = Overlap(held_out, what, fix)
    for texts in train:
        overlap.meet(texts)
    return overlap.warnings()


def _key(texts: tuple[str, ...]) -> bytes:
    content = "\0".join(" ".join(text.split()) for text in texts)
    return hashlib.blake2b(content.encode(), digest_size=16).digest()
