"""What is wrong with this machine and its COGITO_HOME, what dead processes left behind, and what may go to free disk.

Example: `cogito doctor --fix`, `cogito clean --dry-run`. Records, predictions, published models and logs are never
touched. Nothing counts as left behind while its owner lives: owners hold file locks, which end with them.
"""

import os
import shutil
import stat
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import psutil
from filelock import FileLock, Timeout
from packaging.requirements import Requirement

from tasks.data.sources import resolve_data_root
from tasks.errors import UserError
from tasks.jobs.devices import visible_devices
from tasks.jobs.gpus import others_use
from tasks.jobs.launch import end_process_tree, job_file
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
# Caches that are rebuilt from what lies here already; downloads and corpora take a network or hours.
CACHES = ("tasks", "datasets", "fingerprints", "publishing")
# A file that is being written is younger than this, whoever writes it.
SETTLED_SECONDS = 3600
FIX = "`cogito doctor --fix`"


@dataclass(frozen=True)
class Finding:
    """One line of `cogito doctor`.

    Attributes:
        found: the state of the thing that `name` names.
        fix: what to do about it; empty where nothing is wrong.
        clear: does it, for `--fix`; None where a person must.
    """

    name: str
    status: Status
    found: str
    fix: str = ""
    clear: Callable[[], object] | None = field(default=None, compare=False)

    def as_json(self) -> dict[str, str | bool]:
        """The finding for --json."""
        facts = {name: getattr(self, name) for name in ("name", "status", "found", "fix")}
        return facts | {"can_be_cleared": self.clear is not None}


@dataclass(frozen=True)
class Waste:
    """A file or folder that can go, and its size in bytes."""

    path: Path
    why: str
    size: int

    def as_json(self) -> dict[str, str | int]:
        """The file or folder for --json."""
        return {"path": str(self.path), "why": self.why, "bytes": self.size}


def examine(home: Home) -> list[Finding]:
    """Everything that can be examined without a server, the most basic first."""
    machine = [*_home(home), *_log(), *_disk(home), *_devices(), *_versions(), *_tokens(), *_mirror()]
    return [*machine, *_orphans(home), *_locks(home), *_parts(home), *_caches(home), *_silent_runs(home)]


def find_waste(home: Home, keep: int) -> list[Waste]:
    """What `cogito clean` removes. The last `keep` training states of a finished run stay: they mend a broken model.

    Raises:
        UserError: a run is active, or `keep` is negative.
    """
    if keep < 0:
        raise UserError(f"--keep {keep}: allowed: 0 and more; fix: --keep 1")
    if active := active_locks(home):
        state = f"a run is active ({active[0].name}); nothing was removed"
        raise UserError(f"{home.root}: {state}; fix: wait for its end, or stop it")
    found = [(path, "left by a process that died") for path in left_parts(home)]
    for run, record in _records(home):
        if record.status == "complete":
            states = sorted((run.pretraining / "checkpoints").glob("step-*"))
            found += [(path, "training state of a finished run") for path in states[: len(states) - keep]]
    for name in CACHES:
        folder = home.root / "cache" / name
        if folder.is_dir() and not folder.is_symlink() and any(folder.iterdir()):
            found.append((folder, "cache, rebuilt when needed"))
    found += [(path, "incomplete, rebuilt when needed") for path, _ in _incomplete(home)]
    outer = {path for path, _ in found}
    return [Waste(path, why, size_of(path)) for path, why in found if not outer.intersection(path.parents)]


def remove(waste: list[Waste]) -> int:
    """Remove all of it; returns the bytes that were freed."""
    remove_paths(item.path for item in waste)
    return sum(item.size for item in waste if not item.path.exists())


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    return sum(file.lstat().st_size for file in files)


def left_parts(home: Home) -> list[Path]:
    """Files and folders that were being written when their process died: all while nothing runs, else the old ones."""
    busy, now = bool(active_locks(home)), time.time()
    parts = sorted(path for path in home.root.rglob(".*.part") if not path.is_symlink())
    settled = [path for path in parts if not busy or now - path.stat().st_mtime > SETTLED_SECONDS]
    return [path for path in settled if not set(parts).intersection(path.parents)]


