"""An installed Cogito: what the wheel holds, and that it works outside a checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network from a copy of the tracked files."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", str(target), "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (built,) = target.glob("cogito-*.whl")
    return built


def test_the_wheel_holds_code_templates_experiments_and_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = ("cogito", "flows", "tasks", "models")
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in packages
        for pattern in ("*.py", "*.j2", "py.typed")
        for path in (ROOT / package).rglob(pattern)
    }
    wanted |= {f"experiments/{path.name}" for path in (ROOT / "experiments").glob("*.yaml")}
    assert wanted <= names
    rest = {name for name in names - wanted if ".dist-info/" not in name}
    assert not rest, "nothing else: no tests, no notes"


def test_an_installed_cogito_finds_its_experiments_anywhere(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "COGITO_HOME": str(tmp_path / "home")}

    def cogito(*arguments: str) -> str:
        command = [sys.executable, "-P", "-m", "flows.cli", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    where = "import flows.cli; print(flows.cli.__file__)"
    found = subprocess.run([sys.executable, "-P", "-c", where], env=environment, capture_output=True, text=True)
    assert str(tmp_path / "site") in found.stdout, "not the checkout"
    assert "experiments/quickstart.yaml" in cogito("ls", "experiments")
    shown = {name: cogito("show", name) for name in ("quickstart", "experiments/quickstart.yaml")}
    assert shown["quickstart"] == shown["experiments/quickstart.yaml"]
    assert "builtin/made_text" in shown["quickstart"]
