"""Bad inputs by the table: specs, logs, checkpoints, data, records, names and words of the command line.

Each is refused with exit code 2 and one message that says what to do, without a traceback, within seconds, and leaves
every file as it was. The command runs inside this process, since as many processes would take an hour; a dozen cases
of other kinds run as real processes in `test_bad_input.py`.
"""

import json
import logging
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command import TINY
from safetensors.torch import load_file, save_file

from flows import cli
from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import save_checkpoint
from models.configuration import ConceptConfig
from tasks.data.corpus import prepare_corpus, train_tokenizer
from tasks.data.sources import find_dataset
from tasks.data.task_data import prepare_task
from tasks.errors import UserError
from tasks.spec.benchmarks import TASKS
from tasks.spec.evaluation import EvaluationSpec
from tasks.spec.pretraining import DataSpec
from tasks.store.files import is_safe_name, write_json, write_manifest
from tasks.store.home import Home
from tests.factories import RUN_ID, make_record

# Of the processor, since the machine may do other things too.
SECONDS = 5
AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@example.invalid")
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
def _no_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
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


# --- experiment files ---

DATA = "name: a\ndata: {dataset: builtin/python_docs, train_tokenizer_vocab_size: 600}\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
SPECS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "required and missing"),
    "blank": ("\n\n   \n", "required and missing"),
    "comment alone": ("# nothing\n", "required and missing"),
    "two documents": ("name: a\n---\nname: b\n", "not valid yaml"),
    "a list": ("- a\n- b\n", "must be a mapping"),
    "a word": ("hello", "must be a mapping"),
    "a number": ("17", "must be a mapping"),
    "null key": (DATA + "null: 1\n", "unknown key 'null'"),
    "number as key": (DATA + "1: 2\n", "1"),
    "binary": (bytes(range(256)), "not UTF-8"),
    "UTF-16": (DATA.encode("utf-16"), "not UTF-8"),
    "Latin-1": ("name: a\ndata: {dataset: caf\xe9}\n".encode("latin-1"), "not UTF-8"),
    "NUL": (b"name: a\x00b\ndata: {}\n", "not valid yaml"),
    "tab": ("name: a\ndata:\n\tdataset: b\n", "not valid yaml"),
    "open bracket": ("name: a\ndata: [\n", "not valid yaml"),
    "open quote": ('name: "a\ndata: {}\n', "not valid yaml"),
    "alias bomb": (BOMB, "anchors and aliases"),
    "anchor": ("name: &n a\ndata: {}\n", "anchors and aliases"),
    "alias of nothing": ("name: *n\ndata: {}\n", "anchors and aliases"),
    "recursive alias": ("name: a\ndata: &d {dataset: *d}\n", "anchors and aliases"),
    "merge key": (DATA + "model: {<<: {hidden_size: 8}}\n", "merge keys"),
    "key twice": (DATA + "name: b\n", "stands twice"),
    "nested key twice": ("name: a\ndata: {dataset: b, dataset: c}\n", "stands twice"),
    "python object": (DATA + "model: !!python/object:os.system {}\n", "tags are not"),
    "python call": (DATA + 'model: !!python/object/apply:os.system ["true"]\n', "tags are not"),
    "python name": (DATA + "model: !!python/name:os.system ''\n", "tags are not"),
    "python module": (DATA + "model: !!python/module:os ''\n", "tags are not"),
    "own tag": (DATA + "model: !mine {}\n", "tags are not"),
    "set": ("name: a\ndata: !!set {dataset}\n", "tags are not"),
    "binary tag": ("name: !!binary aGVsbG8=\ndata: {}\n", "tags are not"),
    "number of a date": (DATA + "training: {seed: 2024-01-01}\n", "allowed: a whole number"),
    "impossible date": (DATA + "training: {seed: 2024-13-45}\n", "allowed: a whole number"),
    "a truth value for a name": ("name: true\ndata: {}\n", "in quotes"),
    "no for a truth value": (DATA + "publish: {private: no}\n", "fix: write false"),
    "None for a text": ("name: a\ndata: {revision: None}\n", "write null"),
    "octal in a mapping": (DATA + "objective: {concept_losses: {combined: 010}}\n", "write 10 or 0o10"),
    "octal below a task": (DATA + "evaluation: {per_task: {mrpc: {seeds: 010}}}\n", "write 10 or 0o10"),
    "deep flow": ("name: a\ndata: " + "[" * 90_000, "nested deeper"),
    "deep mapping": ("name: a\ndata: " + "{a: " * 20_000, "nested deeper"),
    "deep block": ("name: a\ndata:\n" + "".join(f"{' ' * n}a:\n" for n in range(1, 300)), "nested deeper"),
    "too long": ("#" * 300_000, "characters"),
    "thousand wrong keys": (DATA + "".join(f"wrong{n}: 1\n" for n in range(5_000)), "more mistakes"),
    "number of 5,000 digits": (DATA + f"training: {{max_steps: {'9' * 5_000}}}\n", "5,000 characters"),
    "number of 400 digits": (DATA + f"training: {{max_steps: {'9' * 400}}}\n", "training.max_steps"),
    "surrogate": ('name: a\ndata: {dataset: "\\ud800"}\n', "no text"),
    "escaped NUL": ('name: a\ndata: {dataset: "a\\0b"}\n', "no text"),
    "name with path": ("name: ../../etc\ndata: {}\n", "name"),
    "name of a device": ("name: nul\ndata: {}\n", "Windows"),
    "name of a device with suffix": ("name: COM1.yaml\ndata: {}\n", "Windows"),
    "name with a dot at its end": ("name: a.\ndata: {}\n", "Windows"),
    "long name": (f"name: {'a' * 5_000}\ndata: {{}}\n", "at most 100"),
    "empty name": ("name: ''\ndata: {}\n", "name"),
    "no data": ("name: a\n", "data"),
    "data is a list": ("name: a\ndata: [b]\n", "data"),
    "data is a word": ("name: a\ndata: b\n", "data"),
    "data is a number": ("name: a\ndata: 7\n", "data"),
    "section of another": (DATA + "model: {epochs: 3}\n", "unknown key"),
    "section misspelt": (DATA + "trainig: {epochs: 3}\n", "did you mean 'training'"),
    "tasks is a word": (DATA + "evaluation: {tasks: mrpc}\n", "evaluation.tasks"),
    "tasks is a mapping": (DATA + "evaluation: {tasks: {mrpc: 1}}\n", "evaluation.tasks"),
    "task in task": (DATA + "evaluation: {tasks: [[mrpc]]}\n", "evaluation.tasks"),
    "losses is a list": (DATA + "objective: {concept_losses: [combined]}\n", "concept_losses"),
}


