"""A command writes into COGITO_HOME, its log and the file that it is asked for, and nowhere else; nothing is reported.

The libraries under it would: Prefect into ~/.prefect, matplotlib and wandb into ~/.cache and ~/.config.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from command import PATIENCE, TINY, answer, environment
from test_house import commands

from flows.server import stop_server
from tasks.store.files import read_json
from tasks.store.home import Home

pytestmark = [pytest.mark.end_to_end, pytest.mark.prefect]

# A line as Prefect prints it: `10:03:31.457 | INFO    | cogito.publishing - ...`.
RAW_LINE = re.compile(r"^\d\d:\d\d:\d\d\.\d+ \|", re.MULTILINE)
QUICK = ("--set", "training.max_steps=2", "--set", "evaluation.tasks=[mrpc]", "--set", "evaluation.epochs=0.1")
# A small use of every command, in an order in which each finds what it needs; RUN is the id of the first run.
USES: dict[str, tuple[str, ...]] = {
    "sweep": ("sweep", "tiny.yaml", "--log", "log.md", *QUICK),
    "run": ("run", "tiny.yaml", "--log", "log.md", *QUICK),
    "reproduce": ("reproduce", "log.md#RUN", "--log", "log.md", *QUICK),
    "evaluate": ("evaluate", "RUN", "--tasks", "mrpc", "--log", "log.md", "--set", "evaluation.epochs=0.2"),
    "runs": ("runs",),
    "compare": ("compare", "RUN", "log.md#RUN"),
    "rescore": ("rescore", "RUN", "--log", "log.md"),
    "report": ("report", "RUN"),
    "analyse": ("analyse", "RUN"),
    "encode": ("encode", "RUN", "texts.txt", "--output", "vectors.parquet"),
    "check": ("check", "tiny.yaml"),
    "show": ("show", "tiny.yaml"),
    "ls": ("ls", "tasks"),
    "explain": ("explain", "training.learning_rate"),
    "log show": ("log", "show", "--log", "log.md"),
    "log add": ("log", "add", "home/runs/RUN/record.json", "--log", "log.md"),
    "log check": ("log", "check", "log.md"),
    "log export": ("log", "export", "rows.csv", "--log", "log.md"),
    "checkpoint show": ("checkpoint", "show", "RUN"),
    "checkpoint convert": ("checkpoint", "convert", "home/runs/RUN/pretraining/model", "converted"),
    "doctor": ("doctor",),
    "clean": ("clean", "--dry-run"),
    "ui": ("ui", "--stop"),
}
# What the uses ask for beside the home.
ASKED_FOR = {"tiny.yaml", "texts.txt", "log.md", ".log.md.lock", "rows.csv", "vectors.parquet", "converted", "home"}
# These end with 1 or 2 on so small a run.
MAY_FAIL = {"checkpoint convert", "log check", "doctor"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a first run in its home, beside a HOME and a TMPDIR that were empty before."""
    place = tmp_path_factory.mktemp("user") / "work"
    for folder in (place, place.parent / "home_of_user", place.parent / "tmp"):
        folder.mkdir()
    (place / "tiny.yaml").write_text(TINY, encoding="utf-8")
    (place / "texts.txt").write_text("A text.\nAnother one.\n", encoding="utf-8")
    done = use(place, USES["sweep"])
    assert done.returncode == 0, done.stderr
    yield place
    stop_server(Home(place / "home"))


def use(place: Path, words: tuple[str, ...], *python: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user without any setting of their own."""
    runs = [path.parent.name for path in sorted(place.glob("home/runs/*/record.json"))]
    words = tuple(word.replace("RUN", runs[0]) if runs else word for word in words)
    user, tmp = place.parent / "home_of_user", place.parent / "tmp"
    kept = {
        name: value
        for name, value in environment(place / "home").items()
        if not name.startswith(("PREFECT_", "HF_", "WANDB_", "MPL", "XDG_")) and name != "DO_NOT_TRACK"
    }
    homes = {"HOME": str(user), "USERPROFILE": str(user), "TMPDIR": str(tmp), "TEMP": str(tmp), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *(python or ("-m", "flows.cli")), *words]
    settings = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": PATIENCE}
    return subprocess.run(command, cwd=place, env=kept | homes | more, **settings)  # type: ignore[call-overload, no-any-return]


def assert_nothing_outside(place: Path, output: str) -> None:
    """Nothing lies where no command was asked to write, and no line is raw."""
    for name in ("home_of_user", "tmp"):
        left = [str(path.relative_to(place.parent)) for path in (place.parent / name).rglob("*")]
        assert not left, left
    assert {path.name for path in place.iterdir()} <= ASKED_FOR
    assert not RAW_LINE.search(output), output


def test_every_command_is_tried() -> None:
    assert set(USES) == set(commands())


def test_the_server_of_a_sweep_reports_nothing(place: Path) -> None:
    assert_nothing_outside(place, "")
    served = psutil.Process(read_json(place / "home" / "prefect" / "server.json")["pid"]).environ()
    assert served["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false" and served["DO_NOT_TRACK"] == "1"
    assert Path(served["PREFECT_HOME"]) == place / "home" / "prefect"


def test_no_help_writes_anything(tmp_path: Path) -> None:
    """Not even the home."""
    code = """
import sys
from flows.cli import app
for words in sys.argv[1:]:
    try:
        app.main([*words.split(), "--help"], prog_name="cogito", standalone_mode=False)
    except SystemExit as error:
        assert not error.code, words
"""
    place = tmp_path / "work"
    for folder in (place, tmp_path / "home_of_user", tmp_path / "tmp"):
        folder.mkdir()
    done = use(place, tuple(USES), "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: cogito") == len(USES)
    assert_nothing_outside(place, done.stderr)
    assert not list(place.iterdir())


@pytest.mark.parametrize("name", [name for name in USES if name != "sweep"])
def test_a_command_writes_only_where_it_is_asked_to(place: Path, name: str) -> None:
    done = use(place, USES[name], COGITO_SERVER="off" if name != "ui" else "auto")
    assert done.returncode == 0 or name in MAY_FAIL, done.stderr
    assert "Traceback" not in done.stderr
    assert_nothing_outside(place, done.stdout + done.stderr)


def test_neither_does_a_script(place: Path) -> None:
    code = """
import cogito, json, sys
overrides = sys.argv[2::2]
record = cogito.run_experiment(cogito.load_spec("tiny.yaml", overrides), log="log.md")
from prefect.settings import get_current_settings
settings = get_current_settings()
facts = {"analytics": settings.server.analytics_enabled, "home": str(settings.home), "run": record.run_id}
print(json.dumps(facts | {"temporary": settings.server.ephemeral.enabled}))
"""
    done = use(place, QUICK, "-c", code)
    assert done.returncode == 0, done.stderr
    said = answer(done)
    assert (said["analytics"], said["temporary"]) == (False, False)
    assert Path(said["home"]) == place / "home" / "prefect"
    assert_nothing_outside(place, done.stdout + done.stderr)
    assert len(list(place.glob("home/index/training-*.json"))) == 2, "it was the run of the sweep, not one more"


def test_the_check_sees_what_it_looks_for(tmp_path: Path) -> None:
    for folder in ("work", "home_of_user", "tmp"):
        (tmp_path / folder).mkdir()
    with pytest.raises(AssertionError):
        assert_nothing_outside(tmp_path / "work", "10:03:31.457 | INFO    | cogito.publishing - publishing\n")
    (tmp_path / "home_of_user" / ".prefect").mkdir()
    with pytest.raises(AssertionError, match="prefect"):
        assert_nothing_outside(tmp_path / "work", "")
