"""Reading the rows of a file as they stand: .txt, .jsonl, .json, .csv, .tsv and .parquet; also .gz, .bz2, .xz.

The datasets library and pandas guess types: a cell NA becomes a missing value, 007 a number, a JSON column of dates
timestamps, and a quote that GLUE's .tsv files leave open swallows rows. These readers take what is written, refuse
what they cannot take, and name the row. All of them stream.
"""

import bz2
import csv
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO, cast

from pyarrow import ArrowException
from pyarrow.parquet import ParquetFile, read_metadata

from models.weight_files import UnfitError, check_no_pointer
from tasks.errors import UserError, unknown_name

ROWS_PER_READ = 1024
# Longer than any field of a file that fits a disk, and what a C long holds everywhere.
MAX_CSV_FIELD = 2**31 - 1
OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# What the libraries raise for a file that is cut, damaged or of another format.
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    RecursionError,
    LookupError,
    csv.Error,
    zlib.error,
    lzma.LZMAError,
    ArrowException,
)

# The rows of a file, each with its place for messages.
Rows = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Dialect:
    """How the files of a data set are written, where their suffix does not say it.

    Attributes:
        documents: of .txt files: `file`, a text per file, or `line`, a text per line.
        json_field: the key of a .json object that holds the list of rows.
        csv_names: the columns of a .csv or .tsv file without a header.
        csv_skipped: lines before the header.
        csv_format: further options of `csv.reader`.
    """

    encoding: str = "utf-8"
    documents: str = "line"
    json_field: str | None = None
    csv_names: tuple[str, ...] | None = None
    csv_skipped: int = 0
    csv_format: Mapping[str, Any] = field(default_factory=dict)


PLAIN = Dialect()


def open_texts(source: Path, column: str) -> tuple[Iterator[str], int | None]:
    """The texts of a file, read lazily, and their number where the format states it.

    Raises:
        UserError: the file does not exist, its format or column is unknown, or it is empty; while it is read: a row
            is broken or holds no text.
    """
    if (suffix := file_format(source)) not in TEXT_FORMATS:
        raise UserError(f"{source}: {unknown_name('input format', suffix, TEXT_FORMATS)}")
    if not source.is_file():
        raise UserError(f"{source}: is not a file; fix: name a file of texts")
    texts = (checked_text(place, column, row) for place, row in read_rows(source, [column]))
    first = next(texts, None)  # so that a wrong column is noticed before the checkpoint is loaded
    if first is None:
        raise UserError(f"{source}: holds no text; fix: name a file with at least one row")
    return chain([first], texts), count_rows(source)


def file_format(path: Path) -> str:
    """The suffix that says how a file is read: .csv for texts.csv and texts.csv.gz."""
    return Path(path.stem if path.suffix.lower() in OPENERS else path.name).suffix.lower()


def count_rows(path: Path) -> int | None:
    """The number of rows of a file where its format states it; None elsewhere."""
    return int(read_metadata(path).num_rows) if file_format(path) == ".parquet" else None


def read_rows(path: Path, columns: Sequence[str], dialect: Dialect = PLAIN) -> Rows:
    """The rows of a file, each a dict that holds at least `columns`, but where a JSON object lacks one of them.

    Raises:
        UserError: while it is read: the file cannot be read, has no such column, or a row is broken.
    """
    try:
        check_no_pointer(path)
        for number, (place, row) in enumerate(TEXT_FORMATS[file_format(path)](path, columns, dialect)):
            if number == 0:
                _check_columns(place, columns, list(row))
            yield place, row
    except UnfitError as error:
        raise UserError(str(error)) from None
    except UnicodeError as error:
        raise UserError(
            f"{path}: cannot be read: it is not {dialect.encoding} ({error}); "
            "fix: convert it to UTF-8, or copy it again if it was"
        ) from error
    except _BROKEN as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: cannot be read: {reason}; fix: copy or write it again, in UTF-8 if it is text"
        ) from error


