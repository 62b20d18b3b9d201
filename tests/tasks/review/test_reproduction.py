"""From a row back to an experiment: what it states, what is assumed, and what the repetition says."""

from pathlib import Path
from typing import Any

import pytest
from command import ROOT, cogito
from factories import make_checkpoint, make_record

from tasks.errors import UserError
from tasks.log.check.document import Document
from tasks.log.experiment_log import write_row
from tasks.review.comparisons import Comparison, Figure
from tasks.review.reproduction import NEVER_STATED, agreements, plan_reproduction
from tasks.spec.reading import load_spec
from tasks.store.files import content_hash
from tasks.store.home import Home

USER_LOG = ROOT.parent / "shared" / "seeds" / "master_experiment_log.md"
needs_user_log = pytest.mark.skipif(not USER_LOG.is_file(), reason="the user's log is not beside this checkout")
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("COGITO_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@needs_user_log
def test_every_old_row_leads_to_the_experiment_file_that_states_the_same(home: Home) -> None:
    sources = {}
    for row in Document.read(USER_LOG).rows:
        plan = plan_reproduction(USER_LOG, str(row.run_id), home, EXPERIMENTS)
        assert plan.unrecoverable == NEVER_STATED and len(plan.assumed) > 30
        sources[row.run_id] = plan.source
    assert set(sources.values()) == {
        f"{ROOT.as_posix()}/experiments/{name}.yaml, which states the same"
        for name in (
            "weighted_mlm_H512L2C128",
            "perceiver_mlm_H512L2C128",
            "perceiver_posonly_mlm_H512L2C128",
            "weighted_mlm_H512L6C128",
            "perceiver_posonly_mlm_H512L6C128",
            "perceiver_mlm_H512L6C128",
            "perceiver_mlm_H512L6C128_combined_kendall_gal",
            "perceiver_mlm_H512L6C128_combined_fixed0.1",
            "diffusion_H512L2C128D2",
        )
    }
    head = plan_reproduction(USER_LOG, "perceiver_decoder_cls", home, EXPERIMENTS)
    assert head.spec.evaluation.head == "via_decoder" and head.kind == "evaluation"
    assert head.spec.evaluation.tasks == ("mrpc", "stsb", "qqp", "mnli")


@needs_user_log
def test_what_is_stated_and_what_is_assumed(home: Home) -> None:
    run = "perceiver_mlm_H512L6C128_20260220_184029"
    plan = plan_reproduction(USER_LOG, run, home)
    assert plan.source == "the defaults"
    assert plan.stated["objective.concept_losses"] == {"combined": 0.1}
    assert plan.stated["training.epochs"] == 20 and plan.stated["model.num_layers"] == 6
    assert plan.assumed["training.learning_rate"] == 3e-4 and not plan.stated.keys() & plan.assumed.keys()
    assert plan.spec.training.epochs == 20 and plan.spec.objective.concept_losses == {"combined": 0.1}
    small = plan_reproduction(USER_LOG, run, home, overrides=["training.seed=7"], small=True).spec
    assert (small.model.hidden_size, small.training.seed, small.objective.concept_losses) == (64, 7, {"combined": 0.1})
    kendall = plan_reproduction(USER_LOG, "perceiver_mlm_H512L6C128_20260219_105435", home).spec
    assert kendall.objective.loss_weighting == "kendall_gal"


def test_a_row_of_ours_is_repeated_from_its_record(tmp_path: Path, home: Home) -> None:
    spec = load_spec(ROOT / "experiments" / "quickstart.yaml", ["training.seed=3"])
    record = make_record(spec=spec.model_dump(mode="json"))
    write_row(tmp_path / "log.md", record)
    home.run(record.run_id).root.mkdir(parents=True)
    record.save(home.run(record.run_id))
    plan = plan_reproduction(tmp_path / "log.md", record.run_id, home, EXPERIMENTS)
    assert (plan.source, plan.assumed, plan.unrecoverable) == ("its record", {}, ())
    assert content_hash(plan.spec.model_dump(mode="json")) == content_hash(spec.model_dump(mode="json"))
    evaluated = make_record(kind="evaluation", checkpoint=make_checkpoint(name="lab/model"))
    write_row(tmp_path / "log.md", evaluated)
    home.run(evaluated.run_id).root.mkdir()
    evaluated.save(home.run(evaluated.run_id))
    with pytest.raises(UserError, match="cogito evaluate lab/model"):
        plan_reproduction(tmp_path / "log.md", evaluated.run_id, home)


def test_a_row_that_is_not_there_or_says_too_little(tmp_path: Path, home: Home) -> None:
    log = tmp_path / "log.md"
    head = "| Run ID / Model Type | Task Loss |\n|---|---|\n"
    log.write_text(head + "| `mystery_H8L1C2_20260101_000000` | 1.0 |\n", encoding="utf-8")
    with pytest.raises(UserError, match="names no variant"):
        plan_reproduction(log, "mystery_H8L1C2_20260101_000000", home)
    with pytest.raises(UserError, match="mystery_H8L1C2_20260101_000000"):
        plan_reproduction(log, "mistery_H8L1C2_20260101_000000", home)


def figure(**fields: Any) -> Figure:
    return Figure(**({"name": "MRPC F1", "metric": "f1", "a": 0.8, "b": 0.81, "n": 408} | fields))


def test_a_verdict_needs_an_interval_or_the_very_same_figure() -> None:
    figures = [
        figure(delta=0.01, interval=(-0.02, 0.04)),
        figure(delta=0.1, interval=(0.05, 0.15)),
        figure(delta=0.0003, a=0.812, b=0.8123),
        figure(delta=0.01),
        figure(refused="A is of made data"),
    ]
    comparison = Comparison(a="x", b="y", titles=("x", "y"), differs=[], not_known={}, figures=figures)
    assert [one.outcome for one in agreements(comparison)] == ["agrees", "differs", "agrees", "undecided", "undecided"]


def test_the_plan_is_printed_and_nothing_runs(tmp_path: Path) -> None:
    log = tmp_path / "log.md"
    run = "perceiver_mlm_H512L6C128_20260208_211633"
    log.write_text(f"| Run ID | Epochs |\n|---|---|\n| `{run}` | 40 |\n", encoding="utf-8")
    done = cogito("reproduce", f"{log}#{run}", "--plan", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert "num_layers" in done.stdout and "#   unrecoverable: versions of the libraries" in done.stdout
    assert not (tmp_path / "home" / "runs").exists() or not any((tmp_path / "home" / "runs").iterdir())
    assert cogito("reproduce", f"{log}#none", "--plan", home=tmp_path / "home").returncode == 2
