"""Finding a run by what a user calls it: its id, the beginning of its id, or the name of its experiment.

Whatever takes a run or a checkpoint asks here, so that every command understands the same names.
"""

import logging
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tasks.errors import UserError, unknown_name
from tasks.store.files import is_safe_name, read_json
from tasks.store.home import Home, RunFolder

log = logging.getLogger("cogito.runs")

MOST_NAMED = 10


def run_called(name: str, home: Home) -> RunFolder | None:
    """The run that a name stands for; None where it stands for none.

    An id stands for its own run. Else the name is the beginning of an id, or that of an experiment, which stands for
    its training runs, and for evaluations only where it has none.

    Raises:
        UserError: it stands for several runs; the message lists them.
    """
    if not is_safe_name(name):
        return None
    if (home.root / "runs" / name).is_dir():
        return home.run(name)
    records = sorted((home.root / "runs").glob("*/record.json"))
    found = [path.parent.name for path in records if path.parent.name.startswith(name)]
    if not found:
        heads = {path.parent.name: _head(path) for path in records}
        named = {run_id: kind for run_id, (kind, of) in heads.items() if of == name}
        found = [run_id for run_id, kind in named.items() if kind == "training"] or list(named)
    run_id = _only(name, found)
    return None if run_id is None else home.run(run_id)


def row_called(name: str, rows: Iterable[str], home: Home) -> str | None:
    """The row of a log that a name stands for, of those with these run ids; None where it stands for none.

    An id stands for its own row. Else the name is the beginning of an id, or that of an experiment whose run has a row.

    Raises:
        UserError: it stands for several; the message lists them.
    """
    ids = dict.fromkeys(rows)
    if name in ids or not name:
        return name or None
    if found := [run_id for run_id in ids if run_id.startswith(name)]:
        return _only(name, found)
    run = run_called(name, home)
    return run.run_id if run is not None and run.run_id in ids else None


def _only(name: str, found: Sequence[str]) -> str | None:
    if len(found) > 1:
        shown = ", ".join(found[-MOST_NAMED:]) + (", ..." if len(found) > MOST_NAMED else "")
        raise UserError(
            f"run {name!r}: stands for {len(found)} runs: {shown}; fix: name one of them; `cogito runs` says how they "
            "differ"
        )
    if found:
        log.info("%s: the run %s", name, found[0])
    return found[0] if found else None


def find_run(name: str, home: Home, or_else: str = "") -> RunFolder:
    """The folder of the run that a name stands for; it has a record.

    Args:
        or_else: what else the user could have named, for the message.

    Raises:
        UserError: there is no such run, and the message names similar ones; or there are several.
    """
    run = run_called(name, home)
    if run is not None and run.record.is_file():
        return run
    names = [record.parent.name for record in home.runs.glob("*/record.json")]
    near = get_close_matches(name[:200], names, n=MOST_NAMED, cutoff=0.0)
    message = unknown_name("run", name, near) if near else f"unknown run {name!r}: there is none"
    more = ", ..." if len(near) < len(names) else ""
    allowed = "the id of a run, its beginning or the name of its experiment: `cogito runs` lists those of"
    raise UserError(f"{message}{more}; fix: {allowed} {home.root}" + (f"; or {or_else}" if or_else else ""))


def _head(record: Path) -> tuple[Any, Any]:
    """Kind and experiment of a record, None where it does not state them; such a record is told of where it is used."""
    try:
        facts = read_json(record)
        return facts.get("kind"), facts.get("name")
    except (OSError, ValueError, AttributeError):
        return None, None
