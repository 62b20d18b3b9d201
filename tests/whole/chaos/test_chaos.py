"""Chaos: processes of an experiment are killed with -9 by a seeded schedule; the end is that of an undisturbed run.

`pytest tests/whole/chaos --chaos-seed 1 --chaos-kills 100` kills the quickstart experiment so often; by default a
tiny experiment is killed a few times. Results stand in docs/reliability.md.
"""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pandas
import pytest
from command import ROOT, TINY, answer, cogito
from storm import KINDS, STAGES, START_SECONDS, Storm

from tasks.log.experiment_log import show_log

pytestmark = [pytest.mark.end_to_end, pytest.mark.prefect]

# From this many kills on it is the quickstart that is killed: the tiny experiment is over too soon.
MANY_KILLS = 20
# From this many on every stage and every kind of process must have had its share.
SPREAD_KILLS, SPREAD = 80, 3
# Cells of the row that tell of this run's day and machine rather than of its results.
OWN_CELLS = ("date", "date_text", "run_id", "run_id_model_type", "checkpoint", "line", "speed_steps_s")
OWN_CELLS += ("speed_steps_s_text", "git_tag")
# The server calls a run crashed that was silent for 90 s, and looks every now and then.
GHOST_SECONDS = 240


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


def unfinished_flow_runs(storm: Storm) -> list[str]:
    """Flow runs and task runs that Prefect takes for alive."""
    port = json.loads((storm.home / "prefect" / "server.json").read_text(encoding="utf-8"))["port"]
    found = []
    for kind in ("flow_runs", "task_runs"):
        query = {kind: {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING", "SCHEDULED"]}}}}
        url, headers = f"http://127.0.0.1:{port}/api/{kind}/filter", {"Content-Type": "application/json"}
        request = Request(url, json.dumps(query).encode(), headers)
        with build_opener(ProxyHandler({})).open(request, timeout=30) as response:
            found += [f"{run['name']}: {run['state_name']}" for run in json.load(response)]
    return found


def wait_until_none(find: Any, seconds: float) -> list[str]:
    deadline = time.monotonic() + seconds
    while (found := find()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return list(found)


def test_kills_change_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kills, seed = request.config.getoption("--chaos-kills"), request.config.getoption("--chaos-seed")
    many = kills >= MANY_KILLS
    spec = ROOT / "experiments" / "quickstart.yaml" if many else tmp_path / "tiny.yaml"
    if not many:
        spec.write_text(TINY, encoding="utf-8")
    places = [tmp_path / name for name in ("calm", "stormy")]
    for place in places:
        place.mkdir()
    calm = Storm(places[0], spec)
    storm = Storm(places[1], spec, seed, kills, calm.measured)
    try:
        calm.run()
        storm.run()
        moments = len({kill.moment for kill in storm.killed})
        minutes = f"{storm.seconds / 60:.1f} minutes, {calm.seconds / 60:.1f} in peace"
        print(f"\nchaos: {kills} kills in {moments} moments, seed {seed}, {storm.starts} starts, {minutes}")
        print(storm.table())
        print("seconds in peace:", ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in calm.measured.items()))
        assert wait_until_none(storm.leftovers, 15) == []
        expected, got = (outcome(place) for place in places)
        for name, value in expected.items():
            assert got[name] == value, name
        assert expected["status"] == "complete"
        assert len(storm.killed) == kills
        if kills >= SPREAD_KILLS:
            stages = Counter(kill.stage for kill in storm.killed)
            kinds = Counter(kill.kind for kill in storm.killed)
            assert min(stages[name] for name in STAGES) >= SPREAD, stages
            assert min(kinds[name] for name in KINDS) >= SPREAD, kinds
        check_home(storm)
    finally:
        for place in places:
            cogito("ui", "--stop", home=place / "home")


def check_home(storm: Storm) -> None:
    """One run, one published folder, nothing left behind, and a further start that changes nothing."""
    assert len(list((storm.home / "runs").iterdir())) == 1
    assert len(list((storm.home / "published").glob("[!.]*"))) == 1
    log = storm.place / "log.md"
    before = log.read_bytes()
    again = cogito("run", storm.spec, "--log", log, home=storm.home, timeout=START_SECONDS)
    assert again.returncode == 0, again.stderr
    assert log.read_bytes() == before
    assert wait_until_none(lambda: unfinished_flow_runs(storm), GHOST_SECONDS) == []
    problems = [one for one in answer(cogito("doctor", "--json", home=storm.home)) if one["status"] == "problem"]
    assert problems == []
    cogito("doctor", "--fix", home=storm.home)
    rest = [one for one in answer(cogito("doctor", "--json", home=storm.home)) if one["status"] != "ok"]
    assert [one for one in rest if one["name"] != "disk"] == []
