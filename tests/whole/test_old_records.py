"""Records of older versions: whatever they lack is not shown, nothing else is missing, and nothing fails."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from factories import RUN_ID, make_analysis, make_record
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.commands.listing import print_record
from tasks.checkpoints.card import render_card
from tasks.log.rows import render_row
from tasks.picture import picture_text
from tasks.report.first_screen import five_lines
from tasks.report.rendering import to_markdown
from tasks.report.run import run_report
from tasks.review.comparisons import compare
from tasks.review.sides import run_side
from tasks.runs.listing import list_runs
from tasks.store.home import Home
from tasks.store.records import RunRecord, load_record

# What the row says of each figure of an analysis.
SHOWN = {
    "nuclear_rank_of_mean": "**15.9 / 128** (12.4%)",
    "effective_rank_per_sample_mean": "per-sample effective rank 33.3",
    "input_variance_share": "input share 0.41",
    "retrieval_top_1": "retrieval 87%",
    "centred_effective_rank": None,
    "retrieval_chance": None,
}
VALUES = dict(zip(SHOWN, (15.94, 33.333, 0.412, 0.873, 9.0, 1 / 64), strict=True))


@pytest.mark.parametrize("kind", ["training", "evaluation"])
@pytest.mark.parametrize("missing", [[], *([name] for name in SHOWN), list(SHOWN)])
def test_the_row_shows_the_figures_that_there_are(kind: str, missing: list[str]) -> None:
    figures = {name: value for name, value in VALUES.items() if name not in missing}
    row = render_row(make_record(kind=kind, analysis=make_analysis(figures=figures)))
    cell = row["Eff. Rank"] if kind == "training" else row["Conclusion"]
    for name, text in SHOWN.items():
        assert text is None or (text in cell) == (name in figures)
    if not figures:
        assert cell == "--" if kind == "training" else "Eff. rank" not in cell


def full_record() -> dict[str, Any]:
    """A record with everything in it, as JSON."""
    record = make_record(analysis=make_analysis(figures=VALUES), task_warnings=["mrpc: 2 examples are in both"])
    dumped: dict[str, Any] = json.loads(record.model_dump_json())
    return dumped


def droppable(value: Any, place: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The places of what an older version may not have written: optional fields, settings of the spec, figures."""
    found: list[tuple[str, ...]] = []
    models = {(): RunRecord} | {(name,): field.annotation for name, field in RunRecord.model_fields.items()}
    for key, part in value.items():
        own = (*place, key)
        model: Any = models.get(place)
        fields = getattr(model, "model_fields", None) or next(
            (one.model_fields for one in getattr(model, "__args__", ()) if hasattr(one, "model_fields")), {}
        )
        if (
            (place[:1] == ("spec",) or place == ("stages",))
            or place[-1:] == ("figures",)
            or not fields.get(key, _REQUIRED).is_required()
        ):
            found.append(own)
        if isinstance(part, dict):
            found += droppable(part, own)
    return found


class _Required:
    def is_required(self) -> bool:
        return True


_REQUIRED = _Required()
PLACES = droppable(full_record())


def without(places: list[tuple[str, ...]]) -> dict[str, Any]:
    record = full_record()
    for *path, key in places:
        part: Any = record
        for name in path:
            part = part.get(name) if isinstance(part, dict) else None
        if isinstance(part, dict):
            part.pop(key, None)
    return record


def stored(raw: dict[str, Any], home: Home) -> RunRecord:
    folder = home.run(RUN_ID)
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.record.write_text(json.dumps(raw))
    return load_record(folder)


def test_places_of_all_kinds_are_dropped() -> None:
    assert {("analysis",), ("analysis", "figures", "retrieval_top_1"), ("spec", "model", "hidden_size")} <= {*PLACES}
    assert ("corpus", "warnings") in PLACES and ("run_id",) not in PLACES and ("pretraining", "steps") not in PLACES


@settings(max_examples=60, deadline=None)
@given(places=st.lists(st.sampled_from(PLACES), max_size=6))
def test_whatever_is_missing_every_view_of_a_run_is_made(
    places: list[tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = Home(tmp_path_factory.mktemp("old") / "home")
    record = stored(without(places), home)
    row = render_row(record)
    assert len(five_lines(record, record, [])) == 5 and picture_text(record)
    assert render_card(record).startswith("---\n")
    print_record(record, home.run(RUN_ID), Path("log.md"))
    (listed,) = list_runs(home)
    assert listed.as_json()["id"] == RUN_ID
    side = run_side(record, home.run(RUN_ID))
    assert all(
        figure.a == figure.b or figure.a is None or math.isnan(figure.a) for figure in compare(side, side).figures
    )
    assert "Conclusion / Takeaway" in row


@pytest.mark.parametrize(
    "places", [[], [("analysis", "figures", "retrieval_top_1")], [("spec",)], [("corpus",)], [("pretraining",)]]
)
def test_the_report_of_an_old_record_is_made(places: list[tuple[str, ...]], tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    raw = without(places) if places != [("spec",)] else full_record() | {"spec": {}}
    stored(raw, home)
    report = run_report(home.run(RUN_ID))
    assert to_markdown(report)
