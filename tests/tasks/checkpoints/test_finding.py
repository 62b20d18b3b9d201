"""Finding checkpoints by run id, folder and Hub id; and one clear message, in seconds, for everything else."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from safetensors.torch import load_file, save_file

from tasks.checkpoints.finding import check_safetensors, resolve_checkpoint
from tasks.data import hub as tasks_hub
from tasks.errors import UserError
from tasks.store.files import file_sha256, write_manifest
from tasks.store.home import Home, RunFolder
from tasks.store.records import Checkpoint
from tests.encoder_folders import write_weights
from tests.factories import RUN_ID, make_checkpoint, make_pretraining, make_record
from tests.hub_stand_in import TOKEN, HubStandIn, write_small_checkpoint

RESOLVE = """
import sys, traceback
from pathlib import Path
from tasks.checkpoints.finding import resolve_checkpoint
from tasks.store.home import Home

try:
    print(resolve_checkpoint(sys.argv[1], Home(Path(sys.argv[2]))).model_dump_json())
except Exception as error:
    traceback.print_exc()
    print(f"ERROR {type(error).__name__} {' '.join(str(error).split())}")
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def resolve_on(hub: HubStandIn, folder: Path, name: str, **changes: str) -> str:
    """Resolve a name in a process of its own; the last line is the checkpoint or `ERROR kind message`."""
    done = hub.run(RESOLVE, folder, name, folder / "home", **changes)
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout.splitlines()[-1] if done.stdout else done.stderr


def refusal(name: str, home: Home, data_root: Path | None = None) -> str:
    """The message of a name that must be refused, within 5 s."""
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        resolve_checkpoint(name, home, data_root)
    assert time.monotonic() - start < 5
    return str(caught.value)


def save_run(home: Home, **changes: Any) -> Path:
    """A run with its record and the folder in which its model lies."""
    run = home.run(RUN_ID)
    make_record(**changes).save(run)
    return run.pretraining / "model"


def test_run_id(home: Home) -> None:
    folder = write_small_checkpoint(save_run(home, pretraining=make_pretraining(model=Path("gone/model"))))
    found = resolve_checkpoint(RUN_ID, home)
    assert (found.name, found.origin, found.run_id, found.folder) == (RUN_ID, "run", RUN_ID, folder)
    assert found.variant == "perceiver_mlm"
    assert found.weights_sha256 == file_sha256(folder / "model.safetensors")


def test_shards_are_a_checkpoint_with_a_hash_of_its_own(home: Home, tmp_path: Path) -> None:
    folder = write_small_checkpoint(tmp_path / "model")
    single = resolve_checkpoint(str(folder), home).weights_sha256
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_weights(folder, weights, sharded=True, format="safetensors")
    whole = resolve_checkpoint(str(folder), home).weights_sha256
    assert whole == resolve_checkpoint(str(folder), home).weights_sha256 != single
    last = max(folder.glob("*-of-*.safetensors"))
    changed = load_file(last)
    next(iter(changed.values())).view(-1)[0] += 1
    save_file(changed, last)
    assert resolve_checkpoint(str(folder), home).weights_sha256 != whole
    last.write_bytes(last.read_bytes()[:-4])
    assert f"{last}: corrupt: truncated" in refusal(str(folder), home)
    last.unlink()
    assert f"its shard '{last.name}' is missing" in refusal(str(folder), home)


def test_run_id_uses_the_model_that_its_record_states(home: Home, tmp_path: Path) -> None:
    stated = write_small_checkpoint(tmp_path / "elsewhere")
    save_run(home, pretraining=make_pretraining(model=stated))
    assert resolve_checkpoint(RUN_ID, home).folder == stated


