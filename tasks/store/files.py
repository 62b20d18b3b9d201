"""Files and folders that other processes read: atomic writes, hashes, manifests and safe names.

Each is written in full under another name and then renamed, so a reader sees either the old content or the new.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from filelock import BaseFileLock

from tasks.errors import StageError, UserError

log = logging.getLogger("cogito.run_folder")

MAX_JSON_CHARACTERS = 256 * 2**20
MAX_NAME_BYTES = 255
# Names that Windows reserves for devices, with any suffix.
RESERVED_NAMES = {"con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(1, 10))}
# No space, quota exceeded, file size limit exceeded.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Rust, numpy and torch report a full disk only in their messages; numpy and torch say merely that a write fell short.
_FULL_WORDS = re.compile(
    r"No space left on device|Not enough disk space|\(os error (27|28|122)\)|\d+ requested and \d+ written"
    r"|PytorchStreamWriter failed writing|inline_container\.cc\S* \. unexpected pos|iostream error"
)


def disk_full(error: BaseException) -> bool:
    """Whether an error, or one of its causes, means that a disk is full, whichever library raised it."""
    seen: BaseException | None = error
    while seen is not None:
        if (isinstance(seen, OSError) and seen.errno in _FULL) or _FULL_WORDS.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk into one error that names `path`; let every other error pass.

    The operating system names the file when opening it fails, but not when a write fails.

    Raises:
        StageError: the disk is full.
    """
    try:
        yield
    except (UserError, StageError):
        raise  # already names the file
    except Exception as error:
        if not disk_full(error):
            raise
        raise StageError(
            f"{path}: cannot be written: no space left on device, or a quota or a limit on file sizes is reached; "
            "fix: make room, then run the same command again: what is finished stays"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, and rename it to `path` on success; on an error the old file stays."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file in full, then rename it into place; on any error the old file stays as it was."""
    with replacing(path) as part, part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON with `write_atomic`; what JSON does not know is written as text."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, nested too deeply, or larger than any file that Cogito writes.
    """
    with path.open(encoding="utf-8") as file:
        text = file.read(MAX_JSON_CHARACTERS + 1)  # bounded even for /dev/zero
    if len(text) > MAX_JSON_CHARACTERS:
        raise ValueError(f"it has more than {MAX_JSON_CHARACTERS:,} characters")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_safe_name(name: str) -> bool:
    """Whether a name is one path component on every system: no `..`, separator, drive, device or control character.

    Names come from specs, logs, records and archives, which are not trusted.
    """
    stem = name.partition(".")[0].casefold()
    return (
        0 < len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES
        and not re.search(r'[\x00-\x1f\x7f/\\:*?"<>|\ud800-\udfff]', name)
        and name.strip(" ") == name
        and not name.endswith(".")
        and stem not in RESERVED_NAMES
    )


def public_name(text: str) -> str:
    """The last part of a text that is a path of this machine, which may be shown to others; any other text as it is."""
    is_path = text.startswith(("~", "/", "./", "../", "file:")) or PureWindowsPath(text).is_absolute()
    return PurePosixPath(text.replace("\\", "/")).name if is_path else text


def content_hash(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`, and rename it to `target` on success; no reader sees half a folder."""
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    with writing(target):
        try:
            part.mkdir(parents=True)
            yield part
            if target.exists():
                remove_tree(target)
            part.replace(target)
        finally:
            if part.exists():
                remove_tree(part)


def built_once(lock: BaseFileLock, target: Path, build: Callable[[Path], object], *, manifest: bool = True) -> bool:
    """Build a folder of a cache unless it is complete; of several processes that need it, one builds it.

    Args:
        lock: held while the folder is checked and built; the caller may hold it already.
        build: writes the content into the empty folder that it is given, which is then renamed to `target`.
        manifest: list the files in a manifest, by which a broken folder is noticed and built again. Without it a
            folder that exists is complete.

    Returns:
        Whether the folder was complete already.
    """
    with lock:
        if is_complete(target) if manifest else target.is_dir():
            return True
        with building(target) as part:
            build(part)
            if manifest:
                write_manifest(part)
    return False


def remove_tree(path: Path) -> None:
    """Remove a folder with everything in it; what cannot be removed is left."""
    shutil.rmtree(path, ignore_errors=True)


def write_manifest(folder: Path) -> None:
    """List every file of a folder with its size and SHA-256; written last, it marks the folder complete."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    write_json(folder / "manifest.json", {"files": files})


def is_complete(folder: Path) -> bool:
    """Whether a cached folder agrees with its manifest in names and sizes; a broken one causes a warning."""
    if not (folder / "manifest.json").exists():
        return False
    try:
        check_manifest(folder, hashes=False)
    except UserError as error:
        log.warning("%s; it is built again", error)
        return False
    return True


def check_manifest(folder: Path, *, hashes: bool = True) -> None:
    """Compare a folder with its manifest.

    Raises:
        UserError: a file is missing, or its size or hash differs.
    """
    manifest = folder / "manifest.json"
    try:
        files = {
            str(name): {"size": int(facts["size"]), "sha256": str(facts["sha256"])}
            for name, facts in read_json(manifest)["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{manifest}: not a readable manifest ({error}); fix: publish or copy the folder again"
        ) from error
    for name, facts in files.items():
        path = Path(os.path.normpath(folder / name))
        if not path.is_relative_to(os.path.normpath(folder)):
            raise UserError(f"{manifest}: names a file outside its folder: {name!r}; fix: copy the folder again")
        if not path.is_file():
            raise UserError(f"{folder}: corrupt: {name} is missing though its manifest lists it; fix: copy it again")
        if path.stat().st_size != facts["size"]:
            raise UserError(
                f"{folder}: corrupt: {name} has {path.stat().st_size} bytes, its manifest says {facts['size']}; "
                "fix: copy it again"
            )
        if hashes and file_sha256(path) != facts["sha256"]:
            raise UserError(f"{folder}: corrupt: the SHA-256 of {name} is not its manifest's; fix: copy it again")
