"""Every path under COGITO_HOME, and the claim of a new run folder."""

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from tasks.errors import UserError
from tasks.store.files import is_safe_name

PRIVATE = 0o700
# A path, or a name that may be one, as scripts and notebooks give it.
StrPath = str | Path


class _PathIn:
    """A path inside the root of a Home or a RunFolder, as an attribute of it; reading it creates nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, owner: "Home | RunFolder", kind: type) -> Path:
        return owner.root / self.name


@dataclass(frozen=True)
class Home:
    """The root of all state, COGITO_HOME. It comes to be when something is written, so refused input leaves none."""

    root: Path

    runs = _PathIn("runs")
    corpora = _PathIn("corpora")
    tokenizers = _PathIn("tokenizers")
    published = _PathIn("published")
    cache = _PathIn("cache")
    prefect = _PathIn("prefect")
    logs = _PathIn("logs")
    leases = _PathIn("leases")
    locks = _PathIn("locks")

    def create(self) -> None:
        """Create its folders, for their owner alone: records, logs and Prefect's database are nobody else's."""
        self.root.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        for part in vars(Home).values():
            if isinstance(part, _PathIn):
                part.__get__(self, Home).mkdir(mode=PRIVATE, exist_ok=True)

    def run(self, run_id: str) -> "RunFolder":
        """The folder of a run, whether it exists or not.

        Raises:
            UserError: the name cannot be that of a run, because its folder would lie outside `runs`.
        """
        if not is_safe_name(run_id):
            raise UserError(f"run {run_id[:200]!r}: is no name of a run; allowed: a run id of `cogito runs`")
        return RunFolder(self.runs / run_id)

    def has_run(self, name: str) -> bool:
        """Whether a run of this name has a record; the name may be any text."""
        return is_safe_name(name) and (self.root / "runs" / name / "record.json").is_file()

    def lock(self, name: str) -> FileLock:
        """A lock between processes, which the operating system releases when its owner dies.

        Whatever writes into the home holds one first, so this creates the home.
        """
        self.create()
        return FileLock(self.locks / f"{name}.lock")


def cogito_home() -> Home:
    """COGITO_HOME, where everything lies.

    Raises:
        UserError: the folder cannot be created there.
    """
    root = home_root()
    nearest = next(folder for folder in (root, *root.parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"COGITO_HOME {root}: {nearest} is no folder that you can write to; fix: name another")
    return Home(root)


def home_root() -> Path:
    """COGITO_HOME as an absolute path; default `.cogito` in the working directory. Nothing is checked or created."""
    return user_path(os.environ.get("COGITO_HOME") or ".cogito").resolve()


def user_path(text: StrPath) -> Path:
    """A path as a user types it; `~name` of an unknown user is kept as it is, where Path.expanduser raises."""
    return Path(os.path.expanduser(text))  # noqa: PTH111


@dataclass(frozen=True)
class RunFolder:
    """Every path of one run, which is a training or an evaluation."""

    root: Path

    record = _PathIn("record.json")
    pretraining = _PathIn("pretraining")
    analysis = _PathIn("analysis")
    plots = _PathIn("plots")

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.root.name

    def cell(self, task: str, seed: int, start: str) -> Path:
        """The folder of one fine-tuning cell; `start` is one of `records.Start`."""
        return self.root / "finetuning" / f"{task}-seed{seed}-{start}"

    def predictions(self, stored: Path) -> Path:
        """A file of a cell: where it was stored or, if the home has moved since, at the same place in this folder."""
        return stored if stored.is_file() else self.root.joinpath(*stored.parts[-3:])


def claim_run(home: Home, prefix: str) -> RunFolder:
    """Claim a new run folder `<prefix>_<UTC second>` by exclusive creation.

    A second claim within the same second waits for the next one, so a run id always states its true second.
    """
    home.create()
    while True:
        folder = home.run(f"{prefix}_{datetime.now(UTC):%Y%m%d_%H%M%S}")
        try:
            folder.root.mkdir()
        except FileExistsError:
            time.sleep(0.2)
        else:
            return folder
