"""Finding a checkpoint by the name that a user gives (a run, a folder, a Hub id), and checking it before any work.

Example: `resolve_checkpoint("someone/perceiver_mlm_H512L6C128_20260208_211633@main", cogito_home())`.
No weights are loaded here: safetensors compares the header of a file with its size. transformers and torch, which would
slow the command, are imported inside functions.
"""

import hashlib
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from urllib.parse import quote

from safetensors import SafetensorError, safe_open

from models.bounds import check_config, split_hub_id
from models.family import LEGACY_MODEL_TYPES, MODEL_TYPE, VARIANTS
from models.weight_files import CheckpointError, UnfitError, WeightFiles, find_weight_files, found_instead
from tasks.data.hub import hub_api, hub_reachable, is_transient, plain_text
from tasks.errors import UserError, unknown_name
from tasks.store.files import (
    built_once,
    check_manifest,
    disk_full,
    file_sha256,
    is_safe_name,
    read_json,
    remove_tree,
    write_atomic,
)
from tasks.store.home import Home, RunFolder, user_path
from tasks.store.records import Checkpoint, load_record
from tasks.store.run_names import run_called

CHECKPOINT_SUFFIXES = {".json", ".safetensors", ".py", ".txt", ".model", ".jinja"}
# What is downloaded of a checkpoint.
CHECKPOINT_FILES = [*(f"*{suffix}" for suffix in CHECKPOINT_SUFFIXES), "pytorch_model*.bin", "*.md", "*.png"]

Origin = Literal["run", "local", "hub"]

_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_checkpoint(name: str, home: Home, data_root: Path | None = None) -> Checkpoint:
    """Find a checkpoint, bring it to this machine's disk and check it.

    Args:
        name: a run, a folder (or one of that name under `data_root`), or a Hub id `account/name[@revision]`. A run is
            named by its id; where no folder has that name, also as `run_called` takes it.
        home: where runs lie and downloads are kept.
        data_root: a folder that is searched for the name before the Hub is.

    Raises:
        UserError: there is no such checkpoint, it is corrupt, or it is of another kind of model.
        Exception: a transient error of the network or the Hub (`tasks.data.hub.is_transient`), raised as it is.
    """
    if not name.strip():
        raise UserError("checkpoint: got an empty name; allowed: a run id, a folder, or account/name[@revision]")
    if is_safe_name(name) and _is_folder(home.root / "runs" / name):
        return _from_run(home.run(name))
    places = [user_path(name)]
    if data_root is not None and ".." not in Path(name).parts:
        places.append(data_root / name)
    if is_safe_name(name):
        places.append(home.published / name)
    for place in places:
        if _is_folder(place):
            folder = place.resolve()
            run_id = folder.name if folder.parent == home.published.resolve() else None
            return _describe(folder, name=folder.name, origin="local", run_id=run_id)
    run = run_called(name, home)
    return _from_run(run) if run else _from_hub(name, home)


def check_safetensors(path: Path) -> None:
    """Check that a safetensors file is whole: its header is valid, and its tensors fill the file exactly.

    Raises:
        UserError: it is truncated, or its header is not what the format says.
    """
    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        reason = " ".join(str(error).removeprefix("Error while deserializing header: ").split())[:300]
        raise _corrupt(path, f"truncated, or not safetensors ({reason})") from None


@contextmanager
def reading(checkpoint: str) -> Iterator[None]:
    """Turn what `models` reports of a corrupt checkpoint into a message for the user that names it.

    Raises:
        UserError: its weights do not fit its configuration, one of them cannot be read, or it is of no use here.
    """
    try:
        yield
    except UnfitError as error:
        raise UserError(f"checkpoint {checkpoint}: {error}") from None
    except CheckpointError as error:
        raise UserError(f"checkpoint {checkpoint}: corrupt: {error}; fix: copy or download it again") from None


