"""How long a job will take: what finished jobs tell, which of them are asked, and what is known without any."""

from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.jobs.history import Expectation, Past, Work, expect, judge
from tasks.store.files import write_json
from tasks.store.home import Home

works = st.builds(
    Work,
    kind=st.sampled_from(["finetuning", "zero_shot", "analysis"]),
    size=st.sampled_from([1_000_000, 4_000_000, 140_000_000]),
    tokens=st.floats(1, 1e9),
    task=st.sampled_from(["mrpc", "qqp"]),
    head=st.sampled_from(["via_decoder", "cls"]),
)
pasts = st.lists(
    st.builds(Past, work=works, device=st.sampled_from(["cpu", "cuda"]), seconds=st.floats(0.1, 1e5)), max_size=12
)


def make(**changes: Any) -> Work:
    fields = {"kind": "finetuning", "size": 4_000_000, "tokens": 1000.0, "task": "mrpc", "head": "via_decoder"}
    return Work(**fields | changes)


@given(works, pasts, st.sampled_from(["cpu", "cuda"]), st.floats(1, 100))
def test_the_same_work_takes_what_it_took(work: Work, past: list[Past], device: Any, times: float) -> None:
    """Whatever else is there: a job of the same task, head and size is believed, and time grows with the tokens."""
    same = [Past(work, device, seconds) for seconds in (30.0, 50.0, 70.0)]
    others = [job for job in past if not (job.work.task == work.task and judge(work, device, [job]).measured)]
    assert judge(work, device, [*others, *same]) == Expectation(pytest.approx(50.0), True)
    assert judge(work, device, [*same, *others]) == Expectation(pytest.approx(50.0), True)
    longer = work.model_copy(update={"tokens": work.tokens * times})
    assert judge(longer, device, same).seconds == pytest.approx(50.0 * times)


@given(works, pasts, st.sampled_from(["cpu", "cuda"]))
def test_only_like_jobs_tell(work: Work, past: list[Past], device: Any) -> None:
    """Another kind of job or device says nothing, and of the rest only the most alike are asked."""
    like = [job for job in past if (job.work.kind, job.device) == (work.kind, device)]
    expected = judge(work, device, past)
    assert expected == judge(work, device, like) and expected.seconds > 0
    model = [job for job in like if (job.work.size, job.work.head) == (work.size, work.head)]
    assert expected.measured == bool(model)
    assume(like)
    asked = [job for job in model if job.work.task == work.task] or model
    asked = asked or [job for job in like if job.work.task == work.task] or like
    pace = median(job.seconds / job.work.amount for job in asked)
    assert expected.seconds == pytest.approx(pace * work.amount)


@given(works, works)
def test_without_any_the_larger_work_is_the_longer(one: Work, other: Work) -> None:
    first, second = judge(one, "cpu", []), judge(other, "cpu", [])
    assert (first.seconds < second.seconds) == (one.amount < other.amount)
    assert not first.measured and judge(one, "cuda", []).seconds < first.seconds


def put(home: Home, place: str, work: Work | None, seconds: float, identity: str = "x", later: Any = None) -> Path:
    folder = home.root / place
    folder.mkdir(parents=True, exist_ok=True)
    stated = work and work.model_dump()
    write_json(folder / "job.json", {"identity": "x", "device": "cpu", "work": stated} | (later or {}))
    write_json(folder / "result.json", {"identity": identity, "seconds": seconds})
    return folder


def test_finished_jobs_of_the_home_are_found(home: Home) -> None:
    cell, analysis = make(), make(kind="analysis", task="", head="")
    assert not expect(cell, "cpu", home).measured
    put(home, "runs/one/finetuning/mrpc-seed1-checkpoint", cell, 10.0)
    put(home, "runs/two/finetuning/mrpc-seed2-checkpoint", cell, 30.0)
    folder = put(home, "runs/two/finetuning/mrpc-seed3-checkpoint", cell, 31.0)
    put(home, "runs/one/analysis", analysis, 5.0)
    put(home, "analyses/some/analysis", analysis, 7.0)
    assert expect(cell, "cpu", home) == Expectation(pytest.approx(30.0), True)
    assert expect(analysis, "cpu", home) == Expectation(pytest.approx(6.0), True)
    put(home, "runs/two/finetuning/mrpc-seed3-checkpoint", cell, 1.0)
    assert expect(cell, "cpu", home).seconds == pytest.approx(10.0), "the cell was run again"
    (folder / "result.json").unlink()
    assert expect(cell, "cpu", home).seconds == pytest.approx(20.0), "and now runs once more"


def test_jobs_that_tell_nothing_are_passed_over(home: Home) -> None:
    put(home, "runs/one/finetuning/of-another-version", None, 10.0)
    put(home, "runs/one/finetuning/of-a-later-version", make(), 10.0, later={"work": {"kind": "unheard of"}})
    put(home, "runs/one/finetuning/begun-again", make(), 10.0, identity="another")
    (put(home, "runs/one/finetuning/damaged", make(), 10.0) / "result.json").write_text("{", encoding="utf-8")
    put(home, "runs/one/finetuning/no-number", make(), None)  # type: ignore[arg-type]
    assert not expect(make(), "cpu", home).measured


def test_sizes_that_differ_by_a_task_head_are_one_model() -> None:
    past = [Past(make(size=4_000_000), "cpu", 10.0), Past(make(size=8_000_000), "cpu", 99.0)]
    assert judge(make(size=4_010_000), "cpu", past) == Expectation(pytest.approx(10.025), True)
    assert judge(make(size=5_000_000), "cpu", past[:1]) == Expectation(pytest.approx(12.5), False)
