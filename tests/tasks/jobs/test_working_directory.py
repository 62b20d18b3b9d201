"""A user's own modules in the working directory are never imported by a job."""

from pathlib import Path

import pytest
from factories import job_without_inputs

from tasks.errors import StageError
from tasks.jobs.devices import Device
from tasks.jobs.launch import run_job

DEVICES = [Device("cpu", "0", 1), Device("cpu", "1", 1)]


@pytest.mark.parametrize(("kind", "ranks"), [("analysis", 1), ("pretraining", 1), ("pretraining", 2)])
def test_modules_in_the_working_directory_do_no_harm(
    kind: str, ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job comes as far as its missing inputs, also through a launcher that starts several ranks."""
    for name in ("models", "tasks", "flows", "torch", "accelerate"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    job = job_without_inputs(kind, tmp_path).model_copy(update={"processes": ranks} if kind == "pretraining" else {})
    with pytest.raises(StageError) as caught:
        run_job(tmp_path / "job", job, DEVICES[:ranks])
    printed = (tmp_path / "job" / "log.txt").read_text()
    assert "imported from the working directory" not in str(caught.value) + printed
    assert str(tmp_path / "gone") in str(caught.value) + printed