def test_evaluation_run_names_the_checkpoint_it_evaluated(home: Home, tmp_path: Path) -> None:
    folder = write_small_checkpoint(tmp_path / "downloaded")
    record = make_record(
        kind="evaluation",
        checkpoint=make_checkpoint(name="ada/model", folder=folder, origin="hub", revision="c" * 40, run_id=RUN_ID),
    )
    record.save(home.run(record.run_id))
    found = resolve_checkpoint(record.run_id, home)
    assert (found.name, found.origin, found.revision, found.run_id) == ("ada/model", "hub", "c" * 40, RUN_ID)


def test_unfinished_run(home: Home) -> None:
    save_run(home, pretraining=None, status="failed")
    assert "no finished checkpoint (its status is failed)" in refusal(RUN_ID, home)


def test_run_whose_model_is_gone(home: Home) -> None:
    save_run(home)
    assert "is gone" in refusal(RUN_ID, home)


@pytest.mark.parametrize("name", ["../outside", "..", "./../outside", "x/../../outside"])
def test_no_name_leaves_the_runs_folder(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    outside = home.root / "outside"
    make_record().save(RunFolder(home.runs / "../outside"))
    write_small_checkpoint(outside / "pretraining/model")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    refusal(name, home, home.runs)


def test_local_folder(home: Home, tmp_path: Path) -> None:
    folder = write_small_checkpoint(tmp_path / "mine", run_id="perceiver_of_old")
    found = resolve_checkpoint(str(folder), home)
    assert (found.name, found.origin, found.folder, found.run_id) == ("mine", "local", folder, "perceiver_of_old")


def test_folder_under_data_root(home: Home, tmp_path: Path) -> None:
    folder = write_small_checkpoint(tmp_path / "data/ada/model")
    found = resolve_checkpoint("ada/model", home, tmp_path / "data")
    assert (found.folder, found.name, found.run_id) == (folder, "model", None)


def test_published_folder_is_found_by_its_run_id(home: Home) -> None:
    folder = write_small_checkpoint(home.published / RUN_ID)
    write_manifest(folder)
    found = resolve_checkpoint(RUN_ID, home)
    assert (found.folder, found.run_id, found.origin) == (folder, RUN_ID, "local")


def test_legacy_weights_file_is_accepted(home: Home, tmp_path: Path) -> None:
    folder = write_small_checkpoint(tmp_path / "old")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert resolve_checkpoint(str(folder), home).weights_sha256 == file_sha256(folder / "pytorch_model.bin")


def _cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])


def _flip(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def _bad_header(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b"data_offsets", b"data_onsets!"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable JSON"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "not readable JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "header too small"),
        (_cut, "truncated"),
        (_bad_header, "not safetensors"),
        (_flip, "SHA-256"),
        (lambda folder: (folder / "configuration.py").unlink(), "configuration.py is missing"),
        (lambda folder: (folder / "tokenizer.json").write_text("{} "), "bytes, its manifest says"),
        (lambda folder: (folder / "manifest.json").write_text("no"), "not a readable manifest"),
        (lambda folder: (folder / "manifest.json").write_text('{"files": []}'), "manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text('{"files": {"config.json": {}}}'), "manifest.json"),
        (
            lambda folder: write_small_checkpoint(folder, model_type="unheard_of"),
            "allowed: 'concept_autoencoder', 'concept_encoder'",
        ),
        (lambda folder: write_small_checkpoint(folder, variant="perceiver_mml"), "did you mean 'perceiver_mlm'"),
        (lambda folder: write_small_checkpoint(folder, variant=["x"]), "unknown variant"),
    ],
)
def test_damaged_checkpoint_is_one_message(home: Home, tmp_path: Path, damage: Any, says: str) -> None:
    folder = write_small_checkpoint(tmp_path / "mine")
    write_manifest(folder)
    resolve_checkpoint(str(folder), home)
    damage(folder)
    assert says in refusal(str(folder), home)


