"""Simulated GPUs: which of them jobs get, what is refused, how jobs are started on 1, 3 and 4 of them."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from command import ROOT
from command import cogito as run_cogito
from fake_gpus import FakeGpus, uuid

import cogito
from models import text_encoder
from tasks.errors import StageError, UserError
from tasks.finetuning.cell import training_precision
from tasks.jobs import gpus, launch, leases
from tasks.jobs.devices import emulates_bf16, visible_devices
from tasks.jobs.launch import run_job
from tasks.jobs.leases import lease_devices, lease_for_training
from tasks.jobs.messages import JOBS, store_result
from tasks.pretraining.stage import count_processes
from tasks.runs.environment import describe_environment
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.pretraining import DataSpec
from tasks.store.home import Home
from tasks.store.records import AnalysisResult
from tasks.upkeep import examine
from tests.factories import job_without_inputs

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the made nvidia-smi is a shell script")
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch"


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leases apart from those of the machine, and nothing remembered of its devices."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(leases, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.02)
    for cached in (visible_devices, emulates_bf16):
        cached.cache_clear()
    yield
    for cached in (visible_devices, emulates_bf16):
        cached.cache_clear()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    """Four GPUs that torch can use."""
    made = FakeGpus(4, tmp_path / "smi")
    made.show(monkeypatch)
    return made


def keys() -> list[str]:
    return [device.key for device in visible_devices()]


# Which GPUs


@pytest.mark.parametrize(
    ("named", "numbers"),
    [
        (None, [0, 1, 2, 3]),
        ("2", [2]),
        ("3,1", [3, 1]),
        (" 0 , 2 ", [0, 2]),
        ("0,", [0]),
        (uuid(1), [1]),
        ("GPU-3,0", [3, 0]),
    ],
)
def test_gpus_go_by_their_uuid_whatever_names_them(
    host: FakeGpus, monkeypatch: pytest.MonkeyPatch, named: str | None, numbers: list[int]
) -> None:
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert keys() == [uuid(number) for number in numbers]
    assert [device.index for device in visible_devices()] == [str(number) for number in numbers]
    assert {device.name for device in visible_devices()} == {host.name}


def test_a_part_of_a_gpu_is_passed_on_as_it_is(host: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    part = "MIG-1f2d3c4b-0000-4000-8000-000000000001"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", part)
    assert keys() == [part]


@pytest.mark.parametrize("named", ["", "-1", "NoDevFiles"])
def test_hidden_gpus_are_none(host: FakeGpus, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert {device.kind for device in visible_devices()} == {"cpu"}


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("4", "'4', which is 0 GPUs; allowed: numbers or UUIDs of `nvidia-smi -L`, which lists 0, 1, 2, 3"),
        ("0,0", "got GPU 0 twice"),
        (f"{uuid(2)},2", "got GPU 2 twice"),
        ("GPU-", "'GPU-', which is 4 GPUs"),
        ("GPU-9", "'GPU-9', which is 0 GPUs"),
        ("all", "'all', which is 0 GPUs"),
        ("0;1", "'0;1', which is 0 GPUs"),
    ],
)
def test_gpus_that_are_not_there_are_refused(
    host: FakeGpus, monkeypatch: pytest.MonkeyPatch, named: str, message: str
) -> None:
    """CUDA would stop reading at the first of them, and leave fewer GPUs or none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES") as caught:
        visible_devices()
    assert message in str(caught.value)


