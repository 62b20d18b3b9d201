"""Rules about where a row comes from: its links, its dates, its code, its architecture."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.errors import UserError
from tasks.log.check.document import RUN_ID, Document, Row
from tasks.log.check.figures import FAMILIES, SPLITS, plain
from tasks.log.check.finding import Finding, Kind
from tasks.log.experiment_log import KEY_COLUMNS, is_missing

_URL = re.compile(r"\]\(\s*<?(https?://[^)\s>]+)|(?<![(\w])(https?://[^\s|)>]+)")
_DAY = re.compile(r"(?<!\d)(20\d{2})[-.]?(0[1-9]|1[0-2])[-.]?(0[1-9]|[12]\d|3[01])(?!\d)")
_SIZES = re.compile(r"H(?P<H>\d+)(?:L(?P<L>\d+))?(?:C(?P<C>\d+))?(?:D(?P<D>\d+))?", re.I)
_SIZE = re.compile(r"(?<![A-Za-z])(?P<letter>[HLCD]) ?=? ?(?P<size>\d+)(?![\d.])")
_SIZE_WORDS = {
    "H": r"(?:hidden|d_model)(?: size| dim\w*)?\W{0,3}(\d+)|(\d+)[ -]hidden",
    "L": r"(?<!decoder )\blayers?\W{0,3}(\d+)|(\d+)[ -](?:encoder[ -])?layers?\b",
    "C": r"concepts?\W{0,3}(\d+)|(\d+)[ -]concepts?\b",
    "D": r"decoder layers?\W{0,3}(\d+)|(\d+)[ -]decoder[ -]layers?\b",
}
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_STAMP = re.compile(r"(20\d{6})[-_](\d{4,6})(?!\d)")
# The names of a fine-tuning in an address, and of its task: mnli, mnli-m, mnlim
_TUNED = {name for _, split in SPLITS.values() for name in (split.title, split.title.replace("-", ""))} | FAMILIES
_TUNING = re.compile(
    rf"(?:^|[-_])(?:glue|finetun\w*|fine-tun\w*|ft|eval\w*|{'|'.join(sorted(_TUNED))})(?=[-_]|$)", re.I
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_YEAR_FIRST = re.compile(r"(?<!\d)(?P<y>20\d{2})(?P<gap>[-/.]?)(?P<m>\d{1,2})(?P=gap)(?P<d>\d{1,2})(?!\d)")
_YEAR_LAST = re.compile(r"(?<!\d)(?P<a>\d{1,2})[-/.] ?(?P<b>\d{1,2})[-/.] ?(?P<y>20\d{2})(?!\d)")
_WORDS = re.compile(
    r"(?<!\d)(?P<d>\d{1,2})(?:st|nd|rd|th)?\.? (?P<m>[A-Za-z]{3,9})\.?,? (?P<y>20\d{2})"
    r"|(?P<m2>[A-Za-z]{3,9})\.? (?P<d2>\d{1,2})(?:st|nd|rd|th)?,? (?P<y2>20\d{2})"
)
MOST_AHEAD = timedelta(hours=14)  # the largest offset of a time zone from UTC
SIZE_NAMES = {"H": "hidden size", "L": "layers", "C": "concepts", "D": "decoder layers"}
ZONES = "; a difference of time zones can explain it"

SAME_PAGE = Kind("wrong-link", "error", 0.85, "the same page is linked from the row of {run} in line {line}")
NO_SINGLE_RUN = Kind("wrong-link", "note", 0.6, "the link names several runs or none")
PROJECT = Kind("wrong-link", "warning", 0.9, "the link names a project and no run")
TUNING_OF_RUN = Kind("wrong-link", "warning", 0.9, "the link names a fine-tuning of this run, not its pretraining")
LOGGED_RUN = Kind("wrong-link", "error", 0.97, "the link names another run of this log, {run}")
OTHER_RUN = Kind("wrong-link", "error", 0.85, "the link names another run{tuning}")
OTHER_RUN_EVALUATED = Kind("wrong-link", "warning", 0.85, "the link names another run{tuning}")
OTHER_TITLE = Kind("wrong-link", "error", 0.85, "the link is titled as another run, {run}")
NO_DATE = Kind("dates-disagree", "note", 0.8, "{text!r} is no date")
IMPOSSIBLE_DATE = Kind("dates-disagree", "warning", 0.8, "{text!r} is no date")
IMPOSSIBLE_MOMENT = Kind("dates-disagree", "warning", 0.9, "the run id holds no possible moment")
DAY_APART = Kind("dates-disagree", "warning", 0.6, "the date is 1 day from that in the run id; a run may pass midnight")
DAYS_APART = Kind("dates-disagree", "error", 0.95, "the date is {days} days from that in the run id")
OLDER_THAN_CHECKPOINT = Kind("dates-disagree", "error", 0.9, "the evaluation is older than its checkpoint")
YOUNG_TAG = Kind("young-tag", "error", 0.9, "the tag is of {day}, the run of {started:%Y-%m-%d}")
NEAR_TAG = Kind("young-tag", "warning", 0.5, YOUNG_TAG.message + ZONES)
UNKNOWN_TAG = Kind("young-tag", "warning", 0.8, "{name} is neither a tag nor a commit of {repository}")
MOVED_BRANCH = Kind("young-tag", "note", 0.4, "{name} is a branch and has moved on since the run; a commit would not")
YOUNG_COMMIT = Kind("young-tag", "error", 0.95, "the commit is {hours:.1f} hours younger than the run")
NEAR_COMMIT = Kind("young-tag", "warning", 0.6, YOUNG_COMMIT.message + ZONES)
LATE_TAG = Kind("young-tag", "warning", 0.7, "the tag was set after the run, on a commit that is older")
MISSING = Kind("missing-provenance", "note", 0.7, "no {what}, though rows since {first} have one")
OTHER_SIZE = Kind("identity", "error", 0.95, "the run id says {stated}, the column {size} ({name})")
OTHER_CONCEPTS = Kind("identity", "error", 0.85, "a rank of {concepts} concepts, though its run has C{sizes}")
TWICE = Kind("identity", "error", 0.95, "the run id stands in another row too")
UNKNOWN_CHECKPOINT = Kind("identity", "note", 0.5, "the checkpoint has no row in the training table")


def wrong_links(document: Document) -> Iterator[Finding]:
    """A link that names another run, a fine-tuning instead of the pretraining, or no run."""
    known = {_folded(run): run for run in document.runs}
    targets: dict[str, list[Row]] = {}
    for row in document.rows:
        links = list(_links(row.text("wandb")))
        findings = [list(_link(row, text, url, known)) for text, url in links]
        has_right_link = [] in findings  # one is enough
        for finding in chain.from_iterable(findings):
            if finding.severity == "error" or not has_right_link:
                yield finding
        for _, url in links:
            targets.setdefault(url.partition("?")[0].rstrip("/"), []).append(row)
    for url, rows in targets.items():
        if "/runs/" not in url or len({row.checkpoint for row in rows}) < 2:
            continue
        if not any(run in _folded(url) for run in known):
            for row in rows[1:]:
                yield SAME_PAGE.at(row.at("wandb"), url, run=rows[0].run_id, line=rows[0].line)


def _links(cell: str) -> Iterator[tuple[str, str]]:
    """Text and address of the links of a cell."""
    for match in _URL.finditer(cell):
        text = cell[cell.rfind("[", 0, match.start()) + 1 : match.start()] if match[1] else ""
        yield text, (match[1] or match[2]).rstrip(",.;")


def _link(row: Row, text: str, url: str, known: dict[str, str]) -> Iterator[Finding]:
    place, parts = row.at("wandb"), urlsplit(url)
    path = unquote(parts.path).strip("/")
    page = re.search(r"(?:^|/)runs/([^/]+)", path)
    if "wandb" in parts.netloc.casefold() and page is None and not re.search(r"(?:^|/)reports/", path):
        is_project = len(path.split("/")) <= 2 or path.endswith(("/workspace", "/table", "/runs"))
        is_group = "/groups/" in path or "/sweeps/" in path
        yield (PROJECT if is_project and not is_group else NO_SINGLE_RUN).at(place, url)
        return
    name = page[1] if page else path.rsplit("/", 1)[-1]
    page_name, title = _folded(name), _folded(text)
    own = {_folded(run) for run in (row.run_id, row.checkpoint) if run}
    named = [run for fold, run in known.items() if fold in page_name and fold not in own]
    titled = [run for fold, run in known.items() if fold in title and fold not in own]
    tuning = _TUNING.search(page_name)
    if any(run in page_name for run in own):
        if page_name not in own and tuning and row.kind == "training":
            yield TUNING_OF_RUN.at(place, name)
    elif named:
        yield LOGGED_RUN.at(place, name, run=named[0])
    elif _is_another(row, name):
        kind = OTHER_RUN if row.kind == "training" else OTHER_RUN_EVALUATED
        yield kind.at(place, name, tuning=", a fine-tuning" if tuning else "")
    if named or any(run in title for run in own):
        return
    if titled or (row.kind == "training" and _is_another(row, text)):
        yield OTHER_TITLE.at(place, text, run=titled[0] if titled else text)


def _is_another(row: Row, name: str) -> bool:
    """Whether a page's name tells another moment or another architecture than those of its row."""
    sizes, mine = _SIZES.search(name), _SIZES.search(row.checkpoint or "")
    if sizes and mine and any(sizes[one] and mine[one] and sizes[one] != mine[one] for one in SIZE_NAMES):
        return True
    stamps = {match[1] + match[2] for match in _STAMP.finditer(name)}
    if not stamps or (row.kind == "evaluation" and not sizes):
        return False  # an evaluation has a moment of its own
    own = _STAMP.search(row.checkpoint or "")
    moment = own[1] + own[2] if own else ""
    return not any(moment.startswith(stamp) or stamp.startswith(moment or "-") for stamp in stamps)


