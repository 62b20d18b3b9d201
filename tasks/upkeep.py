"""What is wrong with this machine and its COGITO_HOME, what was left behind, and what may go to free disk.

Example: `cogito doctor --fix`, `cogito clean --dry-run`. Records, predictions, published models and logs are never
touched. Nothing is taken for left behind while its owner lives: owners hold file locks, which end with them.
"""

import os
import shutil
import stat
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import psutil
from filelock import FileLock, Timeout
from packaging.requirements import Requirement

from tasks.data.sources import resolve_data_root
from tasks.errors import UserError
from tasks.jobs.devices import visible_devices
from tasks.jobs.launch import end_process_tree
from tasks.log.experiment_log import check_log_place, default_log
from tasks.processes import owner_lives
from tasks.secrets import SECRETS
from tasks.store.files import check_manifest, remove_tree
from tasks.store.home import PRIVATE, Home, RunFolder
from tasks.store.locks import active_locks, hold_at_once
from tasks.store.records import RunRecord, load_record

Status = Literal["ok", "warning", "problem"]
GIGABYTE = 10**9
LITTLE_DISK, SCARCE_DISK = 20 * GIGABYTE, 2 * GIGABYTE
# Caches that are made again from what lies here already; downloads and corpora take a network or hours.
CACHES = ("tasks", "datasets", "fingerprints", "publishing")
# A file that is being written is younger than this, whoever writes it.
SETTLED_SECONDS = 3600


@dataclass(frozen=True)
class Finding:
    """One line of `cogito doctor`.

    Attributes:
        found: what is so.
        fix: what to do about it; empty where nothing is wrong.
        clear: does it, for `--fix`; None where a person must.
    """

    name: str
    status: Status
    found: str
    fix: str = ""
    clear: Callable[[], object] | None = field(default=None, compare=False)

    def as_json(self) -> dict[str, str | bool]:
        return {
            "name": self.name,
            "status": self.status,
            "found": self.found,
            "fix": self.fix,
            "can_be_cleared": self.clear is not None,
        }


@dataclass(frozen=True)
class Waste:
    """A file or folder that can go."""

    path: Path
    why: str
    size: int

    def as_json(self) -> dict[str, str | int]:
        return {"path": str(self.path), "why": self.why, "bytes": self.size}


def examine(home: Home) -> list[Finding]:
    """All that can be seen without a server, the most basic first."""
    return [
        *_home(home),
        *_log(),
        *_disk(home),
        *_devices(),
        *_versions(),
        *_tokens(),
        *_mirror(),
        *_orphans(home),
        *_locks(home),
        *_parts(home),
        *_caches(home),
        *_silent_runs(home),
    ]


def find_waste(home: Home, keep: int) -> list[Waste]:
    """What `cogito clean` removes.

    Args:
        keep: training states that stay with a finished run; the last one mends a model that is no longer whole.

    Raises:
        UserError: a run is active, or `keep` is negative.
    """
    if keep < 0:
        raise UserError(f"--keep {keep}: allowed: 0 and more; fix: --keep 1")
    if active := active_locks(home):
        raise UserError(
            f"{home.root}: a run is active ({active[0].name}); nothing was removed; fix: wait for its end, or stop it"
        )
    found = [Waste(path, "left by a process that died", size_of(path)) for path in left_parts(home)]
    for run, record in _records(home):
        if record.status == "complete":
            states = sorted((run.pretraining / "checkpoints").glob("step-*"))
            old = states[: len(states) - keep]
            found += [Waste(path, "training state of a finished run", size_of(path)) for path in old]
    for name in CACHES:
        folder = home.root / "cache" / name
        if folder.is_dir() and not folder.is_symlink() and any(folder.iterdir()):
            found.append(Waste(folder, "cache, made again when needed", size_of(folder)))
    found += [Waste(path, "half-built, made again when needed", size_of(path)) for path, _ in _half_built(home)]
    outer = {one.path for one in found}
    return [one for one in found if not outer.intersection(one.path.parents)]


def remove(waste: list[Waste]) -> int:
    """Remove all of it; the bytes that were freed."""
    remove_paths([one.path for one in waste])
    return sum(one.size for one in waste if not one.path.exists())


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file() and not one.is_symlink()]
    return sum(one.lstat().st_size for one in files)


