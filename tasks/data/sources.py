"""Finding data sets and tokenizers: a local mirror first, then the Hub; every source has a content fingerprint.

A mirror is a folder that holds data sets and tokenizers under their Hub names: `DIR/nyu-mll/glue`. It is named by
`--data-root DIR` or COGITO_DATA_ROOT, and makes everything work without a network.
datasets, fsspec and huggingface_hub are imported late: they take seconds, and most commands need none of them.
"""

import csv
import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.data.hub import hub_api, hub_reachable, is_transient, plain_text
from tasks.data.python_docs import embedded_fingerprint
from tasks.errors import StageError, UserError
from tasks.spec.pretraining import PYTHON_DOCS
from tasks.store.files import content_hash, file_sha256, read_json, write_json, writing
from tasks.store.home import Home, user_path

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger("cogito.sources")

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)

# Longer than any field of a file that fits a disk, and what a C long holds everywhere.
MAX_CSV_FIELD = 2**31 - 1
# The reader of the datasets library for each suffix.
READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".txt": "text"}


@dataclass(frozen=True)
class Source:
    """Where a data set lies, and the identity of its content.

    Attributes:
        name: the name in the experiment file.
        location: a folder or a Hub id; the name itself for the embedded text.
        revision: resolved Hub commit; None for folders.
        fingerprint: changes whenever the content may have changed.
    """

    name: str
    location: str
    revision: str | None
    fingerprint: str


def resolve_data_root(given: str | Path | None) -> Path | None:
    """The mirror of `--data-root`, else of COGITO_DATA_ROOT, else None."""
    value = given or os.environ.get("COGITO_DATA_ROOT")
    if not value:
        return None
    root = user_path(value).resolve()
    if not root.is_dir():
        raise UserError(f"data root {value}: is not a folder; fix: name a folder that holds data sets by Hub name")
    return root


def find_dataset(name: str, home: Home, data_root: Path | None, revision: str | None = None) -> Source:
    """Find a data set by its Hub name.

    Raises:
        UserError: no mirror has it, and the Hub does not have it or cannot be reached.
    """
    if name == PYTHON_DOCS:
        return Source(name, name, None, embedded_fingerprint())
    if folder := _local_folder(name, data_root):
        return Source(name, str(folder), None, _folder_fingerprint(folder, home))
    known = home.cache / "hub_datasets" / f"{content_hash([name, revision])}.json"
    if hub_reachable():
        commit = _hub_commit(name, revision)
        write_json(known, {"name": name, "revision": commit})
    elif known.exists():
        commit = read_json(known)["revision"]
        log.warning("the Hub cannot be reached: using %s as downloaded before, commit %s", name, commit[:12])
    else:
        where = f"in no folder of the data root {data_root}" if data_root else "no data root is given"
        raise UserError(
            f"data set {name!r}: {where} and the Hub cannot be reached; "
            "fix: connect, or mirror it and pass --data-root DIR, where DIR holds a folder of that name"
        )
    return Source(name, name, commit, f"hub:{name}@{commit}")


