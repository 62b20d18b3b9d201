"""Rules about where a row comes from: its links, its dates, its code, its architecture."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.errors import UserError
from tasks.experiment_log import is_missing
from tasks.log_check.document import RUN_ID, Document, Row
from tasks.log_check.finding import Finding

_URL = re.compile(r"\]\(\s*<?(https?://[^)\s>]+)|(?<![(\w])(https?://[^\s|)>]+)")
_DAY = re.compile(r"(?<!\d)(20\d{2})-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])(?!\d)")
_SIZES = re.compile(r"H(?P<H>\d+)(?:L(?P<L>\d+))?(?:C(?P<C>\d+))?(?:D(?P<D>\d+))?")
_SIZE = re.compile(r"(?<![A-Za-z0-9])(?P<letter>[HLCD])(?P<size>\d+)(?![A-Za-z0-9])")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
SIZE_NAMES = {"H": "hidden size", "L": "layers", "C": "concepts", "D": "decoder layers"}


def wrong_links(document: Document) -> Iterator[Finding]:
    """A link that names another run, a fine-tuning instead of the pretraining, or no run."""
    known = {_folded(run): run for run in document.runs}
    for row in document.rows:
        cell = row.text("wandb")
        for match in _URL.finditer(cell):
            url = match[1] or match[2]
            yield from _link(row, url, known)
    targets: dict[str, list[Row]] = {}
    for row in document.rows:
        for match in _URL.finditer(row.text("wandb")):
            targets.setdefault((match[1] or match[2]).rstrip("/"), []).append(row)
    for url, rows in targets.items():
        named = any(_folded(run) in _folded(url) for run in document.runs)
        if len({row.checkpoint for row in rows}) > 1 and "/runs/" in url and not named:
            for row in rows[1:]:
                yield Finding.at(
                    row.at("wandb"), "wrong-link", "error", 0.85,
                    f"the same page is linked from the row of {rows[0].run_id} in line {rows[0].line}", url,
                )  # fmt: skip


def _link(row: Row, url: str, known: dict[str, str]) -> Iterator[Finding]:
    place, parts = row.at("wandb"), urlsplit(url)
    if "wandb" in parts.netloc and "/runs/" not in parts.path and "/reports/" not in parts.path:
        yield Finding.at(place, "wrong-link", "warning", 0.9, "the link names a project and no run", url)
        return
    name = unquote(parts.path.rstrip("/").rsplit("/", 1)[-1])
    folded = _folded(name)
    own = {_folded(text) for text in (row.run_id, row.checkpoint) if text}
    others = [run for fold, run in known.items() if fold in folded and fold not in own]
    tuning = re.match(r"(?:glue|finetun|ft|eval|sick|paws)[-_]", name, re.I)
    if any(fold in folded for fold in own):
        if folded not in own and tuning and row.kind == "training":
            yield Finding.at(
                place,
                "wrong-link",
                "warning",
                0.9,
                "the link names a fine-tuning of this run, not its pretraining",
                name,
            )
    elif others:
        yield Finding.at(
            place, "wrong-link", "error", 0.97, f"the link names another run of this log, {others[0]}", name
        )
    elif re.search(r"20\d{6}[-_]\d{4,6}", name):
        yield Finding.at(
            place, "wrong-link", "error" if row.kind == "training" else "warning", 0.85,
            f"the link names another run{', a fine-tuning' if tuning else ''}", name,
        )  # fmt: skip


def _folded(name: str) -> str:
    return name.casefold().replace("_", "-")


def dates_disagree(document: Document) -> Iterator[Finding]:
    """Date, run id and the rows' order in time disagree."""
    for row in document.rows:
        text = row.text("date").strip(" *`")
        written = _iso(text)
        if text and not is_missing(text) and written is None:
            yield Finding.at(row.at("date"), "dates-disagree", "warning", 0.8, f"{text!r} is no date", text)
        started = row.started
        if row.run_id and RUN_ID.fullmatch(row.run_id) and started is None:
            yield Finding.at(
                row.at("date"), "dates-disagree", "warning", 0.9, "the run id holds no possible moment", row.run_id
            )
        if written and started and written != started.date():
            days = abs((written - started.date()).days)
            near = "; a run may pass midnight" if days == 1 else ""
            yield Finding.at(
                row.at("date"), "dates-disagree", "warning" if days == 1 else "error", 0.6 if days == 1 else 0.95,
                f"the date is {days} day{'s' if days > 1 else ''} from that in the run id{near}",
                f"{written} against {started:%Y-%m-%d}",
            )  # fmt: skip
        trained = document.runs.get(row.checkpoint or "") if row.kind == "evaluation" else None
        if trained is not None and written and trained.started and written < trained.started.date():
            yield Finding.at(
                row.at("date"), "dates-disagree", "error", 0.9, "the evaluation is older than its checkpoint",
                f"{written} against {trained.started:%Y-%m-%d}",
            )  # fmt: skip


