"""Files that others read are whole, run folders are claimed once, and a manifest finds what changed."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from command import ROOT
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import UserError
from tasks.store import home as homes
from tasks.store.files import (
    building,
    built_once,
    check_manifest,
    content_hash,
    read_json,
    write_atomic,
    write_json,
    write_manifest,
)
from tasks.store.home import Home, claim_run, cogito_home


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- atomic writes ---


def test_write_atomic_makes_the_folder_and_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/file.txt"
    write_atomic(path, "Größe\r\n")
    assert path.read_bytes() == "Größe\r\n".encode()
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert names_in(path.parent) == ["file.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old" and names_in(tmp_path) == ["file.txt"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    contents = [json.dumps([number] * 20_000) for number in range(3)]
    write_atomic(path, contents[0])
    finished = threading.Event()

    def write(number: int) -> None:
        for _ in range(15):
            write_atomic(path, contents[number])

    def read() -> int:
        reads = 0
        while not finished.is_set() or reads < 5:
            assert len(set(json.loads(path.read_text()))) == 1
            reads += 1
        return reads

    with ThreadPoolExecutor(3) as pool:
        reader = pool.submit(read)
        try:
            for writer in [pool.submit(write, number) for number in (1, 2)]:
                writer.result()
        finally:
            finished.set()
        assert reader.result() >= 5
    assert names_in(tmp_path) == ["file.json"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
    )
)
def test_json_comes_back_as_written(value: Any) -> None:
    with TemporaryDirectory() as folder:
        write_json(Path(folder) / "a.json", value)
        assert read_json(Path(folder) / "a.json") == value


# --- hashes ---


@given(st.dictionaries(st.text(), st.integers() | st.text(), min_size=2))
def test_a_content_hash_sees_values_and_not_their_order(value: dict[str, Any]) -> None:
    backwards = dict(reversed(value.items()))
    assert content_hash(value) == content_hash(backwards)
    assert len(content_hash(value)) == 16
    first = next(iter(value))
    assert content_hash(value) != content_hash({**value, first: [value[first]]})


def test_a_content_hash_stays_what_it_was() -> None:
    """Stored identities would all change if it did."""
    canonical = b'[1,{"a":"x","b":null}]'
    assert content_hash([1, {"b": None, "a": Path("x")}]) == hashlib.sha256(canonical).hexdigest()[:16]


# --- claims ---


@pytest.fixture
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[], datetime]:
    """A clock that goes on by a tenth of a second whenever a claim waits."""
    now = [datetime(2026, 2, 8, 21, 16, 33, tzinfo=UTC)]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            assert tz is UTC, "a run id tells UTC"
            return now[0]

    def wait(seconds: float) -> None:
        now[0] += timedelta(seconds=0.1)

    monkeypatch.setattr(homes, "datetime", Clock)
    monkeypatch.setattr(homes.time, "sleep", wait)
    return lambda: now[0]


def test_a_run_id_is_prefix_and_utc_second(home: Home, slow_clock: Callable[[], datetime]) -> None:
    run = claim_run(home, "perceiver_mlm_H512L6C128")
    assert run.run_id == "perceiver_mlm_H512L6C128_20260208_211633"
    assert run.root.parent == home.runs and run.root.is_dir()


def test_a_second_claim_of_one_second_gets_the_next(home: Home, slow_clock: Callable[[], datetime]) -> None:
    ids = [claim_run(home, "a").run_id for _ in range(3)]
    assert ids == ["a_20260208_211633", "a_20260208_211634", "a_20260208_211635"]
    assert slow_clock().second == 35, "an id tells the second it was claimed in"
    assert claim_run(home, "b").run_id == "b_20260208_211635"


def test_threads_never_claim_the_same_run(home: Home, slow_clock: Callable[[], datetime]) -> None:
    gate = threading.Barrier(8)

    def claim() -> str:
        gate.wait()
        return claim_run(home, "a").run_id

    with ThreadPoolExecutor(8) as pool:
        ids = [one.result() for one in [pool.submit(claim) for _ in range(8)]]
    assert len(set(ids)) == 8 and names_in(home.runs) == sorted(ids)


CLAIM = """
import sys, time
from pathlib import Path
from tasks.store.home import Home, claim_run

home = Home(Path(sys.argv[1]))
(home.root / f"ready-{sys.argv[2]}").touch()
while len(list(home.root.glob("ready-*"))) < 2:
    time.sleep(0.005)