def load_split(source: Source, config: str | None, split: str, columns: Iterable[str], home: Home) -> "Dataset":
    """One split of a data set as a memory-mapped table.

    Raises:
        UserError: the configuration, split or a column does not exist, or a file cannot be read.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        with writing(home.cache):
            folder = source.location if source.revision is None else _download(source, config, home)
            cache = str(home.cache / "datasets")
            _check_csv_rows(source.name, datasets.load_dataset_builder(folder, config, cache_dir=cache))
            table = datasets.load_dataset(folder, config, split=split, cache_dir=cache)
    except (StageError, UserError):
        raise
    except Exception as error:
        if is_transient(error):
            raise  # the stage retries
        if isinstance(error, datasets.exceptions.DatasetGenerationError):
            raise UserError(f"data set {source.name!r}: {_name_broken_file(Path(folder), error)}") from error
        lines = [str(reason or "").strip().partition("\n")[0] for reason in (error, error.__cause__)]
        text = ": ".join(filter(None, lines))[:600] or type(error).__name__
        raise UserError(
            f"data set {source.name!r} (configuration {config}, split {split}): {text}; "
            "fix: state another configuration or split, or mirror the data set again"
        ) from error
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise UserError(
            f"data set {source.name!r}: has no column {', '.join(missing)}; allowed: {', '.join(table.column_names)}"
        )
    return table


def _check_csv_rows(source: str, builder: Any) -> None:
    """Refuse a row of another width than its header, which pandas would shift or fill without a word."""
    import fsspec

    config = builder.config
    if builder.name != "csv" or config.skiprows or config.comment or config.lineterminator or len(config.sep) != 1:
        return  # no CSV, or a dialect from its README that the csv module cannot read
    csv.field_size_limit(MAX_CSV_FIELD)
    names = ("quotechar", "quoting", "doublequote", "escapechar", "skipinitialspace")
    dialect = {"delimiter": config.sep} | {name: getattr(config, name) for name in names}
    encoding = {"encoding": config.encoding or "utf-8", "errors": "replace"}  # pandas reports what is not valid
    for path in chain.from_iterable(config.data_files.values()):
        with fsspec.open(path, "rt", compression="infer", newline="", **encoding) as file:
            rows = csv.reader(file, **dialect)
            width = len(config.names or ())
            for row in filter(lambda row: len(row) > 1 or "".join(row).strip(), rows):  # pandas skips blank lines
                width = width or len(row)
                if len(row) != width:
                    raise UserError(
                        f"data set {source!r}: {path}:{rows.line_num}: has {len(row)} fields, the header {width}; "
                        "fix: put a field with commas or line breaks in quotes, or add the missing field"
                    )


def _name_broken_file(folder: Path, error: BaseException) -> str:
    """Name the file that cannot be read, and why. The library reports neither, so the files are read one by one."""
    import datasets

    for path in sorted(folder.rglob("*")):
        if (reader := READERS.get(path.suffix)) and path.is_file():
            try:
                for _ in datasets.load_dataset(reader, data_files=str(path), split="train", streaming=True):
                    pass
            except Exception as reason:
                text = (str(reason.__cause__ or reason).splitlines() or [type(reason).__name__])[0]
                return f"{path}: corrupt: {text}; fix: copy it again, or delete it if it was downloaded"
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{folder}: cannot be read: {(str(error).splitlines() or [type(error).__name__])[0]}"


def find_tokenizer(name: str, home: Home, data_root: Path | None) -> Path:
    """The folder with a tokenizer's files, by its Hub name or path.

    Raises:
        UserError: no mirror has it, and the Hub does not have it or cannot be reached.
    """
    if folder := _local_folder(name, data_root):
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"tokenizer {folder}: has no tokenizer.json; fix: save a fast tokenizer there")
        return folder
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        with writing(home.cache / "hub"):
            return _snapshot(name, home, allow_patterns=list(TOKENIZER_FILES))
    except LocalEntryNotFoundError:
        raise UserError(
            f"tokenizer {name!r}: not in the data root and the Hub cannot be reached; "
            "fix: connect, pass --data-root DIR with a folder of that name, or set data.train_tokenizer_vocab_size"
        ) from None
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(f"tokenizer {name!r}: the Hub has no such repository ({type(error).__name__})") from None


def tokenizer_fingerprint(folder: Path) -> str:
    """The identity of a tokenizer: the content of its files, wherever they lie."""
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return content_hash({name: file_sha256(folder / name) for name in present})


def _local_folder(name: str, data_root: Path | None) -> Path | None:
    """The folder of a data set or tokenizer in the mirror, or at the path itself."""
    folders = [data_root / name] if data_root else []
    return next((folder.resolve() for folder in [*folders, Path(name)] if folder.is_dir()), None)


def _snapshot(repo: str, home: Home, **options: Any) -> Path:
    """Download files of a Hub repository into the cache; without a network, those of an earlier download."""
    cache, offline = home.cache / "hub", not hub_reachable()
    return Path(hub_api().snapshot_download(repo, cache_dir=cache, local_files_only=offline, **options))


def _download(source: Source, config: str | None, home: Home) -> str:
    """The files of a Hub data set at its commit, as a folder that reads like a mirror.

    If the data set keeps its configurations in folders, only the folder of the requested one is downloaded.
    """
    fetch = partial(_snapshot, source.location, home, repo_type="dataset", revision=source.revision)
    if config is not None:
        folder = fetch(allow_patterns=["*.md", f"{config}/*", f"*/{config}/*"])
        if any(path.suffix != ".md" for path in folder.rglob("*") if path.is_file()):
            return str(folder)
    return str(fetch())


def _hub_commit(name: str, revision: str | None) -> str:
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(hub_api().dataset_info(name, revision=revision).sha)
    except RevisionNotFoundError:
        raise UserError(f"data set {name!r}: the Hub has no revision {revision!r} of it") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"data set {name!r}: not in the data root, and the Hub has no such data set (or it is private: log in)"
        ) from None
    except Exception as error:
        if is_transient(error):
            raise
        raise UserError(f"data set {name!r}: the Hub refuses it: {type(error).__name__}: {plain_text(error)}") from None


def _folder_fingerprint(folder: Path, home: Home) -> str:
    """The hash of all files of a folder. Hashes are cached by path, size and time, so that large mirrors stay quick."""
    memory = home.cache / "fingerprints" / f"{content_hash(str(folder))}.json"
    try:
        known = read_json(memory)
    except (OSError, ValueError):
        known = {}
    current = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            name, status = inside.as_posix(), path.stat()
            stamp, old = f"{status.st_size}-{status.st_mtime_ns}", known.get(name)
            current[name] = old if old and old["stamp"] == stamp else {"stamp": stamp, "sha256": file_sha256(path)}
    if not current:
        raise UserError(f"data set folder {folder}: is empty")
    if current != known:
        write_json(memory, current)
    lines = "".join(f"{name} {facts['sha256']}\n" for name, facts in current.items())
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
