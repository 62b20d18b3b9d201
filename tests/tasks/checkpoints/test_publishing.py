"""Publishing: once, whole, private, tagged, to the Hub (a stand-in over HTTP) and to the directory store."""

import json
import logging
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from models.remote_code import REMOTE_CODE
from tasks.checkpoints.publishing import choose_store, publish_checkpoint
from tasks.data.hub import is_transient
from tasks.errors import StageError, UserError
from tasks.spec.experiment import PublishSpec
from tasks.store.files import check_manifest, file_sha256, read_json
from tasks.store.home import Home
from tasks.store.records import PublishResult, RunRecord
from tests.factories import RUN_ID, make_record
from tests.hub_stand_in import ACCOUNT, TOKEN, Fault, HubStandIn, write_small_checkpoint

REPO = f"{ACCOUNT}/{RUN_ID}"
SETTINGS = {".gitattributes", "tokenizer_config.json"}

PUBLISH = """
import logging, sys, traceback
from pathlib import Path
from tasks.checkpoints.publishing import is_transient, publish_checkpoint
from tasks.store.records import RunRecord
from tasks.store.home import Home
from tasks.spec.experiment import PublishSpec

logging.basicConfig(level=logging.DEBUG)
model, home, record, spec = sys.argv[1:]
try:
    result = publish_checkpoint(
        Path(model), RunRecord.model_validate_json(record), PublishSpec.model_validate_json(spec), Home(Path(home))
    )
    print("\\n" + result.model_dump_json())
except Exception as error:
    traceback.print_exc()
    print(f"\\nERROR {type(error).__name__} {is_transient(error)} {' '.join(str(error).split())}")
"""


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as server:
        yield server


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_small_checkpoint(tmp_path / "model", run_id=RUN_ID)


def publish(hub: HubStandIn, folder: Path, model: Path, record: RunRecord | None = None, **spec: Any) -> str:
    """Publish in a process of its own; its last line is the result or `ERROR kind transient message`."""
    record = record or make_record(publishing=None)
    arguments = (model, folder / "home", record.model_dump_json(), json.dumps(spec))
    done: subprocess.CompletedProcess[str] = hub.run(PUBLISH, folder, *arguments)
    assert TOKEN not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_hub_upload_happens_once_and_is_verified(hub: HubStandIn, tmp_path: Path, model: Path) -> None:
    first = PublishResult.model_validate_json(publish(hub, tmp_path, model))
    repo = hub.repos[REPO]
    assert repo.private
    assert hub.bodies[0][1]["visibility"] == "private"
    assert repo.tags == {RUN_ID: first.revision}
    assert first.location == REPO
    assert first.weights_sha256 == file_sha256(model / "model.safetensors")
    published = repo.commits[-1][1]
    assert published["model.safetensors"] == (model / "model.safetensors").read_bytes()
    code = {f"{name}.py" for name in REMOTE_CODE}
    more = {"README.md", "manifest.json", "summary.png", "modules.json", "sentence_bert_config.json"}
    assert set(published) == {path.name for path in model.iterdir()} | code | more | SETTINGS
    assert hub.count("GET", f"/resolve/{first.revision}/model.safetensors") == 1, "read back at the commit"
    assert f'name = "{REPO}"' in published["README.md"].decode()
    assert f'revision="{RUN_ID}"' in published["README.md"].decode()

    before = len(repo.commits)
    second = PublishResult.model_validate_json(publish(hub, tmp_path, model))
    assert second == first
    assert len(repo.commits) == before
    assert hub.count("POST", "/commit/") == 1
    assert hub.count("PUT", "/large/") == 1
    assert not (tmp_path / "home/cache/publishing" / RUN_ID).exists()


SCORES = make_record().scores


def commits_of(hub: HubStandIn) -> list[dict[str, bytes]]:
    return [files for _, files in hub.repos[REPO].commits[1:]]  # the first is the empty repository


def test_the_card_is_renewed_once_and_the_weights_stay(hub: HubStandIn, tmp_path: Path, model: Path) -> None:
    first = PublishResult.model_validate_json(publish(hub, tmp_path, model, make_record(scores=[])))
    for _ in range(2):  # the second time nothing is left to do
        again = PublishResult.model_validate_json(publish(hub, tmp_path, model, make_record(scores=SCORES)))
        assert again == first, "the run keeps the commit of its weights"
        before, after = commits_of(hub)
        assert {name for name in after if after[name] != before.get(name)} == {
            "README.md",
            "summary.png",
            "manifest.json",
        }
    assert b"| 0.822 | 0.792 to 0.842 | 0.812 |" not in before["README.md"]
    assert b"| mrpc | f1 | 0.822 (at floor) | 0.792 to 0.842 | 0.812 |" in after["README.md"]
    assert hub.repos[REPO].tags == {RUN_ID: first.revision}
    assert hub.count("PUT", "/large/") == 1, "the weights travelled once"
    stated = json.loads(after["manifest.json"])["files"]
    assert stated["model.safetensors"]["sha256"] == first.weights_sha256
    assert {name: sha256(after[name]).hexdigest() for name in stated} == {
        name: facts["sha256"] for name, facts in stated.items()
    }