def _folded(name: str) -> str:
    return name.casefold().replace("_", "-")


def dates_disagree(document: Document) -> Iterator[Finding]:
    """Date, run id and the rows' order in time disagree."""
    for row in document.rows:
        text, place, started = row.text("date").strip(" *`"), row.at("date"), row.started
        days, is_date_like = days_in(text)
        if text and not is_missing(text) and not days:
            yield (IMPOSSIBLE_DATE if is_date_like else NO_DATE).at(place, text, text=text)
        if row.run_id and RUN_ID.fullmatch(row.run_id) and started is None:
            yield IMPOSSIBLE_MOMENT.at(place, row.run_id)
        if days and started:
            written = min(days, key=lambda day: abs((day - started.date()).days))
            apart = abs((written - started.date()).days)
            if apart:
                kind = DAY_APART if apart == 1 else DAYS_APART
                yield kind.at(place, f"{written} against {started:%Y-%m-%d}", days=apart)
        trained = document.runs.get(row.checkpoint or "") if row.kind == "evaluation" else None
        if trained is not None and days and trained.started and max(days) < trained.started.date():
            yield OLDER_THAN_CHECKPOINT.at(place, f"{max(days)} against {trained.started:%Y-%m-%d}")


def days_in(text: str) -> tuple[list[date], bool]:
    """Every day that a text can mean, and whether it looks like a date at all: 02/08/2026 can be two days."""
    parts: list[tuple[str, str, str]] = [(m["y"], m["m"], m["d"]) for m in _YEAR_FIRST.finditer(text)]
    for match in _YEAR_LAST.finditer(text):
        parts += [(match["y"], match["b"], match["a"]), (match["y"], match["a"], match["b"])]
    for match in _WORDS.finditer(text):
        month = (match["m"] or match["m2"])[:3].casefold()
        if month in _MONTHS:
            parts.append((match["y"] or match["y2"], str(_MONTHS.index(month) + 1), match["d"] or match["d2"]))
    days = []
    for year, month, day in parts:
        with suppress(ValueError):
            days.append(date(int(year), int(month), int(day)))
    return days, bool(parts)


