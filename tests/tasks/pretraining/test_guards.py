"""The guards of training: divergence is a result with its row, collapse is warned of, a pause loses nothing."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import PATIENCE, TINY, answer, cogito, environment
from factories import make_pretraining, make_record
from hypothesis import given
from hypothesis import strategies as st

from tasks.log.rows import render_row
from tasks.pretraining.guards import GRADIENT_RATIO, LEAST_STEPS, TrainingGuard
from tasks.runs.listing import list_runs
from tasks.store.home import Home
from tasks.store.records import Divergence

NORMS = st.floats(0.1, 5)


def settled(unigram: float = 7.0) -> TrainingGuard:
    guard = TrainingGuard(unigram)
    assert all(guard.after_gradient(5.0, 1.0) is None for _ in range(LEAST_STEPS))
    return guard


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stops(bad: float) -> None:
    guard = TrainingGuard(7.0)
    assert "loss" in str(guard.after_gradient(bad, 1.0))
    assert "gradient norm" in str(guard.after_gradient(1.0, bad))
    assert "held-out" in str(guard.after_evaluation(10, bad, {}))


@given(st.lists(NORMS, max_size=300))
def test_common_spikes_do_not_stop(norms: list[float]) -> None:
    guard = TrainingGuard(7.0)
    assert all(guard.after_gradient(5.0, norm) is None for norm in norms)


def test_an_exploding_gradient_stops_once_there_is_a_median() -> None:
    assert TrainingGuard(7.0).after_gradient(5.0, 1e6) is None  # the first steps are wild
    guard = settled()
    assert guard.after_gradient(5.0, 0.9 * GRADIENT_RATIO) is None
    reason = guard.after_gradient(5.0, 1.1 * GRADIENT_RATIO)
    assert reason is not None and "110 times its running median" in reason


def test_a_rising_held_out_loss_stops_and_the_best_is_known() -> None:
    guard = settled()
    for step, loss in enumerate([7.0, 4.0, 2.0, 2.5, 2.9], start=1):
        assert guard.after_evaluation(step, loss, {}) is None
    assert (guard.best_step, guard.best_loss) == (3, 2.0)
    assert "from its best, 2.0000 at step 3" in str(guard.after_evaluation(6, 3.1, {}))
    memorised = settled()
    assert memorised.after_evaluation(1, 0.009, {}) is None
    assert memorised.after_evaluation(2, 0.02, {}) is None  # twice of next to nothing
    assert memorised.after_evaluation(3, 5.0, {}) is not None


def test_collapse_and_leakage_are_warned_of_once() -> None:
    guard = settled()
    guard.warn = (heard := []).append
    for step, rank in enumerate([8.0, 12.0, 2.9, 2.0], start=1):
        assert guard.after_evaluation(step, 5.0, {"centred_effective_rank": rank}) is None
    assert list(guard.warnings) == ["collapse"] and "fell to 2.90 from 12.00" in guard.warnings["collapse"]
    assert guard.after_evaluation(9, 0.3, {}) is None
    assert "too good to be true" in guard.warnings
    assert not TrainingGuard(7.0).warnings
    assert heard == list(guard.warnings.values())
    resumed = TrainingGuard(7.0, heard.append)
    resumed.load_state_dict(guard.state_dict())
    assert heard == 2 * list(guard.warnings.values()), "the command that continues the run shows them too"


@given(st.lists(st.tuples(NORMS, st.floats(0.1, 9)), min_size=1, max_size=120), st.integers(0, 119))
def test_a_guard_that_was_saved_decides_as_one_that_was_not(steps: list[tuple[float, float]], cut: int) -> None:
    whole, first = TrainingGuard(7.0), TrainingGuard(7.0)
    for norm, loss in steps:
        whole.after_gradient(loss, norm)
        whole.after_evaluation(1, loss, {"centred_effective_rank": norm})
    for norm, loss in steps[:cut]:
        first.after_gradient(loss, norm)
        first.after_evaluation(1, loss, {"centred_effective_rank": norm})
    second = TrainingGuard(7.0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for norm, loss in steps[cut:]:
        second.after_gradient(loss, norm)
        second.after_evaluation(1, loss, {"centred_effective_rank": norm})
    assert second.state_dict() == whole.state_dict()


def test_a_run_that_took_no_step_has_no_training_loss_in_its_row() -> None:
    diverged = Divergence(reason="x", step=1, kept_step=0, loss=math.nan, gradient_norm=math.nan, learning_rate=1e-3)
    record = make_record(pretraining=make_pretraining(diverged=diverged, train_loss=math.nan))
    assert render_row(record)["Task Loss"].endswith("<br> train --")


def test_a_diverged_run_says_what_when_and_what_is_kept() -> None:
    diverged = Divergence(
        reason="the gradient norm is inf", step=120, kept_step=100, loss=9.5, gradient_norm=math.inf, learning_rate=1e-3
    )
    record = make_record(
        status="diverged", scores=[], pretraining=make_pretraining(diverged=diverged, warnings=["x: y"])
    )
    conclusion = render_row(record)["Conclusion / Takeaway"]
    for words in (
        "diverged: step 120: the gradient norm is inf",
        "loss 9.5",
        "lr 0.001",
        "kept: step 100",
        "Warning: x: y.",
    ):
        assert words in conclusion


# Real processes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    yield folder
    cogito("ui", "--stop", home=folder / "home")


def run(place: Path, *words: str) -> dict[str, Any]:
    done = cogito("run", "tiny.yaml", "--log", "log.md", "--json", *words, home=place / "home")
    assert done.returncode == 0, done.stderr
    return answer(done)


# The diffusion run of the log that failed, as far as a tiny experiment can have its settings.
OLD_DIFFUSION = [
    "model.variant=diffusion_selfattn",
    "model.num_decoder_layers=2",
    "objective.t_min=0.05",
    "objective.label_smoothing=0.0",
    "training.schedule=linear",
]


@pytest.mark.end_to_end
@pytest.mark.prefect
@pytest.mark.parametrize("model", [[], OLD_DIFFUSION], ids=["masked language model", "self-attention diffusion"])
def test_a_run_that_explodes_is_a_result(place: Path, model: list[str]) -> None:
    settings = [
        "learning_rate=1",
        "warmup_steps=0",
        "max_grad_norm=1e9",
        "max_steps=60",
        "epochs=50",
        "eval_every_steps=2",
    ]
    words = [word for one in settings for word in ("--set", f"training.{one}")]
    words += [word for one in model for word in ("--set", one)]
    result = run(place, *words)
    record = json.loads(Path(result["record"]).read_text(encoding="utf-8"))
    assert result["status"] == record["status"] == "diverged"
    diverged = record["pretraining"]["diverged"]
    assert diverged["step"] <= 60 and diverged["reason"]
    assert {record["stages"][name]["status"] for name in ("publishing", "finetuning", "analysis")} == {"skipped"}
    folder = place / "home" / record["pretraining"]["model"]
    assert (folder / "model.safetensors").is_file()
    curve = map(json.loads, (folder.parent / "curve.jsonl").read_text(encoding="utf-8").splitlines())
    seen = {line["step"]: line["eval_loss"] for line in curve if "eval_loss" in line}
    best = min(seen, key=lambda step: seen[step])
    # The weights that are kept were evaluated anew: they are those of the best evaluation.
    assert diverged["kept_step"] == best and record["pretraining"]["eval_loss"] == pytest.approx(seen[best])
    text = (place / "log.md").read_text(encoding="utf-8")
    assert text.count(result["run_id"]) == 1 and "diverged: step" in text
    assert run(place, *words) == result and (place / "log.md").read_text(encoding="utf-8") == text


@pytest.mark.end_to_end
@pytest.mark.prefect
@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_a_paused_run_goes_on_to_the_same_weights(place: Path) -> None:
    words = ["--set", "training.max_steps=80", "--set", "training.epochs=60", "--set", "evaluation.tasks=[mrpc]"]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", "tiny.yaml", "--log", "log.md", "--json", *words],
        env=environment(place / "home"),
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        curves = list((place / "home" / "runs").glob("*/pretraining/curve.jsonl"))
        if any(10 <= len(path.read_text(encoding="utf-8").splitlines()) < 70 for path in curves):
            break
        time.sleep(0.02)
    under_way = list_runs(Home(place / "home"))[0]
    assert (under_way.status, under_way.stage) == ("running", "pretraining")
    process.send_signal(signal.SIGTERM)
    output, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "ERROR" not in said, said
    paused = json.loads(output)
    assert paused["status"] == "paused"
    record = place / "home" / "runs" / paused["run_id"] / "record.json"
    assert json.loads(record.read_text(encoding="utf-8"))["status"] == "paused"
    log = place / "log.md"
    assert not log.exists() or paused["run_id"] not in log.read_text(encoding="utf-8")
    finished = run(place, *words)
    assert (finished["run_id"], finished["status"]) == (paused["run_id"], "complete")
    again = run(place, *words, "--fresh")
    weights = [
        json.loads((place / "home" / "published" / one["run_id"] / "manifest.json").read_text())["files"]
        for one in (finished, again)
    ]
    assert weights[0]["model.safetensors"] == weights[1]["model.safetensors"]


@pytest.mark.end_to_end
@pytest.mark.prefect
def test_a_time_budget_pauses_and_goes_on(place: Path) -> None:
    words = ["--set", "training.max_steps=70", "--set", "training.epochs=60", "--set", "evaluation.tasks=[mrpc]"]
    paused = run(place, *words, "--max-hours", "0")
    record = place / "home" / "runs" / paused["run_id"] / "record.json"
    assert paused["status"] == json.loads(record.read_text(encoding="utf-8"))["status"] == "paused"
    assert run(place, *words)["status"] == "complete"