@pytest.mark.parametrize("fault", [Fault("/commit/", "lost"), Fault("/commit/", "reset"), Fault("/tree/", "reset")])
def test_a_renewal_that_broke_off_is_mended(hub: HubStandIn, tmp_path: Path, model: Path, fault: Fault) -> None:
    publish(hub, tmp_path, model, make_record(scores=[]))
    fault.left = 20  # the client tries several times
    hub.fault(fault)
    assert publish(hub, tmp_path, model, make_record(scores=SCORES)).startswith("ERROR")
    hub.heal()
    PublishResult.model_validate_json(publish(hub, tmp_path, model, make_record(scores=SCORES)))
    assert len(commits_of(hub)) == 2
    assert b"## Scores" in commits_of(hub)[-1]["README.md"]
    assert hub.count("PUT", "/large/") == 1


def test_the_card_of_another_run_is_never_renewed(hub: HubStandIn, tmp_path: Path, model: Path) -> None:
    """Two runs in one repository: the newest commit is the second's."""
    publish(hub, tmp_path, model, make_record(scores=[]), repo=REPO)
    other = write_small_checkpoint(tmp_path / "other", weight=2.0)
    publish(hub, tmp_path, other, make_record(run_id="second", scores=[]), repo=REPO)
    publish(hub, tmp_path, model, make_record(scores=SCORES), repo=REPO)
    assert len(commits_of(hub)) == 2
    assert b"# second" in commits_of(hub)[-1]["README.md"]


