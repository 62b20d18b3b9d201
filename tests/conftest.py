"""What all tests share: no network, a home of their own, and the data that may lie beside the project."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tasks.store.home import Home

# Hugging Face's libraries read these when they are imported, which is later than this line.
_HF_HOME = tempfile.mkdtemp(prefix="cogito-tests-")
atexit.register(shutil.rmtree, _HF_HOME, ignore_errors=True)
os.environ["HF_HOME"] = _HF_HOME
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPUs of this machine from all tests but those of `-m gpu`: their figures are those of a CPU."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ.pop("COGITO_DEVICE", None)


# A busy machine is slow, which is no fault of a test.
_PATIENT: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
# The suite draws the same examples each time, so that a change is judged by what it changes; `explore` draws others.
settings.register_profile("cogito", max_examples=50, derandomize=True, **_PATIENT)
settings.register_profile("explore", max_examples=1_000, **_PATIENT)
settings.load_profile("cogito")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos", "tests/whole/chaos: kills by a seeded schedule")
    group.addoption("--chaos-seed", type=int, default=0, help="seed of the schedule")
    group.addoption("--chaos-kills", type=int, default=4, help="how many processes are killed")
    parser.addoption("--fuzz-seconds", type=float, default=600, help="for how long tests/whole/test_fuzz.py goes on")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with whole experiments first: where two files run at once, none of minutes is left for the end."""
    slow = {item.path for item in items if item.get_closest_marker("end_to_end")}
    items.sort(key=lambda item: item.path not in slow)


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty COGITO_HOME."""
    root = tmp_path / "cogito-home"
    monkeypatch.setenv("COGITO_HOME", str(root))
    monkeypatch.delenv("COGITO_DATA_ROOT", raising=False)
    home = Home(root)
    home.create()
    return home


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A mirror of real data sets, where there is one beside the project."""
    return _beside("data")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Known answers of the earlier code, where they lie beside the project."""
    return _beside("golden")


def _beside(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder
