"""The command itself: its version, completion by a shell through deferred commands, what `cogito show` prints."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import ROOT, environment
from factories import make_record, make_score

from flows import cli
from flows.commands.run import _report_outcome
from tasks.errors import UserError, try_all
from tasks.spec.reading import load_spec
from tasks.store.home import Home

EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


def run_here(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What the command prints, run in this process; it ends well."""
    monkeypatch.setattr(sys, "argv", ["cogito", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    return capsys.readouterr().out


def test_the_version_is_that_of_the_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_here(["--version"], capsys, monkeypatch) == f"cogito {version('cogito')}\n"


def test_every_line_of_a_message_says_whose_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text("name: a\ndata: {tokenzer: b/c,\n  blok: 1}\nmodl: {}\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["cogito", "check", str(tmp_path / "a.yaml"), "--set", "training.lr=1"])
    with pytest.raises(SystemExit):
        cli.main()
    lines = capsys.readouterr().err.splitlines()
    places = [line.partition(": unknown key")[0] for line in lines]
    file = tmp_path / "a.yaml"
    assert places == [
        f"cogito: {file}:2: data.tokenzer",
        f"cogito: {file}:3: data.blok",
        f"cogito: {file}:4: modl",
        "cogito: --set training.lr",
    ], "in the order of the file"


def test_every_line_of_an_attempt_has_its_place() -> None:
    def two() -> None:
        raise UserError("one thing\nanother")

    with pytest.raises(UserError) as caught:
        try_all({"mrpc": two, "qqp": two}, "task {}: ")
    assert str(caught.value).split("\n") == [
        f"task {name}: {what}" for name in ("mrpc", "qqp") for what in ("one thing", "another")
    ]


@pytest.mark.parametrize(
    ("value", "floor", "mark"), [(0.9, 0.5, ""), (0.5, 0.5, "at floor"), (0.4, 0.5, "below floor"), (None, 0.5, "")]
)
def test_json_has_the_mark_of_the_terminal(
    value: float | None, floor: float, mark: str, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = make_record(scores=[make_score("mrpc", value, floor)])
    record.save(home.run(record.run_id))
    ended = SimpleNamespace(name="Completed", data=record.run_id, is_completed=lambda: True)
    _report_outcome(ended, tmp_path / "log.md", as_json=True)
    (score,) = json.loads(capsys.readouterr().out)["scores"]
    assert score["mark"] == mark
    _report_outcome(ended, tmp_path / "log.md", as_json=False)
    assert not mark or f"({mark})" in capsys.readouterr().out


COMPLETIONS = {
    "ru": ["run", "runs"],
    "exp": ["explain"],
    "run --fre": ["--fresh"],
    "sweep --gr": ["--grid"],
    "log ": ["show", "add", "check", "export"],
    "checkpoint con": ["convert"],
    "checkpoint show --data": ["--data-root"],
}


@pytest.mark.parametrize("typed", COMPLETIONS)
def test_a_shell_completes_commands_and_options(
    typed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_COGITO_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"cogito {typed}")
    monkeypatch.setenv("COMP_CWORD", str(typed.count(" ") + 1))
    assert run_here([], capsys, monkeypatch).split() == COMPLETIONS[typed]


def test_a_shell_that_describes_commands_shows_their_summaries(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_COGITO_COMPLETE", "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "cogito expl")
    assert "Say what a key of a spec means" in run_here([], capsys, monkeypatch)


def test_completion_imports_no_heavy_library(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from flows import cli\n"
        "try:\n    cli.main()\n"
        "except SystemExit:\n    assert not {'torch', 'prefect', 'pandas'} & set(sys.modules)\n"
    )
    asked = {"_COGITO_COMPLETE": "complete_bash", "COMP_WORDS": "cogito check --s", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(tmp_path / "home", **asked),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "--set"), done.stderr


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_what_is_shown_can_be_fed_back(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.forecast.estimate.estimates", lambda *_: [])  # measures this machine at that moment
    shown = run_here(["show", str(path)], capsys, monkeypatch)
    again = tmp_path / "again.yaml"
    again.write_text(shown, encoding="utf-8")
    assert load_spec(again) == load_spec(path)
    assert run_here(["show", str(again)], capsys, monkeypatch) == shown  # the identity, too


def test_the_schema_and_a_key_are_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert '"title": "Cogito experiment"' in run_here(["explain", "--schema"], capsys, monkeypatch)
    assert run_here(["explain", "data.block_tokens"], capsys, monkeypatch) == (
        "data.block_tokens\n  tokens of a block\n  a whole number, at least 8, at most 1,000,000; default 512\n"
    )