def test_where_auto_publishes_is_said_once(tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    home, record = Home(tmp_path / "home"), make_record(publishing=None, scores=[])
    with caplog.at_level(logging.INFO, "cogito.publishing"):
        published = publish_checkpoint(model, record, PublishSpec(store="auto"), home)
        publish_checkpoint(model, make_record(publishing=published, scores=SCORES), PublishSpec(store="auto"), home)
    assert [text for text in caplog.messages if "directory store" in text] == [caplog.messages[0]]


def test_the_card_of_a_directory_store_is_renewed(tmp_path: Path, model: Path) -> None:
    home, spec = Home(tmp_path / "home"), PublishSpec(store="local")
    first = publish_checkpoint(model, make_record(scores=[]), spec, home)
    card = home.published / RUN_ID / "README.md"
    assert "## Scores" not in card.read_text()
    assert publish_checkpoint(model, make_record(scores=SCORES), spec, home) == first
    assert "## Scores" in card.read_text()
    check_manifest(card.parent)
    assert file_sha256(card.parent / "model.safetensors") == first.weights_sha256


def test_interrupted_upload_is_finished_by_the_next_call(hub: HubStandIn, tmp_path: Path, model: Path) -> None:
    hub.fail_next("/tag/", 503)
    assert publish(hub, tmp_path, model).startswith("ERROR HfHubHTTPError True")
    assert hub.repos[REPO].tags == {}
    result = PublishResult.model_validate_json(publish(hub, tmp_path, model))
    assert hub.repos[REPO].tags == {RUN_ID: result.revision}
    assert hub.count("POST", "/commit/") == 1


def test_upload_that_reads_back_changed_gets_no_tag(hub: HubStandIn, tmp_path: Path, model: Path) -> None:
    hub.garble_next("model.safetensors")
    line = publish(hub, tmp_path, model)
    assert "does not read back whole" in line
    assert hub.repos[REPO].tags == {}


@pytest.mark.parametrize("status", [429, 500])
def test_transient_error_is_raised_as_it_is(hub: HubStandIn, tmp_path: Path, model: Path, status: int) -> None:
    hub.fail_next("/api/repos/create", status)
    assert publish(hub, tmp_path, model).startswith("ERROR HfHubHTTPError True")


@pytest.mark.parametrize("status", [403, 404])
def test_permanent_error_is_one_message(hub: HubStandIn, tmp_path: Path, model: Path, status: int) -> None:
    hub.fail_next("/preupload/", status)
    line = publish(hub, tmp_path, model)
    assert line.startswith("ERROR StageError False the Hub refused the checkpoint"), line
    assert "fix:" in line


def test_bad_repository_name_is_one_message(hub: HubStandIn, tmp_path: Path, model: Path) -> None:
    line = publish(hub, tmp_path, model, repo="inventor/bad name")
    assert line.startswith("ERROR StageError False")
    assert "publish.repo" in line
    assert hub.repos == {}


def test_private_checkpoint_never_goes_to_a_public_repository(hub: HubStandIn, tmp_path: Path, model: Path) -> None:
    hub.add("inventor/open", {"README.md": b"open"})
    assert "is public" in publish(hub, tmp_path, model, repo="inventor/open")
    assert len(hub.repos["inventor/open"].commits) == 1
    publish(hub, tmp_path, model, repo="inventor/open", private=False)
    assert RUN_ID in hub.repos["inventor/open"].tags


def test_tag_of_other_weights_is_refused(hub: HubStandIn, tmp_path: Path, model: Path) -> None:
    publish(hub, tmp_path, model)
    write_small_checkpoint(model, weight=2.0)
    assert "names other weights" in publish(hub, tmp_path, model)
    assert hub.count("POST", "/commit/") == 1


def test_directory_store_is_built_once_and_repaired(tmp_path: Path, model: Path) -> None:
    home, spec = Home(tmp_path / "home"), PublishSpec(store="local")
    (model / "training_args.bin").write_bytes(b"pickle")
    result = publish_checkpoint(model, make_record(), spec, home)
    folder = home.published / RUN_ID
    assert (result.store, result.location, result.revision) == ("local", str(folder), None)
    check_manifest(folder)
    assert not (folder / "training_args.bin").exists()
    assert "README.md" in read_json(folder / "manifest.json")["files"]

    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert publish_checkpoint(model, make_record(), spec, home) == result
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps, "nothing rewritten"

    (folder / "config.json").write_text("{}")
    publish_checkpoint(model, make_record(), spec, home)
    check_manifest(folder)


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors"])
def test_unfinished_checkpoint_is_not_published(tmp_path: Path, model: Path, broken: str) -> None:
    (model / broken).unlink()
    home = Home(tmp_path / "home")
    with pytest.raises(StageError, match=broken):
        publish_checkpoint(model, make_record(), PublishSpec(store="local"), home)
    assert list(home.published.glob("*")) == []


def test_truncated_weights_are_not_published(tmp_path: Path, model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(StageError, match="truncated"):
        publish_checkpoint(model, make_record(), PublishSpec(store="local"), Home(tmp_path / "home"))


@pytest.mark.parametrize(
    ("token", "offline", "store", "chosen"),
    [
        (None, "", "auto", "local"),
        (TOKEN, "", "auto", "hub"),
        (TOKEN, "1", "auto", "local"),
        (TOKEN, "", "local", "local"),
        (TOKEN, "", "hub", "hub"),
        (None, "", "hub", "no Hugging Face token is set; fix: set HF_TOKEN"),
        (TOKEN, "1", "hub", "HF_HUB_OFFLINE is set; fix: unset it"),
    ],
)
def test_store_is_chosen_before_any_work(
    monkeypatch: pytest.MonkeyPatch, token: str | None, offline: str, store: Any, chosen: str
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    if "fix:" in chosen:
        with pytest.raises(UserError, match=chosen):
            choose_store(PublishSpec(store=store))
    else:
        assert choose_store(PublishSpec(store=store)) == chosen


def test_what_counts_as_transient() -> None:
    class Response:
        def __init__(self, status: int) -> None:
            self.status_code = status

    def refused(status: int) -> OSError:
        error = OSError("refused")
        error.response = Response(status)  # type: ignore[attr-defined]
        return error

    assert [is_transient(refused(status)) for status in (401, 403, 404, 408, 429, 500, 503)] == [False] * 3 + [True] * 4
    assert is_transient(ConnectionResetError())
    assert is_transient(TimeoutError())
    assert not is_transient(ValueError())
    assert not is_transient(type("OfflineModeIsEnabled", (ConnectionError,), {})())
    wrapped = FileNotFoundError("not in the cache")
    wrapped.__cause__ = refused(502)
    assert is_transient(wrapped)


def test_refused_connection_of_the_real_client_is_transient(hub: HubStandIn, tmp_path: Path, model: Path) -> None:
    arguments = (model, tmp_path / "home", make_record().model_dump_json(), "{}")
    done = hub.run(PUBLISH, tmp_path, *arguments, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.stdout.splitlines()[-1].startswith("ERROR ConnectError True"), done.stdout
