"""Weights & Biases on rank 0: offline unless the spec says otherwise."""

import os
from pathlib import Path
from typing import Any


class Tracking:
    """A W&B run, or nothing when tracking is off."""

    def __init__(self, run: Any | None) -> None:
        self.run = run

    def log(self, figures: dict[str, Any], step: int) -> None:
        if self.run is not None:
            self.run.log(figures, step=step)

    def finish(self) -> str | None:
        """End the run; returns its address, None when offline or off."""
        if self.run is None:
            return None
        url = self.run.url
        self.run.finish()
        return str(url) if url else None


def start_tracking(job: dict[str, Any], done: int) -> Tracking:
    """Start or continue the W&B run of a pretraining job under its run id."""
    settings = job["spec"]["tracking"]
    if settings["wandb"] == "disabled":
        return Tracking(None)
    folder = Path(job["tracking_folder"])
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["WANDB_SILENT"] = "true"
    import wandb

    run = wandb.init(
        project=settings["project"],
        entity=settings["entity"],
        id=job["run_id"],
        name=job["run_id"],
        dir=str(folder),
        mode=settings["wandb"],
        resume="allow" if settings["wandb"] == "online" else None,
        config=job["spec"],
        settings=wandb.Settings(console="off", x_disable_stats=True, disable_git=True),
    )
    return Tracking(run)