def _corrupt(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: corrupt: {reason}; fix: copy or download the checkpoint again")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long for this file system
        return False


def _from_run(run: RunFolder) -> Checkpoint:
    run_id, record = run.run_id, load_record(run)
    if record.kind == "evaluation" and record.checkpoint is not None:
        origin = record.checkpoint.model_dump(include={"name", "origin", "revision", "run_id"})
        return _describe(record.checkpoint.folder, **origin)
    if record.pretraining is None:
        raise UserError(
            f"run {run_id}: has no finished checkpoint (its status is {record.status}); "
            "fix: run its experiment again, it continues where it stopped"
        )
    stated, own = record.pretraining.model, run.pretraining / "model"
    # A home that was moved or copied holds the model elsewhere than its record states.
    return _describe(stated if _is_folder(stated) else own, name=run_id, origin="run", run_id=run_id)


def _describe(
    folder: Path, *, name: str, origin: Origin, revision: str | None = None, run_id: str | None = None
) -> Checkpoint:
    """Check a folder, cheap checks first, and describe it."""
    if not _is_folder(folder):
        raise UserError(f"{folder}: the folder of checkpoint {name} is gone; fix: name another checkpoint")
    try:
        config = _read_config(folder, name)
        with reading(name):
            weights = find_weight_files(folder)
        for file in weights.files:
            if weights.packed:
                check_safetensors(file)
        stated_run = config.get("run_id")
        return Checkpoint(
            name=name,
            folder=folder,
            origin=origin,
            revision=revision,
            variant=_variant(folder, config, name),
            weights_sha256=_checked_hash(folder, weights),
            config_sha256=file_sha256(folder / "config.json"),
            family="plain" if _is_plain(config) else "concept",
            run_id=run_id or (stated_run if isinstance(stated_run, str) else None),
        )
    except OSError as error:
        raise UserError(f"{folder}: checkpoint {name} cannot be read: {error}; fix: copy it again") from None


def _checked_hash(folder: Path, weights: WeightFiles) -> str:
    """The SHA-256 of the weights, of shards that of all their own; a manifest is compared with every file first."""
    manifest = folder / "manifest.json"
    stated: dict[str, Any] = {}
    try:
        if manifest.is_file():
            check_manifest(folder)
            stated = read_json(manifest)["files"]
        own = [str(stated[path.name]["sha256"]) if path.name in stated else file_sha256(path) for path in weights.files]
    except (KeyError, TypeError, AttributeError):
        raise _corrupt(manifest, "is not a list of files with size and sha256") from None
    return own[0] if weights.index is None else hashlib.sha256("".join(own).encode()).hexdigest()


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: is not a checkpoint: it has no config.json{found_instead(folder)}")
    try:
        config = read_json(path)
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, f"is not readable JSON ({error})") from None
    if not isinstance(config, dict):
        raise _corrupt(path, "is not a JSON object")
    if "model_type" not in config and (folder / "modules.json").is_file():
        raise UserError(f"{folder}: config.json is that of sentence-transformers{found_instead(folder)}")
    _check_kind(config, name)
    return config


def _check_kind(config: dict[str, Any], name: str) -> None:
    kind = config.get("model_type")
    try:
        check_config(config, strict=kind in (MODEL_TYPE, *LEGACY_MODEL_TYPES))
    except ValueError as error:
        raise UserError(f"checkpoint {name}: its config.json: {error}; fix: copy or download it again") from None
    if kind in LEGACY_MODEL_TYPES or _is_plain(config):
        return
    variant = config.get("variant")
    if kind != MODEL_TYPE or variant is None:
        allowed = ", ".join(map(repr, (MODEL_TYPE, *LEGACY_MODEL_TYPES)))
        near = get_close_matches(kind.lower() if isinstance(kind, str) else "", _foreign_types(), n=1, cutoff=0.8)
        fix = f"did you mean {near[0]}?" if near else "state it in config.json"
        raise UserError(
            f"checkpoint {name}: its config.json has model_type {kind!r}; allowed: {allowed}, the first with a "
            f"variant, or a model_type of transformers; fix: {fix}"
        )
    if not isinstance(variant, str) or variant not in VARIANTS:
        raise UserError(f"checkpoint {name}: {unknown_name('variant', variant, VARIANTS)}")


def _is_plain(config: dict[str, Any]) -> bool:
    """Whether this is an encoder of transformers, without concepts."""
    kind = config.get("model_type")
    return isinstance(kind, str) and kind not in (MODEL_TYPE, *LEGACY_MODEL_TYPES) and kind in _foreign_types()


