"""Miniatures, grids and comparisons: several experiments at once."""

import json
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, TINY, answer, cogito
from factories import make_analysis, make_corpus, make_pretraining, make_record, make_score

from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from tasks.errors import UserError
from tasks.pretraining.stage import model_config
from tasks.review.sweeps import compare_runs, comparison_table
from tasks.scores.intervals import mean_interval
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.grid import expand, miniature
from tasks.spec.reading import load_spec
from tasks.store.home import Home

EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
OF_THE_LOG = [path for path in EXPERIMENTS if "H512" in path.stem]


def test_every_run_of_the_log_is_an_experiment() -> None:
    assert len(OF_THE_LOG) == 13
    for path in EXPERIMENTS:
        assert load_spec(path).name == path.stem


@pytest.mark.parametrize("path", OF_THE_LOG, ids=lambda path: path.stem)
def test_an_experiment_of_the_log_has_its_run_id(path: Path) -> None:
    spec = load_spec(path)
    losses = spec.objective.concept_losses
    unlogged = f"_fixed{losses['t_regs_mst']:g}" if "t_regs_mst" in losses else ""
    assert spec.run_prefix == path.stem + unlogged
    assert (spec.training.seed, spec.data.block_tokens, spec.training.max_grad_norm) == (42, 512, 1.0)
    assert spec.model.attention_heads == 8 and spec.evaluation.for_task("mrpc").learning_rate == 1e-5


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_miniature_is_the_same_experiment_in_small(path: Path) -> None:
    spec = load_spec(path)
    small = miniature(spec)
    assert small.objective == spec.objective
    for key in ("variant", "num_layers", "use_bixt", "recursive", "num_decoder_layers", "concept_position_type"):
        assert getattr(small.model, key) == getattr(spec.model, key)
    assert (small.training.schedule, small.training.seed) == (spec.training.schedule, spec.training.seed)
    assert small.evaluation.data == "made" and small.data.dataset == "builtin/python_docs"
    config = ConceptConfig(**model_config(small, 2048, None, {}))
    assert ConceptModelForMaskedLM.count_parameters(config) < 2_000_000


def test_narrow_tokens_stay_narrow_in_a_miniature() -> None:
    spec = ExperimentSpec.model_validate(
        {"name": "narrow", "data": {}, "model": {"token_embedding_dim": 128, "variant": "weighted_mlm"}}
    )
    assert miniature(spec).model.token_embedding_dim == 16


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def test_a_grid_is_a_product_with_names_of_its_own(tiny: Path) -> None:
    specs = expand([tiny], ["training.max_steps=3"], ["training.seed=[1, 2]", "model.variant=[tsdae, weighted_mlm]"])
    assert [spec.name for spec in specs] == [
        "tiny_seed1_varianttsdae",
        "tiny_seed1_variantweighted_mlm",
        "tiny_seed2_varianttsdae",
        "tiny_seed2_variantweighted_mlm",
    ]
    assert [spec.training.seed for spec in specs] == [1, 1, 2, 2]
    assert {spec.training.max_steps for spec in specs} == {3}
    losses = expand([tiny], [], ["objective.concept_losses=[{combined: 0.1}, {vicreg: 1e-3}]"])
    assert [spec.objective.concept_losses for spec in losses] == [{"combined": 0.1}, {"vicreg": 0.001}]