# The findings


def _home(home: Home) -> Iterator[Finding]:
    root = home.root
    if not root.exists():
        yield Finding("home", "ok", f"{root}, which does not exist yet")
        return
    try:
        home.create()
        probe = home.locks / f".doctor-{os.getpid()}"
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        yield Finding("home", "problem", f"{root}: cannot be written to ({error.strerror})", "name another COGITO_HOME")
        return
    mode = stat.S_IMODE(root.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        found = f"{root}: other accounts of this machine can read it (mode {mode:04o})"
        yield Finding("home", "warning", found, f"chmod 0700 {root}", partial(root.chmod, PRIVATE))
    else:
        yield Finding("home", "ok", f"{root}, {size_of(root) / GIGABYTE:.2f} GB")


def _log() -> Iterator[Finding]:
    path = default_log()
    try:
        check_log_place(path)
        yield Finding("log", "ok", str(path) if path.exists() else f"{path}, which does not exist yet")
    except UserError as error:
        yield Finding("log", "problem", str(error).partition("; fix: ")[0], "name another with --log or COGITO_LOG")


def _disk(home: Home) -> Iterator[Finding]:
    free = shutil.disk_usage(next(folder for folder in (home.root, *home.root.parents) if folder.exists())).free
    status: Status = "problem" if free < SCARCE_DISK else "warning" if free < LITTLE_DISK else "ok"
    fix = "" if status == "ok" else "`cogito clean`, or more disk"
    yield Finding("disk", status, f"{free / GIGABYTE:.1f} GB free", fix)


def _devices() -> Iterator[Finding]:
    try:
        devices = visible_devices()
    except UserError as error:
        found, _, fix = str(error).partition("; fix: ")
        yield Finding("devices", "problem", found, fix or "name those of `nvidia-smi -L`, or --device cpu")
        return
    if devices[0].kind == "cpu":
        yield Finding("devices", "ok", f"for jobs: {len(devices)} shares of the CPU, no GPU")
        return
    yield Finding("devices", "ok", f"for jobs: {len(devices)} GPUs: {', '.join(sorted({d.name for d in devices}))}")
    used = others_use()
    for device in devices:
        if who := used.get(device.uuid):
            found = f"GPU {device.index} is used by others ({who}): jobs leave it to them"
            yield Finding("devices", "warning", found, "end those programs, or leave it out by CUDA_VISIBLE_DEVICES")


def _versions() -> Iterator[Finding]:
    wrong: dict[str, str] = {}
    for text in stated_requirements():
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        needed = f"'{wanted.name}{wanted.specifier}'"
        try:
            installed = version(wanted.name)
        except PackageNotFoundError:
            wrong[needed] = f"{wanted.name} is missing"
            continue
        if not wanted.specifier.contains(installed, prereleases=True):
            wrong[needed] = f"{wanted.name} {installed}, allowed {wanted.specifier}"
    if wrong:
        yield Finding("versions", "problem", "; ".join(wrong.values()), f"pip install {' '.join(wrong)}")
    else:
        yield Finding("versions", "ok", "all within the bounds of pyproject.toml")


def stated_requirements() -> list[str]:
    """The requirements in pyproject.toml: from the file where this is a checkout, else as they were installed."""
    file = Path(__file__).parents[1] / "pyproject.toml"
    if file.is_file():
        return list(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"])
    try:
        return requires("cogito") or []
    except PackageNotFoundError:
        return []


def _tokens() -> Iterator[Finding]:
    from huggingface_hub import get_token  # slow to import

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
        yield Finding("data mirror", "problem", f"{root}: cannot be read", "change its permissions")
    else:
        yield Finding("data mirror", "ok", str(root) if root else "none (COGITO_DATA_ROOT is not set)")


def _or_ok(name: str, text: str, findings: Iterable[Finding]) -> list[Finding]:
    return list(findings) or [Finding(name, "ok", text)]


def _orphans(home: Home) -> list[Finding]:
    def finding(pid: int) -> Finding:
        found = f"process {pid} works for a command that has ended"
        return Finding("jobs", "problem", found, f"kill {pid}", partial(end_process_tree, pid))

    return _or_ok("jobs", "none without an owner", (finding(process.pid) for process in orphan_jobs(home)))


def orphan_jobs(home: Home) -> list[psutil.Process]:
    """Job processes of this home whose command has ended. Jobs end by themselves within seconds, unless they hang."""
    orphans = []
    for process in psutil.process_iter():
        try:
            job = job_file(process)
            if job is not None and job.is_relative_to(home.root) and not owner_lives(process.environ()):
                orphans.append(process)
        except (psutil.Error, ValueError):
            continue  # it ended meanwhile, or belongs to another user
    return orphans


def _locks(home: Home) -> Iterator[Finding]:
    active = active_locks(home)
    stale = [path for path in sorted(home.locks.glob("active-*.lock")) if path not in active]
    if active:
        yield Finding("locks", "ok", f"a run is active: {', '.join(path.stem for path in active[:5])}")
    if stale:
        found = f"{len(stale)} runs were killed before they could end"
        yield Finding("locks", "warning", found, FIX, partial(_remove_locks, stale))
    elif not active:
        yield Finding("locks", "ok", "none is held")


def _remove_locks(paths: list[Path]) -> None:
    """Remove lock files that nobody holds, each while holding it, so that no other process can take it meanwhile."""
    for path in paths:
        with suppress(Timeout), FileLock(path).acquire(timeout=0):
            path.unlink(missing_ok=True)


def _parts(home: Home) -> Iterator[Finding]:
    parts = left_parts(home)
    if not parts:
        yield Finding("half-written files", "ok", "none")
        return
    shown = ", ".join(path.relative_to(home.root).as_posix() for path in parts[:3]) + ", ..." * (len(parts) > 3)
    found = f"{len(parts)}, {sum(map(size_of, parts)):,} bytes: {shown}"
    yield Finding("half-written files", "warning", found, FIX, partial(remove_paths, parts))


def _caches(home: Home) -> list[Finding]:
    def finding(path: Path, reason: str) -> Finding:
        found = f"{path.relative_to(home.root).as_posix()}: {reason}"
        return Finding("caches", "warning", found, FIX, partial(remove_paths, [path]))

    return _or_ok("caches", "all complete", (finding(path, reason) for path, reason in _incomplete(home)))


def _incomplete(home: Home) -> Iterator[tuple[Path, str]]:
    """Cached folders whose manifest is missing or does not match, with the reason; they are rebuilt in any case."""
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


def _silent_runs(home: Home) -> list[Finding]:
    if active_locks(home):
        return []  # a record with status `running` may belong to the run that is active

    def finding(run: RunFolder) -> Finding:
        found = f"{run.run_id}: its record has the status `running`, but its process has ended"
        fix = "run its experiment again, it continues; or `cogito doctor --fix` marks it failed"
        return Finding("runs", "warning", found, fix, partial(_mark_failed, run, home))

    silent = [run for run, record in _records(home) if record.status == "running"]
    return _or_ok("runs", "no record is left with the status `running`", map(finding, silent))


def _mark_failed(run: RunFolder, home: Home) -> None:
    with suppress(UserError), hold_at_once(home, run.run_id):  # else another command has taken it up meanwhile
        record = load_record(run)
        if record.status == "running":
            record.status = "failed"
            record.finished = datetime.now(UTC)
            record.save(run)


def _records(home: Home) -> Iterator[tuple[RunFolder, RunRecord]]:
    """Every run whose record can be read; one that is broken, or of a later version, is left alone."""
    for path in sorted((home.root / "runs").glob("*/record.json")):
        with suppress(UserError):
            yield RunFolder(path.parent), load_record(RunFolder(path.parent))


def remove_paths(paths: Iterable[Path]) -> None:
    """Remove files and folders, whichever they are."""
    for path in paths:
        if path.is_dir():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)
