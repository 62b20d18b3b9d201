"""The Master Experiment Log: one Markdown file in which people and the machine write side by side.

The machine owns the cells of rows whose run id it knows, and nothing else: every other byte of the file stays. Example:
`cogito log show --log master_experiment_log.md`
"""

# pandas is imported where a table is exported: it would slow every command that reads the log.

import html
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from tasks.errors import UserError, unknown_name
from tasks.log.markdown import BOM, LINE, Table, TableRow, line_ending, pipes, read_tables, snake_case, split_cells
from tasks.log.rows import EVALUATION_COLUMNS, TRAINING_COLUMNS, is_generated, render_row
from tasks.spec.benchmarks import score_names
from tasks.store.files import write_atomic, writing
from tasks.store.home import Home, StrPath, user_path
from tasks.store.records import RunRecord, read_record
from tasks.store.run_names import row_called

if TYPE_CHECKING:
    import pandas

DOCUMENT_HEAD = """# Master Experiment Log

This is the central registry for all training runs and ablations. It is intended to be the single source of truth \
for tracking experiments, metrics, and key takeaways for future publications.
"""
SECTIONS = {
    "training": ("## Training Runs", TRAINING_COLUMNS),
    "evaluation": ("## Evaluation Experiments (Zero Training Cost)", EVALUATION_COLUMNS),
}
KEY_COLUMNS = {"training": "run_id", "evaluation": "eval_type"}
# headers that say the same in another log or table
SAME_COLUMNS = {"mlm_loss": "task_loss", "key_glue_scores": "key_scores", "wandb_link": "wandb"}
MISSING = {"", "-", "--", "---", "–", "—", "tbd", "n/a", "not evaluated"}
FIGURES = {"epochs": "epochs", "loss": "task_loss", "eff_rank": "eff_rank", "speed_steps_s": "speed_steps_s"}
TYPED_COLUMNS = {
    "training": ("line", "run_id", "checkpoint", "date", "scores", *FIGURES),
    "evaluation": ("line", "run_id", "checkpoint", "date", "scores"),
}

# A log of a thousand runs has 1 MB; reading takes about a second for each.
MAX_LOG_BYTES = 4_000_000
_ENDLESS = re.compile(r"\d{300}")  # beyond what Python's floats hold
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_SCORE = re.compile(
    r"\W*(?P<task>\w[\w-]*)(?P<metric>(?: [\w-]+)*)\**:[\s*]*(?P<value>[-−+]?\d+(?:\.\d+)?)[\s*]*(?P<percent>%?)"
)


@dataclass(frozen=True)
class LogTable(Table):
    """A table of the log, whose columns have machine names."""

    @cached_property
    def kind(self) -> str:
        """`training` with a column Run ID, `evaluation` with a column Source Checkpoint, `other` without both."""
        columns = {machine_name(title) for title in self.header}
        return "evaluation" if "source_checkpoint" in columns else "training" if "run_id" in columns else "other"

    def cell(self, row: TableRow, column: str) -> str:
        """The text of a row under a column (its machine name), empty where there is none."""
        named = zip(self.header, row.cells, strict=False)
        return next((text for title, text in named if machine_name(title) == column), "")

    def run_id(self, row: TableRow) -> str | None:
        """The name in backticks in the column that keys this table; None where it has none."""
        return name_in(self.cell(row, KEY_COLUMNS[self.kind])) if self.kind in KEY_COLUMNS else None


def default_log(given: StrPath | None = None) -> Path:
    """The log's path: as given, else COGITO_LOG, else `master_experiment_log.md` in the working directory."""
    return user_path(given or os.environ.get("COGITO_LOG") or "master_experiment_log.md").resolve()


def check_log_place(path: Path) -> None:
    """See before any work that the log can be read, or made where there is none.

    Raises:
        UserError: it cannot.
    """
    if path.exists():
        show_log(path)
        place = path
    else:
        place = next(folder for folder in path.parents if folder.exists())
    if not os.access(place, os.W_OK) or (place != path and not place.is_dir()):
        raise UserError(f"{path}: {place} cannot be written to; fix: name another log with --log")


