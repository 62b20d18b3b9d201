"""A forecast: a line for each stage and each job, and what it rests on."""

from dataclasses import asdict, dataclass
from typing import Any

from tasks.forecast.estimate import Room, size_text

DONE = "done already"


@dataclass(frozen=True)
class Line:
    """What a stage, or a job of the fan-out, will take.

    Attributes:
        seconds: of wall time; None where nothing here can tell.
        how: what it follows from, or why it cannot be told.
    """

    name: str
    seconds: float | None
    how: str


@dataclass(frozen=True)
class Forecast:
    """What an experiment will take.

    Attributes:
        jobs: those of the fan-out, which devices work at side by side.
        needed, free: bytes that will be written, and bytes that are free.
        calibration: seconds that it took to find out.
    """

    stages: list[Line]
    jobs: list[Line]
    room: Room
    needed: int
    free: int
    measured: list[str]
    assumed: list[str]
    calibration: float

    @property
    def seconds(self) -> float:
        """Wall time of all stages that can be told."""
        return sum(line.seconds or 0.0 for line in self.stages)

    @property
    def warnings(self) -> list[str]:
        """What will not fit, and what could not be told."""
        lines = [*self.stages, *self.jobs]
        unknown = [f"{line.name}: not in the forecast: {line.how}" for line in lines if line.seconds is None]
        full = f"disk: {size_text(self.needed)} are needed, {size_text(self.free)} are free; fix: make room"
        return [*filter(None, [self.room.warning]), *([full] if self.needed > self.free else []), *unknown]

    def as_json(self) -> dict[str, Any]:
        """The forecast as JSON takes it."""
        return {
            "seconds": self.seconds,
            "stages": [asdict(line) for line in self.stages],
            "jobs": [asdict(line) for line in self.jobs],
            "memory": {"needed": self.room.needed, "available": self.room.machine.memory},
            "disk": {"needed": self.needed, "free": self.free},
            "measured": self.measured,
            "assumed": self.assumed,
            "warnings": self.warnings,
            "calibration_seconds": self.calibration,
        }
