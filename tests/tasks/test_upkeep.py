"""`cogito doctor` and `cogito clean`: what is left behind is found and cleared, what is wanted is never touched."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
from command import ROOT
from filelock import FileLock
from packaging.requirements import Requirement
from typer.testing import CliRunner

from flows.commands import upkeep as upkeep_commands
from tasks import upkeep
from tasks.errors import UserError
from tasks.gpu_check import checking
from tasks.processes import birth
from tasks.store.files import file_sha256, write_json, write_manifest
from tasks.store.home import Home
from tasks.store.locks import active, active_locks
from tasks.store.records import load_record
from tasks.upkeep import examine, find_waste, remove, stated_requirements
from tests.factories import RUN_ID, make_record

OTHER = "tsdae_H8L1C2_20260401_000000"


@pytest.fixture(autouse=True)
def _alone(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings and no tokens of who runs the tests."""
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "COGITO_DATA_ROOT", *upkeep.SECRETS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COGITO_LOG", str(tmp_path / "log.md"))


@pytest.fixture
def lived_in(home: Home) -> Home:
    """A home with a finished run and a failed one, caches, a published model and leftovers."""
    for run_id, status in ((RUN_ID, "complete"), (OTHER, "failed")):
        run = home.run(run_id)
        make_record(run_id=run_id, status=status).save(run)
        for step in (500, 1000, 1500):
            put(run.pretraining / "checkpoints" / f"step-{step:08d}" / "module.pt", 100)
        put(run.pretraining / "model" / "model.safetensors", 50)
        put(run.cell("mrpc", 1, "checkpoint") / "predictions-mrpc.parquet", 30)
        put(run.pretraining / "checkpoints" / ".step-00002000.part" / "module.pt", 70)
    put(home.published / RUN_ID / "model.safetensors", 50)
    put(home.logs / "server.log", 10)
    put(home.cache / "hub" / "download", 40)
    put(home.cache / "datasets" / "table.arrow", 25)
    put(home.published / ".old.part" / "model.safetensors", 60)
    put(home.corpora / "whole" / "tokens.bin", 20)
    write_manifest(home.corpora / "whole")
    put(home.corpora / "half" / "tokens.bin", 20)
    return home