def test_another_order_of_numbers_is_refused(host: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", uuid(1))
    assert keys() == [uuid(1)], "a UUID is the same in any order"
    visible_devices.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(UserError, match="PCI_BUS_ID"):
        visible_devices()


@pytest.mark.parametrize(
    ("choice", "kind"), [(None, "cuda"), ("", "cuda"), ("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")]
)
def test_the_device_that_is_chosen(
    host: FakeGpus, monkeypatch: pytest.MonkeyPatch, choice: str | None, kind: str
) -> None:
    if choice is not None:
        monkeypatch.setenv("COGITO_DEVICE", choice)
    assert {device.kind for device in visible_devices()} == {kind}
    assert training_precision() == ("bf16 autocast" if kind == "cuda" else "fp32")


def test_a_device_that_is_misspelt_or_missing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpus(0, tmp_path / "smi").show(monkeypatch)
    assert {device.kind for device in visible_devices()} == {"cpu"}
    visible_devices.cache_clear()
    for choice, message in (("gpu", "allowed: auto, cpu, cuda"), ("cuda", "this machine has none")):
        monkeypatch.setenv("COGITO_DEVICE", choice)
        with pytest.raises(UserError, match=message):
            visible_devices()


# GPUs that torch cannot use


def test_gpus_that_torch_cannot_use_are_never_passed_over(
    host: FakeGpus, monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    host.show(monkeypatch, usable=0)
    with pytest.raises(UserError, match=r"GPU 0, 1, 2, 3 .*cannot be used by torch.*--device cpu"):
        visible_devices()
    (finding,) = [one for one in examine(home) if one.name == "devices"]
    assert finding.status == "problem" and "cannot be used by torch" in finding.found and "--device cpu" in finding.fix
    monkeypatch.setenv("COGITO_DEVICE", "cpu")
    (finding,) = [one for one in examine(home) if one.name == "devices"]
    assert finding.status == "ok"


@pytest.mark.parametrize("named", [None, "0", "2,3"])
def test_why_torch_can_use_none_is_told(host: FakeGpus, monkeypatch: pytest.MonkeyPatch, named: str | None) -> None:
    host.show(monkeypatch, usable=0)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    old = "The NVIDIA driver on your system is too old (found version 11040)."

    def init() -> None:
        raise RuntimeError(f"{old}\nPlease update it.")

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(UserError) as caught:
        visible_devices()
    assert old in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with pytest.raises(UserError, match="a build without CUDA"):
        visible_devices()


def test_a_gpu_that_torch_does_not_count_is_told(host: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    host.show(monkeypatch, usable=3)
    with pytest.raises(UserError, match=r"it can use 3 of 4.*CUDA_VISIBLE_DEVICES"):
        visible_devices()


def test_a_driver_that_does_not_fit_its_library(host: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-smi then fails; torch may still compute, and is believed."""
    host.fail(MISMATCH)
    assert keys() == ["0", "1", "2", "3"]
    visible_devices.cache_clear()
    host.show(monkeypatch, usable=0)
    with pytest.raises(UserError, match=MISMATCH):
        visible_devices()


@pytest.mark.parametrize(
    ("compute", "built", "message"),
    [
        ("6.1", ["sm_75", "sm_80", "sm_86"], "no code for GPU 0 .*compute 6.1"),
        ("12.0", ["sm_75", "sm_90"], "no code for GPU 0 .*compute 12.0"),
        ("12.0", ["sm_75", "sm_90", "compute_90"], None),
        ("8.9", ["sm_80", "sm_86"], None),
        ("8.6", ["sm_80"], None),
        ("8.6", ["sm_89"], "no code"),
        ("9.0", ["sm_90a"], None),
        ("[N/A]", ["sm_75"], None),
        ("8.6", [], None),
    ],
)
def test_a_gpu_for_which_torch_has_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compute: str, built: list[str], message: str | None
) -> None:
    FakeGpus(1, tmp_path / "smi", "NVIDIA Card", compute).show(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    if message is None:
        assert keys() == [uuid(0)]
    else:
        with pytest.raises(UserError, match=message):
            visible_devices()


def test_without_nvidia_smi_torch_alone_decides(host: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert keys() == ["0", "1", "2", "3"] and gpus.others_use() == {}
    visible_devices.cache_clear()
    host.show(monkeypatch, usable=0)
    monkeypatch.setenv("PATH", "")
    assert {device.kind for device in visible_devices()} == {"cpu"}
    visible_devices.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(UserError, match="GPU 7"):
        visible_devices()


def test_a_run_refuses_a_gpu_that_torch_cannot_use_and_doctor_says_so(tmp_path: Path) -> None:
    """As a user meets it: a GPU, and the CPU build of torch."""
    if torch.backends.cuda.is_built():
        pytest.skip("this torch has CUDA")
    made, home = FakeGpus(1, tmp_path / "smi"), tmp_path / "home"
    shown = {"PATH": made.path, "CUDA_VISIBLE_DEVICES": "0"}
    for command in (("run", "quickstart"), ("sweep", "quickstart"), ("evaluate", "bert-base-uncased")):
        done = run_cogito(*command, home=home, **shown)
        assert done.returncode == 2 and "a build without CUDA" in done.stderr and "--device cpu" in done.stderr, command
        assert "Traceback" not in done.stderr and not (home / "runs").exists()
    done = run_cogito("doctor", home=home, **shown)
    assert done.returncode == 1 and "cannot be used by torch" in done.stdout
    done = run_cogito("run", "quickstart", "--device", "cuda", home=home, **shown | {"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2 and "CUDA_VISIBLE_DEVICES= shows none" in done.stderr
    done = run_cogito("run", "quickstart", "--device", "tpu", home=home, **shown)
    assert done.returncode == 2 and "allowed: auto, cpu, cuda" in done.stderr
    # With --device cpu it goes on to the next mistake.
    done = run_cogito("run", "quickstart", "--device", "cpu", "--processes", "1000", home=home, **shown)
    assert done.returncode == 2 and "--processes 1000: more than" in done.stderr


def test_an_encoder_in_python_is_refused_such_a_gpu_too(host: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(text_encoder, "load_encoder", lambda _folder, _tokenizer, device: loaded.append(device))
    host.show(monkeypatch, usable=0)
    with pytest.raises(UserError, match="cannot be used by torch"):
        cogito.load_encoder(tempfile.gettempdir())
    cogito.load_encoder(tempfile.gettempdir(), device="cpu")
    visible_devices.cache_clear()
    host.show(monkeypatch)
    cogito.load_encoder(tempfile.gettempdir())
    assert loaded == ["cpu", "cuda"]


# Leases


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_training_takes_all_gpus_and_is_started_on_them(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    FakeGpus(count, tmp_path / "smi").show(monkeypatch)
    assert count_processes(ExperimentSpec(name="test", data=DataSpec()), None) == count
    started: list[tuple[list[str], dict[str, str]]] = []

    def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
        if "tasks.jobs.worker" not in command:
            return popen(command, **options)
        started.append((command, options["env"]))
        job = JOBS.validate_json((tmp_path / "job" / "job.json").read_bytes())
        assert job.device == "cuda"
        store_result(tmp_path / "job", job.identity, RESULT)
        return popen([sys.executable, "-c", ""], stdout=subprocess.PIPE, text=True)

    def fork(*_: Any) -> None:
        raise OSError("of this test: a single process is started as elsewhere than on Linux")

    popen = subprocess.Popen
    monkeypatch.setattr(launch.subprocess, "Popen", start)
    monkeypatch.setattr(launch._fork_server, "start", fork)
    with lease_for_training(home, count) as leased:
        run_job(tmp_path / "job", job_without_inputs("analysis", tmp_path), leased)
    ((command, environment),) = started
    assert environment["CUDA_VISIBLE_DEVICES"] == ",".join(map(uuid, range(count)))
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID" and "GLIBC_TUNABLES" not in environment
    line = " ".join(command)
    assert ("accelerate.commands.launch" in command) == (count > 1)
    assert (f"--num_processes {count}" in line and "--multi_gpu" in command) == (count > 1)
    assert environment["OMP_NUM_THREADS"] == str(max(1, leases.usable_cores() // count))


def test_what_a_forked_job_inherits_has_not_asked_cuda() -> None:
    """A process that was forked after CUDA was asked anything cannot use a GPU."""
    code = """
import torch
def asked(*_): raise SystemExit("CUDA was asked before the fork")
for name in ("is_available", "device_count", "init", "_lazy_init", "current_device", "get_device_properties"):
    setattr(torch.cuda, name, asked)
import pkgutil
from tasks.jobs.messages import AnalysisJob, FinetuningJob, PretrainingJob
for job in (AnalysisJob, FinetuningJob, PretrainingJob):
    pkgutil.resolve_name(job.loop)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


RESULT = AnalysisResult(figures={}, samples=1, num_concepts=1, plots={}, seconds=0.0)


def test_each_cell_gets_a_gpu_of_its_own(host: FakeGpus, home: Home) -> None:
    held: list[str] = []
    together = threading.Barrier(4)

    def work() -> None:
        with lease_devices(home) as (device,):
            held.append(device.key)
            together.wait(10)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(held) == [uuid(number) for number in range(4)]


HOLDER = """
import sys
from pathlib import Path
from tasks.jobs.devices import Device
from tasks.jobs.leases import lease_devices
from tasks.jobs import leases
from tasks.store.home import Home
leases.visible_devices = lambda: tuple(Device("cuda", name, 1, name) for name in sys.argv[2].split(","))
with lease_devices(Home(Path(sys.argv[1])), int(sys.argv[3])) as held:
    print(*(device.key for device in held), flush=True)
    sys.stdin.read()
"""


def hold_elsewhere(home: Path, names: str, count: int, **more: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", HOLDER, str(home), names, str(count)]
    environment = os.environ | {"TMPDIR": tempfile.gettempdir(), "PYTHONPATH": str(ROOT)} | more
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(arguments, text=True, env=environment, **pipes)  # type: ignore[call-overload, no-any-return]


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return str(process.stdout.readline().strip())


def test_two_homes_never_take_one_gpu(host: FakeGpus, home: Home, tmp_path: Path) -> None:
    """Whichever name they know it by, and even in two orders, which would wait for each other for ever."""
    other = hold_elsewhere(tmp_path / "other_home", f"{uuid(3)},{uuid(0)}", 2)
    assert said(other) == f"{uuid(3)} {uuid(0)}"
    with lease_devices(home, 2) as held:
        assert [device.index for device in held] == ["1", "2"]
    other.kill()
    other.communicate()
    with lease_devices(home, 4) as held:
        assert len(held) == 4, "the other one died, and its leases with it"
        waiting = hold_elsewhere(tmp_path / "other_home", uuid(1), 1)
        time.sleep(0.3)
        assert waiting.poll() is None
    assert said(waiting) == uuid(1)
    waiting.kill()
    waiting.communicate()


def test_gpus_that_others_use_are_left_to_them(host: FakeGpus, home: Home, caplog: pytest.LogCaptureFixture) -> None:
    host.memory([9000, 300, 0, 5000])
    host.programs([(0, 4711, 8900), (1, os.getpid(), 300), (2, 4712, 10)])
    assert gpus.others_use() == {
        uuid(0): "process 4711, 9.4 of 25.8 GB taken",
        uuid(3): "by programs that are not listed here, 5.2 of 25.8 GB taken",
    }
    warned = [one for one in examine(home) if one.name == "devices" and one.status == "warning"]
    assert ["GPU 0" in warned[0].found, "GPU 3" in warned[1].found] == [True, True]
    with lease_devices(home, 2) as held:
        assert [device.index for device in held] == ["1", "2"]

    def end_them() -> None:
        host.memory([0, 0, 0, 0])
        host.programs([])

    timer = threading.Timer(0.3, end_them)
    timer.start()
    with caplog.at_level(logging.WARNING, "cogito.leases"), lease_devices(home, 4) as held:
        assert len(held) == 4 and gpus.others_use() == {}
    messages = [record.getMessage() for record in caplog.records if "other programs use" in record.getMessage()]
    assert len(messages) == 1 and "GPU 0: process 4711" in messages[0] and "GPU 3" in messages[0]


class Waiting:
    """A job that waits for devices in a thread."""

    def __init__(self, home: Home, count: int) -> None:
        self.held, self.end = threading.Event(), threading.Event()

        def work() -> None:
            with lease_devices(home, count):
                self.held.set()
                self.end.wait(20)

        self.thread = threading.Thread(target=work)
        self.thread.start()

    def finish(self) -> None:
        self.end.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


def kept_messages(caplog: pytest.LogCaptureFixture, at_least: int) -> list[str]:
    deadline = time.monotonic() + 20
    while len(found := [one.getMessage() for one in caplog.records if "other programs use" in one.msg]) < at_least:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_a_training_that_waits_for_other_programs_holds_up_nobody(
    host: FakeGpus, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """Jobs behind it, however long they take, use what it cannot; it gets its turn when the program has ended."""
    host.programs([(2, 4711, 8900)])
    host.memory([0, 0, 9000, 0])
    training = Waiting(home, 4)
    (message, *_) = kept_messages(caplog, 1)
    assert "waits for 4 GPUs; other programs use GPU 2: process 4711" in message
    cells = [Waiting(home, 1) for _ in range(3)]
    for cell in cells:
        assert cell.held.wait(20)
    host.programs([])
    host.memory([0, 0, 0, 0])
    deadline = time.monotonic() + 20
    while not list((leases._host_leases() / "line").glob("*-4.ticket")):  # it sees that, and stands in the line again
        assert time.monotonic() < deadline
        time.sleep(0.02)
    late = Waiting(home, 1)
    for cell in cells:
        assert not late.held.wait(0.2) and not training.held.is_set(), "it stands before the late one"
        cell.finish()
    assert training.held.wait(20) and not late.held.is_set()
    training.finish()
    assert late.held.wait(20)
    late.finish()


def test_what_a_job_waits_for_is_told_again_and_again(
    host: FakeGpus, home: Home, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs outside a container are not listed: only their memory shows."""
    monkeypatch.setattr(leases, "TELL_SECONDS", 0.1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    host.memory([0, 3000, 0, 0])
    waiting = Waiting(home, 1)
    for message in kept_messages(caplog, 3):
        assert message == (
            "waits for a GPU; other programs use GPU 1: by programs that are not listed here, 3.1 of 25.8 GB taken; "
            "fix: end them, leave it out by CUDA_VISIBLE_DEVICES, or COGITO_USED_GPUS=take to compute beside them"
        )
    assert not waiting.held.is_set()
    monkeypatch.setenv("COGITO_USED_GPUS", "take")
    assert waiting.held.wait(20)
    waiting.finish()


def test_a_misspelt_rule_for_used_gpus_is_refused(host: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COGITO_USED_GPUS", "takes")
    with pytest.raises(UserError, match=r"COGITO_USED_GPUS 'takes': did you mean 'take'[?] allowed: take, wait"):
        visible_devices()


def test_more_gpus_than_there_are_is_an_error_and_no_wait(host: FakeGpus, home: Home) -> None:
    with pytest.raises(StageError, match="5 devices are needed, and this machine has 4"), lease_devices(home, 5):
        pass


def test_commands_that_see_other_gpus_do_not_wait_for_each_other(
    host: FakeGpus, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training waits for GPU 0 and 1, of which one is busy; a cell of another command sees 2 and 3 alone."""
    busy = hold_elsewhere(tmp_path / "other_home", uuid(0), 1)
    assert said(busy) == uuid(0)
    training = hold_elsewhere(tmp_path / "other_home", f"{uuid(0)},{uuid(1)}", 2)
    deadline = time.monotonic() + 60
    while not list((leases._host_leases() / "line").glob("*-2.ticket")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with lease_devices(home, 2) as held:
        assert [device.index for device in held] == ["2", "3"]
    for process in (busy, training):
        process.kill()
        process.communicate()


def test_a_gpu_whose_use_cannot_be_told_is_taken(host: FakeGpus, home: Home) -> None:
    visible_devices()
    host.fail(MISMATCH)
    with lease_devices(home, 4) as held:
        assert len(held) == 4


def test_a_lease_on_a_gpu_is_work_in_its_home(host: FakeGpus, home: Home) -> None:
    from tasks.store.locks import active_locks

    with lease_devices(home):
        assert [path.parent for path in active_locks(home)] == [home.leases]
    assert not active_locks(home)


def test_the_folder_of_leases_belongs_to_its_user(host: FakeGpus, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: psutil.Process().uids().real + 1)
    with pytest.raises(UserError, match="belongs to another account"), lease_devices(home):
        pass


def test_the_record_names_the_gpus(host: FakeGpus, tmp_path: Path) -> None:
    assert describe_environment(tmp_path / "log.md").gpus == [host.name] * 4


@pytest.mark.skipif(gpus.has_driver() or bool(shutil.which("nvidia-smi")), reason="this host has the driver of a GPU")
def test_without_a_driver_nobody_waits_for_torch(home: Home) -> None:
    """Every command asks for the devices, and a run that it continues for its last state."""
    code = """
import sys
from tasks.jobs.devices import visible_devices
from tasks.pretraining.stage import check_continuation, newest_marker
assert {device.kind for device in visible_devices()} == {"cpu"}
assert not {"torch", "accelerate"} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