def test_all_mistakes_of_a_sweep_are_told_at_once(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        expand([tiny, tmp_path / "none.yaml"], [], ["model.variant=[tsdae, nothing]"])
    assert "unknown variant 'nothing'" in str(error.value) and "none.yaml: cannot be read" in str(error.value)
    for text in ("training.seed=1", "training.seed", "=[1]", "training.seed=[]", "training.seed=[1"):
        with pytest.raises(UserError, match=r"must be KEY=\[VALUE"):
            expand([tiny], [], [text])


def test_a_mean_over_seeds_has_students_interval() -> None:
    assert mean_interval([0.5]) is None
    low, high = mean_interval([1.0, 2.0, 3.0])  # type: ignore[misc]
    # t(0.975, 2 degrees of freedom) = 4.3027; the standard error is 1 / sqrt(3)
    assert low == pytest.approx(2 - 4.302653 / 3**0.5) and high == pytest.approx(2 + 4.302653 / 3**0.5)


def put_run(home: Home, run_id: str, seed: int, loss: float, **changes: Any) -> str:
    curve = home.run(run_id).root / "curve.jsonl"
    curve.parent.mkdir(parents=True)
    curve.write_text(
        "".join(json.dumps({"step": n, "gradient_norm": 9.0 if n == 0 else n / 10}) + "\n" for n in range(10))
    )
    figures = {"nuclear_rank_of_mean": 4.0 + seed, "effective_rank_per_sample_mean": 8.0}
    record = make_record(
        run_id=run_id,
        corpus=make_corpus(unigram_entropy_nats=6.4),
        analysis=make_analysis(figures=figures),
        pretraining=make_pretraining(eval_loss=loss, curve=curve),
        scores=[make_score("stsb", 0.2, 0.0)],
        **changes,
    )
    record.spec["training"]["seed"] = seed
    record.save(home.run(run_id))
    return run_id


def test_seeds_of_one_experiment_are_one_row(home: Home, tmp_path: Path) -> None:
    outcomes: list[tuple[str, str | None, str]] = [
        ("one_seed1", put_run(home, "r1", 1, 6.0), ""),
        ("one_seed2", put_run(home, "r2", 2, 6.3), ""),
        ("two", put_run(home, "r3", 1, 6.1, status="failed"), ""),
        ("gone", None, "data: no such thing"),
    ]
    rows = compare_runs(outcomes, home, tmp_path / "sweep")
    assert [row["name"] for row in rows] == ["one", "two", "gone"]
    one = rows[0]
    assert one["seeds"] == 2 and one["left_plateau"] == "1 of 2", "6.3 is within 0.2 nat of the unigram entropy 6.4"
    assert one["figures"]["held-out loss"]["mean"] == pytest.approx(6.15)
    assert one["figures"]["nuclear rank of mean"]["values"] == [5.0, 6.0]
    assert one["figures"]["peak gradient norm"]["mean"] == 0.9, "the first fifth of the steps does not count"
    assert rows[1]["failed"] == ["r3: failed"] and rows[2]["failed"] == ["data: no such thing"]
    table = comparison_table(rows)
    assert json.loads((tmp_path / "sweep" / "comparison.json").read_text()) == json.loads(json.dumps(rows))
    assert (tmp_path / "sweep" / "comparison.md").read_text() == table
    assert "6.150, sd 0.212 (" in table and "data: no such thing" in table


def test_a_message_with_pipes_and_lines_stays_in_its_cell(home: Home, tmp_path: Path) -> None:
    compare_runs([("gone", None, "allowed: a | b\nfix: take b")], home, tmp_path)
    row = (tmp_path / "comparison.md").read_text().splitlines()[-1]
    assert row == r"| gone | 0 | allowed: a \| b fix: take b |"


@pytest.mark.prefect
@pytest.mark.end_to_end
def test_a_sweep_writes_a_row_each_and_resumes(tiny: Path, tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log.md"
    words = [
        "sweep",
        tiny,
        "--grid",
        "training.seed=[1,2]",
        "--set",
        "evaluation.tasks=[mrpc]",
        "--set",
        "training.max_steps=4",
        "--set",
        "tracking.wandb=disabled",
        "--log",
        log,
        "--json",
    ]
    done = cogito(*words, home=home, timeout=600)
    assert done.returncode == 0, done.stderr
    (row,) = answer(done)
    assert row["seeds"] == 2 and row["failed"] == [] and len(row["figures"]["held-out loss"]["values"]) == 2
    text = log.read_text()
    assert all(f"`{run_id}`" in text for run_id in row["runs"])
    (report,) = (home / "sweeps").glob("*/report.md")
    assert all(f"](runs/{run_id}/report.md)" in report.read_text() for run_id in row["runs"])
    again = cogito(*words, home=home, timeout=600)
    assert answer(again) == [row] and log.read_text() == text
    cogito("ui", "--stop", home=home)