@pytest.mark.parametrize(
    "name", ["", " ", "perceiver_mlm_H512L6C128_20260301_12001", "a/b/c", "x" * 5000, "a\0b", "~no/x"]
)
def test_name_of_nothing_is_one_message(home: Home, name: str) -> None:
    save_run(home)
    message = refusal(name, home)
    assert "allowed:" in message
    assert (f"did you mean {RUN_ID!r}" in message) == name.startswith("perceiver")


def test_offline_is_said_at_once(home: Home) -> None:
    assert "neither a run id, a folder, nor reachable on the Hub (offline)" in refusal("ada/model", home)


def test_unreachable_hub_is_said_within_seconds(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never takes the connection: the probe ends by itself."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    done = threading.Event()

    def never_connect(*_: object, **__: object) -> None:
        done.wait(30)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", never_connect)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    tasks_hub._probe.cache_clear()
    try:
        assert "(offline)" in refusal("ada/model", home)
        start = time.monotonic()
        refusal("ada/other", home)
        assert time.monotonic() - start < 1, "asked once per process"
    finally:
        done.set()
        tasks_hub._probe.cache_clear()


def test_probe_asks_the_proxy_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    assert tasks_hub._first_hop() == ("hub.invalid", 443)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    assert tasks_hub._first_hop() == ("proxy.invalid", 3128)
    monkeypatch.setenv("NO_PROXY", "hub.invalid")
    assert tasks_hub._first_hop() == ("hub.invalid", 443)


def test_hub_revision_is_resolved_downloaded_once_and_kept(hub: HubStandIn, tmp_path: Path) -> None:
    folder = write_small_checkpoint(tmp_path / "first", run_id=RUN_ID)
    write_manifest(folder)
    first = hub.add("ada/model", files_of(folder), private=True)
    hub.repos["ada/model"].tags["v1"] = first
    write_small_checkpoint(folder, weight=2.0, run_id=RUN_ID)
    write_manifest(folder)
    second = hub.add("ada/model", {**files_of(folder), "optimizer.pt": b"large"})

    found = Checkpoint.model_validate_json(resolve_on(hub, tmp_path, "ada/model@v1"))
    assert (found.name, found.origin, found.revision, found.run_id) == ("ada/model", "hub", first, RUN_ID)
    newest = Checkpoint.model_validate_json(resolve_on(hub, tmp_path, "ada/model"))
    assert (newest.revision, newest.weights_sha256) == (second, file_sha256(folder / "model.safetensors"))
    assert newest.weights_sha256 != found.weights_sha256
    assert hub.count("GET", "optimizer.pt") == 0, "only the checkpoint's own kinds of files"

    downloads = hub.count("GET", "/resolve/")
    assert Checkpoint.model_validate_json(resolve_on(hub, tmp_path, "ada/model@v1")) == found
    assert Checkpoint.model_validate_json(resolve_on(hub, tmp_path, f"ada/model@{first}")) == found
    assert hub.count("GET", "/resolve/") == downloads
    offline = resolve_on(hub, tmp_path, "ada/model@v1", HF_HUB_OFFLINE="1")
    assert Checkpoint.model_validate_json(offline) == found
    assert "(offline)" in resolve_on(hub, tmp_path, "ada/model@v2", HF_HUB_OFFLINE="1")


def test_hub_names_of_nothing_are_one_message(hub: HubStandIn, tmp_path: Path) -> None:
    hub.add("ada/model", {"config.json": b"{}"})
    assert "UserError" in (line := resolve_on(hub, tmp_path, "ada/nothing"))
    assert "the Hub has no such repository" in line
    assert "not this revision" in resolve_on(hub, tmp_path, "ada/model@nowhere")
    start = time.monotonic()
    assert "(offline)" in resolve_on(hub, tmp_path, "ada/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert time.monotonic() - start < 5


def test_hub_model_of_another_kind_costs_no_download(hub: HubStandIn, tmp_path: Path) -> None:
    hub.add("ada/bert", {"config.json": b'{"model_type": "unheard_of"}', "model.safetensors": b"many bytes"})
    assert "allowed: 'concept_autoencoder', 'concept_encoder'" in resolve_on(hub, tmp_path, "ada/bert")
    assert hub.count("GET", "model.safetensors") == 0
    assert list((tmp_path / "home/cache/checkpoints/ada--bert").glob("[0-9a-f]*")) == []


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"adapter_config.json": b"{}", "adapter_model.safetensors": b"many bytes"},
            "only adapter_config.json (an adapter, not a whole model); fix: save the whole model",
        ),
        ({"model-q4.gguf": b"many bytes"}, "no config.json; fix: name a model's"),
    ],
)
def test_hub_repository_that_is_no_checkpoint_costs_no_download(
    hub: HubStandIn, tmp_path: Path, files: dict[str, bytes], says: str
) -> None:
    hub.add("ada/adapter", files)
    line = resolve_on(hub, tmp_path, "ada/adapter")
    assert line.startswith("ERROR UserError checkpoint 'ada/adapter': the Hub's repository has no config.json"), line
    assert says in line and hub.count("GET", "adapter_model") == hub.count("GET", "gguf") == 0
    assert list((tmp_path / "home/cache/checkpoints/ada--adapter").glob("[0-9a-f]*")) == []


