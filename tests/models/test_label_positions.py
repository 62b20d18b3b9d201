"""Where the labels of a batch are: all of them, in order, once, whatever room a budget leaves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.labels import LabelBudget, Labels, locate_labels

N = 6
ROWS = st.lists(st.lists(st.booleans(), min_size=N, max_size=N), min_size=1, max_size=4)


def places(located: Labels) -> list[tuple[int, int]]:
    """(row, position) of every label that counts."""
    chosen, width = located.chosen[located.weights > 0], located.positions.shape[1]
    return [(int(place) // width, int(located.positions.flatten()[place])) for place in chosen]


@settings(deadline=None)
@given(ROWS, st.one_of(st.none(), st.builds(LabelBudget, st.integers(1, 9), st.integers(1, 40))))
def test_every_label_is_found_once_in_order(rows: list[list[bool]], budget: LabelBudget | None) -> None:
    where = torch.tensor(rows)
    ids = torch.arange(where.numel()).view_as(where) + 5
    factors = torch.rand(where.shape) + 0.5
    located = locate_labels(torch.where(where, ids, -100), factors, budget)
    expected = [(row, place) for row, marks in enumerate(rows) for place, mark in enumerate(marks) if mark]
    assert places(located) == expected
    count = len(expected)
    assert located.targets[:count].tolist() == ids[where].tolist()
    torch.testing.assert_close(located.weights[:count], factors[where])
    assert not located.weights[count:].any() and located.total.item() == pytest.approx(factors[where].sum().item())
    assert len(located.chosen) == len(located.targets) == len(located.weights)
    largest = max(map(sum, rows))
    width, filled = located.positions.shape[1], len(located.targets)
    if budget is None:
        assert (width, filled) == (largest, count)
    else:
        assert width == min(N, max(budget.per_text, width)) >= largest
        assert filled == min(where.numel(), max(budget.per_batch, filled)) >= count
        if largest <= budget.per_text:
            assert width == min(budget.per_text, N)
        if count <= budget.per_batch:
            assert filled == min(budget.per_batch, where.numel())


def test_without_weights_every_label_counts_one() -> None:
    located = locate_labels(torch.tensor([[-100, 7, 8], [9, -100, -100]]))
    assert located.weights.tolist() == [1.0, 1.0, 1.0] and located.total.item() == 3
