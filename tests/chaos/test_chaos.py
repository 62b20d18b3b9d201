"""Chaos: processes of an experiment are killed with -9 by a seeded schedule; the end is that of an undisturbed run.

`python -m pytest tests/chaos --chaos-seed 1 --chaos-kills 100` kills the quickstart experiment so often; by default a
tiny experiment is killed a few times. Results stand in docs/reliability.md.
"""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas
import psutil
import pytest
from command import ROOT, TINY, cogito, environment

from tasks.experiment_log import show_log
from tasks.processes import lives

pytestmark = [pytest.mark.end_to_end, pytest.mark.prefect]

# From this many kills on it is the quickstart that is killed: the tiny experiment is over too soon.
MANY_KILLS = 20
# Seconds between two kills: mostly short, now and then long enough for a whole fine-tuning.
MEAN_GAP = {False: 2.0, True: 7.0}
RESTARTS = 400
# Cells of the row that tell of this run's day and machine rather than of its results.
OWN_CELLS = ("date", "date_text", "run_id", "run_id_model_type", "checkpoint", "line", "speed_steps_s")
OWN_CELLS += ("speed_steps_s_text", "git_tag")


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


# Kind of process -> whether a command line is of that kind; the first that fits counts.
KINDS: dict[str, Callable[[str], bool]] = {
    "server": lambda words: "prefect server" in words,
    "launcher": lambda words: "accelerate.commands.launch" in words,
    "pretraining rank": lambda words: "tasks.worker" in words and "/pretraining/" in words,
    "fine-tuning job": lambda words: "tasks.worker" in words and "/finetuning/" in words,
    "analysis job": lambda words: "tasks.worker" in words and "/analysis/" in words,
}


@dataclass
class Chaos:
    """One experiment that is killed and started again until it is done."""

    place: Path
    spec: Path
    seed: int
    kills: int
    mean_gap: float
    killed: Counter[str] = field(default_factory=Counter)
    starts: int = 0

    @property
    def home(self) -> Path:
        return self.place / "home"

    def run(self) -> None:
        """Start it until it ends well, killing as often as asked on the way."""
        chance = random.Random(self.seed)
        while True:
            self.starts += 1
            assert self.starts < RESTARTS, f"no end after {self.killed}"
            with (self.place / "output.txt").open("ab") as output:
                command = subprocess.Popen(
                    [sys.executable, "-m", "flows.cli", "run", str(self.spec), "--log", "log.md"],
                    cwd=self.place, env=environment(self.home), stdout=output, stderr=output,
                )  # fmt: skip
            self._disturb(command, chance)
            if command.wait() == 0:
                return

    def _disturb(self, command: subprocess.Popen[bytes], chance: random.Random) -> None:
        while command.poll() is None and self.killed.total() < self.kills:
            deadline = time.monotonic() + chance.expovariate(1 / self.mean_gap)
            while command.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            if command.poll() is not None:
                return
            alive = self._alive(command)
            least = min(self.killed[kind] for kind in alive)
            kind = chance.choice(sorted(kind for kind in alive if self.killed[kind] == least))
            try:
                chance.choice(sorted(alive[kind], key=lambda process: process.pid)).kill()
            except psutil.NoSuchProcess:
                continue
            self.killed[kind] += 1
            if kind == "command":
                command.wait()
                return

    def _alive(self, command: subprocess.Popen[bytes]) -> dict[str, list[psutil.Process]]:
        found: dict[str, list[psutil.Process]] = {}
        try:
            whole = psutil.Process(command.pid)
            found["command"] = [whole]
            children = whole.children(recursive=True)
        except psutil.NoSuchProcess:
            return found
        server = self.server()
        for process in [*children, *([server] if server else [])]:
            words = _words(process)
            kind = next((name for name, fits in KINDS.items() if fits(words)), None)
            if kind is not None:
                found.setdefault(kind, []).append(process)
        return found

    def server(self) -> psutil.Process | None:
        try:
            facts = json.loads((self.home / "prefect" / "server.json").read_text(encoding="utf-8"))
            return psutil.Process(facts["pid"]) if lives(facts["pid"], facts["born"]) else None
        except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
            return None


def outcome(place: Path) -> dict[str, Any]:
    """What must not depend on any kill: weights, predictions, scores, row."""
    (row,) = show_log(place / "log.md")
    folder = place / "home" / "runs" / row["run_id"]
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    manifest = json.loads((place / "home" / "published" / row["run_id"] / "manifest.json").read_text(encoding="utf-8"))
    predictions = {
        path.relative_to(folder).as_posix(): pandas.read_parquet(path).to_json() for path in folder.rglob("*.parquet")
    }
    return {
        "status": record["status"],
        "stages": {name: stage["status"] for name, stage in record["stages"].items()},
        "weights": manifest["files"]["model.safetensors"]["sha256"],
        "predictions": predictions,
        "scores": record["scores"],
        "figures": record["analysis"]["figures"],
        "steps": [json.loads(line)["step"] for line in (folder / "pretraining" / "curve.jsonl").open(encoding="utf-8")],
        "row": {name: cell for name, cell in row.items() if name not in OWN_CELLS},
    }


def leftovers(place: Path) -> list[str]:
    """Processes of this home that still live, its server aside."""
    ours = [_words(process) for process in psutil.process_iter()]
    return [words for words in ours if str(place) in words and "prefect server" not in words]


def test_kills_change_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kills, seed = request.config.getoption("--chaos-kills"), request.config.getoption("--chaos-seed")
    many = kills >= MANY_KILLS
    spec = ROOT / "experiments" / "quickstart.yaml" if many else tmp_path / "tiny.yaml"
    if not many:
        spec.write_text(TINY, encoding="utf-8")
    places = [tmp_path / name for name in ("calm", "stormy")]
    for place in places:
        place.mkdir()
    calm = Chaos(places[0], spec, seed, 0, 1.0)
    stormy = Chaos(places[1], spec, seed, kills, MEAN_GAP[many])
    try:
        for one in (calm, stormy):
            one.run()
        deadline = time.monotonic() + 15
        while leftovers(places[1]) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert leftovers(places[1]) == []
    finally:
        for place in places:
            cogito("ui", "--stop", home=place / "home")
    expected, got = (outcome(place) for place in places)
    for name, value in expected.items():
        assert got[name] == value, name
    assert expected["status"] == "complete"
    runs = [path.name for path in (places[1] / "home" / "runs").iterdir()]
    assert len(runs) == 1 and len(list((places[1] / "home" / "published").glob("[!.]*"))) == 1
    print(f"chaos: {stormy.killed.total()} kills, {stormy.starts} starts: {dict(sorted(stormy.killed.items()))}")
    if many:
        assert stormy.killed.total() == kills, "the experiment was over before all kills were spent"