def read_log(path: StrPath) -> dict[str, "pandas.DataFrame"]:
    """The tables `training` and `evaluation` of a log as data frames with typed columns.

    Every column of the file stands under its header in snake_case, as text. Beside them: `line` (from 1), `run_id`,
    `checkpoint`, `date` (datetime64), `scores` (dict of fractions) and, for training, `epochs`, `loss`, `eff_rank` and
    `speed_steps_s` (float64, NaN where missing). A header that has one of these names gives `<name>_text`.

    Raises:
        UserError: there is no such file, or it is not UTF-8 text.
    """
    import pandas

    tables = find_tables(read_text(user_path(path)))
    frames = {}
    for kind, typed in TYPED_COLUMNS.items():
        table = tables.get(kind, LogTable((), 0, ()))
        frame = pandas.DataFrame(list(_typed_rows(table)), columns=[*typed, *_text_columns(table)])
        frame["date"] = pandas.to_datetime(frame["date"])
        for name in FIGURES.keys() & set(typed):
            frame[name] = frame[name].astype("float64")
        frames[kind] = frame
    return frames


def show_log(path: Path) -> list[dict[str, Any]]:
    """The rows of both tables ready for JSON: `table` and the columns of `read_log`; what is missing is None."""
    tables = find_tables(read_text(path))
    return [{"table": kind, **row} for kind in SECTIONS if kind in tables for row in _typed_rows(tables[kind])]


EXPORTS = (".csv", ".json", ".html")


def export_log(path: Path, output: Path) -> int:
    """Write the typed rows of both tables as CSV, JSON or HTML, by the output's suffix; the number of rows.

    Raises:
        UserError: the log cannot be read, or the suffix is another.
    """
    import pandas

    suffix = output.suffix.casefold()
    if suffix not in EXPORTS:
        raise UserError(f"{output}: the suffix must be one of {', '.join(EXPORTS)}, got {output.suffix or 'none'}")
    rows = show_log(path)
    if suffix == ".json":
        text = json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    else:
        flat = [row | {f"score {name}": value for name, value in row.pop("scores").items()} for row in rows]
        frame = pandas.DataFrame(flat)
        text = frame.to_csv(index=False, lineterminator="\n") if suffix == ".csv" else _html(frame, path.name)
    try:
        write_atomic(output, text)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror}); fix: name another file") from None
    return len(rows)


def _html(frame: "pandas.DataFrame", title: str) -> str:
    name = html.escape(title)
    table = frame.to_html(index=False, na_rep="", border=0, escape=True)
    return f'<!doctype html>\n<meta charset="utf-8">\n<title>{name}</title>\n<h1>{name}</h1>\n{table}\n'


def find_row(path: Path, name: str, home: Home) -> tuple[str, str, dict[str, str]]:
    """The run id, the kind and the cells, by machine name, of the row that a name stands for.

    Of the same id in both tables it is the training row.

    Raises:
        UserError: the log cannot be read or has no such row, or the name stands for several.
    """
    rows = {}
    for kind, table in sorted(find_tables(read_text(path)).items()):
        for row in reversed(table.rows):
            cells = {machine_name(title): table.cell(row, machine_name(title)) for title in table.header}
            rows[table.run_id(row)] = kind, cells
    run_id = row_called(name, filter(None, rows), home)
    if run_id is None:
        raise UserError(f"{path}: {unknown_name('row', name, filter(None, rows))}; fix: LOG.md#RUN_ID with one of them")
    return run_id, *rows[run_id]


def add_record(record_path: Path, log: Path) -> bool:
    """Write the row of a run's `record.json`; True if the log changed.

    Raises:
        UserError: the record or the log cannot be read.
    """
    return write_row(log, read_record(record_path))


def write_row(path: Path, record: RunRecord) -> bool:
    """Insert or update the row of a run, leaving every other byte as it is; True if the file changed.

    A conclusion that a person wrote or edited stays. A missing file or table is created.

    Raises:
        UserError: the log cannot be read, or a row added to it would not be seen as one.
    """
    target = path.resolve()  # a link stays a link, and all names of one file share a lock
    if _with_its_row(target, record, path) is None:  # neither this nor a log that cannot be read needs a lock
        return False
    with _alone_with(target, path):
        new = _with_its_row(target, record, path)
        if new is not None:
            write_atomic(target, new)
        return new is not None


