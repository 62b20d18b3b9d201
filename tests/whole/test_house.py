"""The rules of the house: style, types, the import rule, and documents that keep their promises."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT

from benchmarks import house
from flows.cli import DeferredCommand, app
from flows.commands.spec import KINDS

CHECKS = {
    "ruff check": [sys.executable, "-m", "ruff", "check", "."],
    "ruff format": [sys.executable, "-m", "ruff", "format", "--check", "."],
    "types": [sys.executable, "-m", "mypy"],
    "import rule": [
        sys.executable,
        "-c",
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())",
    ],
}


@pytest.mark.parametrize("name", CHECKS)
def test_checks_pass(name: str) -> None:
    done = subprocess.run(CHECKS[name], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def commands() -> dict[str, str]:
    """Every command by its words, with its help."""
    found = {}

    def walk(words: list[str], command: object) -> None:
        for name, deferred in getattr(command, "commands", {}).items():
            inner = deferred.load() if isinstance(deferred, DeferredCommand) else deferred
            if getattr(inner, "commands", None):
                walk([*words, name], inner)
            else:
                found[" ".join([*words, name])] = inner.help or ""

    walk([], app)
    return found


def test_every_command_has_help_and_stands_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(commands()) >= 8
    for words, text in commands().items():
        assert text.strip(), words
        assert f"cogito {words}" in readme, words


def test_the_readme_is_short_and_opens_with_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    run, test = re.findall(r"```bash\n(.*?)```", readme, re.S)[:2]
    assert "\n" not in run.strip() and run.strip().endswith("cogito run experiments/quickstart.yaml")
    assert "\n" not in test.strip() and test.strip().endswith("-m pytest -n 2")
    for target in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / target).exists(), target


def test_every_row_of_every_table_has_a_summary() -> None:
    for kind, rows in KINDS.items():
        for name, summary in rows():
            assert name and summary.strip(), (kind, name)


def test_every_file_opens_with_its_purpose() -> None:
    for folder in ("flows", "tasks", "models", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert path.read_text(encoding="utf-8").startswith('"""'), path


def test_the_rooms_stand_on_floors_and_the_picture_shows_them() -> None:
    """When the picture is out of date: `python benchmarks/house.py --draw docs/floors.svg`."""
    arrows = house.arrows_between_rooms(ROOT)
    assert len(arrows) > 20 and house.circles(arrows) == [] and house.arrows_up(arrows) == 0
    assert (ROOT / "docs" / "floors.svg").read_text(encoding="utf-8") == house.draw(arrows)


def test_circles_and_arrows_up_are_seen() -> None:
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}
    assert house.circles(arrows) == [{"a", "b", "c"}] and house.arrows_up(arrows) == 1


def test_functions_are_short() -> None:
    """No function has more than sixty lines; the formatter decides how they look."""
    for path in house.source_files(ROOT):
        text = path.read_text(encoding="utf-8")
        for function in house.functions(ast.parse(text)):
            assert (function.end_lineno or 0) - function.lineno < house.LONG_FUNCTION_LINES, (path, function.name)
        assert "fmt: " + "skip" not in text, path


def test_public_names_are_documented() -> None:
    named = [
        (path.relative_to(ROOT).as_posix(), node.name, ast.get_docstring(node))
        for path in house.source_files(ROOT)
        for node in house.public_definitions(ast.parse(path.read_text(encoding="utf-8")))
    ]
    bare = [(path, name) for path, name, text in named if not text]
    assert len(bare) <= 0.05 * len(named), bare


def test_only_users_of_prefect_import_it() -> None:
    """A rank must not pay for Prefect: importing every job leaves it out."""
    code = "import tasks.jobs.worker, tasks.pretraining.loop, tasks.finetuning.loop, tasks.analysis.loop, sys; "
    code += "sys.exit('prefect' in sys.modules or 'evaluate' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0


def test_the_command_opens_light() -> None:
    code = (
        "import flows.cli, sys; sys.exit(any(n in sys.modules for n in ('torch', 'prefect', 'transformers', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_the_changelog_is_kept() -> None:
    assert Path(ROOT / "CHANGELOG.md").read_text(encoding="utf-8").startswith("# Changelog")