def _iso(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def young_tags(document: Document, repository: Path | None = None) -> Iterator[Finding]:
    """A Git tag or commit that is younger than its run: the run cannot have been made with it."""
    if repository is not None:
        _git(repository, "rev-parse", "--git-dir")
    for row in document.rows:
        cell = row.text("git_tag")
        started = row.started
        if is_missing(cell) or started is None:
            continue
        name = re.sub(r"^[\s*`]+|[\s*`]+$", "", cell).removesuffix("-dirty")
        place = row.at("git_tag")
        match, day = _DAY.search(name), None
        if match and not _COMMIT.fullmatch(name):
            with suppress(ValueError):  # 31 February
                day = date(int(match[1]), int(match[2]), int(match[3]))
            if day is not None and day > started.date():
                yield Finding.at(
                    place, "young-tag", "error", 0.9, f"the tag is of {day}, the run of {started:%Y-%m-%d}", name
                )
        if repository is not None:
            yield from _in_repository(row, name, started, repository)


def _in_repository(row: Row, name: str, started: datetime, repository: Path) -> Iterator[Finding]:
    place = row.at("git_tag")
    try:
        # A cell such as `--output=FILE` is a name, and never an option.
        words = ("log", "-1", "--format=%cI", "--end-of-options", f"{name}^{{commit}}")
        committed = datetime.fromisoformat(_git(repository, *words))
    except (UserError, ValueError):
        yield Finding.at(
            place, "young-tag", "warning", 0.8, f"{name} is neither a tag nor a commit of {repository}", name
        )
        return
    try:
        tagged = datetime.fromisoformat(
            _git(repository, "for-each-ref", "--format=%(creatordate:iso-strict)", f"refs/tags/{name}")
        )
    except (UserError, ValueError):
        tagged = None
    # the run id tells the time of its machine; that of the committer stands for its zone
    late = committed.replace(tzinfo=None) - started
    if late > timedelta(0):
        hours = late.total_seconds() / 3600
        yield Finding.at(
            place, "young-tag", "error" if hours > 14 else "warning", 0.95 if hours > 14 else 0.6,
            f"the commit is {hours:.1f} hours younger than the run"
            + ("" if hours > 14 else "; a difference of time zones can explain it"),
            f"{name}: {committed.isoformat()} against {started.isoformat()}",
        )  # fmt: skip
    elif tagged is not None and tagged.replace(tzinfo=None) - started > timedelta(hours=14):
        yield Finding.at(
            place, "young-tag", "warning", 0.7, "the tag was set after the run, on a commit that is older",
            f"{name}: {tagged.isoformat()} against {started.isoformat()}",
        )  # fmt: skip


def _git(repository: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            # Nothing that the settings of a stranger's checkout name is started.
            ["git", "-C", str(repository), "-c", "log.showSignature=false", "-c", "core.fsmonitor=false", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except OSError as error:
        raise UserError(f"--git {repository}: git cannot be run ({error.strerror}); fix: install git") from None
    if done.returncode != 0:
        reason = next(iter(done.stderr.strip().splitlines()), "")
        raise UserError(f"--git {repository}: not a Git repository or no such name ({reason}); fix: name a checkout")
    return done.stdout.strip()


def missing_provenance(document: Document) -> Iterator[Finding]:
    """A row without link or commit, though rows as old or older have one."""
    for column, what in (("git_tag", "Git tag"), ("wandb", "link")):
        rows = [row for row in document.rows if row.kind == "training" and row.at(column).column]
        first = min((row.started for row in rows if row.started and not is_missing(row.text(column))), default=None)
        for row in rows:
            if first and row.started and row.started >= first and is_missing(row.text(column)):
                yield Finding.at(
                    row.at(column), "missing-provenance", "note", 0.7,
                    f"no {what}, though runs since {first:%Y-%m-%d} have one", row.text(column) or "(empty)",
                )  # fmt: skip


def identity_disagrees(document: Document) -> Iterator[Finding]:
    """The run id says another architecture than its columns; a run id that stands twice; an unknown checkpoint."""
    for row in document.rows:
        if row.kind != "training" or not row.run_id:
            continue
        match = _SIZES.search(row.run_id)
        columns = {m["letter"]: m["size"] for m in _SIZE.finditer(row.text("architecture").replace("*", " "))}
        for letter, size in columns.items():
            stated = match[letter] if match else None
            if stated is not None and stated != size:
                yield Finding.at(
                    row.at("architecture"), "identity", "error", 0.95,
                    f"the run id says {letter}{stated}, the column {letter}{size} ({SIZE_NAMES[letter]})",
                    f"{row.run_id}; {row.text('architecture')}",
                )  # fmt: skip
        concepts = re.search(r"/\s*(\d+)(?![\d.])", row.text("eff_rank").replace("*", ""))
        if concepts and match and match["C"] and concepts[1] != match["C"]:
            yield Finding.at(
                row.at("eff_rank"), "identity", "error", 0.85,
                f"a rank of {concepts[1]} concepts, though the run id says C{match['C']}", row.text("eff_rank"),
            )  # fmt: skip
    counted = Counter((row.kind, row.run_id) for row in document.rows if row.run_id and RUN_ID.fullmatch(row.run_id))
    seen: set[tuple[str, str]] = set()
    for row in document.rows:
        key = (row.kind, row.run_id or "")
        if counted[key] > 1 and key in seen:
            column = "run_id" if row.kind == "training" else "eval_type"
            yield Finding.at(
                row.at(column), "identity", "error", 0.95, "the run id stands in another row too", str(row.run_id)
            )
        seen.add(key)
        if row.kind == "evaluation" and row.checkpoint and document.runs and row.checkpoint not in document.runs:
            yield Finding.at(
                row.at("source_checkpoint"), "identity", "note", 0.5, "the checkpoint has no row in the training table",
                row.checkpoint,
            )  # fmt: skip
