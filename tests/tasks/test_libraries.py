"""Where libraries keep their files: in the home, once there is one, unless the user says otherwise."""

import os
import tempfile
from pathlib import Path

import pytest
from factories import job_without_inputs

from tasks.jobs.devices import visible_devices
from tasks.jobs.launch import _environment
from tasks.libraries import COMPILER, compiler_folder, configure_libraries


def test_what_torch_compiles_lies_in_the_home_once_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("COGITO_HOME", str(home))
    monkeypatch.delenv(COMPILER, raising=False)
    assert compiler_folder() == tempfile.gettempdir(), "importing torch begins no home"
    monkeypatch.setenv(COMPILER, compiler_folder())
    home.mkdir()
    job = _environment(job_without_inputs("pretraining", tmp_path), visible_devices()[:1])
    assert job[COMPILER] == compiler_folder() == str(home / "cache" / "torchinductor")
    monkeypatch.setenv(COMPILER, "/mine")
    assert compiler_folder() == "/mine", "what the user has set stays"


def test_all_other_folders_lie_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("MPLCONFIGDIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "TRITON_CACHE_DIR", "PREFECT_HOME", COMPILER)
    with monkeypatch.context() as patch:
        for name in names:
            patch.delenv(name, raising=False)
        patch.delenv("PREFECT_API_URL", raising=False)

        before = dict(os.environ)
        try:
            configure_libraries(tmp_path)
            assert all(Path(os.environ[name]).is_relative_to(tmp_path) for name in names)
            assert not list(tmp_path.iterdir()), "and none is made"
        finally:
            os.environ.clear()
            os.environ.update(before)
