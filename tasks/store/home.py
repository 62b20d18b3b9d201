"""Where everything lies: every path under COGITO_HOME, and the claim of a new run folder."""

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from tasks.errors import UserError
from tasks.store.files import is_safe_name

PRIVATE = 0o700


@dataclass(frozen=True)
class Home:
    """The root of all state, COGITO_HOME; its folders are made when first asked for."""

    root: Path

    def _folder(self, name: str) -> Path:
        # For its owner alone: records, logs and Prefect's database tell more than is meant for others.
        self.root.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        path = self.root / name
        path.mkdir(mode=PRIVATE, exist_ok=True)
        return path

    @property
    def runs(self) -> Path:
        return self._folder("runs")

    @property
    def corpora(self) -> Path:
        return self._folder("corpora")

    @property
    def tokenizers(self) -> Path:
        return self._folder("tokenizers")

    @property
    def published(self) -> Path:
        return self._folder("published")

    @property
    def cache(self) -> Path:
        return self._folder("cache")

    @property
    def prefect(self) -> Path:
        return self._folder("prefect")

    @property
    def logs(self) -> Path:
        return self._folder("logs")

    @property
    def leases(self) -> Path:
        return self._folder("leases")

    @property
    def locks(self) -> Path:
        return self._folder("locks")

    def run(self, run_id: str) -> "RunFolder":
        """The folder of a run, whether it exists or not.

        Raises:
            UserError: no run can have this name, since it would lie elsewhere.
        """
        if not is_safe_name(run_id):
            raise UserError(f"run {run_id[:200]!r}: is no name of a run; allowed: a run id of `cogito log show`")
        return RunFolder(self.runs / run_id)

    def has_run(self, name: str) -> bool:
        """Whether a name, of whatever kind, is that of a run with a record."""
        return is_safe_name(name) and (self.root / "runs" / name / "record.json").is_file()

    def lock(self, name: str) -> FileLock:
        """A lock between processes that the operating system frees when its owner dies."""
        return FileLock(self.locks / f"{name}.lock")


def cogito_home() -> Home:
    """COGITO_HOME as an absolute path; default `.cogito` in the working directory.

    Raises:
        UserError: no folder can be there.
    """
    root = user_path(os.environ.get("COGITO_HOME") or ".cogito").resolve()
    nearest = next(folder for folder in (root, *root.parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"COGITO_HOME {root}: {nearest} is no folder that you can write to; fix: name another")
    return Home(root)


def user_path(text: str | Path) -> Path:
    """A path as a user types it; unlike Path.expanduser it takes the name of an unknown user as it stands."""
    return Path(os.path.expanduser(text))  # noqa: PTH111


@dataclass(frozen=True)
class RunFolder:
    """Every path of one run, a pretraining or an evaluation."""

    root: Path

    @property
    def run_id(self) -> str:
        return self.root.name

    @property
    def record(self) -> Path:
        return self.root / "record.json"

    @property
    def pretraining(self) -> Path:
        return self.root / "pretraining"

    @property
    def analysis(self) -> Path:
        return self.root / "analysis"

    @property
    def plots(self) -> Path:
        return self.root / "plots"

    def cell(self, task: str, seed: int, start: str) -> Path:
        """The folder of one fine-tuning job; `start` is `checkpoint` or `random`."""
        return self.root / "finetuning" / f"{task}-seed{seed}-{start}"

    def predictions(self, stored: Path) -> Path:
        """A cell's file where it was stored or, once the home has moved, at its place in this folder."""
        return stored if stored.is_file() else self.root.joinpath(*stored.parts[-3:])


def claim_run(home: Home, prefix: str) -> RunFolder:
    """Claim a new run folder `<prefix>_<UTC second>` by exclusive creation.

    A second claim in the same second waits for the next one, so a run id always tells its true second.
    """
    while True:
        folder = home.run(f"{prefix}_{datetime.now(UTC):%Y%m%d_%H%M%S}")
        try:
            folder.root.mkdir()
        except FileExistsError:
            time.sleep(0.2)
        else:
            return folder