def _foreign_types() -> Collection[str]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return CONFIG_MAPPING_NAMES.keys()


def _variant(folder: Path, config: dict[str, Any], name: str) -> str:
    """What a checkpoint was pretrained as; for the earlier code this is read off the weights."""
    if config["model_type"] not in LEGACY_MODEL_TYPES:
        return str(config["model_type" if _is_plain(config) else "variant"])
    from models.checkpoints import read_checkpoint

    with reading(name):
        return str(read_checkpoint(folder).config.variant)


def _from_hub(name: str, home: Home) -> Checkpoint:
    hub = split_hub_id(name)
    near = get_close_matches(name, [path.name for path in home.runs.glob("*")], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    # A name without an account may be one of the Hub's oldest models, but is more likely a mistyped run id.
    if hub is None or (near and "/" not in name):
        raise UserError(
            f"checkpoint {name!r}: {hint}neither a run id, a folder, nor a Hub id; "
            "allowed: a run id of `cogito runs`, a folder, or account/name[@revision]"
        )
    repo, revision = hub[0], hub[1] or "main"
    kept = home.cache / "checkpoints" / repo.replace("/", "--")
    commit = _resolve_revision(name, repo, revision, kept)
    if not (kept / commit).is_dir():
        with TemporaryDirectory() as place:  # a model of another kind must neither cost gigabytes nor begin a home
            _download(name, repo, commit, ["config.json", "adapter_config.json", "modules.json"], Path(place))
            if not Path(place, "config.json").is_file():
                hint = found_instead(Path(place)) if any(Path(place).iterdir()) else "; fix: name a model's"
                raise UserError(f"checkpoint {name!r}: the Hub's repository has no config.json{hint}")
            _read_config(Path(place), name)
    fetch = partial(_download, name, repo, commit, CHECKPOINT_FILES)
    built_once(home.lock(f"checkpoint-{kept.name}"), kept / commit, fetch, manifest=False)
    if commit != revision:
        write_atomic(kept / "refs" / quote(revision, safe=""), commit)
    return _describe(kept / commit, name=repo, origin="hub", revision=commit)


def _resolve_revision(name: str, repo: str, revision: str, kept: Path) -> str:
    """The commit of a revision: by request to the Hub, or offline that of the last request."""
    reference = kept / "refs" / quote(revision, safe="")
    if _COMMIT.fullmatch(revision) and (kept / revision).is_dir():
        return revision
    if not hub_reachable():
        if reference.is_file() and (kept / reference.read_text()).is_dir():
            return reference.read_text()
        raise UserError(
            f"checkpoint {name!r}: neither a run id, a folder, nor reachable on the Hub (offline); fix: name a run of "
            "`cogito runs` or a folder, or connect to the Hub"
        )
    try:
        commit = str(hub_api().model_info(repo, revision=revision).sha)
    except Exception as error:
        raise _hub_problem(name, error) from None
    return commit


def _download(name: str, repo: str, commit: str, patterns: list[str], folder: Path) -> None:
    """Download files of one commit."""
    try:
        hub_api().snapshot_download(
            repo, revision=commit, local_dir=folder, allow_patterns=patterns, ignore_patterns=["*/*"]
        )
    except Exception as error:
        raise _hub_problem(name, error) from None
    remove_tree(folder / ".cache")


def _hub_problem(name: str, error: Exception) -> Exception:
    """What to raise for an error of the Hub: a transient error itself, otherwise one clear message."""
    if is_transient(error) or disk_full(error):
        return error
    reasons = {
        "RevisionNotFoundError": "the Hub has this repository, not this revision; fix: name a branch, tag or commit",
        "GatedRepoError": "access to it is gated; fix: request access on its page and set HF_TOKEN",
        "RepositoryNotFoundError": "neither a run id nor a folder, and the Hub has no such repository or your token "
        "may not see it; fix: check the name, and set HF_TOKEN if it is private",
    }
    kinds = [kind.__name__ for kind in type(error).__mro__]
    reason = next((reasons[kind] for kind in kinds if kind in reasons), plain_text(error))
    return UserError(f"checkpoint {name!r}: {reason}")
