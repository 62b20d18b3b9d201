"""What the tests of bad input share: files that are all right, and what a refusal must and must not do.

A refusal has exit code 2 and one message that says what to do, without a traceback, within seconds, and leaves every
file as it was. The command runs inside this process, since as many processes would take an hour.
"""

import logging
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command import TINY

from flows import cli
from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import save_checkpoint
from models.configuration import ConceptConfig
from tasks.data.corpus import train_tokenizer
from tasks.store.files import write_json
from tests.factories import make_record

# Of the processor, since the machine may do other things too.
SECONDS = 5
# A folder for locks, and hashes that are remembered, are no work and no result.
ALLOWED = ("locks/", "leases/", "cache/fingerprints/")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint of 50 kB with its tokenizer, never changed."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    torch.manual_seed(0)
    config = ConceptConfig(
        vocab_size=280,
        hidden_size=16,
        num_concepts=4,
        num_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_sequence_length=128,
    )
    save_checkpoint(ConceptModelForMaskedLM(config), folder)
    train_tokenizer(iter(["some text", "more text"]), 300, folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a spec, a log, a record and a checkpoint that are all right, and a home beside it."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "tiny.yaml").write_text(TINY, encoding="utf-8")
    (work / "log.md").write_text("# Log\n\n| Run ID | Date |\n|---|---|\n| a_run | 2026-01-01 |\n", encoding="utf-8")
    (work / "texts.txt").write_text("A text.\n", encoding="utf-8")
    write_json(work / "record.json", make_record().model_dump(mode="json"))
    copy_folder(model, work / "model")
    for name in ("HF_TOKEN", "WANDB_API_KEY", "COGITO_DATA_ROOT", "COGITO_LOG", "COGITO_SERVER", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COGITO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(work)
    return work


@pytest.fixture(autouse=True)
def no_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gets as far as a server was not refused in time."""

    def begun(*_: object, **__: object) -> None:
        raise AssertionError("work began with bad input")

    monkeypatch.setattr("flows.server.ensure_server", begun)
    monkeypatch.setattr("tasks.jobs.launch.run_job", begun)


def copy_folder(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())


def files_under(root: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time of change, but for what may be written at any time."""
    found = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not name.startswith(tuple(f"home/{part}" for part in ALLOWED)):
            found[name] = (path.stat().st_size, path.stat().st_mtime_ns)
    return found


def run_command(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The exit code, standard output and standard error of the command, run here."""
    monkeypatch.setattr(sys, "argv", ["cogito", *words])
    logger = logging.getLogger("cogito")
    before, spreads = list(logger.handlers), logger.propagate
    capsys.readouterr()
    try:
        cli.main()
        code: Any = 0
    except SystemExit as error:
        code = error.code
    finally:
        logger.handlers, logger.propagate = before, spreads
    out, err = capsys.readouterr()
    return code, out, err


def assert_refused(
    place: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, started = files_under(place.parent), time.process_time()
    code, out, err = run_command(words, capsys, monkeypatch)
    seconds = time.process_time() - started
    assert code == 2, (code, out, err)
    message = "\n".join(line for line in err.splitlines() if not line.startswith("WARNING"))
    assert all(line.startswith("cogito: ") for line in message.splitlines()), err
    assert says.casefold() in message.casefold(), err
    assert "Traceback" not in err and out == "", (out, err)
    assert len(message) < 8_000, "a message that nobody reads"
    assert files_under(place.parent) == before
    assert not (place.parent / "home").exists(), "a first home was begun"
    assert seconds < SECONDS


# A task's data as a mirror may hold it.
GOOD_ROWS = {"sentence1": ["a b"] * 8, "sentence2": ["b c"] * 8, "label": [0, 1] * 4}


def put_task(root: Path, rows: dict[str, list[Any]]) -> Path:
    """A mirror of MRPC with these rows in every split."""
    folder = root / "mirror" / "nyu-mll" / "glue" / "mrpc"
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        own = [f"{text} {split} {n}" if isinstance(text, str) else text for n, text in enumerate(rows["sentence1"])]
        pq.write_table(pa.table(rows | {"sentence1": own}), folder / f"{split}-00000-of-00001.parquet")
    splits = "".join(f"  - split: {name}\n    path: mrpc/{name}-*\n" for name in ("train", "validation", "test"))
    (folder.parent / "README.md").write_text(f"---\nconfigs:\n- config_name: mrpc\n  data_files:\n{splits}---\n")
    return root / "mirror"
