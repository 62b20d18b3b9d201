"""What `cogito runs` lists: the runs and sweeps of a home, from their records alone, the newest first.

Neither torch nor a server is needed, and a record that cannot be read is a line that says so.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from os.path import commonprefix
from pathlib import Path
from typing import Any

from filelock import Timeout

from tasks.errors import UserError
from tasks.scores.showing import show
from tasks.spec.settings import differing
from tasks.store.files import read_json
from tasks.store.home import Home
from tasks.store.locks import work_lock
from tasks.store.records import RunRecord, load_record
from tasks.store.stage_table import recorded_stages


@dataclass(frozen=True)
class Listed:
    """One line.

    Attributes:
        id: the run id, or the folder of a sweep.
        kind: `training`, `evaluation`, `sweep`; `unknown` where the record cannot be read.
        name: that of the experiment; of a sweep what the names of its experiments begin with.
        status: of the record; `stopped` for one that says `running` while no process works at it.
        stage: the stage that is under way, or the first one that did not end well.
        scores: the primary scores with their marks, by task.
        created: in UTC; of a sweep when it was last written.
        differs: the keys of the spec whose values differ among its siblings, which are the runs of the same sweep or
            of the same name and kind.
        runs: of a sweep, its run ids.
        problem: why the record cannot be read.
    """

    id: str
    kind: str
    name: str
    status: str
    created: datetime
    stage: str = ""
    scores: Mapping[str, str] = field(default_factory=dict)
    differs: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[str, ...] = ()
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        """The line as JSON takes it."""
        return asdict(self) | {"created": self.created.isoformat()}


def list_runs(home: Home) -> list[Listed]:
    """The runs and sweeps of a home, the newest first."""
    records: dict[str, RunRecord] = {}
    lines: list[Listed] = []
    for path in (home.root / "runs").glob("*/record.json"):
        try:
            records[path.parent.name] = load_record(home.run(path.parent.name))
        except UserError as error:
            lines.append(Listed(path.parent.name, "unknown", "", "unreadable", _written(path), problem=str(error)))
    sweeps = list(_sweeps(home, records))
    differs = _differences(records, [sweep.runs for sweep in sweeps])
    lines += [_line(run_id, record, differs[run_id], home) for run_id, record in records.items()]
    return sorted([*lines, *sweeps], key=lambda line: (line.created, line.id), reverse=True)


def _line(run_id: str, record: RunRecord, differs: Mapping[str, Any], home: Home) -> Listed:
    is_lost = record.status == "running" and not _is_at_work(run_id, home)
    status = "stopped" if is_lost else record.status
    scores = {score.task: show(score).marked for score in record.primary_scores()}
    created = record.created if record.created.tzinfo else record.created.replace(tzinfo=UTC)  # edited by hand
    return Listed(run_id, record.kind, record.name, status, created, _stage(record), scores, differs)


def _stage(record: RunRecord) -> str:
    bad = next((name for name, stage in record.stages.items() if stage.status == "failed"), "")
    if bad or record.status in ("complete", "diverged"):
        return bad
    return next((name for name in recorded_stages(record.kind) if name not in record.stages), "row")


def _is_at_work(run_id: str, home: Home) -> bool:
    """Whether a command holds the lock of a run."""
    lock = work_lock(home, run_id)
    if not Path(lock.lock_file).exists():
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def _sweeps(home: Home, records: Mapping[str, RunRecord]) -> Iterator[Listed]:
    for path in (home.root / "sweeps").glob("*/comparison.json"):
        try:
            rows = read_json(path)
            runs = tuple(run_id for row in rows for run_id in row["runs"])
            failed = sum(len(row["failed"]) for row in rows)
            names = [records[run_id].name for run_id in runs if run_id in records] or [row["name"] for row in rows]
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"{path}: is not a readable comparison ({error}); fix: run the sweep again"
            yield Listed(path.parent.name, "sweep", "", "unreadable", _written(path), problem=problem)
            continue
        name = commonprefix(names).rstrip("_-.") or ", ".join(dict.fromkeys(names))  # noqa: RUF071 (they are no paths)
        status = f"{failed} of {len(runs)} failed" if failed else "complete"
        yield Listed(path.parent.name, "sweep", name, status, _written(path), runs=runs)


def _differences(records: Mapping[str, RunRecord], sweeps: Iterable[Iterable[str]]) -> dict[str, dict[str, Any]]:
    """For every run the keys whose values are not the same in all of its siblings, with its own values."""
    families: dict[tuple[str, str], set[str]] = defaultdict(set)
    for run_id, record in records.items():
        families[record.kind, record.name].add(run_id)
    for sweep in sweeps:
        families["sweep", " ".join(sweep)] = {run_id for run_id in sweep if run_id in records}
    differs: dict[str, dict[str, Any]] = {run_id: {} for run_id in records}
    for family in families.values():
        for run_id, settings in differing({run_id: records[run_id].spec for run_id in sorted(family)}).items():
            differs[run_id] |= settings
    return differs


def _written(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