def left_parts(home: Home) -> list[Path]:
    """Files and folders that were being written when their process died: all while nothing runs, else the old ones."""
    busy, now = bool(active_locks(home)), time.time()
    parts = sorted(path for path in home.root.rglob(".*.part") if not path.is_symlink())
    settled = [path for path in parts if not busy or now - path.stat().st_mtime > SETTLED_SECONDS]
    return [path for path in settled if not set(parts).intersection(path.parents)]


# The findings


def _home(home: Home) -> Iterator[Finding]:
    root = home.root
    try:
        probe = home.locks / f".doctor-{os.getpid()}"
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        yield Finding("home", "problem", f"{root}: cannot be written to ({error.strerror})", "name another COGITO_HOME")
        return
    mode = stat.S_IMODE(root.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        yield Finding(
            "home",
            "warning",
            f"{root}: others of this machine may look into it (mode {mode:04o})",
            f"chmod 0700 {root}",
            lambda: root.chmod(PRIVATE),
        )
    else:
        yield Finding("home", "ok", f"{root}, {size_of(root) / GIGABYTE:.2f} GB")


def _log() -> Iterator[Finding]:
    path = default_log()
    try:
        check_log_place(path)
        yield Finding("log", "ok", str(path) if path.exists() else f"{path}, which is not there yet")
    except UserError as error:
        found, _, fix = str(error).partition("; fix: ")
        yield Finding("log", "problem", found, fix or "name another with COGITO_LOG")


def _disk(home: Home) -> Iterator[Finding]:
    free = shutil.disk_usage(home.root).free
    status: Status = "problem" if free < SCARCE_DISK else "warning" if free < LITTLE_DISK else "ok"
    yield Finding(
        "disk", status, f"{free / GIGABYTE:.1f} GB free", "" if status == "ok" else "`cogito clean`, or more disk"
    )


def _devices() -> Iterator[Finding]:
    devices = visible_devices()
    kind = "GPUs" if devices[0].kind == "cuda" else "shares of the CPU, no GPU"
    yield Finding("devices", "ok", f"for jobs: {len(devices)} {kind}")


def _versions() -> Iterator[Finding]:
    wrong = []
    for text in stated_requirements():
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(wanted.name)
        except PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(have, prereleases=True):
            wrong.append(f"{wanted.name} {have}, allowed {wanted.specifier}")
    if wrong:
        yield Finding("versions", "problem", "; ".join(wrong), "pip install -c constraints.txt -e .")
    else:
        yield Finding("versions", "ok", "all within the bounds of pyproject.toml")


def stated_requirements() -> list[str]:
    """What pyproject.toml asks for: from the file where this is a checkout, else as it was installed."""
    file = Path(__file__).parents[1] / "pyproject.toml"
    if file.is_file():
        return list(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"])
    try:
        return requires("cogito") or []
    except PackageNotFoundError:
        return []


def _tokens() -> Iterator[Finding]:
    from huggingface_hub import get_token

    present = [name for name in SECRETS if os.environ.get(name)]
    if get_token() and "HF_TOKEN" not in present:
        present.append("Hugging Face login")
    yield Finding("tokens", "ok", f"present: {', '.join(present)}" if present else "none is set")


def _mirror() -> Iterator[Finding]:
    try:
        root = resolve_data_root(None)
    except UserError as error:
        yield Finding("data mirror", "problem", str(error).partition("; fix: ")[0], "mend or unset COGITO_DATA_ROOT")
        return
    if root is not None and not os.access(root, os.R_OK | os.X_OK):
        yield Finding("data mirror", "problem", f"{root}: cannot be read", "mend its rights")
    else:
        yield Finding("data mirror", "ok", str(root) if root else "none (COGITO_DATA_ROOT is not set)")


def _orphans(home: Home) -> Iterator[Finding]:
    orphans = orphan_jobs(home)
    if not orphans:
        yield Finding("jobs", "ok", "none without an owner")
    for process in orphans:
        yield Finding(
            "jobs",
            "problem",
            f"process {process.pid} works for a command that is gone",
            f"kill {process.pid}",
            lambda pid=process.pid: end_process_tree(pid),  # type: ignore[misc]
        )


def orphan_jobs(home: Home) -> list[psutil.Process]:
    """Job processes of this home whose owner is gone. Jobs end by themselves within seconds, unless they hang."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            mine = "tasks.jobs.worker" in words and any(Path(word).is_relative_to(home.root) for word in words[-1:])
            if mine and not owner_lives(process.environ()):
                found.append(process)
        except (psutil.Error, ValueError):
            continue  # gone meanwhile, or another user's
    return found


def _locks(home: Home) -> Iterator[Finding]:
    active = active_locks(home)
    stale = [path for path in sorted(home.locks.glob("active-*.lock")) if path not in active]
    if active:
        yield Finding("locks", "ok", f"a run is active: {', '.join(path.stem for path in active[:5])}")
    if stale:
        yield Finding(
            "locks",
            "warning",
            f"{len(stale)} runs ended without saying so",
            "`cogito doctor --fix`",
            lambda: _remove_locks(stale),
        )
    elif not active:
        yield Finding("locks", "ok", "nobody holds one")


def _remove_locks(paths: list[Path]) -> None:
    """Remove lock files that nobody holds, each while it is held, so that nobody can just take it."""
    for path in paths:
        lock = FileLock(path)
        try:
            with lock.acquire(timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            continue


def _parts(home: Home) -> Iterator[Finding]:
    parts = left_parts(home)
    if not parts:
        yield Finding("half-written files", "ok", "none")
        return
    size = sum(map(size_of, parts))
    shown = ", ".join(path.relative_to(home.root).as_posix() for path in parts[:3])
    yield Finding(
        "half-written files",
        "warning",
        f"{len(parts)}, {size:,} bytes: {shown}{', ...' if len(parts) > 3 else ''}",
        "`cogito doctor --fix`",
        lambda: remove_paths(parts),
    )


def _caches(home: Home) -> Iterator[Finding]:
    broken = list(_half_built(home))
    if not broken:
        yield Finding("caches", "ok", "all whole")
    for path, reason in broken:
        yield Finding(
            "caches",
            "warning",
            f"{path.relative_to(home.root).as_posix()}: {reason}",
            "`cogito doctor --fix`",
            lambda path=path: remove_paths([path]),  # type: ignore[misc]
        )


def _half_built(home: Home) -> Iterator[tuple[Path, str]]:
    """Folders of caches whose manifest is missing or not true; they are built again in any case."""
    if active_locks(home):
        return  # one may be on its way
    for parent in (home.root / "corpora", home.root / "tokenizers", home.root / "cache" / "tasks"):
        for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
            if folder.name.startswith(".") or not folder.is_dir() or folder.is_symlink():
                continue
            try:
                check_manifest(folder, hashes=False)
            except UserError as error:
                yield folder, str(error).partition("; fix: ")[0].removeprefix(f"{folder}: ")


def _silent_runs(home: Home) -> Iterator[Finding]:
    if active_locks(home):
        return  # a run that is said to be running may be this one
    silent = [(run, record) for run, record in _records(home) if record.status == "running"]
    if not silent:
        yield Finding("runs", "ok", "none is said to be running that is not")
    for run, _ in silent:
        yield Finding(
            "runs",
            "warning",
            f"{run.run_id}: is said to be running, and its process is gone",
            "run its experiment again, it continues; or `cogito doctor --fix` calls it failed",
            lambda run=run: _call_failed(run, home),  # type: ignore[misc]
        )


def _call_failed(run: RunFolder, home: Home) -> None:
    with suppress(UserError), hold_at_once(home, run.run_id):  # else somebody has come meanwhile
        record = load_record(run)
        if record.status == "running":
            record.status = "failed"
            record.finished = datetime.now(UTC)
            record.save(run)


def _records(home: Home) -> Iterator[tuple[RunFolder, RunRecord]]:
    """Every run whose record reads."""
    for path in sorted((home.root / "runs").glob("*/record.json")):
        try:
            yield RunFolder(path.parent), load_record(RunFolder(path.parent))
        except UserError:
            continue  # of a later version, or broken: not for us to judge


def remove_paths(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)