def _with_its_row(target: Path, record: RunRecord, shown: Path) -> str | None:
    """The text of a log with the row of a run; None where it is that already."""
    old = read_text(target) if target.exists() else ""
    mark, body = (BOM, old[1:]) if old.startswith(BOM) else ("", old)
    if not body:
        body = DOCUMENT_HEAD + "".join(_section(kind, "\n") for kind in SECTIONS)
    new = mark + _with_row(body, record, shown)
    return None if new == old else new


@contextmanager
def _alone_with(target: Path, shown: Path) -> Iterator[None]:
    """Keep every other writer of a log waiting, whichever home it works for."""
    # Beside the log, since that alone is one place for two homes, two users, or two machines that share a disk. It
    # stays there, hidden: of a lock file that is removed, one writer may hold the old and another the new.
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        with writing(lock_path := Path(lock.lock_file)):
            lock_path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        yield
    except OSError as error:
        raise UserError(f"{shown}: cannot be written ({error.strerror}); fix: name another log with --log") from None
    finally:
        lock.release()


def find_tables(text: str) -> dict[str, LogTable]:
    """The first training table (known by its column Run ID) and evaluation table (Source Checkpoint) of a text."""
    return {table.kind: table for table in reversed(all_tables(text)) if table.kind in SECTIONS}


def all_tables(text: str) -> list[LogTable]:
    """Every table of a text in its order."""
    return [LogTable(table.header, table.line, table.rows) for table in read_tables(text)]


def machine_name(title: str) -> str:
    """What a header means: `Conclusion / Takeaway` is conclusion, the historic `MLM Loss` is task_loss."""
    name = snake_case(re.split(r"\s/\s", title)[0])
    return SAME_COLUMNS.get(name, name)


