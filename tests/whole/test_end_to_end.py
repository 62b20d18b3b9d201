"""The command from one end to the other: real subprocesses, a real Prefect server, real training, tiny sizes."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from command import PATIENCE, TINY, answer, cogito, environment

pytestmark = [pytest.mark.end_to_end, pytest.mark.prefect]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a tiny experiment; its server ends with the module."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    yield folder
    cogito("ui", "--stop", home=folder / "home")


@pytest.fixture(scope="module")
def first(place: Path) -> dict[str, Any]:
    """The first run of the tiny experiment."""
    done = cogito("run", "tiny.yaml", "--log", "log.md", "--json", home=place / "home")
    assert done.returncode == 0, done.stderr
    return answer(done)


def rows(place: Path) -> list[dict[str, Any]]:
    return answer(cogito("log", "show", "--log", "log.md", "--json", home=place / "home"))


def test_a_run_ends_with_its_row_and_scores(place: Path, first: dict[str, Any]) -> None:
    assert first["status"] == "complete"
    (row,) = rows(place)
    assert row["table"] == "training" and row["run_id"] == first["run_id"]
    assert set(row["scores"]) == {"mrpc", "stsb"}
    assert all(-1 <= value <= 1 for value in row["scores"].values())
    shown = {(score["task"], score["metric"]): score["value"] for score in first["scores"]}
    assert row["scores"]["mrpc"] == pytest.approx(shown["mrpc", "f1"], abs=6e-4)
    record = json.loads(Path(first["record"]).read_text(encoding="utf-8"))
    assert record["environment"]["machine"] == "testbox"
    assert record["made_data"] is True
    assert record["publishing"]["store"] == "local"
    page = Path(first["record"]).with_name("report.html").read_text(encoding="utf-8")
    assert first["run_id"] in page and "Nothing was skipped and nothing failed" in page
    assert {stage["status"] for stage in record["stages"].values()} == {"complete"}


def test_the_stages_show_under_their_names(place: Path, first: dict[str, Any]) -> None:
    server = json.loads((place / "home" / "prefect" / "server.json").read_text(encoding="utf-8"))
    request = urllib.request.Request(
        f"http://127.0.0.1:{server['port']}/api/task_runs/filter",
        data=b'{"limit": 200}',
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        runs = json.load(response)
    assert not any(run["tags"] for run in runs), "a stage with a tag does not start while the server is away"
    names = {run["name"] for run in runs}
    assert {
        "prepare-corpus",
        "prepare-mrpc",
        "pretrain",
        "publish",
        "analyse-concepts",
        "finetune-mrpc-seed42-checkpoint",
        "finetune-stsb-seed42-checkpoint",
        "score-mrpc-checkpoint",
        "write-row",
        "write-report",
    } <= names


def test_the_same_command_reuses_everything(place: Path, first: dict[str, Any]) -> None:
    log, record = place / "log.md", Path(first["record"])
    before = log.read_bytes(), record.read_bytes()
    folder = Path(first["record"]).parent
    touched = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    done = cogito("run", "tiny.yaml", "--log", "log.md", "--json", home=place / "home")
    assert done.returncode == 0, done.stderr
    assert answer(done) == first
    assert (log.read_bytes(), record.read_bytes()) == before
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")} == touched


def test_another_evaluation_reuses_the_pretraining(place: Path, first: dict[str, Any]) -> None:
    done = cogito(
        "run", "tiny.yaml", "--log", "log.md", "--json", "--set", "evaluation.tasks=[paws]", home=place / "home"
    )
    assert done.returncode == 0, done.stderr
    training, evaluation = (row for row in rows(place) if row["run_id"] in (first["run_id"], answer(done)["run_id"]))
    assert training["run_id"] == first["run_id"] and set(training["scores"]) == {"mrpc", "stsb"}
    assert evaluation["table"] == "evaluation" and evaluation["checkpoint"] == first["run_id"]
    assert set(evaluation["scores"]) == {"paws"}


def test_a_row_is_repeated_to_the_same_figures(place: Path, first: dict[str, Any]) -> None:
    words = ["reproduce", f"log.md#{first['run_id']}", "--log", "log.md", "--json"]
    done = cogito(*words, home=place / "home")
    assert done.returncode == 0, done.stderr
    again = answer(done)
    assert again["source"] == "its record" and again["run_id"] != first["run_id"]
    outcomes = {one["figure"]: one["outcome"] for one in again["verdicts"]}
    assert {"held-out loss", "MRPC F1", "STS-B Pearson"} <= outcomes.keys()
    assert set(outcomes.values()) == {"agrees"}
    before = (place / "log.md").read_bytes()
    assert answer(cogito(*words, home=place / "home")) == again  # nothing runs a third time
    assert (place / "log.md").read_bytes() == before


def test_evaluating_the_published_folder_adds_a_row(place: Path, first: dict[str, Any]) -> None:
    published = place / "home" / "published" / first["run_id"]
    done = cogito(
        "evaluate",
        published,
        "--tasks",
        "mnli",
        "--seeds",
        "2",
        "--head",
        "weighted_pooling",
        "--log",
        "other.md",
        "--json",
        home=place / "home",
    )
    assert done.returncode == 0, done.stderr
    result = answer(done)
    assert result["status"] == "complete"
    assert [(s["task"], s["metric"], len(s["seed_values"])) for s in result["scores"]] == [
        ("mnli-m", "accuracy", 2),
        ("mnli-mm", "accuracy", 2),
    ]
    text = (place / "other.md").read_text(encoding="utf-8")
    assert text.count(result["run_id"]) == 1


def test_analyse_writes_no_row(place: Path, first: dict[str, Any]) -> None:
    before = (place / "log.md").read_bytes()
    done = cogito("analyse", first["run_id"], "--json", home=place / "home")
    assert done.returncode == 0, done.stderr
    figures = answer(done)["figures"]
    assert 1 <= figures["effective_rank_per_sample_mean"] <= 8
    assert 0 < figures["centred_effective_rank"] <= 8 and 0 < figures["input_variance_share"] < 1
    assert figures["retrieval_top_1"] > figures["retrieval_chance"] == 1 / 16
    assert (place / "log.md").read_bytes() == before


def test_the_stages_are_plain_functions(place: Path, first: dict[str, Any]) -> None:
    """Without Prefect: a REPL can read a run, take its corpus and analyse it."""
    code = """
