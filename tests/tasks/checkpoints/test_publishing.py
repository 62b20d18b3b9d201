"""Publishing: once, whole, private, tagged, to the Hub (a stand-in over HTTP) and to the directory store."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.checkpoints.publishing import choose_store, publish_checkpoint, render_card
from tasks.data.hub import is_transient
from tasks.errors import StageError, UserError
from tasks.spec.experiment import ExperimentSpec, PublishSpec
from tasks.spec.pretraining import DataSpec
from tasks.store.files import check_manifest, file_sha256, read_json
from tasks.store.home import Home
from tasks.store.records import PublishResult, RunRecord
from tests.factories import RUN_ID, make_corpus, make_environment, make_pretraining, make_record
from tests.hub_stand_in import ACCOUNT, TOKEN, HubStandIn, write_small_checkpoint

REPO = f"{ACCOUNT}/{RUN_ID}"

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
    assert set(published) == {path.name for path in model.iterdir()} | {"README.md", "manifest.json", ".gitattributes"}
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
    assert publish_checkpoint(model, make_record(name="other"), spec, home) == result
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
    assert list(home.published.iterdir()) == []


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


def test_card_says_what_it_is_and_how_it_was_made() -> None:
    card = render_card(make_record())
    head = yaml.safe_load(card.split("---")[1])
    assert head == {
        "library_name": "transformers",
        "tags": ["concept-encoder", "perceiver_mlm"],
        "datasets": ["JeanKaddour/minipile"],
    }
    for fact in [
        RUN_ID,
        "AutoModelForMaskedLM.from_pretrained(name, trust_remote_code=True)",
        "| evaluation loss (nats per labelled token) | 4.0100 |",
        "| unigram entropy of the held-out text (nats, no context) | 7.2500 |",
        "| parameters | 36,000,000 |",
        "| global_batch_size | 512 |",
        "| mask_prob | 0.15 |",
        "| git commit | 54ee870c0ffee0123456789abcdef0123456789a |",
    ]:
        assert fact in card
    assert "stand-ins" not in card
    assert "stand-ins" in render_card(make_record(made_data=True))


@pytest.mark.parametrize("place", ["/home/ada/corpora/notes", "C:\\Users\\ada\\notes", "~/ada/notes", "../ada/notes"])
def test_card_shows_no_place_of_this_machine(place: str) -> None:
    spec = ExperimentSpec(name="test", data=DataSpec(dataset=place, tokenizer=place)).model_dump(mode="json")
    record = make_record(
        spec=spec,
        corpus=make_corpus(dataset=place, tokenizer_name=place, folder=Path("/home/ada/corpus")),
        pretraining=make_pretraining(model=Path("/home/ada/model"), curve=Path("/home/ada/curve.jsonl")),
        publishing=PublishResult(
            store="local", location="/home/ada/published/x", revision=None, url=None, weights_sha256="0" * 64
        ),
        environment=make_environment(machine="adas-laptop", git_dirty=True),
    )
    card = render_card(record)
    assert "ada" not in card
    assert "| dataset | notes |" in card
    assert "datasets:" not in card.split("---")[1]
    assert "uncommitted changes" in card


def test_card_of_a_run_without_results_still_renders() -> None:
    card = render_card(make_record(corpus=None, pretraining=None, spec={}))
    assert card.startswith("---\nlibrary_name: transformers\n")


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
