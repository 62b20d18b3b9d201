"""What a run writes into its record before its fan-out begins, so that the report can hold it against what it took."""

from collections.abc import Sequence

from tasks.jobs.devices import visible_devices
from tasks.jobs.history import Work, judge, past_jobs
from tasks.jobs.waiting import last_end
from tasks.store.home import Home


def fan_out_seconds(works: Sequence[Work], home: Home) -> float | None:
    """Wall time of jobs that wait for the devices together; None where some of them has no like one in the home."""
    devices, past = visible_devices(), past_jobs(home)
    expected = [judge(work, devices[0].kind, past) for work in works]
    if not all(one.measured for one in expected):
        return None
    return last_end([one.seconds for one in expected], len(devices))
