"""The line for devices: who may start, and what that means for those who wait."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from command import ROOT
from hypothesis import given
from hypothesis import strategies as st

from tasks.jobs import leases
from tasks.jobs.devices import Device
from tasks.jobs.leases import lease_devices
from tasks.jobs.waiting import UNKNOWN_SECONDS, Line, Need, last_end, may_start
from tasks.store.home import Home

FOUR = tuple(Device("cpu", str(number), 1) for number in range(4))


@pytest.mark.parametrize(
    ("count", "seconds", "free", "ahead", "ends", "starts"),
    [
        (1, None, 1, [], [], True),
        (2, None, 1, [], [5.0], False),
        (1, None, 1, [1], [], False),  # the one before takes it
        (1, None, 2, [1], [], True),
        (1, None, 3, [4], [60.0], False),  # nobody knows how long it takes
        (1, 50.0, 3, [4], [60.0], True),  # done before the fourth is free
        (1, 70.0, 3, [4], [60.0], False),
        (4, 50.0, 3, [4], [60.0], False),
        (1, None, 1, [2], [10.0, 10.0, 10.0], True),  # the one before leaves two of its four
        (1, 20.0, 1, [3], [10.0, 30.0, 99.0], True),  # three are free after 30 seconds
        (1, 40.0, 1, [3], [10.0, 30.0, 99.0], False),
        (1, 20.0, 1, [1, 3], [10.0, 30.0, 99.0], False),
        (1, 20.0, 2, [1, 3], [10.0, 30.0], True),
        (1, 1.0, 1, [9], [10.0], False),  # what stands before can never start; its own command says so
    ],
)
def test_who_may_start(
    count: int, seconds: float | None, free: int, ahead: list[int], ends: list[float], starts: bool
) -> None:
    assert may_start(count, seconds, free, ahead, ends) is starts


needs = st.integers(1, 4)
jobs = st.lists(st.tuples(needs, st.floats(1, 100), st.booleans(), st.floats(0, 100)), min_size=1, max_size=25)


@given(jobs)
def test_nobody_is_delayed_by_those_behind(jobs: list[tuple[int, float, bool, float]]) -> None:
    """On four devices, with durations that come true: the first in line starts no later than what is busy ends."""
    line: list[tuple[int, float, float | None, int]] = []
    running: list[tuple[float, int]] = []
    now = 0.0
    promised: dict[int, float] = {}
    coming = sorted(enumerate(jobs), key=lambda job: job[1][3])
    while coming or line or running:
        while coming and coming[0][1][3] <= now:
            index, (needed, lasts, known, _) = coming.pop(0)
            line.append((needed, lasts, lasts if known else None, index))
        place = 0
        while place < len(line):
            count, seconds, known_seconds, number = line[place]
            ahead = [job[0] for job in line[:place]]
            free = 4 - sum(held for _, held in running)
            ends = [end - now for end, held in running for _ in range(held)]
            if may_start(count, known_seconds, free, ahead, ends):
                assert now <= promised.get(number, now) + 1e-6
                running.append((now + seconds, count))
                line.pop(place)
                place = 0
            else:
                if place == 0 and number not in promised:
                    promised[number] = now + sorted(ends)[count - free - 1]
                place += 1
        assert not (line and line[0][0] <= 4 - sum(held for _, held in running)), (
            "idle devices before the first in line"
        )
        moments = [end for end, _ in running] + [job[1][3] for job in coming[:1]]
        if not moments:
            break
        now = max(now, min(moments))
        running = [(end, held) for end, held in running if end > now]
    assert not line and not coming


def test_a_killed_process_leaves_the_line(tmp_path: Path) -> None:
    line = Line(tmp_path / "line")
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom tasks.jobs.waiting import Line\n"
        "with Line(Path(sys.argv[1])).ticket(3, list('abcd')): print('in', flush=True); time.sleep(60)"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "line")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None and first.stdout.readline() == "in\n"
    devices = list("abcd")
    with line.ticket(1, devices) as ticket:
        assert line.ahead_of(ticket, devices) == [3]
        first.kill()
        first.communicate()
        assert line.ahead_of(ticket, devices) == []
        with line.ticket(2, devices) as later:
            assert line.ahead_of(later, devices) == [1] and line.ahead_of(ticket, devices) == []
    assert [path.name for path in (tmp_path / "line").iterdir() if path.suffix != ".lock"] == []


def test_only_who_can_take_ones_devices_stands_before_one(tmp_path: Path) -> None:
    """Commands see different GPUs by CUDA_VISIBLE_DEVICES."""
    line = Line(tmp_path / "line")
    with line.ticket(2, ["a", "b"]), line.ticket(4, list("abcd")), line.ticket(1, ["d"]) as last:
        assert line.ahead_of(last, list("abcd")) == [2, 4]
        assert line.ahead_of(last, ["c", "d"]) == [2]
        assert line.ahead_of(last, ["b", "c", "d"]) == [1, 3]
        assert line.ahead_of(last, ["e"]) == []


def test_who_steps_aside_keeps_its_place(tmp_path: Path) -> None:
    line, devices = Line(tmp_path / "line"), ["a", "b"]
    with line.ticket(2, devices) as first, line.ticket(1, devices) as second:
        first.leave()
        assert line.ahead_of(second, devices) == []
        for _ in range(2):
            first.stand()
            assert line.ahead_of(second, devices) == [2] and line.ahead_of(first, devices) == []


def test_what_is_known_of_a_busy_device(tmp_path: Path) -> None:
    line = Line(tmp_path / "line")
    assert line.held("0") is None

    def left(seconds: float | None) -> float | None:
        with line.noted("0", Need(seconds, 7)):
            held = line.held("0")
        assert held is not None and held.memory == 7 and line.held("0") is None
        return held.seconds

    assert left(50.0) == pytest.approx(50, abs=10)
    assert left(None) == UNKNOWN_SECONDS
    assert left(-60.0) == pytest.approx(UNKNOWN_SECONDS - 60, abs=10), "it takes longer than was thought"
    assert left(-2 * UNKNOWN_SECONDS) == 0.0
    (tmp_path / "line" / "0.held").write_text("{", encoding="utf-8")
    assert line.held("0") == Need(UNKNOWN_SECONDS)


def test_short_jobs_pass_a_training_that_waits_for_all(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real leases: one of four devices is busy, a training waits for four, and two cells wait behind it."""
    monkeypatch.setattr(leases, "visible_devices", lambda: FOUR)
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.01)
    order: list[str] = []

    def job(name: str, count: int, expected: float | None, seconds: float) -> threading.Thread:
        def work() -> None:
            with lease_devices(home, count, lambda: Need(expected)):
                order.append(name)
                time.sleep(seconds)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def in_line(count: int) -> None:
        deadline = time.monotonic() + 20
        while len(list(home.leases.glob("*/*.ticket"))) != count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with lease_devices(home, 1, lambda: Need(30.0)):
        threads = [job("training", 4, None, 0.0)]
        in_line(1)
        threads.append(job("long", 1, 100.0, 0.0))
        in_line(2)
        threads.append(job("short", 1, 5.0, 0.0))
        threads[-1].join(20)
        assert order == ["short"]
    for thread in threads:
        thread.join(20)
    assert order == ["short", "training", "long"]


def test_the_last_of_some_jobs_ends_when_its_device_is_free() -> None:
    assert last_end([2.0, 3.0, 4.0], 2) == 5.0
    assert last_end([3.0, 5.0], 4) == 5.0 and last_end([], 3) == 0.0
