"""`import cogito`: light to import, typed, and every example of docs/python.md runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import PATIENCE, ROOT, TINY, environment

import cogito

DOCUMENT = ROOT / "docs" / "python.md"


def test_importing_it_is_light() -> None:
    heavy = ("torch", "prefect", "transformers", "pandas", "numpy", "pydantic")
    code = f"import cogito, sys; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


@pytest.mark.parametrize("name", cogito.__all__)
def test_every_name_is_there_documented_and_in_the_document(name: str) -> None:
    value = getattr(cogito, name)
    assert value.__doc__ and name in dir(cogito)
    assert f"`{name}" in DOCUMENT.read_text(encoding="utf-8"), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="allowed: "):
        _ = cogito.load_models


def test_a_run_that_does_not_exist_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COGITO_HOME", str(tmp_path / "home"))
    with pytest.raises(cogito.UserError, match="nobody"):
        cogito.compare("nobody", "nothing")


@pytest.mark.end_to_end
def test_the_examples_run_without_a_server(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 5
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    (tmp_path / "examples.py").write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-P", "examples.py"],
        cwd=tmp_path,
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout
    assert not (tmp_path / "home" / "prefect" / "server.json").exists()
    assert "127.0.0.1" not in done.stdout + done.stderr
    log = (tmp_path / "log.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d{4}-", log, re.M)
    assert len(rows) == 2  # one training, one evaluation: what was done again added nothing
