"""The report of a sweep: columns for the swept keys, labels with their values, order, and the plot over a key."""

from pathlib import Path
from typing import Any

import pytest
from factories import make_corpus, make_pretraining, make_record, make_score

from tasks.plots import COLORS, plot_swept
from tasks.report.swept import swept, swept_plots
from tasks.store.records import RunRecord


def run(run_id: str, keys: dict[str, Any], loss: float = 6.0, score: float = 0.9, **changes: Any) -> RunRecord:
    """A run whose spec differs in some dotted keys."""
    spec = make_record().spec | {"name": run_id}
    for key, value in keys.items():
        section, name = key.split(".")
        spec[section] = spec[section] | {name: value}
    fields = {"spec": spec, "pretraining": make_pretraining(eval_loss=loss), "corpus": make_corpus()}
    return make_record(run_id=run_id, scores=[make_score(value=score)], **fields | changes)


def found(*records: RunRecord) -> Any:
    return swept([(f"experiment {record.run_id}", record) for record in records])


LR, SEED = "training.learning_rate", "training.seed"


def test_keys_that_differ_are_columns_and_runs_stand_in_their_order() -> None:
    settings = [(1e-2, 2), (3e-4, 1), (1e-2, 1), (1e-3, 10), (1e-3, 9)]
    records = [run(f"r{n}", {LR: lr, SEED: seed}) for n, (lr, seed) in enumerate(settings)]
    keys = found(*records)
    assert keys.titles == ["learning_rate", "seed"] and keys.cells("r0") == ["0.01", "2"]
    assert sorted((record.run_id for record in records), key=keys.place) == ["r1", "r4", "r3", "r2", "r0"]
    assert keys.label("r0") == "learning_rate 0.01, seed 2"
    assert keys.label("r0", without=(SEED,)) == "learning_rate 0.01"


def test_words_nothing_and_keys_of_one_last_name() -> None:
    one = run("a", {"model.variant": "tsdae", SEED: 1, "evaluation.seeds": 2, "training.max_steps": None})
    other = run("b", {"model.variant": "diffusion", SEED: 1, "evaluation.seeds": 3, "training.max_steps": 9})
    keys = found(one, other)
    assert keys.keys == ("model.variant", "training.max_steps", "evaluation.seeds")
    assert keys.cells("a") == ["tsdae", "--", "2"]
    spec = {"data": {"seed": 1}, "training": {"seed": 2}}
    pair = [
        make_record(run_id=name, spec=spec | {"data": {"seed": n}, "training": {"seed": n}})
        for n, name in enumerate("ab")
    ]
    assert found(*pair).titles == ["data.seed", "training.seed"], "in full where the last name is not clear"


def test_names_tracking_and_publishing_are_no_swept_keys() -> None:
    keys = found(run("a", {"publish.store": "hub"}), run("b", {"publish.store": "local"}))
    assert keys.keys == () and keys.label("a") == "a"


def test_many_keys_give_the_experiment_as_label() -> None:
    keys = {"training.epochs": 1, LR: 1e-3, "model.num_layers": 2, SEED: 1}
    many = found(run("a", keys), run("b", {name: value * 2 for name, value in keys.items()}))
    assert many.label("a") == "experiment a, seed 1"


def test_the_plot_goes_over_the_numeric_key_with_a_line_for_the_rest(tmp_path: Path) -> None:
    records = [
        run(f"r{lr}{mask}{seed}", {LR: lr, "objective.mask_prob": mask, SEED: seed}, loss=seed + 4 * (mask > 0.2))
        for lr in (1e-4, 1e-3, 1e-2)
        for mask in (0.15, 0.3)
        for seed in (1, 2)
    ]
    wide, narrow = swept_plots(found(*records), records)
    assert (wide.name, narrow.name, wide.title) == ("swept", "swept_narrow", "Figures over learning_rate")
    assert "held-out loss 1 to 6; rank: effective, per sample 33.3 to 33.3" in wide.alt
    measured = wide.draw.args[0]  # type: ignore[union-attr]
    assert list(measured["held-out loss"]) == ["mask_prob 0.15", "mask_prob 0.3"]
    assert measured["held-out loss"]["mask_prob 0.3"] == {lr: [5, 6] for lr in (1e-4, 1e-3, 1e-2)}
    assert wide.draw is not None
    wide.draw(path=tmp_path / "wide.svg")
    drawn = (tmp_path / "wide.svg").read_text()
    assert COLORS[0] in drawn and COLORS[1] in drawn and COLORS[2] not in drawn, "a colour per line"


def test_a_sweep_over_seeds_shows_every_seed_at_one_place() -> None:
    records = [run(f"r{seed}", {SEED: seed}, score=0.7 + seed / 100) for seed in (1, 2, 3)]
    (wide, _) = swept_plots(found(*records), records)
    (series,) = wide.draw.args[0]["MRPC f1"].values()  # type: ignore[union-attr]
    assert series == {"all runs": [0.71, 0.72, 0.73]}


def test_nothing_to_draw_gives_no_plot() -> None:
    words = [run("a", {"model.variant": "tsdae"}), run("b", {"model.variant": "diffusion"})]
    assert swept_plots(found(*words), words) == []
    empty = [run(f"r{n}", {LR: n}, pretraining=None, analysis=None) for n in (1, 2)]
    empty = [record.model_copy(update={"scores": []}) for record in empty]
    assert swept_plots(found(*empty), empty) == []
    assert swept_plots(found(), []) == []


@pytest.mark.parametrize("axis", ["learning_rate", ""])
def test_means_and_spread_are_drawn_of_any_values(tmp_path: Path, axis: str) -> None:
    places: dict[Any, list[float]] = (
        {1.0: [0.5], 2.0: [0.4, float("nan")]} if axis else {"a $b_{": [0.5], "c": [1.0, 2.0]}
    )
    plot_swept({"held-out loss": {"": places}}, tmp_path / "x.png", axis=axis, narrow=True)
    assert (tmp_path / "x.png").stat().st_size > 1000
