"""Leases on devices, so that no two jobs share one unless they fit together.

A lease is a file lock, freed by the operating system when its owner dies. Shares of the CPU are leased within one
COGITO_HOME on one host; GPUs on the whole host, whatever homes its user has there. GPUs that other programs use are
left to them. A GPU has several places: a job that has it alone holds one and says so, and jobs that state their memory
hold one each.
"""

import getpass
import logging
import math
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.errors import StageError, UserError
from tasks.interruption import go_on
from tasks.jobs.devices import MAX_SHARED, Device, usable_cores, visible_devices
from tasks.jobs.gpus import USED_GPUS, Use, look, takes_used
from tasks.jobs.waiting import Asked, Line, Load, Need, choose
from tasks.store.home import PRIVATE, Home
from tasks.store.locks import POLL_SECONDS, hold

log = logging.getLogger("cogito.leases")

# A job far back in the line waits so many times POLL_SECONDS between two looks at most.
SELDOM = 10
# Seconds between two looks at the GPUs that other programs use, and between two messages about them.
LOOK_SECONDS, TELL_SECONDS = 5.0, 300.0
# The part of a GPU's memory that jobs which share it may state together; the rest is for what nobody counts.
SHARED_PART = 0.9

# GPUs that did not respond after a job on them had failed; this command leases them no more.
lost_devices: set[Device] = set()


@contextmanager
def lease_devices(home: Home, count: int = 1, asked: Asked = Need) -> Iterator[list[Device]]:
    """Lease `count` devices until the block ends; waits while they are taken.

    Args:
        asked: what the job needs of a device, asked now and then. One that states its memory may get a GPU on which
            others are, or come; its `share` is then what was stated.

    Raises:
        StageError: so many devices can never be had, or the command was interrupted.
        Paused: a pause was requested.
    """
    home.create()
    on_gpu, told, looked, need = visible_devices()[0].kind == "cuda", -math.inf, -math.inf, Need()
    line = Line(_host_leases() / "line" if on_gpu else home.leases / f"line-{_host()}")
    with ExitStack() as held:
        with line.ticket(count, [device.key for device in visible_devices()]) as ticket:
            while True:
                go_on()
                if time.monotonic() - looked > LOOK_SECONDS:
                    need, looked = asked(), time.monotonic()
                ahead = line.ahead_of(ticket, [device.key for device in visible_devices()])
                chosen, kept = _take(home, count, need, line, ahead, held)
                if chosen:
                    break
                if kept and time.monotonic() - told > TELL_SECONDS:
                    told = time.monotonic()
                    _tell_kept(count, kept)
                # What other programs keep is not to be had by standing in the line, where it would hold up others.
                if count > len(_responding(count)) - len(kept):
                    ticket.leave()
                else:
                    ticket.stand()
                # Those at the end of a long line look less often.
                time.sleep(POLL_SECONDS * min(1 + len(ahead), SELDOM))
        yield chosen


def _tell_kept(count: int, kept: dict[Device, str]) -> None:
    log.warning(
        "waits for %s; other programs use %s; fix: end them, leave it out by CUDA_VISIBLE_DEVICES, or %s=take to "
        "compute beside them",
        "a GPU" if count == 1 else f"{count} GPUs",
        "; ".join(f"GPU {device.index}: {who}" for device, who in kept.items()),
        USED_GPUS,
    )


@dataclass(frozen=True)
class _Seen:
    """A device as it is found while the lock of the line is held.

    Attributes:
        places: those on it that are free.
        jobs: what those on the other places need.
    """

    device: Device
    places: list[int]
    jobs: list[Need]


