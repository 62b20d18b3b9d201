"""How a run is requested, beside its spec: where it reads and writes, and what no identity contains."""

from dataclasses import dataclass
from pathlib import Path

from tasks.errors import UserError
from tasks.store.home import Home

MOST_HOURS = 1_000_000


@dataclass(frozen=True)
class Request:
    """One start of an experiment or an evaluation.

    Attributes:
        home: COGITO_HOME.
        data_root: a mirror folder, searched before the Hub.
        log: the Master Experiment Log.
        processes: training processes; None: one for every GPU, or one on a CPU.
        fresh: start a new run even if this spec was run before.
        repeats: the run that this one repeats; the repetition has an index of its own, the repeated run keeps its.
    """

    home: Home
    data_root: Path | None
    log: Path
    processes: int | None = None
    fresh: bool = False
    repeats: str | None = None


def check_hours(max_hours: float | None) -> None:
    """Refuse a time budget that no clock can keep.

    Raises:
        UserError: it is below 0, above `MOST_HOURS` or no number.
    """
    if max_hours is not None and not 0 <= max_hours <= MOST_HOURS:  # neither holds for nan
        raise UserError(
            f"--max-hours: got {max_hours:g}; allowed: 0 to {MOST_HOURS:,} hours; fix: drop it for no limit"
        )
