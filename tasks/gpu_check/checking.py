"""Every check in order, within a time; a table and a JSON file of what came out."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.gpu_check import speed, work
from tasks.gpu_check.numerics import CheckFailed, Figures, check_attention, check_family
from tasks.jobs.devices import visible_devices
from tasks.secrets import redact
from tasks.store.files import write_json
from tasks.store.home import Home

# The whole check ends within 8 minutes: no check begins after this.
LAST_BEGIN_SECONDS = 290


@dataclass(frozen=True)
class Outcome:
    """What a check came to.

    Attributes:
        status: ok, failed, or skipped where it could not run here.
        figures: what was measured.
        found: why it failed or was skipped.
    """

    name: str
    status: str
    seconds: float
    figures: Figures
    found: str = ""


def run_checks(target: Path, show: Callable[[str], object] = print) -> bool:
    """Run every check, show a line for each as it ends, and write all of it as JSON; whether none failed.

    Args:
        target: the JSON file.
        show: takes the lines of the table.

    Raises:
        UserError: there are GPUs that torch cannot use.
    """
    devices = visible_devices()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    gpus = ", ".join(device.name for device in devices if device.kind == "cuda")
    show(f"{len(devices)} GPUs: {gpus}" if gpus else "no GPU on this machine: what follows ran on its CPU")
    outcomes, began = [], time.monotonic()
    with TemporaryDirectory(prefix="cogito-gpu-check-", ignore_cleanup_errors=True) as folder:
        home = Home(Path(folder) / "home")
        home.create()
        for name, check in _checks(work.Bench(home, devices), devices[0].kind).items():
            outcome = _outcome(name, check, time.monotonic() - began)
            outcomes.append(outcome)
            show(_line(outcome))
    seconds = time.monotonic() - began
    show(f"{seconds:.0f} seconds; all figures: {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, {**_machine(gpus), "seconds": seconds, "checks": [asdict(outcome) for outcome in outcomes]})
    return not any(outcome.status == "failed" for outcome in outcomes)


def _checks(bench: work.Bench, device: str) -> dict[str, Callable[[], Figures]]:
    """Jobs first: they need the memory that this process takes on the GPU for the others."""
    jobs = {
        "training": work.check_training,
        "processes": work.check_processes,
        "kill and resume": work.check_resume,
        "fine-tuning": work.check_cell,
        "zero-shot": work.check_zero_shot,
        "analysis": work.check_analysis,
        "out of memory": work.check_memory,
    }
    here = {"attention": check_attention, "model family": check_family, "speed": speed.check_speed}
    checks: dict[str, Callable[[], Figures]] = {name: partial(check, bench) for name, check in jobs.items()}
    return checks | {name: partial(check, device) for name, check in here.items()}


def _outcome(name: str, check: Callable[[], Figures], elapsed: float) -> Outcome:
    if elapsed > LAST_BEGIN_SECONDS:
        return Outcome(name, "failed", 0.0, {}, f"no time was left after {elapsed:.0f} seconds")
    began = time.monotonic()
    try:
        figures = check()
    except Exception as error:  # whatever a driver or a library does is what this is to find
        name_of_error = "" if isinstance(error, CheckFailed) else f"{type(error).__name__}: "
        found = redact(" ".join(f"{name_of_error}{error}".split()))
        return Outcome(name, "failed", time.monotonic() - began, {}, found)
    skipped = str(figures.pop("skipped", ""))
    return Outcome(name, "skipped" if skipped else "ok", time.monotonic() - began, figures, skipped)


def _line(outcome: Outcome) -> str:
    """A row of the table, and its figures below."""
    rows = [f"{outcome.name:16} {outcome.status:8} {outcome.seconds:6.1f} s  {outcome.found}".rstrip()]
    for name, value in outcome.figures.items():
        rows.append(f"    {name:44} {value if isinstance(value, str) else f'{value:,.6g}'}")
    return "\n".join(rows)


def _machine(gpus: str) -> dict[str, Any]:
    import torch

    return {
        "gpus": gpus,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