import sys
from pathlib import Path
from tasks.checkpoints.finding import resolve_checkpoint
from tasks.analysis.stage import analyse_concepts
from tasks.store.records import load_record
from tasks.store.home import RunFolder, cogito_home
from tasks.spec.evaluation import AnalysisSpec
home = cogito_home()
record = load_record(home.run(sys.argv[1]))
checkpoint = resolve_checkpoint(sys.argv[1], home)
result = analyse_concepts(checkpoint, record.corpus, AnalysisSpec(max_samples=4), RunFolder(home.root / "repl"), home)
assert result.samples == 4
assert "prefect" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code, first["run_id"]],
        env=environment(place / "home"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_without_a_server_it_still_works(tmp_path: Path, place: Path, first: dict[str, Any]) -> None:
    done = cogito(
        "run", place / "tiny.yaml", "--log", place / "log.md", "--json", home=place / "home", COGITO_SERVER="off"
    )
    assert done.returncode == 0, done.stderr
    assert answer(done) == first


def test_a_failed_cell_is_a_failed_cell_and_is_retried(place: Path, first: dict[str, Any]) -> None:
    (part,) = (place / "home" / "cache" / "tasks").glob("mrpc-*/selection.npz")
    whole = part.read_bytes()
    part.write_bytes(bytes(len(whole)))
    command = ("run", "tiny.yaml", "--log", "failed.md", "--json")
    done = cogito(*command, "--fresh", home=place / "home")
    assert done.returncode == 1
    result = answer(done)
    assert result["status"] == "failed" and result["run_id"] != first["run_id"]
    values = {(score["task"], score["metric"]): score["value"] for score in result["scores"]}
    assert values["mrpc", "f1"] is None and values["stsb", "pearson"] is not None
    row = (place / "failed.md").read_text(encoding="utf-8")
    assert "failed" in row and result["run_id"] in row
    assert "Traceback" not in done.stderr

    part.write_bytes(whole)
    folder = Path(result["record"]).parent
    kept = folder / "finetuning" / "stsb-seed42-checkpoint" / "result.json"
    finished = kept.stat().st_mtime_ns
    again = cogito(*command, home=place / "home")
    assert again.returncode == 0, again.stderr
    assert answer(again)["run_id"] == result["run_id"] and answer(again)["status"] == "complete"
    assert kept.stat().st_mtime_ns == finished
    assert (place / "failed.md").read_text(encoding="utf-8").count(result["run_id"]) == 1


def test_two_starts_of_one_run_give_one_run_and_one_row(place: Path, first: dict[str, Any]) -> None:
    words = [sys.executable, "-m", "flows.cli", "run", "tiny.yaml", "--log", "twice.md", "--json"]
    both = [
        subprocess.Popen(
            [*words, "--set", "training.seed=11"],
            env=environment(place / "home"),
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=PATIENCE) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    one, other = (json.loads(output) for output, _ in ended)
    assert one["run_id"] == other["run_id"] and one["scores"] == other["scores"]
    assert any("another command works on" in errors for _, errors in ended)
    assert (place / "twice.md").read_text(encoding="utf-8").count(one["run_id"]) == 1


def test_no_process_is_left(place: Path, first: dict[str, Any]) -> None:
    ours = str(place / "home")
    left = [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if any(ours in part for part in process.info["cmdline"] or [])
    ]
    assert left == []