print(claim_run(home, "a").run_id)
"""


def test_processes_never_claim_the_same_run(home: Home) -> None:
    claims = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(home.root), str(number)], cwd=ROOT, text=True, stdout=subprocess.PIPE
        )
        for number in range(2)
    ]
    ids = [claim.communicate(timeout=60)[0].strip() for claim in claims]
    assert all(ids) and len(set(ids)) == 2 and names_in(home.runs) == sorted(ids)


def test_the_home_is_absolute_wherever_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value, expected in (("there", "there"), ("", ".cogito"), (None, ".cogito")):
        monkeypatch.delenv("COGITO_HOME", raising=False)
        if value is not None:
            monkeypatch.setenv("COGITO_HOME", value)
        assert cogito_home().root == tmp_path.resolve() / expected
    assert names_in(tmp_path) == [], "naming a home makes none"


def test_cells_of_a_run_do_not_share_a_folder(home: Home) -> None:
    run = home.run("a_20260208_211633")
    cells = {
        run.cell(task, seed, start) for task in ("a", "b") for seed in (1, 11) for start in ("checkpoint", "random")
    }
    assert len(cells) == 8 and not run.root.exists()


# --- folders that are built ---


def test_a_built_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "target"
    for content in ("one", "two"):
        with building(target) as part:
            (part / content).write_text(content)
            assert not (target / content).exists()
    assert names_in(target) == ["two"] and names_in(tmp_path) == ["target"]


def test_a_failed_build_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "kept").touch()
    with pytest.raises(RuntimeError), building(target) as part:
        (part / "half").touch()
        raise RuntimeError
    assert names_in(tmp_path) == ["target"] and names_in(target) == ["kept"]


@pytest.mark.parametrize("manifest", [True, False])
def test_a_folder_of_a_cache_is_built_once_even_under_a_lock_that_is_held(
    home: Home, tmp_path: Path, manifest: bool
) -> None:
    target, calls = tmp_path / "target", []

    def build(part: Path) -> None:
        calls.append(part)
        (part / "content").write_text("text")

    lock = home.lock("target")
    assert not built_once(lock, target, build, manifest=manifest)
    with lock:
        assert built_once(lock, target, build, manifest=manifest)
    assert len(calls) == 1 and names_in(target) == (["content", "manifest.json"] if manifest else ["content"])
    (target / "content").write_text("broken")
    assert built_once(lock, target, build, manifest=manifest) is not manifest


# --- manifests ---


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "inner").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(range(100)))
    (folder / "inner/notes.txt").write_text("notes")
    write_manifest(folder)
    check_manifest(folder)
    return folder


def test_a_manifest_lists_every_file_but_itself(listed: Path) -> None:
    write_manifest(listed)
    files = read_json(listed / "manifest.json")["files"]
    assert list(files) == ["inner/notes.txt", "weights.bin"]
    assert files["weights.bin"]["size"] == 100


def test_a_manifest_finds_a_missing_a_shorter_and_a_changed_file(listed: Path) -> None:
    weights = listed / "weights.bin"
    changed = b"\xff" + weights.read_bytes()[1:]
    weights.write_bytes(changed)
    check_manifest(listed, hashes=False)
    with pytest.raises(UserError, match=r"corrupt: the SHA-256 of weights\.bin is not its manifest's; fix: "):
        check_manifest(listed)
    weights.write_bytes(changed[:60])
    for hashes in (True, False):
        with pytest.raises(UserError, match=r"corrupt: weights\.bin has 60 bytes, its manifest says 100; fix: "):
            check_manifest(listed, hashes=hashes)
    weights.unlink()
    with pytest.raises(UserError, match=r"corrupt: weights\.bin is missing though its manifest lists it; fix: "):
        check_manifest(listed, hashes=False)


@pytest.mark.parametrize("content", [None, "", "[]", '{"files": [1]}', '{"files": {"a": {"size": "x", "sha256": ""}}}'])
def test_a_manifest_that_is_none_is_said_to_be_none(listed: Path, content: str | None) -> None:
    manifest = listed / "manifest.json"
    manifest.unlink()
    if content is not None:
        manifest.write_text(content)
    with pytest.raises(UserError, match="not a readable manifest"):
        check_manifest(listed)


@pytest.mark.parametrize("name", ["../secret", "inner/../../secret"])
def test_a_manifest_never_reaches_outside_its_folder(listed: Path, name: str) -> None:
    (listed.parent / "secret").write_text("x")
    write_json(listed / "manifest.json", {"files": {name: {"size": 1, "sha256": "0"}}})
    with pytest.raises(UserError, match="names a file outside its folder"):
        check_manifest(listed)
