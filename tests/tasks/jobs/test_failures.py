"""Why a job of several ranks failed, from what its ranks and the launcher left: the cause, not its consequences."""

import json
from pathlib import Path

import pytest

from tasks.jobs.output import JobOutput, failure_message

KILLED = "traceback : Signal 9 (SIGKILL) received by PID 4711"
ABORTED = "traceback : Signal 6 (SIGABRT) received by PID 4711"
WATCHDOG = (
    "[rank1]:[E ProcessGroupNCCL.cpp:632] [Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12, "
    "OpType=ALLREDUCE, NumelIn=25788416, Timeout(ms)=600000) ran for 600004 milliseconds before timing out."
)
SYSTEM = "DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled system error (run with NCCL_DEBUG=INFO)"
REMOTE = (
    "DistBackendError: [1] is setting up NCCL communicator and retrieving ncclUniqueId from [0], got Connection reset"
)
GLOO = "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer"
MEMORY = "out of memory with training.per_device_batch_size 32: CUDA out of memory; fix: smaller"
MEMORY_IN_NCCL = (
    "out of memory with training.per_device_batch_size 32: NCCL error in: x.cpp, Cuda failure 2 'out of memory'"
)
SHAPES = "RuntimeError: shapes do not fit"
NCCL, BY_FORCE, FAULT = "NCCL, by which GPUs", "from outside or because memory ran out", "by a fault in a library"


@pytest.mark.parametrize(
    ("errors", "lines", "told"),
    [
        # NCCL itself
        ([], [WATCHDOG, ABORTED], (NCCL, "Watchdog caught", "NCCL_P2P_DISABLE=1")),
        ([SYSTEM, SYSTEM], [], (NCCL, "unhandled system error", "NCCL_DEBUG=INFO")),
        ([SYSTEM], [ABORTED], (NCCL, "unhandled system error")),
        ([GLOO], [WATCHDOG, ABORTED], (NCCL, "Watchdog caught")),
        ([], ["ncclUnhandledCudaError: Call to CUDA function failed.", ABORTED], (NCCL, "ncclUnhandledCudaError")),
        # a rank that was killed, and what the others say of it
        ([], [KILLED], ("killed (SIGKILL)", BY_FORCE)),
        ([SYSTEM], [KILLED], ("killed (SIGKILL)", BY_FORCE)),
        ([GLOO], [WATCHDOG, ABORTED, KILLED], (BY_FORCE,)),
        ([REMOTE], [KILLED], (BY_FORCE,)),
        ([], ["died with <Signals.SIGSEGV: 11>"], ("killed (SIGSEGV)", FAULT)),
        ([GLOO], [ABORTED], ("killed (SIGABRT)", FAULT)),
        # an error of one rank, and what the others say of it
        ([SYSTEM, SHAPES], [], (SHAPES,)),
        ([GLOO, MEMORY], [ABORTED], (MEMORY,)),
        ([MEMORY_IN_NCCL], [], (MEMORY_IN_NCCL,)),
        ([GLOO], [], (GLOO,)),
        ([], ["the last line"], ("code 7 and without a result", "the last line")),
    ],
)
def test_the_cause_is_told(tmp_path: Path, errors: list[str], lines: list[str], told: tuple[str, ...]) -> None:
    for rank, error in enumerate(errors):
        (tmp_path / f"error-{rank}.json").write_text(json.dumps({"message": error}), encoding="utf-8")
    output = JobOutput(None)
    for line in lines:
        output.add(line)
    message = failure_message(tmp_path, 7, output)
    assert all(part in message for part in told), message
    assert "\n" not in message


def test_a_failure_of_nccl_is_remembered_before_a_long_traceback(tmp_path: Path) -> None:
    output = JobOutput(None)
    for line in (WATCHDOG, *(f"  File {number}" for number in range(100)), ABORTED):
        output.add(line)
    assert NCCL in failure_message(tmp_path, -6, output)
