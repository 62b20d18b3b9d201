"""The GPUs of this host: what nvidia-smi lists, what CUDA_VISIBLE_DEVICES names of it, and whether torch can use it.

A GPU goes by its UUID: its number depends on CUDA_DEVICE_ORDER and on the process that counts. torch, which loads
slowly, is imported where it is asked: on a host with the driver of a GPU.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import UserError, unknown_name

CHOICES = ("auto", "cuda", "cpu")
# The variable that says what becomes of GPUs that other programs use.
USED_GPUS = "COGITO_USED_GPUS"
# Values of CUDA_VISIBLE_DEVICES that hide every GPU.
HIDDEN = ("", "-1", "NoDevFiles")
MIB = 2**20
# A GPU on which programs that cannot be listed, as those outside a container, hold more than this is in use; a desktop
# holds less. A listed program that computes there holds more than the second.
UNLISTED_USE, LISTED_USE = 2048 * MIB, 100 * MIB
ANSWER_SECONDS = 60


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        index: its number in nvidia-smi, or what CUDA_VISIBLE_DEVICES calls it where there is no nvidia-smi.
        uuid: what a job finds it by.
        used, total: bytes of its memory; zero where they are not known.
    """

    index: str
    uuid: str
    name: str = "GPU"
    used: int = 0
    total: int = 0


class NoAnswer(Exception):
    """nvidia-smi is there and fails, as after an update of the driver."""


def device_choice(given: str | None = None) -> str:
    """What jobs shall run on, one of CHOICES: what is given, else COGITO_DEVICE, else `auto`.

    Raises:
        UserError: it is none of them.
    """
    choice = given or os.environ.get("COGITO_DEVICE") or "auto"
    if choice not in CHOICES:
        raise UserError(unknown_name("device", choice, CHOICES))
    return choice