def test_corrupt_hub_checkpoint_is_one_message(hub: HubStandIn, tmp_path: Path) -> None:
    folder = write_small_checkpoint(tmp_path / "first")
    write_manifest(folder)
    _flip(folder)
    hub.add("ada/model", files_of(folder))
    line = resolve_on(hub, tmp_path, "ada/model")
    assert line.startswith("ERROR UserError")
    assert "SHA-256" in line


@pytest.mark.parametrize("fault", [429, 500])
def test_transient_hub_error_is_raised_as_it_is(hub: HubStandIn, tmp_path: Path, fault: int) -> None:
    folder = write_small_checkpoint(tmp_path / "first")
    hub.add("ada/model", files_of(folder))
    hub.fail_next("/revision/", fault)
    assert resolve_on(hub, tmp_path, "ada/model").startswith("ERROR HfHubHTTPError")
    assert resolve_on(hub, tmp_path, "ada/model").startswith("{")


shapes = st.lists(st.integers(0, 5), max_size=3)
tensors = st.dictionaries(st.text(min_size=1, max_size=8), st.tuples(shapes, st.sampled_from(["f4", "f2", "i8", "?"])))


def arrays(facts: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, dtype) for name, (shape, dtype) in facts.items() if name != "__metadata__"}


@given(facts=tensors)
def test_every_whole_file_passes(tmp_path_factory: pytest.TempPathFactory, facts: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "whole.safetensors"
    path.write_bytes(save(arrays(facts), {"format": "pt"}))
    check_safetensors(path)


@given(facts=tensors, data=st.data())
def test_every_cut_or_longer_file_is_refused(
    tmp_path_factory: pytest.TempPathFactory, facts: dict[str, Any], data: st.DataObject
) -> None:
    whole = save(arrays(facts))
    size = data.draw(st.integers(0, len(whole) - 1) | st.integers(len(whole) + 1, len(whole) + 9))
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    path.write_bytes(whole[:size].ljust(size, b"\0"))
    with pytest.raises(UserError, match="corrupt"):
        check_safetensors(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
entries = st.fixed_dictionaries({"dtype": json_values, "shape": json_values, "data_offsets": json_values})


@given(header=json_values | st.dictionaries(st.text(max_size=3), json_values | entries) | st.binary(max_size=50))
def test_no_header_makes_another_error(tmp_path_factory: pytest.TempPathFactory, header: Any) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path_factory.getbasetemp() / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    try:
        check_safetensors(path)
    except UserError:
        return
    assert isinstance(header, dict)


def test_deeply_nested_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.safetensors"
    path.write_bytes(struct.pack("<Q", 200_000) + b"[" * 200_000)
    with pytest.raises(UserError, match="header"):
        check_safetensors(path)
