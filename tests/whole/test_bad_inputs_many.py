"""Bad words of the command line and bad settings, by the table, one for every command and option at least.

Bad input of other kinds is tested beside what reads it (`test_bad_*.py`); a dozen cases run as real processes in
`test_bad_input.py`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_input import GOOD_ROWS, assert_refused, put_task, run_command
from bad_input import model as model
from bad_input import no_work_begins as no_work_begins
from bad_input import place as place

from flows import cli
from tasks.data.sources import find_dataset
from tasks.data.task_data import prepare_task
from tasks.spec.benchmarks import TASKS
from tasks.spec.evaluation import EvaluationSpec
from tasks.store.files import write_manifest
from tasks.store.home import Home
from tests.factories import RUN_ID
from tests.tasks.checkpoints.test_bad_checkpoints import CHECKPOINTS, PLAIN
from tests.tasks.checkpoints.test_bad_texts import TEXTS
from tests.tasks.data.test_bad_data import CORPORA, TABLES
from tests.tasks.log.test_bad_logs import LOGS
from tests.tasks.spec.test_bad_specs import SPECS, VALUES
from tests.tasks.store.test_bad_records import RECORDS
from tests.tasks.store.test_safe_names import UNSAFE

MADE = ["--tasks", "mrpc", "--set", "data.dataset=builtin/python_docs"]
WORDS: dict[str, tuple[list[str], str]] = {
    "unknown command": (["rnu"], "run"),
    "unknown option": (["run", "tiny.yaml", "--fast"], "--fast"),
    "run nothing": (["run"], "SPEC"),
    "run dry for so long": (["run", "tiny.yaml", "--dry-run", "--max-hours", "1"], "drop one of them"),
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
    "sweep a section": (
        ["sweep", "tiny.yaml", "--grid", "training=[{seed: 1}, {seed: 2}]"],
        "fix: --grid training.seed=[VALUE, ...]",
    ),
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
    """Here, and beside what they test."""
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
