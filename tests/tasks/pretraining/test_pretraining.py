"""Pretraining as real processes: the curve does not depend on the number of processes, and a kill loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import TINY, environment

pytestmark = pytest.mark.end_to_end

CODE = """
import sys
from pathlib import Path
from tasks.data.corpus import prepare_corpus
from tasks.pretraining.stage import pretrain
from tasks.store.home import cogito_home
from tasks.data.sources import find_dataset
from tasks.spec.reading import load_spec
home = cogito_home()
spec = load_spec(Path(sys.argv[1]), sys.argv[4:])
corpus = prepare_corpus(spec.data, find_dataset(spec.data.dataset, home, None), home)
run = home.run(sys.argv[2])
print(pretrain(spec, corpus, run, home, processes=int(sys.argv[3])).model_dump_json())
"""
SMALL = ("tracking.wandb=disabled", "model.hidden_dropout_prob=0", "model.attention_probs_dropout_prob=0")


def start(home: Path, run: str, processes: int, *overrides: str) -> subprocess.Popen[str]:
    home.mkdir(parents=True, exist_ok=True)
    (home / "tiny.yaml").write_text(TINY, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-c", CODE, str(home / "tiny.yaml"), run, str(processes), *overrides],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(home: Path, run: str, processes: int, *overrides: str) -> list[dict[str, float]]:
    """Train to the end; returns the curve."""
    output, _ = (process := start(home, run, processes, *overrides)).communicate(timeout=600)
    assert process.returncode == 0, output
    return curve(home, run)


def curve(home: Path, run: str) -> list[dict[str, float]]:
    path = home / "runs" / run / "pretraining" / "curve.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def weights(home: Path, run: str) -> str:
    manifest = json.loads((home / "runs" / run / "pretraining" / "model" / "manifest.json").read_text())
    return manifest["files"]["model.safetensors"]["sha256"]


def assert_same_curve(one: list[dict[str, float]], two: list[dict[str, float]], steps: int) -> None:
    assert len(one) == len(two) == steps
    assert max(abs(a["task_loss"] - b["task_loss"]) for a, b in zip(one, two, strict=True)) < 1e-3
    assert one[-1]["eval_loss"] == pytest.approx(two[-1]["eval_loss"], abs=1e-3)


def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    one = train(tmp_path, "one", 1, *SMALL)
    two = train(tmp_path, "two", 2, *SMALL)
    assert_same_curve(one, two, 12)
    assert one[-1]["centred_effective_rank"] > 0 and 0 < one[-1]["input_variance_share"] < 1


def test_an_uneven_global_batch_fits_two_processes(tmp_path: Path) -> None:
    uneven = (*SMALL, "training.global_batch_size=7", "training.per_device_batch_size=2", "training.max_steps=6")
    assert_same_curve(train(tmp_path, "one", 1, *uneven), train(tmp_path, "two", 2, *uneven), 6)


@pytest.mark.long
def test_two_processes_give_the_curve_of_one_over_200_steps(tmp_path: Path) -> None:
    longer = (*SMALL, "training.max_steps=200", "training.checkpoint_every_steps=100", "training.epochs=50")
    assert_same_curve(train(tmp_path, "one", 1, *longer), train(tmp_path, "two", 2, *longer), 200)


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    """kill -9 of the command in mid-training; the next start goes on from the last whole state, dropout included."""
    settings = ("tracking.wandb=disabled", "training.max_steps=60", "training.epochs=50")
    train(tmp_path, "whole", 1, *settings)
    process = start(tmp_path, "killed", 1, *settings)
    deadline = time.monotonic() + 120
    while len(curve(tmp_path, "killed")) < 10 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    process.wait()
    time.sleep(4)  # the ranks notice within two seconds that their owner is gone
    reached = len(curve(tmp_path, "killed"))
    assert 10 <= reached < 60, "the kill came too late to prove anything"
    resumed = train(tmp_path, "killed", 1, *settings)
    assert [point["step"] for point in resumed] == list(range(1, 61))
    assert weights(tmp_path, "killed") == weights(tmp_path, "whole")


WARM = """
import sys
from pathlib import Path
from tasks.checkpoints.finding import resolve_checkpoint
from tasks.data.corpus import prepare_corpus
from tasks.pretraining.stage import pretrain, pretraining_identity
from tasks.store.home import cogito_home
from tasks.data.sources import find_dataset
from tasks.spec.reading import load_spec
home = cogito_home()
first = str(home.runs / sys.argv[2] / "pretraining" / "model")
changes = [*sys.argv[3:], f"training.init_from={first}"]
spec = load_spec(Path(sys.argv[1]), changes)
corpus = prepare_corpus(spec.data, find_dataset(spec.data.dataset, home, None), home)
start = resolve_checkpoint(spec.training.init_from, home)
assert pretraining_identity(spec, "data", start) != pretraining_identity(spec, "data")
print(pretrain(spec, corpus, home.run("warm"), home, init_from=start, processes=1).model_dump_json())
"""


def test_a_warm_start_goes_on_from_the_weights_it_names(tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = (*SMALL, "training.max_steps=4", "training.epochs=100", "training.eval_every_steps=4")
    cold = train(home, "cold", 1, *settings)
    started = subprocess.run(
        [sys.executable, "-c", WARM, str(home / "tiny.yaml"), "cold", *settings, "training.learning_rate=1e-12"],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert started.returncode == 0, started.stderr
    result = json.loads(started.stdout.splitlines()[-1])
    # A learning rate of next to nothing leaves the model as it came: its held-out loss is that of the first training.
    assert abs(result["eval_loss"] - cold[-1]["eval_loss"]) < 1e-4
    assert result["loaded_weights"] > 20 and result["new_weights"] == []
    assert "warm start:" in (home / "runs" / "warm" / "pretraining" / "log.txt").read_text()