def put(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def run_cogito(*words: str) -> Any:
    commands = typer.Typer()
    for command in (upkeep_commands.doctor, upkeep_commands.clean):
        commands.command()(command)
    return CliRunner().invoke(commands, list(words))


def names(home: Home) -> set[str]:
    return {path.relative_to(home.root).as_posix() for path in home.root.rglob("*") if path.is_file()}


def found(home: Home, name: str) -> list[Any]:
    return [one for one in examine(home) if one.name == name]


# --- clean ---


def test_clean_removes_what_can_go_and_says_how_much(lived_in: Home) -> None:
    before = names(lived_in)
    done = run_cogito("clean", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    gone = {name.split("/", 1)[0] + "/" + name.split("/", 1)[1] for name in before - names(lived_in)}
    assert answer["freed"] == answer["bytes"] == 2 * 100 + 2 * 70 + 25 + 60 + 20
    assert {name for name in gone if not name.startswith("locks/")} == {
        f"runs/{RUN_ID}/pretraining/checkpoints/step-00000500/module.pt",
        f"runs/{RUN_ID}/pretraining/checkpoints/step-00001000/module.pt",
        f"runs/{RUN_ID}/pretraining/checkpoints/.step-00002000.part/module.pt",
        f"runs/{OTHER}/pretraining/checkpoints/.step-00002000.part/module.pt",
        "cache/datasets/table.arrow",
        "published/.old.part/model.safetensors",
        "corpora/half/tokens.bin",
    }
    assert json.loads(run_cogito("clean", "--json").stdout)["removed"] == []


@pytest.mark.parametrize(("keep", "left"), [("0", 0), ("2", 2), ("9", 3)])
def test_as_many_states_stay_as_asked(lived_in: Home, keep: str, left: int) -> None:
    assert run_cogito("clean", "--keep", keep).exit_code == 0
    states = [path.name for path in lived_in.run(RUN_ID).pretraining.glob("checkpoints/step-*")]
    assert sorted(states) == ["step-00000500", "step-00001000", "step-00001500"][3 - left :]
    assert len(list(lived_in.run(OTHER).pretraining.glob("checkpoints/step-*"))) == 3, "an unfinished run goes on"


def test_a_dry_run_changes_nothing(lived_in: Home) -> None:
    before = names(lived_in)
    done = run_cogito("clean", "--dry-run")
    assert done.exit_code == 0 and "445 bytes would be freed" in done.output
    assert names(lived_in) == before


def test_nothing_is_cleaned_while_a_run_is_active(lived_in: Home) -> None:
    before = {name for name in names(lived_in) if not name.startswith("locks")}
    with active(lived_in), pytest.raises(UserError, match="a run is active"):
        find_waste(lived_in, 1)
    with FileLock(lived_in.leases / "cpu-0.lock"), pytest.raises(UserError, match="a run is active"):
        find_waste(lived_in, 1)
    assert {name for name in names(lived_in) if not name.startswith(("locks", "leases"))} == before
    assert find_waste(lived_in, 1)


def test_a_link_is_never_followed(lived_in: Home, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    put(outside / "thesis.tex", 9)
    (lived_in.cache / "tasks").symlink_to(outside)
    (lived_in.run(RUN_ID).pretraining / "checkpoints" / ".x.part").symlink_to(outside)
    (lived_in.run(RUN_ID).pretraining / "checkpoints" / "step-00000001").symlink_to(outside)
    remove(find_waste(lived_in, 0))
    assert (outside / "thesis.tex").exists()


def test_waste_is_counted_once(lived_in: Home) -> None:
    put(lived_in.cache / "datasets" / ".a.part" / ".b.part" / "x", 5)
    paths = [one.path for one in find_waste(lived_in, 1)]
    assert not any(path in other.parents for path in paths for other in paths)


# --- doctor ---


def test_a_new_home_is_well(home: Home) -> None:
    done = run_cogito("doctor", "--json")
    rows = json.loads(done.stdout)
    assert done.exit_code == 0, done.output
    assert {row["name"] for row in rows} >= {
        "home",
        "log",
        "disk",
        "devices",
        "versions",
        "tokens",
        "data mirror",
        "jobs",
        "locks",
        "half-written files",
        "caches",
        "runs",
        "server",
    }
    assert all(row["fix"] for row in rows if row["status"] != "ok")
    assert "problem" in run_cogito("doctor").output


def test_a_look_begins_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COGITO_HOME", str(tmp_path / "new" / "home"))
    for words in (["doctor"], ["doctor", "--fix"], ["clean"], ["clean", "--dry-run"]):
        assert run_cogito(*words).exit_code == 0
    assert found(Home(tmp_path / "new" / "home"), "home")[0].found.endswith("which does not exist yet")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("as_json", [True, False])
def test_the_check_of_the_gpu_is_a_way_of_doctor(home: Home, monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    checks = {"good": lambda: {"tokens/s": 70_000.0}, "bad": lambda: 1 / 0}
    monkeypatch.setattr(checking, "_checks", lambda bench, device: checks)
    done = run_cogito("doctor", "--gpu", *(["--json"] if as_json else []))
    assert done.exit_code == 1
    written = json.loads((home.root / "gpu_check.json").read_text())
    assert [check["status"] for check in written["checks"]] == ["ok", "failed"]
    if as_json:
        assert json.loads(done.stdout) == written
    else:
        assert (
            "no GPU on this machine" in done.stdout and "70,000" in done.stdout and "ZeroDivisionError" in done.stdout
        )
    del checks["bad"]
    assert run_cogito("doctor", "--gpu").exit_code == 0


def test_leftovers_are_found_and_cleared(lived_in: Home) -> None:
    make_record(run_id="tsdae_H8L1C2_20260401_000001", status="running").save(
        lived_in.run("tsdae_H8L1C2_20260401_000001")
    )
    put(lived_in.locks / "active-1-2.lock", 0)
    before = names(lived_in)
    rows = {row["name"]: row for row in json.loads(run_cogito("doctor", "--json").stdout)}
    for name in ("locks", "half-written files", "caches", "runs"):
        assert rows[name]["status"] == "warning" and rows[name]["can_be_cleared"], name
    assert names(lived_in) == before, "without --fix nothing changes"
    fixed = run_cogito("doctor", "--fix")
    assert fixed.exit_code == 0
    rows = {row["name"]: row for row in json.loads(run_cogito("doctor", "--json").stdout)}
    for name in ("locks", "half-written files", "caches", "runs"):
        assert rows[name]["status"] == "ok", rows[name]
    counts = dict(reversed(word.split(" ")) for word in fixed.output.splitlines()[-1].split(", "))
    assert int(counts["cleared"]) >= 4
    assert int(counts["warning"]) == sum(row["status"] == "warning" for row in rows.values()), "what is cleared is none"
    assert load_record(lived_in.run("tsdae_H8L1C2_20260401_000001")).status == "failed"
    kept = {name for name in before if ".part/" not in name and "half" not in name and not name.startswith("locks")}
    assert kept <= names(lived_in), "nothing else is touched"


def test_what_is_in_use_is_no_leftover(lived_in: Home) -> None:
    make_record(status="running").save(lived_in.run(RUN_ID))
    with active(lived_in):
        assert not any(one.clear for one in examine(lived_in) if one.name in ("runs", "caches", "half-written files"))
        old = time.time() - 2 * upkeep.SETTLED_SECONDS
        os.utime(lived_in.published / ".old.part", (old, old))
        assert [path.name for path in upkeep.left_parts(lived_in)] == [".old.part"]


def test_a_run_is_active_until_its_process_ends(home: Home) -> None:
    code = "import sys; from tasks.store.locks import active; from tasks.store.home import cogito_home\n"
    code += "with active(cogito_home()): print('in', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COGITO_HOME": str(home.root)},
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "in"
    assert len(active_locks(home)) == 1
    process.kill()
    process.communicate()
    assert active_locks(home) == []
    (stale,) = [one for one in found(home, "locks") if one.status == "warning"]
    stale.clear()
    assert not list(home.locks.glob("active-*"))


@pytest.fixture
def orphan(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """A job that hangs and whose owner is gone."""
    (home.root / "tasks" / "jobs").mkdir(parents=True)
    for package in ("tasks", "tasks/jobs"):
        (home.root / package / "__init__.py").write_text("")
    (home.root / "tasks" / "jobs" / "worker.py").write_text("import time; print('up', flush=True); time.sleep(120)")
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.jobs.worker", str(home.root / "job.json")],
        cwd=home.root,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ".", "COGITO_OWNER_PID": str(gone.pid), "COGITO_OWNER_BORN": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"up"
    yield process
    process.kill()
    process.communicate()


def test_a_job_without_owner_is_found_and_ended(home: Home, orphan: subprocess.Popen[bytes]) -> None:
    (one,) = found(home, "jobs")
    assert one.status == "problem" and str(orphan.pid) in one.found
    assert run_cogito("doctor").exit_code == 1
    one.clear()
    assert orphan.wait(10) is not None
    assert found(home, "jobs")[0].status == "ok"


@pytest.mark.skipif(os.name != "posix", reason="Windows has other rights")
def test_a_home_that_others_may_read_is_closed(home: Home) -> None:
    home.root.chmod(0o755)
    (one,) = found(home, "home")
    assert one.status == "warning" and "0755" in one.found
    one.clear()
    assert found(home, "home")[0].status == "ok" and home.root.stat().st_mode & 0o777 == 0o700


def test_a_log_or_mirror_that_cannot_be_used_is_a_problem(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGITO_LOG", str(tmp_path))
    monkeypatch.setenv("COGITO_DATA_ROOT", str(tmp_path / "absent"))
    for name in ("log", "data mirror"):
        (one,) = found(home, name)
        assert one.status == "problem" and one.fix
    assert run_cogito("doctor").exit_code == 1


def test_little_disk(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, status in ((10**12, "ok"), (10**10, "warning"), (10**8, "problem")):
        monkeypatch.setattr(upkeep.shutil, "disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        assert found(home, "disk")[0].status == status


def test_versions_are_held_against_their_bounds(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert any(text.startswith("sqlalchemy") for text in stated_requirements())
    assert found(home, "versions")[0].status == "ok"
    true = upkeep.version
    monkeypatch.setattr(upkeep, "version", lambda name: "2.1.0" if name == "sqlalchemy" else true(name))
    (one,) = found(home, "versions")
    assert one.status == "problem" and "sqlalchemy 2.1.0" in one.found
    words = shlex.split(one.fix)
    assert words[:2] == ["pip", "install"] and "2.1.0" not in Requirement(words[2]).specifier, "without a checkout too"


def test_tokens_are_named_and_never_shown(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in upkeep.SECRETS:
        monkeypatch.setenv(name, f"value-of-{name.lower()}")
    done = run_cogito("doctor").output + run_cogito("doctor", "--json").output
    assert "HF_TOKEN" in done and "WANDB_API_KEY" in done and "value-of" not in done


@pytest.mark.parametrize(
    ("url", "secret", "status"),
    [
        ("http://127.0.0.1:1/api", None, "problem"),
        ("http://me:word@prefect.lab.example:4201/api", None, "warning"),
        ("https://prefect.lab.example/api", None, "warning"),
        ("http://prefect.lab.example/api", "a:b", "warning"),
        ("https://prefect.lab.example/api", "a:b", "ok"),
        ("https://me:word@prefect.lab.example:4201/api", "a:b", "ok"),
    ],
)
def test_servers(home: Home, monkeypatch: pytest.MonkeyPatch, url: str, secret: str | None, status: str) -> None:
    if "127" not in url:
        monkeypatch.setattr("flows.commands.upkeep.why_unhealthy", lambda *_: None)
    monkeypatch.setenv("PREFECT_API_URL", url)
    if secret:
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", secret)
    (one,) = upkeep_commands._server(home)
    assert one.status == status and (one.fix or status == "ok")
    assert urlsplit(url).netloc.removeprefix("me:word@") in one.found and "word@" not in one.found


def test_a_server_that_hangs_is_found_and_ended(home: Home) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    try:
        write_json(home.prefect / "server.json", {"port": 4999, "pid": process.pid, "born": birth(process.pid)})
        (one,) = upkeep_commands._server(home)
        assert one.status == "problem" and str(process.pid) in one.found
        one.clear()
        assert process.wait(10) is not None
        assert next(upkeep_commands._server(home)).status == "ok"
    finally:
        process.kill()
        process.wait()


def test_flow_runs_that_nobody_works_at(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []

    def request(url: str, seconds: float, body: Any = None, *_: Any, **__: Any) -> tuple[int, bytes]:
        asked.append((url, body))
        stuck = {
            "id": "1f",
            "name": "experiment-x",
            "state_type": "RUNNING",
            "state_name": "Running",
            "deployment_id": None,
        }
        for_a_worker = {**stuck, "id": "2e", "state_type": "PENDING", "deployment_id": "3d"}
        return 200, json.dumps([stuck, for_a_worker] if len(asked) == 1 else [stuck]).encode()

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.setattr("flows.commands.upkeep.why_unhealthy", lambda *_: None)
    monkeypatch.setattr("flows.prefect_api._request", request)
    with active(home):
        assert len(list(upkeep_commands._server(home))) == 1
    _, stuck = upkeep_commands._server(home)
    assert stuck.status == "warning" and "experiment-x" in stuck.found
    stuck.clear()
    url, body = asked[-1]
    assert url.endswith("/flow_runs/1f/set_state") and body["state"]["type"] == "CRASHED"


def test_published_models_and_records_keep_their_bytes(lived_in: Home) -> None:
    kept = [
        lived_in.published / RUN_ID / "model.safetensors",
        lived_in.run(RUN_ID).record,
        lived_in.logs / "server.log",
    ]
    before = [file_sha256(path) for path in kept]
    write_json(lived_in.locks / "active-9-9.lock", {})
    run_cogito("doctor", "--fix")
    run_cogito("clean", "--keep", "0")
    assert [file_sha256(path) for path in kept] == before
