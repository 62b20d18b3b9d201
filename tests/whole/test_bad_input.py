"""Bad input: one clear message, exit code 2, no traceback, nothing written, and quickly."""

import json
import shutil
import time
from pathlib import Path

import pytest
from command import TINY, cogito

pytestmark = pytest.mark.end_to_end

CASES = {
    "unknown task": (["run", "tiny.yaml", "--set", "evaluation.tasks=[mrcp]"], ["mrcp", "did you mean 'mrpc'"]),
    "misspelt key": (["run", "tiny.yaml", "--set", "training.epoch=1"], ["epoch", "did you mean 'epochs'"]),
    "unknown variant": (["run", "tiny.yaml", "--set", "model.variant=perceiver"], ["perceiver_mlm"]),
    "head that does not fit": (
        ["run", "tiny.yaml", "--set", "evaluation.head=weighted_decoder"],
        ["does not fit", "via_decoder"],
    ),
    "missing data set": (
        ["run", "tiny.yaml", "--set", "data.dataset=nobody/nothing"],
        ["nobody/nothing", "--data-root"],
    ),
    "missing real task": (["run", "tiny.yaml", "--set", "evaluation.data=hub"], ["nyu-mll/glue", "--data-root"]),
    "missing spec": (["run", "absent.yaml"], ["absent.yaml"]),
    "empty spec": (["run", "empty.yaml"], ["name", "data", "required"]),
    "not YAML": (["run", "broken.yaml"], ["broken.yaml:3", "not valid YAML"]),
    "data root that is no folder": (["run", "tiny.yaml", "--data-root", "absent"], ["absent", "not a folder"]),
    "no such checkpoint": (["evaluate", "absent"], ["absent"]),
    "no such Hub checkpoint while offline": (["evaluate", "nobody/nothing"], ["nobody/nothing"]),
    "checkpoint outside": (["evaluate", "../../etc"], ["etc"]),
    "no such run to analyse": (["analyse", "perceiver_mlm_H1L1C1_20260101_000000"], ["perceiver_mlm_H1L1C1"]),
    "unknown list": (["ls", "decoder"], ["did you mean 'decoders'"]),
    "Hub without token": (["run", "tiny.yaml", "--set", "publish.store=hub"], ["token"]),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    (tmp_path / "broken.yaml").write_text("name: x\ndata: [\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_bad_input(place: Path, case: str) -> None:
    arguments, expected = CASES[case]
    assert_refused(place, arguments, expected)


def assert_refused(place: Path, arguments: list[str], expected: list[str]) -> None:
    started = time.monotonic()
    done = cogito(*arguments, home=place / "home", HF_HOME=str(place / "hf"))
    seconds = time.monotonic() - started
    assert done.returncode == 2, done.stderr
    for text in expected:
        assert text in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert not (place / "master_experiment_log.md").exists()
    assert not list((place / "home").glob("runs/*")) or "evaluate" in arguments
    assert seconds < 15, "a busy machine gets three times the promised 5 s"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A published checkpoint with random weights and a true manifest."""
    import torch

    from models.autoencoder import ConceptModelForMaskedLM
    from models.checkpoints import save_checkpoint
    from models.configuration import ConceptConfig
    from tasks.store.files import write_manifest

    torch.manual_seed(0)
    config = ConceptConfig(
        vocab_size=50,
        hidden_size=16,
        num_concepts=4,
        num_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_sequence_length=16,
    )
    folder = tmp_path / "checkpoint"
    save_checkpoint(ConceptModelForMaskedLM(config), folder)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    write_manifest(folder)
    return folder


def test_truncated_weights(place: Path, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert_refused(place, ["evaluate", str(checkpoint)], ["corrupt"])


def test_truncated_weights_without_a_manifest(place: Path, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    (checkpoint / "manifest.json").unlink()
    assert_refused(place, ["evaluate", str(checkpoint)], ["corrupt"])


def test_bad_header(place: Path, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:])
    (checkpoint / "manifest.json").unlink()
    assert_refused(place, ["evaluate", str(checkpoint)], ["model.safetensors"])


def test_other_hash(place: Path, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert_refused(place, ["evaluate", str(checkpoint)], ["SHA-256"])


def test_a_folder_without_a_checkpoint(place: Path) -> None:
    (place / "nothing").mkdir()
    assert_refused(place, ["evaluate", str(place / "nothing")], ["config.json"])


def test_all_mistakes_of_all_files_at_once(place: Path) -> None:
    shutil.copyfile(place / "tiny.yaml", place / "other.yaml")
    (place / "other.yaml").write_text(TINY.replace("epochs:", "epoch:"), encoding="utf-8")
    done = cogito("check", "empty.yaml", "other.yaml", "tiny.yaml", home=place / "home")
    assert done.returncode == 2
    assert "empty.yaml" in done.stderr and "other.yaml:21" in done.stderr and "tiny.yaml: ok" in done.stdout


def test_json_of_the_lists(place: Path) -> None:
    for kind in ("variants", "objectives", "decoders", "heads", "losses", "tasks", "experiments"):
        done = cogito("ls", kind, "--json", home=place / "home")
        assert done.returncode == 0, done.stderr
        names = [row["name"] for row in json.loads(done.stdout)]
        assert len(names) == len(set(names)) and (names or kind == "experiments")
