"""Where everything lies: every path under COGITO_HOME, atomic writes, exclusive claims.

A file that others read is written whole and then renamed, so a reader sees the old one or the new one.
"""

import errno
import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import StageError, UserError

log = logging.getLogger("cogito.run_folder")

MAX_JSON_CHARACTERS = 256 * 2**20
MAX_NAME_BYTES = 255
# What Windows takes for a device, whatever suffix follows.
RESERVED_NAMES = {"con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(1, 10))}
# No space, a quota used up, a limit on file sizes.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Rust, numpy and torch write by themselves and say it in words: of torch and numpy only that a write fell short.
_FULL_WORDS = re.compile(
    r"No space left on device|Not enough disk space|\(os error (27|28|122)\)|\d+ requested and \d+ written"
    r"|PytorchStreamWriter failed writing|inline_container\.cc\S* \. unexpected pos|iostream error"
)


def disk_full(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that a disk has no room, whichever library noticed."""
    seen: BaseException | None = error
    while seen is not None:
        if (isinstance(seen, OSError) and seen.errno in _FULL) or _FULL_WORDS.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one message that there is no room for `path`; every other error stays what it is.

    The system itself names no file when a write fails, only when an opening does.

    Raises:
        StageError: the disk is full.
    """
    try:
        yield
    except (UserError, StageError):
        raise  # written nearer to the file
    except Exception as error:
        if not disk_full(error):
            raise
        raise StageError(
            f"{path}: cannot be written: no space left on device, or a quota or a limit on file sizes is reached; "
            "fix: make room, then run the same command again: what is finished stays"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Another name in the same folder to write to, renamed to `path` when all went well; else the old file stays."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole, then rename it into place; on any error the old file stays as it was."""
    with replacing(path) as part, part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, nested without end, or larger than any of ours.
    """
    with path.open(encoding="utf-8") as file:
        text = file.read(MAX_JSON_CHARACTERS + 1)  # of /dev/zero too
    if len(text) > MAX_JSON_CHARACTERS:
        raise ValueError(f"it has more than {MAX_JSON_CHARACTERS:,} characters")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_safe_name(name: str) -> bool:
    """Whether a name is one part of a path on every system: no `..`, no separator, drive, device or control character.

    Names come from specs, logs, records and archives that anybody may have written.
    """
    stem = name.partition(".")[0].casefold()
    return (
        0 < len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES
        and not re.search(r'[\x00-\x1f\x7f/\\:*?"<>|\ud800-\udfff]', name)
        and name.strip(" ") == name
        and not name.endswith(".")
        and stem not in RESERVED_NAMES
    )


def content_hash(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Build a folder beside `target` and rename it into place when all went well; nobody sees half a folder."""
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


def remove_tree(path: Path) -> None:
    import shutil

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
    """Whether a folder of a cache is whole by its manifest; a broken one is named in a warning, to be built again."""
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
            raise UserError(f"{manifest}: names a file outside its folder: {name!r}")
        if not path.is_file():
            raise UserError(f"{folder}: corrupt: {name} is missing though its manifest lists it; fix: copy it again")
        if path.stat().st_size != facts["size"]:
            raise UserError(
                f"{folder}: corrupt: {name} has {path.stat().st_size} bytes, its manifest says {facts['size']}; "
                "fix: copy it again"
            )
        if hashes and file_sha256(path) != facts["sha256"]:
            raise UserError(f"{folder}: corrupt: the SHA-256 of {name} is not its manifest's; fix: copy it again")