def read_text(path: Path) -> str:
    """The text of a log.

    Raises:
        UserError: it cannot be read, is too large, is not UTF-8, or holds a number that no float can.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; allowed: a Markdown file; fix: name the file")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LOG_BYTES + 1)  # of /dev/zero too
        if len(content) > MAX_LOG_BYTES:
            raise UserError(f"{path}: has more than {MAX_LOG_BYTES:,} bytes; allowed: a log; fix: split it")
        text = content.decode("utf-8")
        if number := _ENDLESS.search(text):
            line = text.count("\n", 0, number.start()) + 1
            raise UserError(f"{path}:{line}: holds a number of hundreds of digits; fix: mend it")
        return text
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); fix: name a Markdown file that exists") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); fix: save the log as UTF-8") from None


# Reading: from cells to values


def _typed_rows(table: LogTable) -> Iterator[dict[str, Any]]:
    columns = _text_columns(table)
    for row in table.rows:
        run_id = table.run_id(row)
        typed: dict[str, Any] = {
            "line": row.line + 1,
            "run_id": run_id,
            "checkpoint": run_id if table.kind == "training" else name_in(table.cell(row, "source_checkpoint")),
            "date": _date(table.cell(row, "date")),
            "scores": _scores(table.cell(row, "key_scores")),
        }
        if table.kind == "training":
            typed |= {name: _number(table.cell(row, column)) for name, column in FIGURES.items()}
        texts = (*row.cells, *[""] * (len(columns) - len(row.cells)))
        yield typed | {name: None if is_missing(text) else text for name, text in zip(columns, texts, strict=False)}


def _text_columns(table: LogTable) -> list[str]:
    """The headers in snake_case, each once, out of the way of the typed columns."""
    names: list[str] = []
    for position, title in enumerate(table.header, start=1):
        name = snake_case(title) or f"column_{position}"
        name = f"{name}_text" if name in (*TYPED_COLUMNS[table.kind], "table") else name
        while name in names:
            name += f"_{position}"
        names.append(name)
    return names


def is_missing(text: str) -> bool:
    """Whether a cell is empty or says that there is no value."""
    return text.strip(" *").casefold() in MISSING


def name_in(text: str) -> str | None:
    """The first name in backticks; a hand-typed name without them is taken up to its bracket."""
    code = _CODE.search(text)
    name = code[2].strip() if code else text.split(" (")[0].strip(" *")
    return None if is_missing(name) else name


def _date(text: str) -> str | None:
    try:
        return date.fromisoformat(text.strip(" *")).isoformat()
    except ValueError:
        return None


def _number(text: str) -> int | float | None:
    """The first figure of a text: `Diffusion CE (**0.009** at best ...)` gives 0.009."""
    match = _NUMBER.search(text)
    if match is None:
        return None
    value = float(match[0])
    if not math.isfinite(value):  # no figure that was ever measured; its cell keeps the text
        return None
    return int(match[0]) if match[0].isdigit() else value


def _scores(text: str) -> dict[str, float]:
    """`**MRPC:** 82.2% <br> **STS-B P:** 0.627` as {'mrpc': 0.822, 'stsb': 0.627}.

    Where a task stands twice, the later one's name keeps its metric.
    """
    scores: dict[str, float] = {}
    for task, metric, value in stated_scores(text):
        scores.setdefault(f"{task} {metric}" if metric and task in scores else task, value)
    return scores


def stated_scores(text: str) -> Iterator[tuple[str, str, float]]:
    """Task label, metric as the cell writes it (empty where it does not) and value of every score of a cell."""
    labels = {name.casefold(): label for label, name in score_names().items()}
    for part in re.split(r"<br\s*/?>", text):
        match = _SCORE.match(part)
        if match is None:
            continue
        label = labels.get(match["task"].casefold(), match["task"].casefold())
        value = float(match["value"].replace("−", "-"))
        yield label, match["metric"].casefold().strip(), round(value / 100, 8) if match["percent"] else value


# Writing: one row, and nothing else


def _with_row(text: str, record: RunRecord, path: Path) -> str:
    if record.kind not in find_tables(text):
        text = _with_section(text, record.kind)
    cells = {machine_name(title): cell for title, cell in render_row(record).items()}
    table = find_tables(text).get(record.kind)
    if table is not None:
        lines = LINE.findall(text)
        row = next((row for row in table.rows if table.run_id(row) == record.run_id), None)
        if row is not None:
            lines[row.line] = _update_line(lines[row.line], table.header, cells)
        else:
            _insert_line(lines, table, cells)
        text = "".join(lines)
        table = find_tables(text)[record.kind]
        if record.run_id in map(table.run_id, table.rows):
            return text
    raise UserError(
        f"{path}: a row for {record.run_id} cannot be added so that it reads as one; allowed: a table with the column "
        f"{SECTIONS[record.kind][1][1]}, outside code and comments; fix: close an open code fence or comment"
    )


def _insert_line(lines: list[str], table: LogTable, cells: dict[str, str]) -> None:
    last = table.rows[-1].line if table.rows else table.line + 1
    line = "| " + " | ".join(cells.get(machine_name(title), "") for title in table.header) + " |"
    ending = line_ending(lines[table.line])
    if line_ending(lines[last]):
        line += ending
    else:  # the file ends without a newline, and still does
        lines[last] += ending
    lines.insert(last + 1, line)


def _update_line(line: str, header: tuple[str, ...], cells: dict[str, str]) -> str:
    """A raw row with the machine's cells renewed; a cell that says the same keeps its very bytes."""
    spans = split_cells(line)
    wanted = [cells.get(machine_name(title)) for title in header]
    conclusions = [machine_name(title) == "conclusion" for title in header]
    ending = line_ending(line)
    for (start, end), cell, is_conclusion in reversed(list(zip(spans, wanted, conclusions, strict=False))):
        raw = line[start:end]
        if cell is None or raw.strip() == cell or (is_conclusion and not is_generated(raw)):
            continue
        left = raw[: len(raw) - len(raw.lstrip())] if raw.strip() else ""
        right = raw[len(raw.rstrip()) :]
        line = f"{line[:start]}{left or ' '}{cell}{right or ' '}{line[end:]}"
    missing = wanted[len(spans) :]
    if missing:
        body = line.rstrip()
        closed = pipes(body)[-1:] == [len(body) - 1]
        line = body + ("" if closed else " |") + "".join(f" {cell or ''} |" for cell in missing) + ending
    return line


def _with_section(text: str, kind: str) -> str:
    newline = line_ending(LINE.findall(text)[0]) or "\n"
    gap = "" if line_ending(LINE.findall(text)[-1]) else newline
    return text + gap + _section(kind, newline)


def _section(kind: str, newline: str) -> str:
    title, columns = SECTIONS[kind]
    table = f"| {' | '.join(columns)} |{newline}|{'---|' * len(columns)}{newline}"
    return f"{newline}{title}{newline}{newline}{table}"
