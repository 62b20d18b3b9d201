"""Finding data sets and tokenizers: a local mirror first, then the Hub; every source has a content fingerprint.

A mirror is a folder that holds data sets and tokenizers under their Hub names: `DIR/nyu-mll/glue`. It is named by
`--data-root DIR` or COGITO_DATA_ROOT, and makes everything work without a network.
huggingface_hub is imported late: it takes seconds, and most commands do without it.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from models.tokenizing import TOKENIZER_FILES, holds_tokenizer
from tasks.data.builtin import BUILTIN_CORPORA
from tasks.data.hub import hub_api, hub_endpoint, hub_reachable, is_transient, plain_text
from tasks.errors import UserError
from tasks.store.files import content_hash, file_sha256, read_json, write_json, writing
from tasks.store.home import Home, user_path

log = logging.getLogger("cogito.sources")


@dataclass(frozen=True)
class Source:
    """Where a data set lies, and the identity of its content.

    Attributes:
        name: the name in the experiment file.
        location: a folder or a Hub id; the name itself for the embedded text.
        revision: resolved Hub commit; None for folders.
        fingerprint: changes whenever the content may have changed.
        asked: the revision of the experiment file, such as a branch.
    """

    name: str
    location: str
    revision: str | None
    fingerprint: str
    asked: str | None = None


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
    if name in BUILTIN_CORPORA:
        return Source(name, name, None, BUILTIN_CORPORA[name].fingerprint())
    if folder := local_folder(name, data_root):
        if revision is not None:
            log.warning(
                "data set %r: %s is read as it is; whether it is revision %s is not known", name, folder, revision
            )
        return Source(name, str(folder), None, folder_fingerprint(folder))
    if hub_reachable():
        commit = _hub_commit(name, revision)
    elif (known := _known_commit(name, revision, home)).exists():
        commit = read_json(known)["revision"]
        log.warning("the Hub cannot be reached: using %s as downloaded before, commit %s", name, commit[:12])
    else:
        where = f"in no folder of the data root {data_root}" if data_root else "no data root is given"
        raise UserError(
            f"data set {name!r}: {where} and the Hub cannot be reached; "
            "fix: connect, or mirror it and pass --data-root DIR, where DIR holds a folder of that name"
        )
    return Source(name, name, commit, f"hub:{name}@{commit}", revision)


def _known_commit(name: str, revision: str | None, home: Home) -> Path:
    """The file that holds the commit of a data set that was downloaded last."""
    return home.cache / "hub_datasets" / f"{content_hash([name, revision])}.json"


def find_tokenizer(name: str, home: Home, data_root: Path | None) -> Path:
    """The folder with a tokenizer's files, by its Hub name or path.

    Raises:
        UserError: no mirror has it, and the Hub does not have it or cannot be reached.
    """
    if folder := local_folder(name, data_root):
        if not holds_tokenizer(folder):
            raise UserError(f"tokenizer {folder}: has no tokenizer.json or vocabulary; fix: save a tokenizer there")
        return folder
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        with writing(home.cache / "hub"):
            return _snapshot(name, home, allow_patterns=[*TOKENIZER_FILES, "config.json"])
    except LocalEntryNotFoundError:
        raise UserError(
            f"tokenizer {name!r}: not in the data root and the Hub cannot be reached; "
            "fix: connect, or pass --data-root DIR with a folder of that name"
        ) from None
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"tokenizer {name!r}: the Hub has no such repository ({type(error).__name__}); "
            "fix: check the name, and set HF_TOKEN if it is private"
        ) from None


def local_folder(name: str, data_root: Path | None) -> Path | None:
    """The folder of a data set or tokenizer in the mirror, or at the path itself."""
    folders = [data_root / name] if data_root else []
    return next((folder.resolve() for folder in [*folders, Path(name)] if folder.is_dir()), None)


def download_dataset(source: Source, config: str | None, home: Home) -> Path:
    """The files of a Hub data set at its commit, as a folder that reads like a mirror.

    If the data set keeps its configurations in folders, only the folder of the requested one is downloaded.

    Raises:
        UserError: it is gated, or was not downloaded in full and the Hub cannot be reached.
    """
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    fetch = partial(_snapshot, source.location, home, repo_type="dataset", revision=source.revision)
    if hub_reachable():
        home.create()
        write_json(_known_commit(source.name, source.asked, home), {"name": source.name, "revision": source.revision})
    try:
        with writing(home.cache / "hub"):
            if config is not None:
                folder = fetch(allow_patterns=["*.md", f"{config}/*", f"*/{config}/*"])
                if any(path.suffix != ".md" for path in visible_files(folder)):
                    return folder
            return fetch()
    except GatedRepoError:
        raise UserError(
            f"is gated; fix: accept its terms at {hub_endpoint()}/datasets/{source.location}, and set HF_TOKEN"
        ) from None
    except LocalEntryNotFoundError as error:
        if is_transient(error):
            raise
        raise UserError("was not downloaded in full, and the Hub cannot be reached; fix: connect") from None


def is_downloaded(repo: str, home: Home) -> bool:
    """Whether files of a Hub repository lie in the cache."""
    folder = home.cache / "hub"
    return any(any(folder.glob(f"{kind}--{repo.replace('/', '--')}/snapshots/*")) for kind in ("models", "datasets"))


def _snapshot(repo: str, home: Home, **options: Any) -> Path:
    """Download files of a Hub repository into the cache; without a network, those of an earlier download.

    Of a download that was cut off the client takes nothing: it keeps the list of all files of a commit.
    """
    offline = not hub_reachable()
    if not offline:
        if not home.root.exists():  # what the Hub does not have begins no home
            hub_api().repo_info(repo, repo_type=options.get("repo_type"), revision=options.get("revision"))
        home.create()
    folder = hub_api().snapshot_download(repo, cache_dir=home.cache / "hub", local_files_only=offline, **options)
    if offline and options.get("revision") is None:
        log.warning("the Hub cannot be reached: using %s as downloaded before", repo)
    return Path(folder)


def _hub_commit(name: str, revision: str | None) -> str:
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(hub_api().dataset_info(name, revision=revision).sha)
    except RevisionNotFoundError:
        raise UserError(
            f"data set {name!r}: the Hub has no revision {revision!r} of it; fix: name a branch, tag or commit"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"data set {name!r}: not in the data root, and the Hub has no such data set; "
            "fix: check the name, and set HF_TOKEN if it is private"
        ) from None
    except Exception as error:
        if is_transient(error):
            raise
        raise UserError(
            f"data set {name!r}: the Hub refuses it: {type(error).__name__}: {plain_text(error)}; "
            "fix: check HF_TOKEN and HF_ENDPOINT, or pass --data-root DIR with a folder of that name"
        ) from None


def visible_files(folder: Path) -> Iterator[Path]:
    """The files of a folder, sorted, through links to folders too, but nothing whose name or folder is hidden."""
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        found += [Path(root, name) for name in names if not name.startswith(".")]
    return (path for path in sorted(found) if path.is_file())


def folder_fingerprint(folder: Path) -> str:
    """The hash of the names and the content of all files of a folder.

    Every start reads every file. A table of sizes and times would save it, and would miss a file that was replaced
    with its old time (rsync -t, tar, an image): old rows under a new name, or new ones under an old identity.
    """
    paths = list(visible_files(folder))
    if not paths:
        raise UserError(f"data set folder {folder}: is empty; fix: copy the data set again, or name another folder")
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter
        hashes = pool.map(file_sha256, paths)
        lines = "".join(
            f"{path.relative_to(folder).as_posix()} {sha256}\n" for path, sha256 in zip(paths, hashes, strict=True)
        )
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def check_unchanged(source: Source) -> None:
    """Refuse what was just made from a data set if its files are no longer those of its fingerprint.

    A run reads the data of its tasks after its pretraining, which may be days after the fingerprint was taken.

    Raises:
        UserError: they have changed.
    """
    folder = Path(source.location)
    if folder.is_absolute() and folder_fingerprint(folder) != source.fingerprint:
        raise UserError(
            f"data set {source.name!r}: the files in {folder} have changed since this command began; "
            "fix: run it again when nothing writes there"
        )
