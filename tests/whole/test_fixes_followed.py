"""The fixes that users meet most often are followed, word by word as the message has them, and the error is gone."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bad_input import GOOD_ROWS, copy_folder, put_task, run_command
from bad_input import model as model
from bad_input import place as place
from factories import make_record
from test_bad_inputs_many import MADE

from tasks.store.home import Home

OK, BEGINS = "ends well", "work begins"
CHECK, EVALUATE = ["check", "tiny.yaml"], ["evaluate", "model", *MADE, "--set", "evaluation.data=made"]

REAL = ["--set", "evaluation.data=hub", "--set", "evaluation.tasks=[mrpc]"]
ADDED = ["--set", "evaluation.tasks=[mnli,mrpc,stsb]"]


class Begun(BaseException):
    """Nothing was refused: the command has come to its work."""


@pytest.fixture(autouse=True)
def _work_is_seen_and_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*_: object, **__: object) -> None:
        raise Begun

    monkeypatch.setattr("flows.commands.run.ensure_server", begun)


def fix_of(message: str) -> str:
    """What a message says to do."""
    assert message.count("fix: ") == 1, message
    return message.rpartition("fix: ")[2].strip()


def written(message: str) -> str:
    """The value that a message says to write."""
    found = re.match(r"write (\S+?),?( |$)", fix_of(message))
    assert found, message
    return found[1]


def command_of(message: str) -> list[str]:
    """The command that a message names."""
    (words,) = re.findall(r"`cogito ([^`]+)`", fix_of(message))
    return shlex.split(words)


def data_root(message: str) -> list[str]:
    """The option that a message wants, with the folder that has what is missing."""
    assert "pass --data-root DIR" in fix_of(message), message
    return ["--data-root", "mirror"]


def stated(message: str) -> list[str]:
    """The setting that a message says to state."""
    found = re.search(r"state ([a-z.]+) (\w+)", fix_of(message))
    assert found, message
    return ["--set", f"{found[1]}={found[2]}"]


def option_of(message: str) -> list[str]:
    """The options that a fix begins with, up to the next one."""
    return shlex.split(fix_of(message).split(", or ")[0].split(" for ")[0])


Follow = Callable[[str], list[str]]
# The words of a command, what its refusal says, the words that follow its fix, and what comes of them.
CASES: dict[str, tuple[list[str], str, Follow, str]] = {
    "a leading zero": (
        [*CHECK, "--set", "training.seed=010"],
        "can mean octal",
        lambda said: [*CHECK, "--set", f"training.seed={written(said)}"],
        OK,
    ),
    "a share in percent": (
        [*CHECK, "--set", "training.learning_rate=5%"],
        "written as a fraction",
        lambda said: [*CHECK, "--set", f"training.learning_rate={written(said)}"],
        OK,
    ),
    "on for true": (
        [*CHECK, "--set", "model.use_bixt=on"],
        "allowed: true or false",
        lambda said: [*CHECK, "--set", f"model.use_bixt={written(said)}"],
        OK,
    ),
    "None for null": (
        [*CHECK, "--set", "data.revision=None"],
        "got None",
        lambda said: [*CHECK, "--set", f"data.revision={written(said)}"],
        OK,
    ),
    "a truth value for a text": (
        [*CHECK, "--set", "data.split=false"],
        "a truth value",
        lambda said: [*CHECK, "--set", f"data.config={written(said)}", "--set", "data.dataset=a/b"],
        OK,
    ),
    "a whole section": (
        [*CHECK, "--set", "training={epochs: 1, seed: 7}"],
        "is a section",
        lambda said: [*CHECK, *option_of(said)],
        OK,
    ),
    "a section of a task": (
        [*CHECK, "--set", "evaluation.per_task.mrpc={seeds: 2}"],
        "is a section",
        lambda said: [*CHECK, *option_of(said)],
        OK,
    ),
    "a grid of one value": (
        ["sweep", "tiny.yaml", "--grid", "training.seed=[3]"],
        "has one value",
        lambda said: ["run", "tiny.yaml", *option_of(said)],
        BEGINS,
    ),
    "a key twice": (
        [*CHECK, "--set", "training.seed=1", "--set", "training.seed=2"],
        "would be ignored",
        lambda said: [*CHECK, "--set", "training.seed=2"] if fix_of(said) == "drop one of them" else [],
        OK,
    ),
    "a task without made data": (
        [*CHECK, "--set", "evaluation.tasks=[mrpc,cola]"],
        "data made has no cola",
        lambda said: [*CHECK, "--set", "evaluation.tasks=[mrpc,cola]", *option_of(said)],
        OK,
    ),
    "pairs longer than the model: lower it": (
        [*CHECK, "--set", "evaluation.max_length=64"],
        "exceeds the model's 32 positions",
        lambda said: [*CHECK, "--set", "evaluation.max_length=32"] if fix_of(said).startswith("lower it") else [],
        OK,
    ),
    "pairs longer than the model: raise one": (
        [*CHECK, "--set", "evaluation.max_length=64"],
        "exceeds the model's 32 positions",
        lambda said: [*CHECK, "--set", "evaluation.max_length=64", "--set", f"{fix_of(said).split()[-1]}=64"],
        OK,
    ),
    "a start from a task that is not asked for": (
        [*CHECK, "--set", "evaluation.per_task.mrpc.start_from=mnli"],
        "needs mnli among tasks",
        lambda said: [*CHECK, "--set", "evaluation.per_task.mrpc.start_from=mnli", *ADDED],
        OK,
    ),
    "no such experiment": (["check", "none.yaml"], "cannot be read", command_of, OK),
    "no such key": (["explain", "learning"], "unknown key", command_of, OK),
    "no such run": (["rescore", "none"], "unknown run", lambda said: [*command_of(said)], OK),
    "a wrong word": (["run", "tiny.yaml", "--quick"], "No such option", command_of, OK),
    "two forms": (
        ["compare", "record.json", "record.json", "--json", "--markdown"],
        "drop one of them",
        lambda said: ["compare", "record.json", "record.json", "--json"],
        OK,
    ),
    "one run to compare": (
        ["compare", "record.json"],
        "at least one other",
        lambda said: ["compare", "record.json", "record.json"],
        OK,
    ),
    "no token": (
        ["run", "tiny.yaml", "--set", "publish.store=hub"],
        "no Hugging Face token",
        lambda said: ["run", "tiny.yaml", *stated(said)],
        BEGINS,
    ),
    "no login": (
        ["run", "tiny.yaml", "--set", "tracking.wandb=online"],
        "no W&B login",
        lambda said: ["run", "tiny.yaml", *stated(said)],
        BEGINS,
    ),
    "a text that is not here": (
        ["run", "tiny.yaml", "--set", "data.dataset=lab/texts"],
        "the Hub cannot be reached",
        lambda said: ["run", "tiny.yaml", "--set", "data.dataset=lab/texts", *data_root(said)],
        BEGINS,
    ),
    "tasks that are not here": (
        ["run", "tiny.yaml", *REAL],
        "the Hub cannot be reached",
        lambda said: ["run", "tiny.yaml", *REAL, *data_root(said)],
        BEGINS,
    ),
    "a root that is no folder": (
        ["run", "tiny.yaml", "--data-root", "none"],
        "is not a folder",
        lambda said: ["run", "tiny.yaml", "--data-root", "mirror"],
        BEGINS,
    ),
    "a log that is a folder": (
        ["run", "tiny.yaml", "--log", "."],
        "is a folder",
        lambda said: ["run", "tiny.yaml", "--log", "new.md"],
        BEGINS,
    ),
    "too many processes": (
        ["run", "tiny.yaml", "--processes", "17"],
        "more than training.global_batch_size",
        lambda said: ["run", "tiny.yaml", "--processes", "1"] if fix_of(said) == "fewer processes" else [],
        BEGINS,
    ),
    "a time that is none": (
        ["run", "tiny.yaml", "--max-hours", "nan"],
        "--max-hours",
        lambda said: ["run", "tiny.yaml"] if fix_of(said) == "drop it for no limit" else [],
        BEGINS,
    ),
    "no tokenizer": (
        ["evaluate", "bare", *EVALUATE[2:]],
        "has no tokenizer",
        lambda said: ["evaluate", "bare", *EVALUATE[2:], *shlex.split(fix_of(said).replace("ID or DIR", "model"))],
        BEGINS,
    ),
    "pairs longer than the checkpoint": (
        [*EVALUATE, "--set", "evaluation.max_length=999"],
        "reads at most",
        lambda said: [*EVALUATE, *option_of(said)],
        BEGINS,
    ),
    "no checkpoint": (["evaluate", "none"], "nor reachable on the Hub", command_of, OK),
    "an output that exists": (
        ["encode", "model", "texts.txt", "--output", "old.parquet"],
        "exists",
        lambda said: ["encode", "model", "texts.txt", "--output", "old.parquet", *option_of(said)],
        OK,
    ),
    "a fraction of a step": (
        [*CHECK, "--set", "training.max_steps=1.5"],
        "a whole number",
        lambda said: [*CHECK, "--set", f"training.max_steps={written(said)}"],
        OK,
    ),
}


@pytest.fixture
def ready(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The place, with a mirror of a text and a task, a checkpoint without tokenizer, and an output that exists."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    put_task(place, GOOD_ROWS)
    texts = place / "mirror" / "lab" / "texts"
    texts.mkdir(parents=True)
    (texts / "train.txt").write_text("A text.\nAnother.\n", encoding="utf-8")
    copy_folder(place / "model", place / "bare")
    for path in (place / "bare").glob("tokenizer*"):
        path.unlink()
    (place / "old.parquet").write_bytes(b"")
    yield place


@pytest.mark.parametrize("case", CASES)
def test_following_a_fix_ends_the_error(
    case: str, ready: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, says, follow, then = CASES[case]
    code, _, said = run_command(words, capsys, monkeypatch)
    message = "\n".join(line for line in said.splitlines() if line.startswith("cogito: "))
    assert code == 2 and says in message, said
    following = follow(message)
    if then == BEGINS:
        with pytest.raises(Begun):
            code, _, message = run_command(following, capsys, monkeypatch)
            pytest.fail(message)
        assert "cogito: " not in capsys.readouterr().err
    else:
        code, out, message = run_command(following, capsys, monkeypatch)
        assert not code and out and says not in message, message


def test_a_name_of_several_runs_is_made_clear(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id in ("tsdae_20260101_000000", "tsdae_20260102_000000"):
        make_record(run_id=run_id, name="twins").save(home.run(run_id))
    code, _, message = run_command(["report", "twins"], capsys, monkeypatch)
    assert code == 2 and "stands for 2 runs" in message
    code, listed, _ = run_command(command_of(message), capsys, monkeypatch)
    assert not code and "tsdae_20260101_000000" in listed
    named = re.findall(r"tsdae_\d+_\d+", message)
    code, out, _ = run_command(["report", named[0]], capsys, monkeypatch)
    assert not code and "report.html" in out