@pytest.mark.parametrize("case", SPECS)
def test_bad_specs(place: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text, says = SPECS[case]
    (place / "bad.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_refused(place, ["check", "bad.yaml"], says, capsys, monkeypatch)


# --set KEY=VALUE, and what the message must name
VALUES = {
    "model.hidden_size=0": "hidden_size",
    "model.hidden_size=-8": "hidden_size",
    "model.hidden_size=1.5": "hidden_size",
    "model.hidden_size=wide": "hidden_size",
    "model.hidden_size=[8]": "hidden_size",
    "model.hidden_size=true": "a whole number",
    "model.hidden_size=": "hidden_size",
    "model.hidden_size=10000000000000": "less than or equal",
    "model.num_layers=1000000": "less than or equal",
    "model.num_concepts=99999999999": "less than or equal",
    "model.num_attention_heads=7": "must divide",
    "model.max_sequence_length=4": "max_sequence_length",
    "model.hidden_dropout_prob=1": "hidden_dropout_prob",
    "model.hidden_dropout_prob=-0.1": "hidden_dropout_prob",
    "model.hidden_dropout_prob=.nan": "hidden_dropout_prob",
    "model.concept_position_type=cosine": "allowed",
    "model.variant=[a]": "variant",
    "model.variant=": "variant",
    "data.block_tokens=7": "block_tokens",
    "data.block_tokens=2000000": "block_tokens",
    "data.held_out_share=1": "held_out_share",
    "data.held_out_share=0": "held_out_share",
    "data.max_documents=0": "max_documents",
    "data.max_documents=1e400": "max_documents",
    "data.train_tokenizer_vocab_size=10": "train_tokenizer_vocab_size",
    "data.tokenizer=a/b": "exclude each other",
    "data.blocks=words": "allowed",
    "data.dataset=": "data.dataset",
    "data.dataset={a: 1}": "data.dataset",
    "objective.mask_prob=1": "mask_prob",
    "objective.mask_prob=.inf": "mask_prob",
    "objective.t_min=0.1": "ignored",
    "objective.concept_losses={nothing: 1}": "unknown concept loss",
    "objective.concept_losses={combined: 0}": "greater",
    "objective.concept_losses={combined: .inf}": "concept_losses",
    "objective.loss_weighting=learnable": "ignored",
    "training.epochs=0": "epochs",
    "training.epochs=1e300": "epochs",
    "training.learning_rate=2": "learning_rate",
    "training.learning_rate=-1e-4": "learning_rate",
    "training.seed=-1": "seed",
    "training.seed=4294967296": "seed",
    "training.seed=1.5": "seed",
    "training.schedule=step": "allowed",
    "training.mixed_precision=fp16": "allowed",
    "training.global_batch_size=0": "global_batch_size",
    "training.keep_checkpoints=0": "keep_checkpoints",
    "training.max_grad_norm=0": "max_grad_norm",
    "publish.store=ftp": "allowed",
    "publish.private=maybe": "private",
    "evaluation.tasks=[mrpc,mrpc]": "twice",
    "evaluation.tasks=[nothing]": "unknown task",
    "evaluation.tasks=[cola]": "made",
    "evaluation.seeds=0": "seeds",
    "evaluation.seeds=1000": "seeds",
    "evaluation.max_train_examples=1": "max_train_examples",
    "evaluation.per_task={qnli: {}}": "per_task",
    "evaluation.per_task={mrpc: {epochs: -1}}": "epochs",
    "evaluation.per_task={mrpc: {start_from: qqp}}": "start_from",
    "analysis.max_samples=1": "max_samples",
    "tracking.wandb=sometimes": "allowed",
    "name=a b": "name",
    "name=": "name",
    "novalue": "KEY=VALUE",
    "training={epochs: 1, seed: 2}": "fix: --set training.epochs=1 --set training.seed=2",
    "training={}": "fix: --set training.KEY=VALUE",
    "model=": "is a section",
    "data=5": "is a section",
    "evaluation.per_task.mrpc={epochs: 1}": "fix: --set evaluation.per_task.mrpc.epochs=1",
    "=1": "KEY=VALUE",
    "training=[": "not valid YAML",
    "name.first=1": "no keys of its own",
    "name=&a b": "anchors",
    "data.max_documents=2024-99-99": "a whole number",
    "model={a: 1, a: 2}": "stands twice",
    "model=!!python/object:os.system {}": "tags are not",
    f"model.num_layers={'9' * 5000}": "characters",
    "training.seed=010": "write 10 or 0o10",
    "training.seed=08": "write 8",
    "training.seed=1:30": "base 60",
    "training.max_steps=1_000": "write 1000",
    "training.max_steps=1,000": "write 1000",
    "training.max_steps=10.000": "write 10000 or 10",
    "training.max_steps=10k": "write 10000",
    "training.max_steps=512 MB": "no unit",
    "training.learning_rate=0,1": "write 0.1",
    "training.learning_rate=5%": "write 0.05",
    "training.learning_rate=yes": "a number",
    "training.weight_decay=1e-400": "64 bits",
    "model.use_bixt=on": "write true",
    "model.use_bixt=1": "write true",
    "data.split=": "is empty",
    "data.split=false": "in quotes",
    f"model.{'a.' * 3000}b=1": "levels",
    f"model={'[' * 5000}": "nested deeper",
    "..=1": "unknown key",
}


@pytest.mark.parametrize("override", VALUES, ids=lambda text: text[:60])
def test_bad_values(
    place: Path, override: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refused(place, ["run", "tiny.yaml", "--set", override], VALUES[override], capsys, monkeypatch)


# --- words of the command line ---

MADE = ["--tasks", "mrpc", "--set", "data.dataset=builtin/python_docs"]
WORDS: dict[str, tuple[list[str], str]] = {
    "unknown command": (["rnu"], "run"),
    "unknown option": (["run", "tiny.yaml", "--fast"], "--fast"),
    "run nothing": (["run"], "SPEC"),
    "run two": (["run", "tiny.yaml", "tiny.yaml"], "unexpected"),
    "run a folder": (["run", "."], "cannot be read"),
    "run a missing file": (["run", "no.yaml"], "cannot be read"),
    "run below a file": (["run", "tiny.yaml/x.yaml"], "cannot be read"),
    "run a device": (["run", "/dev/zero"], "/dev/zero"),
    "run a long name": (["run", "a" * 5000], "cannot be read"),
    "run for less than no time": (["run", "tiny.yaml", "--max-hours", "-1"], "--max-hours"),
    "run for an unknown time": (["run", "tiny.yaml", "--max-hours", "nan"], "--max-hours"),
    "run for ever": (["run", "tiny.yaml", "--max-hours", "inf"], "--max-hours"),
    "run with no processes": (["run", "tiny.yaml", "--processes", "0"], "--processes"),
    "run with a word of processes": (["run", "tiny.yaml", "--processes", "all"], "--processes"),
    "run on an unknown device": (["run", "tiny.yaml", "--device", "tpu"], "allowed: auto, cpu, cuda"),
    "sweep on an unknown device": (["sweep", "tiny.yaml", "--device", "GPU"], "allowed: auto, cpu, cuda"),
    "evaluate on an unknown device": (["evaluate", "model", "--device", "cuda:0"], "allowed: auto, cpu, cuda"),
    "reproduce on an unknown device": (["reproduce", "log.md#a_run", "--device", "TPU"], "allowed: auto, cpu, cuda"),
    "analyse on an unknown device": (["analyse", "model", "--device", "mps"], "allowed: auto, cpu, cuda"),
    "encode on an unknown device": (["encode", "model", "texts.txt", "--device", "0"], "allowed: auto, cpu, cuda"),
    "run with too many processes": (["run", "tiny.yaml", "--processes", "17"], "global_batch_size"),
    "run with no root": (["run", "tiny.yaml", "--data-root", "absent"], "not a folder"),
    "run with a file as root": (["run", "tiny.yaml", "--data-root", "tiny.yaml"], "not a folder"),
    "run with an unknown user's root": (["run", "tiny.yaml", "--data-root", "~nobody_here/x"], "not a folder"),
    "run with a folder as log": (["run", "tiny.yaml", "--log", "."], "is a folder"),
    "run with a log below a file": (["run", "tiny.yaml", "--log", "tiny.yaml/log.md"], "cannot be written"),
    "run with a log for nobody": (["run", "tiny.yaml", "--log", "/dev/null/log.md"], "cannot be written"),
    "run with an absent text": (["run", "tiny.yaml", "--set", "data.dataset=nobody/nothing"], "data-root"),
    "run with an outside text": (["run", "tiny.yaml", "--set", "data.dataset=../../nothing"], "nothing"),
    "run from an absent start": (["run", "tiny.yaml", "--set", "training.init_from=absent"], "init_from"),
    "run from a start outside": (["run", "tiny.yaml", "--set", "training.init_from=../../x"], "init_from"),
    "publish without a token": (["run", "tiny.yaml", "--set", "publish.store=hub"], "token"),
    "sweep nothing": (["sweep"], "SPECS"),
    "sweep an absent file": (["sweep", "no.yaml"], "cannot be read"),
    "sweep without a list": (["sweep", "tiny.yaml", "--grid", "training.seed=1"], "KEY=[VALUE"),
    "sweep an empty list": (["sweep", "tiny.yaml", "--grid", "training.seed=[]"], "KEY=[VALUE"),
    "sweep an open list": (["sweep", "tiny.yaml", "--grid", "training.seed=[1"], "KEY=[VALUE"),
    "sweep one value": (["sweep", "tiny.yaml", "--grid", "training.seed=[1]"], "--set training.seed=1"),
    "sweep octal": (["sweep", "tiny.yaml", "--grid", "training.seed=[7,010]"], "write 10 or 0o10"),
    "sweep one point twice": (["sweep", "tiny.yaml", "--grid", "training.seed=[1,1.0]"], "the same experiment"),
    "sweep a default and its value": (
        ["sweep", "tiny.yaml", "--grid", "model.max_sequence_length=[null,32]"],
        "the same experiment",
    ),
    "sweep a key twice": (["sweep", "tiny.yaml", *["--grid", "training.seed=[1,2]"] * 2], "replaces it"),
    "sweep a set key": (
        ["sweep", "tiny.yaml", "--set", "training.seed=1", "--grid", "training.seed=[1,2]"],
        "replaces",
    ),
    "sweep one file twice": (["sweep", "tiny.yaml", "tiny.yaml"], "the same experiment"),
    "set a key twice": (["run", "tiny.yaml", "--set", "training.seed=1", "--set", "training.seed=2"], "replaces it"),
    "sweep aliases": (["sweep", "tiny.yaml", "--grid", "training.seed=[&a 1, *a]"], "anchors"),
    "sweep a date": (["sweep", "tiny.yaml", "--grid", "training.seed=[1, 2024-01-01]"], "training.seed"),
    "sweep a million": (["sweep", "tiny.yaml", *["--grid", f"training.seed={[*range(100)]}"] * 3], "experiments"),
    "sweep unknown keys": (["sweep", "tiny.yaml", "--grid", "model.colour=[red, blue]"], "unknown key"),
    "evaluate nothing": (["evaluate"], "CHECKPOINT"),
    "evaluate an empty name": (["evaluate", ""], "empty name"),
    "evaluate blanks": (["evaluate", "   "], "empty name"),
    "evaluate a run that is not": (["evaluate", RUN_ID], RUN_ID),
    "evaluate a file": (["evaluate", "tiny.yaml"], "tiny.yaml"),
    "evaluate an empty folder": (["evaluate", ".."], "config.json"),
    "evaluate a long name": (["evaluate", "a" * 5000], "neither"),
    "evaluate an odd revision": (["evaluate", "a/b@../../c"], "neither"),
    "evaluate a URL": (["evaluate", "https://huggingface.co/a/b"], "neither"),
    "evaluate an unknown task": (["evaluate", "model", "--tasks", "mrcp"], "did you mean 'mrpc'"),
    "evaluate no task": (["evaluate", "model", "--tasks", ","], "unknown task"),
    "evaluate no seeds": (["evaluate", "model", "--seeds", "0"], "--seeds"),
    "evaluate too many seeds": (["evaluate", "model", "--seeds", "101"], "--seeds"),
    "evaluate an unknown head": (["evaluate", "model", "--head", "shoulder"], "unknown head"),
    "evaluate a head that does not fit": (["evaluate", "model", "--head", "weighted_decoder"], "does not fit"),
    "evaluate another training": (["evaluate", "model", "--set", "training.epochs=1"], "ignored"),
    "evaluate an absent tokenizer": (["evaluate", "model", "--tokenizer", "a/b"], "tokenizer"),
    "evaluate a tokenizer outside": (["evaluate", "model", "--tokenizer", "../../.."], "tokenizer"),
    "evaluate without data": (["evaluate", "model"], "--data-root"),
    "compare nothing": (["compare"], "RUNS"),
    "compare one": (["compare", "record.json"], "at least one other"),
    "compare unknown runs": (["compare", "a", "b"], "unknown run"),
    "compare outside": (["compare", "../..", ".."], "unknown run"),
    "compare an absent record": (["compare", "no.json", "record.json"], "no.json"),
    "compare an absent log": (["compare", "no.md#a", "record.json"], "no such log"),
    "compare an absent row": (["compare", "log.md#b", "record.json"], "unknown row"),
    "compare in two forms": (["compare", "record.json", "record.json", "--json", "--markdown"], "drop one"),
    "compare a home of nobody": (["compare", "~nobody_here/record.json", "record.json"], "record.json"),
    "reproduce no row": (["reproduce", "log.md"], "cannot be read"),
    "reproduce an absent row": (["reproduce", "log.md#b", "--plan"], "unknown row"),
    "reproduce an absent log": (["reproduce", "no.md#b", "--plan"], "cannot be read"),
    "reproduce a row of nothing": (["reproduce", "log.md#a_run", "--plan"], "names no variant"),
    "rescore nothing": (["rescore"], "RUN"),
    "rescore an unknown run": (["rescore", "a"], "unknown run"),
    "rescore outside": (["rescore", ".."], "unknown run"),
    "rescore here": (["rescore", "."], "unknown run"),
    "rescore a path": (["rescore", "/etc"], "unknown run"),
    "analyse nothing": (["analyse", "absent"], "absent"),
    "analyse another training": (["analyse", "model", "--set", "model.hidden_size=8"], "ignored"),
    "encode without output": (["encode", "model", "texts.txt"], "--output"),
    "encode into an odd format": (["encode", "model", "texts.txt", "--output", "o.npz"], "output format"),
    "encode into itself": (["encode", "model", "t.parquet", "--output", "t.parquet"], "the input itself"),
    "encode an odd format": (["encode", "model", "tiny.yaml", "--output", "o.parquet"], "input format"),
    "encode an absent file": (["encode", "model", "no.txt", "--output", "o.parquet"], "not a file"),
    "encode an odd pool": (["encode", "model", "texts.txt", "--output", "o.parquet", "--pool", "max"], "pool"),
    "encode an odd column": (["encode", "model", "texts.txt", "--output", "o.parquet", "--column", "a"], "column"),
    "encode in no batches": (["encode", "model", "texts.txt", "--output", "o.parquet", "--batch-size", "0"], "batch"),
    "encode no tokens": (["encode", "model", "texts.txt", "--output", "o.parquet", "--max-length", "1"], "max_length"),
    "encode too many tokens": (
        ["encode", "model", "texts.txt", "--output", "o.parquet", "--max-length", "9999"],
        "max_length",
    ),
    "encode into nowhere": (["encode", "model", "texts.txt", "--output", "/proc/x/o.parquet"], "cannot be written"),
    "report nothing": (["report"], "RUN"),
    "report an unknown run": (["report", "a"], "no run or sweep"),
    "report outside": (["report", "../../etc"], "no run or sweep"),
    "report a long name": (["report", "a" * 5000], "no run or sweep"),
    "check nothing": (["check"], "SPECS"),
    "check with no data root": (["check", "tiny.yaml", "--data-root", "none"], "is not a folder"),
    "show an absent file": (["show", "no.yaml"], "cannot be read"),
    "show wrong keys": (["show", "tiny.yaml", "--set", "a=1"], "unknown key"),
    "runs with an unknown option": (["runs", "--all"], "No such option"),
    "explain what is not": (["explain", "learnin_rate"], "did you mean 'learning_rate'"),
    "explain nothing": (["explain", ""], "unknown key"),
    "explain a key as a schema": (["explain", "training", "--schema"], "drop one"),
    "list what is not": (["ls", "decoder"], "decoders"),
    "list nothing": (["ls"], "KIND"),
    "log show what is not": (["log", "show", "--log", "no.md"], "cannot be read"),
    "log show a folder": (["log", "show", "--log", "."], "is a folder"),
    "log show a device": (["log", "show", "--log", "/dev/zero"], "bytes"),
    "log add what is not": (["log", "add", "no.json", "--log", "log.md"], "cannot be read"),
    "log add a folder": (["log", "add", ".", "--log", "log.md"], "cannot be read"),
    "log add a device": (["log", "add", "/dev/zero", "--log", "log.md"], "record"),
    "log add text": (["log", "add", "tiny.yaml", "--log", "log.md"], "not a readable record"),
    "log add into a folder": (["log", "add", "record.json", "--log", "."], "is a folder"),
    "log check what is not": (["log", "check", "no.md"], "cannot be read"),
    "log check against nothing": (["log", "check", "log.md", "--against", "no.md"], "cannot be read"),
    "log check reports of nothing": (["log", "check", "log.md", "--reports", "none"], "not a folder"),
    "log check a checkout of nothing": (["log", "check", "log.md", "--git", "none"], "none"),
    "log export into an odd format": (["log", "export", "o.xls", "--log", "log.md"], "suffix"),
    "log export into nowhere": (["log", "export", "/proc/x/o.csv", "--log", "log.md"], "cannot be written"),
    "log unknown": (["log", "delete"], "delete"),
    "checkpoint show nothing": (["checkpoint", "show", "absent"], "absent"),
    "checkpoint convert onto itself": (["checkpoint", "convert", "model", "model"], "exists already"),
    "checkpoint convert below a file": (["checkpoint", "convert", "model", "tiny.yaml/x"], "tiny.yaml"),
    "sweep with no processes": (["sweep", "tiny.yaml", "--processes", "0"], "--processes"),
    "sweep with too many processes": (["sweep", "tiny.yaml", "--processes", "17"], "global_batch_size"),
    "sweep with no root": (["sweep", "tiny.yaml", "--data-root", "absent"], "not a folder"),
    "sweep with a folder as log": (["sweep", "tiny.yaml", "--log", "."], "is a folder"),
    "sweep with odd keys": (["sweep", "tiny.yaml", "--set", "a=1"], "unknown key"),
    "evaluate with no root": (["evaluate", "model", "--data-root", "absent"], "not a folder"),
    "evaluate with a folder as log": (
        ["evaluate", "model", "--log", ".", "--set", "evaluation.data=made", *MADE],
        "is a folder",
    ),
    "reproduce with no processes": (["reproduce", "log.md#a_run", "--processes", "0"], "--processes"),
    "reproduce with no root": (["reproduce", "log.md#a_run", "--data-root", "absent"], "not a folder"),
    "reproduce from a folder": (["reproduce", "a_run", "--log", "."], "is a folder"),
    "reproduce with odd keys": (["reproduce", "log.md#tsdae_H8L1C2", "--plan", "--set", "a=1"], "unknown"),
    "rescore into a folder": (["rescore", "a", "--log", "."], "unknown run"),
    "analyse with an absent tokenizer": (["analyse", "model", "--tokenizer", "a/b"], "tokenizer"),
    "analyse with no root": (["analyse", "model", "--data-root", "absent"], "not a folder"),
    "encode with an absent tokenizer": (
        ["encode", "model", "texts.txt", "--output", "o.parquet", "--tokenizer", "a/b"],
        "tokenizer",
    ),
    "encode with no root": (
        ["encode", "model", "texts.txt", "--output", "o.parquet", "--data-root", "absent"],
        "not a folder",
    ),
    "report against nothing": (["report", "a", "--baseline", "b"], "no run or sweep"),
    "report into a file": (["report", "a", "--output", "tiny.yaml"], "no run or sweep"),
    "check odd keys": (["check", "tiny.yaml", "--set", "a=1"], "unknown key"),
    "checkpoint show with no root": (["checkpoint", "show", "model", "--data-root", "absent"], "not a folder"),
    "checkpoint convert with no root": (
        ["checkpoint", "convert", "model", "new", "--data-root", "absent"],
        "not a folder",
    ),
    "checkpoint convert with an absent tokenizer": (
        ["checkpoint", "convert", "model", "new", "--tokenizer", "a/b"],
        "tokenizer",
    ),
    "clean less than nothing": (["clean", "--keep", "-1"], "--keep"),
    "clean a word": (["clean", "--keep", "all"], "--keep"),
    "doctor with an odd option": (["doctor", "--heal"], "--heal"),
    "ui with an odd option": (["ui", "--start"], "--start"),
}


@pytest.mark.parametrize("case", WORDS)
def test_bad_words(place: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words, says = WORDS[case]
    assert_refused(place, words, says, capsys, monkeypatch)


SETTINGS = {
    "COGITO_HOME": ("tiny.yaml", "no folder"),
    "COGITO_LOG": (".", "is a folder"),
    "COGITO_DATA_ROOT": ("absent", "not a folder"),
    "HF_HUB_OFFLINE": ("1", "--data-root"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_bad_settings(
    place: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    value, says = SETTINGS[name]
    monkeypatch.setenv(name, value)
    words = ["evaluate", "model"] if name == "HF_HUB_OFFLINE" else ["run", "tiny.yaml"]
    assert_refused(place, words, says, capsys, monkeypatch)


# --- logs ---

ROW = "| Run ID | MLM Loss |\n|---|---|\n"
LOGS: dict[str, tuple[bytes, str]] = {
    "binary": (bytes(range(256)), "not UTF-8"),
    "UTF-16": (ROW.encode("utf-16"), "not UTF-8"),
    "Latin-1": ("caf\xe9".encode("latin-1"), "not UTF-8"),
    "cut in a letter": ("caf\xe9".encode()[:-1], "not UTF-8"),
    "endless number": (f"{ROW}| a | {'9' * 5_000} |\n".encode(), "digits"),
    "too large": (b"x" * 4_100_000, "bytes"),
}


@pytest.mark.parametrize("command", ["show", "check", "export", "add"])
@pytest.mark.parametrize("case", LOGS)
def test_bad_logs(
    place: Path, case: str, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, says = LOGS[case]
    (place / "bad.md").write_bytes(content)
    words = {
        "show": ["log", "show", "--log", "bad.md"],
        "check": ["log", "check", "bad.md"],
        "export": ["log", "export", "o.csv", "--log", "bad.md"],
        "add": ["log", "add", "record.json", "--log", "bad.md"],
    }
    assert_refused(place, words[command], says, capsys, monkeypatch)


@pytest.mark.parametrize(
    "tag", ["--output=harmed", "-x", "a\x00b", "v20260231", "$(touch harmed)", "..", "@{-1}", "a:b"]
)
def test_a_tag_of_a_log_is_never_an_option_of_git(
    place: Path, tag: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", "."], check=True)
    subprocess.run(["git", *AUTHOR, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    row = f"| Run ID | Git Tag |\n|---|---|\n| {RUN_ID} | {tag} |\n"
    (place / "log.md").write_text(row, encoding="utf-8")
    before = files_under(place)
    code, out, err = run_command(["log", "check", "log.md", "--git", "."], capsys, monkeypatch)
    assert code in (0, 1) and "Traceback" not in err and out
    assert files_under(place) == before


# --- records ---

RECORDS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "empty object": (lambda raw: {}, "kind"),
    "list": (lambda raw: [raw], "record"),
    "null": (lambda raw: None, "record"),
    "without a run id": (lambda raw: raw.pop("run_id") and raw, "run_id"),
    "of a later version": (lambda raw: raw | {"colour": "red"}, "colour"),
    "of an odd kind": (lambda raw: raw | {"kind": "guess"}, "kind"),
    "of an odd status": (lambda raw: raw | {"status": "fine"}, "status"),
    "created never": (lambda raw: raw | {"created": "never"}, "created"),
    "scores are words": (lambda raw: raw | {"scores": ["good"]}, "scores"),
    "score without floor": (lambda raw: raw["scores"][0].pop("floor") and raw, "floor"),
    "environment is a word": (lambda raw: raw | {"environment": "here"}, "environment"),
    "named after a folder": (lambda raw: raw | {"run_id": "../../etc/x"}, "run_id"),
    "named after a device": (lambda raw: raw | {"run_id": "nul"}, "run_id"),
    "named absolutely": (lambda raw: raw | {"run_id": "/etc/x"}, "run_id"),
    "named with NUL": (lambda raw: raw | {"run_id": "a\x00b"}, "run_id"),
    "named nothing": (lambda raw: raw | {"run_id": ""}, "run_id"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_bad_records(
    place: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, says = RECORDS[case]
    write_json(place / "bad.json", change(make_record().model_dump(mode="json")))
    assert_refused(place, ["log", "add", "bad.json", "--log", "log.md"], says, capsys, monkeypatch)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 200_000, b'{"a": 1' + b"0" * 5_000 + b"}", b"NaN", b'"text"']
)
@pytest.mark.parametrize("command", ["log add", "compare"])
def test_records_that_do_not_read(
    place: Path, content: bytes, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "bad.json").write_bytes(content)
    words = ["log", "add", "bad.json", "--log", "log.md"] if command == "log add" else ["compare", *["bad.json"] * 2]
    assert_refused(place, words, "bad.json", capsys, monkeypatch)


# --- checkpoints ---


def change_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        raw = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in raw.items() if value is not Ellipsis}))

    return change


def change_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return changed


def change_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        text = json.dumps(change(header) or header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return changed


def first_tensor(header: dict[str, Any]) -> dict[str, Any]:
    return next(facts for name, facts in header.items() if name != "__metadata__")


def write_bytes(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_bytes(content))


def void(_: object) -> None:
    return None


class Harmful:
    """A pickle that would run code where it is read without care."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


def as_pickle(value: Any, *, bare: bool = False) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        path = folder / "pytorch_model.bin"
        if bare:
            path.write_bytes(pickle.dumps(value))
        else:
            torch.save(value(tensors) if callable(value) else value, path)

    return change


def packed_pickle(folder: Path) -> None:
    """An archive whose tensors are a thousand times its size."""
    as_pickle({"a": torch.zeros(3_000_000)})(folder)
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        parts = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert path.stat().st_size < 100_000


def manifest(files: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        write_json(folder / "manifest.json", files)

    return change


CHECKPOINTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
    "weights are a folder": (
        lambda folder: ((folder / "model.safetensors").unlink(), (folder / "model.safetensors").mkdir()),
        "has no",
    ),
    "empty config": (write_bytes("config.json", b""), "JSON"),
    "config is a list": (write_bytes("config.json", b"[]"), "JSON object"),
    "config is binary": (write_bytes("config.json", bytes(range(256))), "JSON"),
    "config nested without end": (write_bytes("config.json", b"[" * 200_000), "JSON"),
    "config of another kind": (change_config(model_type="toaster"), "model_type"),
    "config without a kind": (change_config(model_type=...), "model_type"),
    "kind is a list": (change_config(model_type=["bert"]), "model_type"),
    "kind is a mapping": (change_config(model_type={"a": 1}), "model_type"),
    "config of a plain encoder": (change_config(model_type="bert", vocab_size=100), "weights are missing (197)"),
    "config of earlier code": (change_config(model_type="concept_encoder"), "corrupt"),
    "unknown variant": (change_config(variant="perceiver"), "variant"),
    "variant is a number": (change_config(variant=7), "variant"),
    "unknown architecture": (change_config(architectures=["os.system"]), "architecture"),
    "architecture is a number": (change_config(architectures=[7]), "architecture"),
    "unknown decoder": (change_config(decoder_type="nothing"), "config.json"),
    "width is a word": (change_config(hidden_size="wide"), "hidden_size"),
    "width is a fraction": (change_config(hidden_size=16.5), "hidden_size"),
    "width is a list": (change_config(hidden_size=[16]), "hidden_size"),
    "width is yes": (change_config(hidden_size=True), "hidden_size"),
    "width is 0": (change_config(hidden_size=0), "hidden_size"),
    "width is negative": (change_config(hidden_size=-16), "hidden_size"),
    "width of terabytes": (change_config(hidden_size=10**12), "hidden_size"),
    "width of a hundred gigabytes": (change_config(hidden_size=65_536, token_embedding_dim=65_536), "shape"),
    "width of 4,000 digits": (change_config(hidden_size=10**4000), "hidden_size"),
    "no heads": (change_config(num_attention_heads=0), "num_attention_heads"),
    "heads that do not divide": (change_config(num_attention_heads=3), "divide"),
    "a billion layers": (change_config(num_layers=10**9), "num_layers"),
    "a thousand layers": (change_config(num_layers=1000), "missing"),
    "a billion concepts": (change_config(num_concepts=10**9), "num_concepts"),
    "other concepts": (change_config(num_concepts=5), "shape"),
    "a billion positions": (change_config(max_sequence_length=10**9), "max_sequence_length"),
    "other positions": (change_config(max_sequence_length=64), "shape"),
    "a billion tokens": (change_config(vocab_size=10**9), "vocab_size"),
    "ten million tokens": (change_config(vocab_size=10**7), "shape"),
    "a billion labels": (change_config(num_labels=10**9), "num_labels"),
    "dropout is a word": (change_config(hidden_dropout_prob="some"), "config.json"),
    "empty weights": (write_bytes("model.safetensors", b""), "header too small"),
    "weights of text": (write_bytes("model.safetensors", b"not weights at all"), "corrupt"),
    "header longer than the file": (write_bytes("model.safetensors", struct.pack("<Q", 10**15) + b"{}"), "corrupt"),
    "header of all bits": (write_bytes("model.safetensors", b"\xff" * 64), "corrupt"),
    "header is no JSON": (write_bytes("model.safetensors", struct.pack("<Q", 4) + b"{{{{"), "corrupt"),
    "header is a list": (write_bytes("model.safetensors", struct.pack("<Q", 2) + b"[]"), "corrupt"),
    "header nested without end": (
        write_bytes("model.safetensors", struct.pack("<Q", 100_000) + b"[" * 100_000),
        "corrupt",
    ),
    "no tensors": (write_bytes("model.safetensors", struct.pack("<Q", 2) + b"{}"), "missing"),
    "cut by a byte": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1]),
        "truncated",
    ),
    "a byte too long": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes() + b"x"),
        "not fully covered",
    ),
    "shape of terabytes": (change_header(lambda h: first_tensor(h).update(shape=[2**40, 2**20])), "overflow"),
    "negative shape": (change_header(lambda h: first_tensor(h).update(shape=[-1, 4])), "expected usize"),
    "shape of words": (change_header(lambda h: first_tensor(h).update(shape=["a"])), "expected usize"),
    "shape is missing": (change_header(lambda h: void(first_tensor(h).pop("shape"))), "missing field `shape`"),
    "overlapping tensors": (change_header(lambda h: first_tensor(h).update(data_offsets=[0, 8])), "corrupt"),
    "offsets backwards": (change_header(lambda h: first_tensor(h).update(data_offsets=[8, 0])), "corrupt"),
    "offsets of petabytes": (change_header(lambda h: first_tensor(h).update(data_offsets=[0, 2**55])), "corrupt"),
    "odd type": (change_header(lambda h: first_tensor(h).update(dtype="F999")), "model.safetensors"),
    "a tensor is missing": (change_tensors(lambda t: void(t.pop("encoder.concept_embedding.weight"))), "missing"),
    "a tensor too many": (change_tensors(lambda t: t.update(extra=torch.zeros(3))), "without a place"),
    "a tensor of whole numbers": (
        change_tensors(lambda t: t.update({n: x.to(torch.int64) for n, x in t.items() if "concept_emb" in n})),
        "type",
    ),
    "a tensor of another shape": (
        change_tensors(lambda t: t.update({n: torch.zeros(3, 3) for n in t if "concept_embedding" in n})),
        "shape",
    ),
    "pickle with code": (as_pickle(lambda _: {"a": Harmful()}), "cannot be read"),
    "bare pickle with code": (as_pickle(Harmful(), bare=True), "cannot be read"),
    "pickle of a list": (as_pickle([1, 2]), "named tensors"),
    "pickle of a module": (as_pickle(lambda _: torch.nn.Linear(2, 2)), "cannot be read"),
    "pickle of nothing": (as_pickle({}), "missing"),
    "packed pickle": (packed_pickle, "compressed"),
    "stretched pickle": (as_pickle({"a": torch.zeros(1).expand(2**40)}), "claims more"),
    "pickle is text": (
        lambda folder: ((folder / "model.safetensors").unlink(), (folder / "pytorch_model.bin").write_bytes(b"hello")),
        "cannot be read",
    ),
    "manifest is a list": (manifest([]), "manifest"),
    "manifest without files": (manifest({}), "manifest"),
    "manifest of words": (manifest({"files": {"config.json": "fine"}}), "manifest"),
    "manifest of other sizes": (manifest({"files": {"config.json": {"size": 1, "sha256": "0"}}}), "corrupt"),
    "manifest of what is not": (manifest({"files": {"a.json": {"size": 1, "sha256": "0"}}}), "missing"),
    "manifest of the outside": (manifest({"files": {"../../x": {"size": 1, "sha256": "0"}}}), "outside"),
    "manifest of an absolute path": (manifest({"files": {"/etc/passwd": {"size": 1, "sha256": "0"}}}), "outside"),
    "manifest with NUL": (manifest({"files": {"a\x00b": {"size": 1, "sha256": "0"}}}), "missing"),
    "manifest is binary": (write_bytes("manifest.json", b"\xff\xfe"), "manifest"),
    "manifest nested without end": (write_bytes("manifest.json", b"[" * 200_000), "manifest"),
    "tokenizer is empty": (write_bytes("tokenizer.json", b""), "tokenizer"),
    "tokenizer is an object": (write_bytes("tokenizer.json", b"{}"), "tokenizer"),
    "tokenizer is a list": (write_bytes("tokenizer.json", b"[]"), "tokenizer"),
    "tokenizer is binary": (write_bytes("tokenizer.json", bytes(range(256))), "tokenizer"),
    "tokenizer settings are a list": (write_bytes("tokenizer_config.json", b"[]"), "tokenizer"),
    "tokenizer without special tokens": (write_bytes("tokenizer_config.json", b"{}"), "token"),
    "tokenizer is a sentence-piece model": (
        lambda folder: (folder / "tokenizer.json").rename(folder / "spm.model"),
        "tokenizer",
    ),
    "tokenizer of more tokens": (change_config(vocab_size=100), "shape"),
    "experiment is a list": (write_bytes("experiment.json", b"[]"), "experiment"),
    "experiment is empty": (write_bytes("experiment.json", b"{}"), "experiment"),
    "experiment of odd keys": (write_bytes("experiment.json", b'{"spec": {"name": "a", "x": 1}}'), "experiment"),
    "experiment nested without end": (write_bytes("experiment.json", b"[" * 200_000), "experiment"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_bad_checkpoints(
    place: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, says = CHECKPOINTS[case]
    damage(place / "model")
    assert_refused(place, ["evaluate", "model"], says, capsys, monkeypatch)
    assert not (place / "harmed").exists()


@pytest.mark.parametrize("case", ["width of terabytes", "pickle with code", "shape of terabytes", "a billion layers"])
@pytest.mark.parametrize("command", ["checkpoint show", "checkpoint convert", "encode", "analyse", "run"])
def test_every_command_refuses_a_bad_checkpoint(
    place: Path, case: str, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, says = CHECKPOINTS[case]
    damage(place / "model")
    words = {
        "encode": ["encode", "model", "texts.txt", "--output", "o.parquet"],
        "run": ["run", "tiny.yaml", "--set", "training.init_from=model"],
        "checkpoint convert": ["checkpoint", "convert", "model", "new"],
    }.get(command, [*command.split(), "model"])
    assert_refused(place, words, says, capsys, monkeypatch)
    assert not (place / "harmed").exists()


def plain_encoder(folder: Path, **changes: Any) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=280, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder)
    change_config(**changes)(folder)


PLAIN = {
    "a billion layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
    "a million positions": ({"max_position_embeddings": 10**6, "hidden_size": 65_536}, "weights"),
    "width is a word": ({"hidden_size": "wide"}, "config.json"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads"),
    "unknown activation": ({"hidden_act": "os.system"}, "config.json"),
    "a billion labels": ({"num_labels": 10**9}, "num_labels"),
    "more layers than its file": ({"num_hidden_layers": 2}, "weights are missing (16): bert.encoder.layer.1"),
    "an encoder-decoder": ({"model_type": "t5"}, "encoder-decoder"),
    "a decoder": ({"model_type": "gpt2"}, "made to generate text"),
    "a causal encoder": ({"is_decoder": True}, "is_decoder"),
    "another family": ({"model_type": "distilbert"}, "architectures names BertModel"),
    "quantized": ({"quantization_config": {"quant_method": "gptq"}}, "quantized"),
    "code of its own": ({"auto_map": {"AutoModel": "evil.Model"}, "model_type": "evil"}, "model_type"),
}


@pytest.mark.parametrize("case", PLAIN)
def test_bad_plain_encoders(
    place: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, says = PLAIN[case]
    for name in ("model.safetensors", "config.json"):
        (place / "model" / name).unlink()
    plain_encoder(place / "model", **changes)
    (place / "model" / "evil.py").write_text("import os\nos.mkdir('harmed')\n")
    assert_refused(place, ["evaluate", "model"], says, capsys, monkeypatch)
    assert not (place / "harmed").exists()


# --- texts to encode ---

TEXTS: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.txt", b"", "no text"),
    "empty lines of JSON": ("a.jsonl", b"\n\n", "no text"),
    "no JSON": ("a.jsonl", b"hello\n", "not JSON"),
    "list": ("a.jsonl", b"[1]\n", "not a JSON object"),
    "number": ("a.jsonl", b'{"text": 7}\n', "allowed: text"),
    "other column": ("a.jsonl", b'{"texts": "a"}\n', "unknown column"),
    "endless number": ("a.jsonl", b'{"text": ' + b"9" * 5_000 + b"}\n", "a.jsonl"),
    "nested without end": ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n", "a.jsonl"),
    "surrogate": ("a.jsonl", b'{"text": "\\ud800"}\n', "Unicode"),
    "binary text": ("a.txt", b"\xff\xfe\x00", "cannot be read"),
    "binary table": ("a.csv", b"\xff\xfe\x00", "cannot be read"),
    "open quote": ("a.csv", b'text\n"a', "cannot be read"),
    "too many fields": ("a.csv", b"text\na,b\n", "2 fields, the header 1"),
    "no parquet": ("a.parquet", b"hello", "cannot be read"),
    "empty parquet": ("a.parquet", b"", "cannot be read"),
    "cut parquet": ("a.parquet", b"PAR1" + b"\x00" * 40 + b"PAR1", "cannot be read"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_bad_texts(place: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name, content, says = TEXTS[case]
    (place / name).write_bytes(content)
    assert_refused(place, ["encode", "model", name, "--output", "o.parquet"], says, capsys, monkeypatch)


# --- data sets ---

GOOD_ROWS = {"sentence1": ["a b"] * 8, "sentence2": ["b c"] * 8, "label": [0, 1] * 4}
TABLES: dict[str, tuple[dict[str, list[Any]], str]] = {
    "no column": ({"sentence1": ["a"] * 8, "label": [0, 1] * 4}, "sentence2"),
    "no labels": ({"sentence1": ["a"] * 8, "sentence2": ["b"] * 8}, "label"),
    "numbers for text": (GOOD_ROWS | {"sentence1": [1] * 8}, "allowed: text"),
    "lists for text": (GOOD_ROWS | {"sentence2": [["a"]] * 8}, "allowed: text"),
    "missing text": (GOOD_ROWS | {"sentence1": ["a", None] * 4}, "allowed: text"),
    "words for labels": (GOOD_ROWS | {"label": ["yes", "no"] * 4}, "numbers"),
    "missing labels": (GOOD_ROWS | {"label": [0, None] * 4}, "numbers"),
    "labels beyond": (GOOD_ROWS | {"label": [0, 2] * 4}, "allowed: 0 to 1"),
    "labels below": (GOOD_ROWS | {"label": [0, -2] * 4}, "allowed: 0 to 1"),
    "labels between": (GOOD_ROWS | {"label": [0.0, 0.5] * 4}, "allowed: 0 to 1"),
    "labels of no number": (GOOD_ROWS | {"label": [0.0, float("nan")] * 4}, "numbers"),
    "labels of lists": (GOOD_ROWS | {"label": [[0], [1]] * 4}, "numbers"),
    "no gold label": (GOOD_ROWS | {"label": [-1] * 8}, "allowed: 0 to 1"),
    "no rows": ({key: values[:0] for key, values in GOOD_ROWS.items()}, "mrpc"),
    "one label": (GOOD_ROWS | {"label": [1] * 8}, "all its labels are 1"),
    "truth values": (GOOD_ROWS | {"label": [True, False] * 4}, "numbers"),
    "half a pair of surrogates": (GOOD_ROWS | {"sentence1": [b"\xed\xa0\x80"] * 8}, "allowed: text"),
    "one row": ({key: values[:1] for key, values in GOOD_ROWS.items()}, "mrpc"),
}


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


def refusal_of_task(root: Path, model: Path, home: Home) -> str:
    source = find_dataset("nyu-mll/glue", home, root)
    protocol = EvaluationSpec(tasks=("mrpc",)).for_task("mrpc")
    started = time.process_time()
    with pytest.raises(UserError) as caught:
        prepare_task(TASKS["mrpc"], protocol, model, source, home)
    assert time.process_time() - started < SECONDS
    assert not list((home.root / "cache" / "tasks").glob("*")), "half a task was left behind"
    return str(caught.value)


@pytest.mark.parametrize("case", TABLES)
def test_bad_tasks(tmp_path: Path, home: Home, model: Path, case: str) -> None:
    rows, says = TABLES[case]
    assert says in refusal_of_task(put_task(tmp_path, rows), model, home)


@pytest.mark.parametrize("content", [b"", b"hello", b"PAR1" + bytes(40) + b"PAR1"])
def test_task_files_that_do_not_read(tmp_path: Path, home: Home, model: Path, content: bytes) -> None:
    root = put_task(tmp_path, GOOD_ROWS)
    for path in root.rglob("train*.parquet"):
        path.write_bytes(content)
    assert "nyu-mll/glue" in refusal_of_task(root, model, home)


CORPORA: dict[str, tuple[dict[str, list[Any]], dict[str, Any], str]] = {
    "no column": ({"body": ["some text"] * 9}, {}, "unknown column 'text'"),
    "numbers": ({"text": [1, 2, 3]}, {}, "allowed: text"),
    "lists": ({"text": [["a"], ["b"]]}, {}, "allowed: text"),
    "blanks": ({"text": [" ", "\n"]}, {}, "fill no block"),
    "nothing but None": ({"text": pa.nulls(4)}, {}, "fill no block"),
    "no rows": ({"text": []}, {}, "some/text"),
    "too little": ({"text": ["a b"]}, {}, "fill no block"),
    "no split": ({"text": ["some text"] * 9}, {"split": "trian"}, "trian"),
    "no held-out split": ({"text": ["some text " * 50] * 9}, {"held_out_split": "none"}, "none"),
    "no configuration": ({"text": ["some text"] * 9}, {"config": "none"}, "none"),
    "held out of itself": ({"text": ["some text " * 50] * 9}, {"held_out_split": "train"}, "share rows"),
    "slices that meet": ({"text": ["a b"] * 9}, {"split": "train[:5]", "held_out_split": "train[4:]"}, "share rows"),
    "lines of no .txt": ({"text": ["some text"] * 9}, {"txt_document": "line"}, "data.txt_document"),
    "split that computes": ({"text": ["some text"] * 9}, {"split": "train[__import__('os')]"}, "split"),
}


@pytest.mark.parametrize("case", CORPORA)
def test_bad_corpora(tmp_path: Path, home: Home, model: Path, case: str) -> None:
    rows, settings, says = CORPORA[case]
    folder = tmp_path / "mirror" / "some" / "text"
    folder.mkdir(parents=True)
    pq.write_table(pa.table(rows), folder / "train.parquet")
    spec = DataSpec.model_validate({"dataset": "some/text", "block_tokens": 64, **settings})
    source = find_dataset(spec.dataset, home, tmp_path / "mirror")
    with pytest.raises(UserError) as caught:
        prepare_corpus(spec, source, home, tmp_path / "mirror", tokenizer_folder=model)
    assert says in str(caught.value)
    assert not list(home.corpora.iterdir()), "half a corpus was left behind"


# --- names ---

UNSAFE = [
    "",
    ".",
    "..",
    "../x",
    "a/../b",
    "/etc/hosts",
    "a/b",
    "a\\b",
    "..\\x",
    "C:\\x",
    "C:x",
    "a\x00b",
    "a\nb",
    "nul",
    "NUL",
    "con.txt",
    "Com1",
    "lpt9.json",
    "aux",
    "prn",
    "a.",
    " a",
    "a ",
    "a?",
    "a*",
    "a|b",
    "<a>",
    'a"b',
    "a" * 300,
    "\udc80",
    "é" * 200,
]
SAFE = [RUN_ID, "a", "a.b", "a-b_c", "com10", "console", "..a", "tsdae_fixed0.1,0.2_20260101_000000", "ä"]


@pytest.mark.parametrize("name", UNSAFE, ids=ascii)
def test_names_that_lead_elsewhere(name: str, home: Home) -> None:
    assert not is_safe_name(name) and not home.has_run(name)
    with pytest.raises(UserError, match="is no name of a run"):
        home.run(name)


@pytest.mark.parametrize("name", SAFE)
def test_names_that_are_fine(name: str, home: Home) -> None:
    assert is_safe_name(name)
    assert home.run(name).root.parent == home.runs


def test_every_command_and_option_has_a_bad_case() -> None:
    given = [words for words, _ in WORDS.values()]

    def walk(words: list[str], command: Any) -> None:
        for name, deferred in getattr(command, "commands", {}).items():
            inner = deferred.load() if isinstance(deferred, cli.DeferredCommand) else deferred
            path = [*words, name]
            cases = [one for one in given if one[: len(path)] == path]
            options = [one.opts[-1] for one in inner.params if not getattr(one, "is_flag", False)]
            options = [one for one in options if one.startswith("--")]
            if getattr(inner, "commands", None):
                walk(path, inner)
            else:
                assert cases, path
                assert not [one for one in options if not any(one in case for case in cases)], path

    walk([], cli.app)


def test_there_are_many() -> None:
    tables = (SPECS, VALUES, WORDS, SETTINGS, RECORDS, CHECKPOINTS, PLAIN, TEXTS, TABLES, CORPORA, UNSAFE)
    assert sum(map(len, tables)) + 4 * len(LOGS) >= 400


def test_what_is_right_is_taken(
    place: Path, home: Home, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counterpart: the files that every case above damages are good ones."""
    for words in (["check", "tiny.yaml"], ["log", "show", "--log", "log.md"], ["checkpoint", "show", "model"]):
        code, out, err = run_command(words, capsys, monkeypatch)
        assert code == 0 and out, err
    root = put_task(place, GOOD_ROWS)
    protocol = EvaluationSpec(tasks=("mrpc",)).for_task("mrpc")
    prepared = prepare_task(TASKS["mrpc"], protocol, model, find_dataset("nyu-mll/glue", home, root), home)
    assert prepared.train_examples > 0 and np.load(prepared.folder / "train.npz")["labels"].max() == 1
    write_manifest(place / "model")
    assert_refused(place, ["evaluate", "model"], "--data-root", capsys, monkeypatch)
