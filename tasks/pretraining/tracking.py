"""Weights & Biases on rank 0: offline unless the spec says otherwise.

Tracking is a view: any fault of it is a warning, and the training continues; `curve.jsonl` holds every figure.
wandb, which loads slowly, is imported where it is used.
"""

import netrc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from tasks.errors import UserError
from tasks.jobs.messages import PretrainingJob, report_warning
from tasks.spec.experiment import TrackingSpec

# An unreachable server must not hold up a finished training; the run's folder keeps what it did not receive.
FINISH_SECONDS = 600.0


class Tracking:
    """A W&B run, or nothing when tracking is off."""

    def __init__(self, run: Any | None, folder: Path | None = None) -> None:
        self.run, self.folder = run, folder

    def log(self, figures: dict[str, Any], step: int) -> None:
        """Send the figures of a step."""
        self._try(lambda run: run.log(figures, step=step))

    def finish(self) -> str | None:
        """End the run; returns its address, None when offline or off."""
        url = self.run.url if self.run is not None else None
        self._try(lambda run: run.finish())
        return str(url) if url else None

    def _try(self, call: Callable[[Any], None]) -> None:
        if self.run is None:
            return
        try:
            call(self.run)
        except Exception as error:
            self.run = None
            report_warning(f"W&B: {_text(error)}; the training goes on without it; what it has lies in {self.folder}")


def check_login(spec: TrackingSpec) -> None:
    """Check before any work, without the network, that there is a W&B login.

    Raises:
        UserError: tracking is to be online, and there is no login.
    """
    if spec.wandb != "online" or any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return
    import wandb

    host = urlsplit(os.environ.get("WANDB_BASE_URL") or str(wandb.Settings().base_url)).hostname or ""
    try:
        known = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        known = None
    if known is None:
        raise UserError(
            f"tracking.wandb: got 'online', but there is no W&B login for {host}; "
            "fix: set WANDB_API_KEY or run `wandb login`, or state tracking.wandb offline"
        )


def start_tracking(job: PretrainingJob) -> Tracking:
    """Start or continue the W&B run of a pretraining job under its run id; offline if the server refuses it."""
    settings = job.spec.tracking
    if settings.wandb == "disabled":
        return Tracking(None)
    folder = job.tracking_folder
    if settings.wandb == "online":
        try:
            return Tracking(_start(job, folder, "online"), folder)
        except Exception as error:
            then = f"the run is kept offline, `wandb sync` in {folder} sends it"
            report_warning(f"W&B: cannot start online: {_text(error)}; {then}")
    try:
        return Tracking(_start(job, folder, "offline"), folder)
    except Exception as error:
        report_warning(f"W&B: cannot start: {_text(error)}; the training goes on without it")
        return Tracking(None)


def _start(job: PretrainingJob, folder: Path, mode: Literal["online", "offline"]) -> Any:
    settings = job.spec.tracking
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["WANDB_SILENT"] = "true"
    import wandb

    wandb.teardown()  # an attempt that failed keeps its run id taken
    limits = {"finish_timeout": FINISH_SECONDS} if "finish_timeout" in wandb.Settings.model_fields else {}
    return wandb.init(
        project=settings.project,
        entity=settings.entity,
        id=job.run_id,
        name=job.run_id,
        dir=str(folder),
        mode=mode,
        resume="allow" if mode == "online" else None,
        config=job.spec.model_dump(mode="json"),
        settings=wandb.Settings(console="off", x_disable_stats=True, disable_git=True, **limits),
    )


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
