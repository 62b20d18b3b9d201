"""Publishing a finished checkpoint: to the Hub, or to a directory store when no token is set.

The checkpoint's own files are published, with a model card rendered from the run's record and a manifest with the hash
of every file. A checkpoint counts as published only after it was read back and agreed with that manifest.
huggingface_hub is imported inside functions, because it would slow the command.
"""

import logging
import shutil
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from models.weight_files import SAFETENSORS as WEIGHTS
from tasks.checkpoints.finding import CHECKPOINT_SUFFIXES, check_safetensors
from tasks.data.hub import hub_api, hub_endpoint, hub_offline, is_transient, plain_text
from tasks.errors import StageError, UserError
from tasks.secrets import redact
from tasks.spec.experiment import PublishSpec
from tasks.store.files import (
    building,
    check_manifest,
    file_sha256,
    read_json,
    remove_tree,
    write_atomic,
    write_manifest,
    writing,
)
from tasks.store.home import Home
from tasks.store.records import PublishResult, RunRecord

log = logging.getLogger("cogito.publishing")

CARD = "README.md"
MANIFEST = "manifest.json"
CARD_SECTIONS = ("model", "objective", "data", "training")  # of the spec


def choose_store(spec: PublishSpec) -> Literal["hub", "local"]:
    """Decide where a checkpoint will go, before any work is done.

    Raises:
        UserError: the spec requests the Hub, which cannot be used.
    """
    if spec.store == "local":
        return "local"
    from huggingface_hub import get_token

    token, offline = get_token(), hub_offline()
    if token and not offline:
        return "hub"
    missing = "HF_HUB_OFFLINE is set" if token else "no Hugging Face token is set"
    if spec.store == "hub":
        fix = "unset it" if token else "set HF_TOKEN or run `hf auth login`"
        raise UserError(f"publish.store: got 'hub', but {missing}; fix: {fix}, or state publish.store local or auto")
    return "local"


def publish_checkpoint(model_folder: Path, record: RunRecord, spec: PublishSpec, home: Home) -> PublishResult:
    """Publish a finished checkpoint once; a published checkpoint with the same weights is left as it is.

    Args:
        model_folder: config.json, model.safetensors, tokenizer files and the flat .py files of the remote code.
        record: the run, from which the model card is rendered.

    Raises:
        UserError: the spec requests the Hub, which cannot be used.
        StageError: the checkpoint is not whole, or the store refuses it permanently.
        Exception: a transient error of the network or the Hub (`is_transient`), raised as it is.
    """
    store = choose_store(spec)
    weights_sha256 = _check_finished(model_folder)
    with home.lock(f"publish-{record.run_id}"):
        if store == "local":
            if spec.store == "auto":
                log.info("publishing to the directory store: no Hugging Face token is set, or the Hub is switched off")
            return _publish_locally(model_folder, record, weights_sha256, home)
        try:
            with writing(home.cache / "publishing" / record.run_id):  # where it is staged and read back to
                return _publish_to_hub(model_folder, record, weights_sha256, spec, home)
        except (UserError, StageError):
            raise
        except Exception as error:  # each kind of broken answer raises another: a redirect loop, JSON without a field
            if is_transient(error):
                raise
            raise StageError(_explain_refusal(error)) from None


def render_card(record: RunRecord) -> str:
    """The model card: what the checkpoint is, how to load it, how it was made. A pure rendering of the record.

    It names no machine and no local folder: a data set or tokenizer that was read from a folder is shown by the last
    part of its path.
    """
    from huggingface_hub import ModelCard, ModelCardData

    spec = record.spec
    variant = str(spec.get("model", {}).get("variant", "concept autoencoder"))
    source = record.corpus.dataset if record.corpus else str(spec.get("data", {}).get("dataset", ""))
    card = ModelCard.from_template(
        ModelCardData(
            library_name="transformers",
            tags=["concept-encoder", variant],
            datasets=[source] if _is_hub_id(source) else None,
            license=spec.get("publish", {}).get("license"),
        ),
        template_path=str(Path(__file__).parent / "templates" / "card.md.j2"),
        record=record,
        variant=variant,
        source=public_name(source),
        tables={part.capitalize(): flat_keys(spec.get(part, {})) for part in CARD_SECTIONS},
        public_name=public_name,
        cell=_cell,
    )
    return redact(f"{card}\n")


def _check_finished(model_folder: Path) -> str:
    for name in ("config.json", WEIGHTS):
        if not (model_folder / name).is_file():
            raise StageError(f"{model_folder}: {name} is missing, so there is no finished checkpoint to publish")
    try:
        check_safetensors(model_folder / WEIGHTS)
    except UserError as error:
        raise StageError(f"not published: {error}") from None
    return file_sha256(model_folder / WEIGHTS)


def _assemble(model_folder: Path, record: RunRecord, target: Path) -> None:
    """Fill `target` with all that is published: only known kinds of files, so that no pickle or log slips through."""
    for path in sorted(model_folder.iterdir()):
        if path.name in (CARD, MANIFEST) or not path.is_file():
            continue
        if path.suffix in CHECKPOINT_SUFFIXES and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)
        else:
            log.warning("not published, because it is not part of a checkpoint: %s", path.name)
    write_atomic(target / CARD, render_card(record))
    write_manifest(target)