def young_tags(document: Document, repository: Path | None = None) -> Iterator[Finding]:
    """A Git tag or commit that is younger than its run: the run cannot have been made with it."""
    if repository is not None:
        _git(repository, "rev-parse", "--git-dir")
    for row in document.rows:
        cell = row.text("git_tag")
        started = row.started
        name = tag_in(cell)
        if is_missing(cell) or started is None or not name:
            continue
        match, day = _DAY.search(name), None
        if match and not _COMMIT.fullmatch(name):
            with suppress(ValueError):  # 31 February
                day = date(int(match[1]), int(match[2]), int(match[3]))
            if day is not None and day > started.date():
                kind = YOUNG_TAG if day > (started + MOST_AHEAD).date() else NEAR_TAG
                yield kind.at(row.at("git_tag"), name, day=day, started=started)
        if repository is not None:
            yield from _in_repository(row, name, started, repository)


def tag_in(cell: str) -> str:
    """The tag or commit that a cell names: of a link, in backticks, bare; without what says that files were changed."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", plain(cell)).strip()
    code = re.search(r"`+\s*([^`]+?)\s*`+", text)
    name = code[1] if code else next(iter(re.split(r"[\s(,]", text)), "")
    behind = re.fullmatch(r".+@([0-9a-f]{7,40})", name)
    return re.sub(r"[-+*]dirty$|[*+]$", "", behind[1] if behind else name).lstrip("-")


def _in_repository(row: Row, name: str, started: datetime, repository: Path) -> Iterator[Finding]:
    place = row.at("git_tag")
    committed = _committed(repository, name)
    if committed is None:
        yield UNKNOWN_TAG.at(place, name, name=name, repository=repository)
        return
    try:
        tagged = datetime.fromisoformat(
            _git(repository, "for-each-ref", "--format=%(creatordate:iso-strict)", f"refs/tags/{name}")
        )
    except (UserError, ValueError):
        tagged = None
    late = _earliest(committed) - started
    evidence = f"{name}: {committed.isoformat()} against {started.isoformat()}"
    if late > timedelta(0) and tagged is None and _is_branch(repository, name):
        yield MOVED_BRANCH.at(place, evidence, name=name)
    elif late > timedelta(0):
        kind = YOUNG_COMMIT if late > MOST_AHEAD else NEAR_COMMIT
        yield kind.at(place, evidence, hours=late.total_seconds() / 3600)
    elif tagged is not None and _earliest(tagged) - started > MOST_AHEAD:
        yield LATE_TAG.at(place, f"{name}: {tagged.isoformat()} against {started.isoformat()}")


def _committed(repository: Path, name: str) -> datetime | None:
    """When the commit of a tag, a commit or a branch was made, with its zone; None where there is no such name."""
    for one in (name, *_remote_branches(repository, name)):
        try:
            # A cell such as `--output=FILE` is a name, and never an option.
            words = ("log", "-1", "--format=%cI", "--end-of-options", f"{one}^{{commit}}", "--")
            return datetime.fromisoformat(_git(repository, *words))
        except (UserError, ValueError):
            continue
    return None


def _remote_branches(repository: Path, name: str) -> list[str]:
    """The branches of that name which a clone knows of its origin alone."""
    with suppress(UserError):
        return _git(repository, "for-each-ref", "--format=%(refname)", f"refs/remotes/*/{name}").split()
    return []


def _earliest(moment: datetime) -> datetime:
    """A Git moment as a run id could tell it: ours are in UTC, others in the zone of their machine."""
    return min(moment.replace(tzinfo=None), moment.astimezone(UTC).replace(tzinfo=None))


def _is_branch(repository: Path, name: str) -> bool:
    return bool(_git(repository, "for-each-ref", f"refs/heads/{name}", f"refs/remotes/*/{name}"))


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
    except ValueError:  # a name with a NUL
        raise UserError(f"--git {repository}: no such name; fix: name a checkout") from None
    if done.returncode != 0:
        reason = next(iter(done.stderr.strip().splitlines()), "")
        raise UserError(f"--git {repository}: not a Git repository or no such name ({reason}); fix: name a checkout")
    return done.stdout.strip()


def missing_provenance(document: Document) -> Iterator[Finding]:
    """A row without link or commit, though rows as old or older have one."""
    for kind, column in (("training", "git_tag"), ("training", "wandb"), ("evaluation", "wandb")):
        what = "Git tag" if column == "git_tag" else "link"
        rows = [row for row in document.rows if row.kind == kind and row.at(column).column]
        days = {row.line: _day_of(row) for row in rows}
        first = min((day for row in rows if (day := days[row.line]) and not _lacks(row, column)), default=None)
        for row in rows:
            day = days[row.line]
            if first and day and day >= first and _lacks(row, column):
                yield MISSING.at(row.at(column), row.text(column) or "(empty)", what=what, first=first)


def _day_of(row: Row) -> date | None:
    return row.started.date() if row.started else next(iter(days_in(row.text("date"))[0]), None)


def _lacks(row: Row, column: str) -> bool:
    text = row.text(column)
    return is_missing(text) or (column == "wandb" and not re.search(r"[/\d]|`", text))


def identity_disagrees(document: Document) -> Iterator[Finding]:
    """The run id says another architecture than its columns; a run id that stands twice; an unknown checkpoint."""
    seen: set[tuple[str, str]] = set()
    for row in document.rows:
        if row.kind == "training" and row.run_id:
            yield from _sizes_disagree(row, row.run_id)
        if row.run_id and RUN_ID.fullmatch(row.run_id):
            if (row.kind, row.run_id) in seen:
                yield TWICE.at(row.at(KEY_COLUMNS[row.kind]), row.run_id)
            seen.add((row.kind, row.run_id))
        if row.kind == "evaluation" and row.checkpoint and document.runs and row.checkpoint not in document.runs:
            yield UNKNOWN_CHECKPOINT.at(row.at("source_checkpoint"), row.checkpoint)


def _sizes_disagree(row: Row, run_id: str) -> Iterator[Finding]:
    match, architecture = _SIZES.search(run_id), row.text("architecture")
    stated = _stated_sizes(architecture)
    for letter, sizes in stated.items():
        size = match[letter] if match else None
        if size is not None and size not in sizes:
            facts = {"stated": letter + size, "size": letter + sizes[0], "name": SIZE_NAMES[letter]}
            yield OTHER_SIZE.at(row.at("architecture"), f"{run_id}; {architecture}", **facts)
    concepts = re.search(r"\d\s*(?:/|of)\s*(\d+)(?![\d.])", plain(row.text("eff_rank")))
    of_run = {match["C"]} if match and match["C"] else set(stated.get("C", ()))
    if concepts and of_run and concepts[1] not in of_run:
        facts = {"concepts": concepts[1], "sizes": " or ".join(sorted(of_run))}
        yield OTHER_CONCEPTS.at(row.at("eff_rank"), row.text("eff_rank"), **facts)


def _stated_sizes(architecture: str) -> dict[str, list[str]]:
    """The sizes that the column names by letter, each with all that it says: `H512 L6 C128 (decoder L2)`."""
    text = plain(architecture).replace("`", "")
    found: dict[str, list[str]] = {}
    bare = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*/\s*(\d+)\s*", text)
    if bare:
        found = {letter: [size] for letter, size in zip("HLC", bare.groups(), strict=True)}
    for match in _SIZE.finditer(text):
        found.setdefault(match["letter"], []).append(match["size"])
    for letter, words in _SIZE_WORDS.items():
        for match in re.finditer(words, text, re.I):
            found.setdefault(letter, []).append(match[1] or match[2])
    return found
