"""How a run is requested, beside its spec: where it reads and writes, and what no identity contains."""

from dataclasses import dataclass
from pathlib import Path

from tasks.store.home import Home


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