def checked_text(place: str, column: str, row: Mapping[str, Any]) -> str:
    """The text in a column of a row.

    Raises:
        UserError: there is none, or it is no valid Unicode.
    """
    _check_columns(place, [column], list(row))
    text = row[column]
    if not isinstance(text, str):
        what = "nothing" if text is None else type(text).__name__
        raise UserError(
            f"{place}: column {column!r} holds {what}; allowed: text; fix: correct the row, or name another column"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{place}: column {column!r} is not valid Unicode; fix: correct the row") from None
    return text


def _check_columns(place: Path | str, columns: Sequence[str], present: Sequence[str]) -> None:
    for column in columns:
        if column not in present:
            raise UserError(f"{place}: {unknown_name('column', column, present)}; fix: name one of these columns")


def _open(path: Path, dialect: Dialect, newline: str | None = None) -> TextIO:
    encoding = "utf-8-sig" if dialect.encoding.lower() in ("utf-8", "utf8") else dialect.encoding
    opener = OPENERS.get(path.suffix.lower(), open)
    return cast(TextIO, opener(path, "rt", encoding=encoding, newline=newline))


def _lines(path: Path, lines: Iterable[str]) -> Iterator[str]:
    """The lines; UTF-16 without its mark reads as UTF-8 with a NUL at every second place, and is refused."""
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise UserError(f"{path}:{number}: holds NUL characters, as UTF-16 does; fix: convert the file to UTF-8")
        yield line


def _txt_rows(path: Path, columns: Sequence[str], dialect: Dialect) -> Rows:
    with _open(path, dialect) as file:
        if dialect.documents == "file":
            yield str(path), {"text": "".join(_lines(path, file))}
            return
        for number, line in enumerate(_lines(path, file), 1):
            yield f"{path}:{number}", {"text": line.removesuffix("\n")}


def _json_rows(path: Path, columns: Sequence[str], dialect: Dialect) -> Rows:
    """One object a line; or, in .json, a list of objects, which may be the value of a key."""
    with _open(path, dialect) as file:
        lines = ((number, line) for number, line in enumerate(_lines(path, file), 1) if line.strip())
        first = next(lines, (0, "{}"))
        if dialect.json_field is not None or first[1].lstrip().startswith("["):
            value = json.loads(first[1] + "".join(line for _, line in lines), object_pairs_hook=_keys_once)
            objects = value if dialect.json_field is None else value[dialect.json_field]
            yield from (
                (f"{path}: row {row}", _json_object(f"{path}: row {row}", one)) for row, one in enumerate(objects, 1)
            )
            return
        for number, line in chain([first] if first[0] else [], lines):
            yield f"{path}:{number}", _json_object(f"{path}:{number}", line)


def _json_object(place: Path | str, line: Any) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_keys_once) if isinstance(line, str) else line
    except ValueError as error:
        raise UserError(f"{place}: is not JSON ({error}); fix: one JSON object per line") from None
    if not isinstance(row, dict):
        raise UserError(f"{place}: is not a JSON object; fix: one JSON object per line")
    return row


def _keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError(f"an object says a key twice: {', '.join(key for key, _ in pairs)}"[:300])
    return found


def _csv_rows(path: Path, columns: Sequence[str], dialect: Dialect) -> Rows:
    """Rows of .csv and .tsv; a row of another width than its header, or a header that says a name twice, is refused.

    A .tsv file has no quoting, as GLUE's have none. If all its quotes would fit as quoting, nobody can tell.
    """
    csv.field_size_limit(MAX_CSV_FIELD)
    given = dict(dialect.csv_format)
    given.setdefault("delimiter", "\t" if file_format(path) == ".tsv" else ",")
    if unstated := given["delimiter"] == "\t" and "quoting" not in given:
        given["quoting"] = csv.QUOTE_NONE
    with _open(path, dialect, newline="") as file:
        reader = csv.reader(islice(_lines(path, file), dialect.csv_skipped, None), strict=True, **given)
        names = list(dialect.csv_names or ())
        for row in reader:
            place = f"{path}:{reader.line_num + dialect.csv_skipped}"
            if not row or (len(row) == 1 and len(names) != 1 and not row[0].strip()):
                continue  # a blank line
            if not names:
                names = row
                if len(set(names)) < len(names):
                    raise UserError(f"{place}: the header says a name twice: {', '.join(names)}; fix: rename a column")
                continue
            if len(row) != len(names):
                raise UserError(
                    f"{place}: has {len(row)} fields, the header {len(names)}; "
                    "fix: put a field with separators or line breaks in quotes, or add the missing field"
                    + " (a .tsv file whose quotes mean something: state `quoting: 1` in its README)"
                    * unstated
                )
            if unstated and any(_looks_quoted(cell) for cell in row):
                raise UserError(
                    f"{place}: may be quoted or may hold quotes; "
                    "fix: state `quoting: 1` (quoted) or `quoting: 3` (as it stands) in the configs of its README"
                )
            yield place, dict(zip(names, row, strict=True))


def _looks_quoted(cell: str) -> bool:
    """Whether a cell stands in quotes and doubles every quote inside, as a writer of quoted cells leaves it."""
    inner = cell[1:-1]
    return cell[:1] == cell[-1:] == '"' and '""' in inner and '"' not in inner.replace('""', "")


def _parquet_rows(path: Path, columns: Sequence[str], dialect: Dialect) -> Rows:
    with ParquetFile(path) as file:
        names = file.schema_arrow.names
        _check_columns(path, columns, names)
        if twice := [column for column in columns if names.count(column) > 1]:
            raise UserError(f"{path}: has column {twice[0]!r} twice; fix: rename one of them")
        batches = file.iter_batches(batch_size=ROWS_PER_READ, columns=list(columns))
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows, 1))


TEXT_FORMATS: dict[str, Callable[[Path, Sequence[str], Dialect], Rows]] = {
    ".txt": _txt_rows,
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
}
