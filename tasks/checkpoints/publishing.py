"""Publishing a finished checkpoint: to the Hub, or to a directory store when no token is set.

The folder that `tasks.checkpoints.folder` assembles is published, with a manifest of the hash of every file. A
checkpoint counts as published only after it was read back and agreed with that manifest. Publishing again renews the
card where the record knows more than the card, and leaves everything else as it is.
huggingface_hub is imported inside functions, because it would slow the command.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any, Literal

from models.weight_files import SAFETENSORS as WEIGHTS
from tasks.checkpoints.card import render_card
from tasks.checkpoints.finding import check_safetensors
from tasks.checkpoints.folder import CARD, MANIFEST, assemble
from tasks.data.hub import hub_api, hub_endpoint, hub_offline, is_transient, plain_text
from tasks.errors import StageError, UserError
from tasks.spec.experiment import PublishSpec
from tasks.store.files import building, check_manifest, file_sha256, read_json, remove_tree, writing
from tasks.store.home import Home
from tasks.store.records import PublishResult, RunRecord

log = logging.getLogger("cogito.publishing")


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
    """Publish a finished checkpoint once; of one that is published, the card is renewed where the record's is another.

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
            if spec.store == "auto" and record.publishing is None:  # not again where the card is renewed
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


def _check_finished(model_folder: Path) -> str:
    for name in ("config.json", WEIGHTS):
        if not (model_folder / name).is_file():
            raise StageError(
                f"{model_folder}: {name} is missing, so there is no finished checkpoint to publish; "
                "fix: run the same command again, which makes it from the last saved state"
            )
    try:
        check_safetensors(model_folder / WEIGHTS)
    except UserError as error:
        raise StageError(f"not published: {error}") from None
    return file_sha256(model_folder / WEIGHTS)


def _hashes_in(folder: Path) -> dict[str, str]:
    """The hash of every file by the manifest of a folder; empty if the manifest is missing or not readable."""
    try:
        return {str(name): str(facts["sha256"]) for name, facts in read_json(folder / MANIFEST)["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_current(hashes: dict[str, str], weights_sha256: str, card: str) -> bool:
    """Whether a published folder with these hashes holds the weights and the card of the record as it stands."""
    return (hashes.get(WEIGHTS), hashes.get(CARD)) == (weights_sha256, hashlib.sha256(card.encode()).hexdigest())


def _publish_locally(model_folder: Path, record: RunRecord, weights_sha256: str, home: Home) -> PublishResult:
    target = home.published / record.run_id
    result = PublishResult(store="local", location=str(target), revision=None, url=None, weights_sha256=weights_sha256)
    record = record.model_copy(update={"publishing": result})
    if _is_current(_hashes_in(target), weights_sha256, render_card(record)):
        try:
            check_manifest(target)
            return result
        except UserError as error:
            log.warning("publishing again: %s", error)
    with building(target) as part:
        assemble(model_folder, record, part)
        check_manifest(part)
    return result


def _publish_to_hub(
    model_folder: Path, record: RunRecord, weights_sha256: str, spec: PublishSpec, home: Home
) -> PublishResult:
    from huggingface_hub.utils import validate_repo_id

    api = hub_api()
    repo = spec.repo or record.run_id
    if "/" not in repo:
        repo = f"{api.whoami()['name']}/{repo}"
    validate_repo_id(repo)
    url = f"{hub_endpoint()}/{repo}/tree/{record.run_id}"
    result = PublishResult(store="hub", location=repo, revision=None, url=url, weights_sha256=weights_sha256)
    record = record.model_copy(update={"publishing": result})
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
        tagged = _tagged_commit(api, repo, record.run_id, weights_sha256, staging / "tagged")
        if tagged is None or _must_renew(api, repo, str(seen.sha), record, staging / "head"):
            folder = staging / "folder"
            folder.mkdir(parents=True)
            assemble(model_folder, record, folder)
            commit = _upload(api, repo, str(seen.sha), folder, f"Publish {record.run_id}")
            _verify_upload(api, repo, commit, folder, staging / "verified")
            if tagged is None:
                # The tag comes last: it marks a commit that was read back and is whole.
                api.create_tag(repo, tag=record.run_id, revision=commit, exist_ok=True)
                tagged = commit
        return result.model_copy(update={"revision": tagged})
    finally:
        remove_tree(staging)


def _tagged_commit(api: Any, repo: str, run_id: str, weights_sha256: str, folder: Path) -> str | None:
    """The commit that already holds this run's weights; None if the run was not published yet."""
    commit = next((str(tag.target_commit) for tag in api.list_repo_refs(repo).tags if tag.name == run_id), None)
    if commit is None:
        return None
    api.snapshot_download(repo, revision=commit, local_dir=folder, allow_patterns=[MANIFEST])
    if _hashes_in(folder).get(WEIGHTS) != weights_sha256:
        raise StageError(
            f"the tag {run_id} of the Hub repository {repo} names other weights than this run's; nothing was "
            "uploaded; fix: delete that tag on the Hub, or name another publish.repo"
        )
    return commit


def _must_renew(api: Any, repo: str, head: str, record: RunRecord, folder: Path) -> bool:
    """Whether the newest commit holds this run's weights under a card that is not the record's as it stands."""
    assert record.publishing is not None
    api.snapshot_download(repo, revision=head, local_dir=folder, allow_patterns=[MANIFEST])
    hashes, weights = _hashes_in(folder), record.publishing.weights_sha256
    if hashes.get(WEIGHTS) != weights:
        log.warning("%s: the card is left as it is: the newest commit of %s holds another run", record.run_id, repo)
        return False
    return not _is_current(hashes, weights, render_card(record))


def _upload(api: Any, repo: str, parent: str, folder: Path, message: str) -> str:
    """Commit a folder on top of what was seen, and nothing if nothing differs; the commit that then holds it.

    The client leaves out files that the repository holds already, so weights travel once. Its upload_folder may cut a
    folder into several commits, and repeats a commit whose answer was lost.
    """
    from huggingface_hub import CommitOperationAdd

    files = [CommitOperationAdd(path.name, path) for path in sorted(folder.iterdir())]
    return str(api.create_commit(repo, files, commit_message=message, parent_commit=parent).oid)


def _verify_upload(api: Any, repo: str, revision: str, source: Path, copy: Path) -> None:
    names = [path.name for path in source.iterdir()]
    what, again = f"the upload to {repo} at commit {revision}", "fix: run the same command again, which uploads it anew"
    api.snapshot_download(repo, revision=revision, local_dir=copy, allow_patterns=names)
    try:
        same = read_json(copy / MANIFEST) == read_json(source / MANIFEST)
        check_manifest(copy)
    except (UserError, OSError) as error:
        found = str(error).partition("; fix:")[0]  # whose way out is another
        raise StageError(f"{what} does not read back whole: {found}; {again}") from None
    if not same:
        raise StageError(f"{what} reads back with another manifest than was sent; {again}")


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