def find_gpus() -> list[Gpu]:
    """The GPUs that jobs may use; none on a machine without, where they are hidden, and with `--device cpu`.

    Raises:
        UserError: there are GPUs that torch cannot use, CUDA_VISIBLE_DEVICES names none or one twice, or `--device
            cuda` finds none. Training on the CPU instead would take weeks without a word.
    """
    choice, named = device_choice(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if choice == "cpu":
        return []
    # Numbers then mean what nvidia-smi shows, in this process and in its jobs.
    order = os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    gpus = [] if named is not None and named.strip() in HIDDEN else _usable_gpus(named, order)
    if choice == "cuda" and not gpus:
        why = "this machine has none" if named is None else f"CUDA_VISIBLE_DEVICES={named} shows none"
        raise UserError(f"--device cuda: no GPU was found, {why}; fix: --device cpu, or auto")
    return gpus


def list_gpus() -> list[Gpu] | None:
    """All GPUs that nvidia-smi lists; None without nvidia-smi.

    Raises:
        NoAnswer: it fails.
    """
    rows = _ask("--query-gpu=index,uuid,name,memory.used,memory.total")
    if rows is None:
        return None
    return [Gpu(row[0], row[1], row[2], _bytes(row[3]), _bytes(row[4])) for row in rows if len(row) == 5]


@dataclass(frozen=True)
class Use:
    """What is taken of a GPU: bytes of its memory, and the programs other than this process; empty where none is."""

    taken: int
    who: str


def look() -> dict[str, Use]:
    """The use of every GPU that nvidia-smi lists, by UUID; none where it fails."""
    try:
        gpus, rows = list_gpus() or [], _ask("--query-compute-apps=gpu_uuid,pid,used_memory") or []
    except NoAnswer:
        return {}
    programs: dict[str, list[str]] = {}
    for uuid, pid, memory in (row for row in rows if len(row) == 3):
        if pid != str(os.getpid()) and _bytes(memory) >= LISTED_USE:
            programs.setdefault(uuid, []).append(pid)
    mine = {row[0] for row in rows if row[1:2] == [str(os.getpid())]}
    found = {}
    for gpu in gpus:
        who, memory = "", f"{gpu.used / 1e9:.1f} of {gpu.total / 1e9:.1f} GB taken"
        if gpu.uuid in programs:
            who = f"process {', '.join(programs[gpu.uuid])}, {memory}"
        elif gpu.used > UNLISTED_USE and gpu.uuid not in mine:
            who = f"by programs that are not listed here, {memory}"
        found[gpu.uuid] = Use(gpu.used, who)
    return found


def others_use() -> dict[str, str]:
    """Which GPUs programs other than this process compute on: by UUID, with who does and how much memory is taken."""
    return {uuid: use.who for uuid, use in look().items() if use.who}


def takes_used() -> bool:
    """Whether jobs take GPUs that other programs use, instead of waiting for them: COGITO_USED_GPUS=take.

    Raises:
        UserError: it has another value than `wait`, the default, or `take`.
    """
    given = os.environ.get(USED_GPUS) or "wait"
    if given not in ("wait", "take"):
        raise UserError(unknown_name(USED_GPUS, given, ("wait", "take")))
    return given == "take"


def _usable_gpus(named: str | None, order: str) -> list[Gpu]:
    try:
        listed, trouble = list_gpus(), ""
    except NoAnswer as error:
        listed, trouble = None, str(error)
    if listed is None and not trouble and named is None and not has_driver():
        return []
    count, reason = _torch_count()
    names = list(filter(None, map(str.strip, (named or "").split(","))))
    if listed:
        gpus = _chosen(listed, names, order) if names else listed
    elif trouble and not count:
        raise _unusable("GPUs", f"{trouble}; {reason}")
    else:  # nothing to compare with: torch alone knows
        gpus = [Gpu(name, name) for name in names or map(str, range(count))]
    if count != len(gpus):
        numbers = ", ".join(gpu.index for gpu in gpus)
        raise _unusable(f"GPU {numbers} ({gpus[0].name})", reason or f"it can use {count} of {len(gpus)}")
    if reason := _foreign_architecture(gpus):
        raise _unusable("GPUs", reason)
    return gpus


def _unusable(what: str, reason: str) -> UserError:
    return UserError(
        f"{what} of this machine cannot be used by torch: {reason}; fix: mend that (`nvidia-smi` and "
        "`python -c 'import torch; torch.cuda.init()'` tell more), name the GPUs that work in CUDA_VISIBLE_DEVICES, "
        "or --device cpu to do without"
    )


def _chosen(listed: list[Gpu], names: list[str], order: str) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES names by number or the beginning of a UUID, or parts of one (MIG)."""
    allowed = f"allowed: numbers or UUIDs of `nvidia-smi -L`, which lists {', '.join(gpu.index for gpu in listed)}"
    chosen = []
    for name in names:
        if name.startswith("MIG-"):
            chosen.append(Gpu(name, name))
            continue
        if name.isdecimal() and order != "PCI_BUS_ID":
            raise UserError(
                f"CUDA_DEVICE_ORDER: got {order}, in which a number as {name} in CUDA_VISIBLE_DEVICES is not that of "
                "nvidia-smi; allowed: PCI_BUS_ID; fix: unset it, or name GPUs by UUID"
            )
        found = [gpu for gpu in listed if gpu.index == name or (name.startswith("GPU-") and gpu.uuid.startswith(name))]
        if len(found) != 1:
            raise UserError(f"CUDA_VISIBLE_DEVICES: got {name!r}, which is {len(found)} GPUs; {allowed}")
        chosen += found
    twice = [gpu for gpu, times in Counter(chosen).items() if times > 1]
    if twice:
        raise UserError(f"CUDA_VISIBLE_DEVICES: got GPU {twice[0].index} twice; {allowed}; fix: name each once")
    return chosen


def has_driver() -> bool:
    """Whether this host has the driver of a GPU, CUDA's or ROCm's, without which torch can use none."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()
    return True


def _torch_count() -> tuple[int, str]:
    """How many GPUs torch can use, and why it can use none."""
    import torch

    with warnings.catch_warnings(record=True):  # the reason, which is told below
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return torch.cuda.device_count(), ""
        if not torch.backends.cuda.is_built():
            return 0, f"torch {torch.__version__} is a build without CUDA"
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            return 0, str(error).strip().splitlines()[0]
    return 0, "it finds none"


def _foreign_architecture(gpus: list[Gpu]) -> str:
    """Why torch's build has no code for one of the GPUs; empty where it has, or where that is not known."""
    import torch

    try:
        rows = {row[0]: row[1] for row in _ask("--query-gpu=uuid,compute_cap") or [] if len(row) == 2}
    except NoAnswer:  # drivers before 2021 do not know the question
        return ""
    built = [name.partition("_")[2].rstrip("af") for name in torch.cuda.get_arch_list()]
    known = {divmod(int(number), 10) for number in built if number.isdecimal()}
    for gpu in gpus:
        major, _, minor = rows.get(gpu.uuid, "").partition(".")
        if not (known and major.isdecimal() and minor.isdecimal()):
            continue
        forward = any(name.startswith("compute_") for name in torch.cuda.get_arch_list())
        fits = any(major_built == int(major) and minor_built <= int(minor) for major_built, minor_built in known)
        if not fits and not (forward and (int(major), int(minor)) > max(known)):
            return f"torch {torch.__version__} has no code for GPU {gpu.index} ({gpu.name}, compute {major}.{minor})"
    return ""


def _ask(question: str) -> list[list[str]] | None:
    """The rows of an answer of nvidia-smi; None where there is no nvidia-smi.

    Raises:
        NoAnswer: it fails, or says nothing within ANSWER_SECONDS.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, question, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=ANSWER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAnswer(f"{Path(program).name} does not answer: {error}") from error
    said = done.stdout.strip()
    if "No devices were found" in said:
        return []
    if done.returncode:
        lines = f"{said}\n{done.stderr}".strip().splitlines() or [f"exit code {done.returncode}"]
        raise NoAnswer(f"nvidia-smi fails: {lines[0]}")
    return [[cell.strip() for cell in line.split(",")] for line in said.splitlines()]


def _bytes(mebibytes: str) -> int:
    """A memory size of nvidia-smi in bytes; zero where it is not told."""
    return int(mebibytes) * MIB if mebibytes.isdecimal() else 0
