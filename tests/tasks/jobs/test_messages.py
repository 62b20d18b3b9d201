"""What the two sides of a job tell each other, and what of it is no longer readable."""

from pathlib import Path

import pytest

from tasks.jobs.launch import claimed_job
from tasks.jobs.messages import finished_result, store_result
from tasks.store.files import read_json, write_json
from tasks.store.home import Home
from tasks.store.records import AnalysisResult

RESULT = AnalysisResult(figures={"rank": 2.0}, samples=1, num_concepts=1, plots={}, seconds=0.0)


def test_a_stored_result_is_found_by_its_identity(tmp_path: Path) -> None:
    store_result(tmp_path, "one", RESULT)
    assert finished_result(tmp_path, "one", AnalysisResult) == RESULT
    assert finished_result(tmp_path, "two", AnalysisResult) is None
    assert finished_result(tmp_path / "empty", "one", AnalysisResult) is None


@pytest.mark.parametrize(
    "content",
    [
        {"identity": "one"},
        {"identity": "one", **RESULT.model_dump(mode="json"), "samples": "many"},
        {"identity": "one", **RESULT.model_dump(mode="json"), "unknown": 1},
        ["one"],
        None,
    ],
)
def test_a_job_whose_result_has_a_broken_schema_runs_again(tmp_path: Path, content: object) -> None:
    folder, home = tmp_path / "run" / "analysis", Home(tmp_path / "home")
    write_json(folder / "result.json", content)
    with claimed_job(folder, "one", home, AnalysisResult) as done:
        assert done is None
        store_result(folder, "one", RESULT)
    assert read_json(folder / "result.json")["samples"] == 1
    with claimed_job(folder, "one", home, AnalysisResult) as done:
        assert done == RESULT.model_copy(update={"reused": True})