def _take(
    home: Home, count: int, need: Need, line: Line, ahead: list[int], held: ExitStack
) -> tuple[list[Device], dict[Device, str]]:
    """Lease `count` devices if this job may start, none otherwise; and which only other programs keep, with who."""
    devices = _responding(count)
    if (need.memory or 0) > SHARED_PART * min(device.memory for device in devices):
        need = replace(need, memory=None)
    with hold(line.lock), ExitStack() as taken:
        seen = [_see(home, line, device) for device in devices]
        idle = frozenset(one.device.uuid for one in seen if not one.jobs and one.device.uuid)
        use = _use(idle, int(time.monotonic() / LOOK_SECONDS)) if idle or need.memory is not None else {}
        # Programs on a GPU whose lease is free are none of our jobs.
        who = {uuid: use[uuid].who for uuid in idle & use.keys() if not takes_used()}
        kept = {one.device: who[one.device.uuid] for one in seen if who.get(one.device.uuid)}
        seen = [one for one in seen if one.device not in kept]
        chosen = [seen[number] for number in choose(count, need, ahead, [_load(one, use) for one in seen])]
        try:
            for one in chosen:
                for lock in _locks(home, one.device, one.places[0]):
                    taken.enter_context(lock.acquire(timeout=0))
                taken.enter_context(line.noted(f"{one.device.key}-{one.places[0]}", need))
        except Timeout:  # its last holder has not quite left it
            return [], kept
        held.push(taken.pop_all())
        return [replace(one.device, share=need.memory) for one in chosen], kept


def _see(home: Home, line: Line, device: Device) -> _Seen:
    seen = _Seen(device, [], [])
    for place in range(MAX_SHARED if device.kind == "cuda" else 1):  # whatever other commands see of this machine
        need = line.held(f"{device.key}-{place}")
        if need is not None and not all(map(_is_free, _locks(home, device, place))):
            seen.jobs.append(need)
        else:
            seen.places.append(place)
    return seen


def _is_free(lock: FileLock) -> bool:
    try:
        with lock.acquire(timeout=0):
            return True
    except Timeout:
        return False


def _load(seen: _Seen, use: dict[str, Use]) -> Load:
    """How loaded a device is; it has no room where nobody knows what is taken of it."""
    device, known = seen.device, use.get(seen.device.uuid)
    if known is None:
        return Load(seen.jobs)
    return Load(seen.jobs, device.most_jobs, SHARED_PART * device.memory, known.taken)


def _responding(count: int) -> list[Device]:
    """The devices that can be leased at all.

    Raises:
        StageError: they are fewer than `count`.
    """
    devices = [device for device in visible_devices() if device not in lost_devices]
    if count <= len(devices):
        return devices
    gone = ", ".join(sorted(device.index for device in lost_devices))
    if gone:
        raise StageError(
            f"GPU {gone} no longer responds, and {len(devices)} of the {count} needed are left; "
            "finished work is saved; fix: check it with `nvidia-smi`, then run the same command again"
        )
    raise StageError(f"{count} devices are needed, and this machine has {len(devices)}; fix: fewer processes")


@lru_cache(maxsize=8)
def _use(_idle: frozenset[str], _moment: int) -> dict[str, Use]:
    """The use of all GPUs, asked again when others are idle and every LOOK_SECONDS."""
    return look()


def _locks(home: Home, device: Device, place: int = 0) -> list[FileLock]:
    """What the holder of a place holds: within the home, where it counts as work, and for a GPU on the whole host."""
    name = f"{device.key}-{place}.lock"
    own = FileLock(home.leases / f"{_host()}-{device.kind}-{name}")
    return [own] if device.kind == "cpu" else [own, FileLock(_host_leases() / name)]


def _host() -> str:
    """The name of this host: a home may lie on a disk that several share."""
    return socket.gethostname().split(".")[0]


def _host_leases() -> Path:
    """The folder of the locks on the GPUs of this host: one for all homes of a user; nvidia-smi tells of other users.

    Raises:
        UserError: somebody else owns a folder of its name.
    """
    user = str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
    folder = Path(tempfile.gettempdir()) / f"cogito-{user}"
    folder.mkdir(mode=PRIVATE, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder}: belongs to another account, and holds the locks on GPUs; fix: remove it, or TMPDIR")
    (folder / _host()).mkdir(exist_ok=True)
    return folder / _host()


@contextmanager
def lease_for_training(home: Home, processes: int) -> Iterator[list[Device]]:
    """Devices for one process each: that many GPUs, or the whole CPU shared out evenly."""
    on_gpu, threads = visible_devices()[0].kind == "cuda", max(1, usable_cores() // processes)
    with lease_devices(home, processes if on_gpu else len(visible_devices())) as leased:
        yield leased if on_gpu else [Device("cpu", str(number), threads) for number in range(processes)]