def _weights_in(manifest: Path) -> str | None:
    """The hash of the weights in a manifest; None if the manifest is missing or not readable."""
    try:
        return str(read_json(manifest)["files"][WEIGHTS]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _publish_locally(model_folder: Path, record: RunRecord, weights_sha256: str, home: Home) -> PublishResult:
    target = home.published / record.run_id
    result = PublishResult(store="local", location=str(target), revision=None, url=None, weights_sha256=weights_sha256)
    if _weights_in(target / MANIFEST) == weights_sha256:
        try:
            check_manifest(target)
            return result
        except UserError as error:
            log.warning("publishing again: %s", error)
    with building(target) as part:
        _assemble(model_folder, record.model_copy(update={"publishing": result}), part)
        check_manifest(part)
    return result


def _publish_to_hub(
    model_folder: Path, record: RunRecord, weights_sha256: str, spec: PublishSpec, home: Home
) -> PublishResult:
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.utils import validate_repo_id

    api = hub_api()
    repo = spec.repo or record.run_id
    if "/" not in repo:
        repo = f"{api.whoami()['name']}/{repo}"
    validate_repo_id(repo)
    url = f"{hub_endpoint()}/{repo}/tree/{record.run_id}"
    result = PublishResult(store="hub", location=repo, revision=None, url=url, weights_sha256=weights_sha256)
    staging = home.cache / "publishing" / record.run_id
    remove_tree(staging)  # what a killed publishing left behind
    try:
        api.create_repo(repo, private=spec.private, exist_ok=True)
        seen = api.model_info(repo)
        if spec.private and seen.private is False:
            raise StageError(
                f"the Hub repository {repo} is public, but publish.private is true; nothing was uploaded; "
                "fix: make it private on the Hub, name another publish.repo, or state publish.private false"
            )
        revision = _tagged_commit(api, repo, record.run_id, weights_sha256, staging / "tagged")
        if revision is None:
            folder = staging / "folder"
            folder.mkdir(parents=True)
            _assemble(model_folder, record.model_copy(update={"publishing": result}), folder)
            # One commit on top of what was seen, and none if nothing differs. The client's upload_folder may cut a
            # folder into several commits, and repeats a commit whose answer was lost.
            commit = api.create_commit(
                repo,
                [CommitOperationAdd(path.name, path) for path in sorted(folder.iterdir())],
                commit_message=f"Publish {record.run_id}",
                parent_commit=seen.sha,
            )
            revision = str(commit.oid)
            _verify_upload(api, repo, revision, folder, staging / "verified")
            # The tag comes last: it marks a commit that was read back and is whole.
            api.create_tag(repo, tag=record.run_id, revision=revision, exist_ok=True)
        return result.model_copy(update={"revision": revision})
    finally:
        remove_tree(staging)


def _tagged_commit(api: Any, repo: str, run_id: str, weights_sha256: str, folder: Path) -> str | None:
    """The commit that already holds this run's weights; None if the run was not published yet."""
    commit = next((str(tag.target_commit) for tag in api.list_repo_refs(repo).tags if tag.name == run_id), None)
    if commit is None:
        return None
    api.snapshot_download(repo, revision=commit, local_dir=folder, allow_patterns=[MANIFEST])
    if _weights_in(folder / MANIFEST) != weights_sha256:
        raise StageError(
            f"the tag {run_id} of the Hub repository {repo} names other weights than this run's; nothing was "
            "uploaded; fix: delete that tag on the Hub, or name another publish.repo"
        )
    return commit


def _verify_upload(api: Any, repo: str, revision: str, source: Path, copy: Path) -> None:
    names = [path.name for path in source.iterdir()]
    api.snapshot_download(repo, revision=revision, local_dir=copy, allow_patterns=names)
    try:
        same = read_json(copy / MANIFEST) == read_json(source / MANIFEST)
        check_manifest(copy)
    except (UserError, OSError) as error:
        raise StageError(f"the upload to {repo} at commit {revision} does not read back whole: {error}") from None
    if not same:
        raise StageError(f"the upload to {repo} at commit {revision} reads back with another manifest than was sent")


def _explain_refusal(error: Exception) -> str:
    """One message, without the token, for a permanent error."""
    fixes = {
        401: "set a valid HF_TOKEN (`hf auth whoami` shows whose it is)",
        402: "check the storage plan of the account on the Hub",
        403: "use a token with write permission for this repository",
        404: "check publish.repo, and that the token may see it",
        507: "make room in the account's storage on the Hub",
    }
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        fix = fixes.get(status, "check publish.repo (account/name)")
        return f"the Hub refused the checkpoint: {plain_text(error)}; fix: {fix}, or state publish.store local"
    if type(error).__name__ == "HFValidationError":
        return f"publish.repo: {plain_text(error)}; fix: state account/name, or publish.store local"
    if isinstance(error, OSError):
        return f"the checkpoint could not be published: {plain_text(error)}; fix: run the same command again"
    return (
        f"the server did not answer the upload as a Hub does: {type(error).__name__}: {plain_text(error)}; "
        f"fix: check HF_ENDPOINT and the proxy on the way, or state publish.store local"
    )


def flat_keys(part: Any, prefix: str = "") -> dict[str, Any]:
    """A nested part of a spec as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in part.items():
        nested = isinstance(value, dict) and value
        flat |= flat_keys(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _cell(value: Any) -> str:
    values = value if isinstance(value, list | tuple) else [value]
    text = ", ".join(public_name(str(item)) for item in values)
    return " ".join(text.split()).replace("|", "\\|")


def public_name(text: str) -> str:
    """The last part of a text that is a path of this machine; any other text as it is."""
    is_path = text.startswith(("~", "/", "./", "../", "file:")) or PureWindowsPath(text).is_absolute()
    return PurePosixPath(text.replace("\\", "/")).name if is_path else text


def _is_hub_id(name: str) -> bool:
    return public_name(name) == name and not name.startswith("builtin/") and name.count("/") <= 1 and bool(name)
