"""Reading a file of texts, streamed: .txt (a text per line), .jsonl, .csv and .parquet.

The datasets library would guess types (a JSON column of dates becomes timestamps) and encode another text without a
word: these readers take text as it stands, refuse everything else, and name the row.
"""

import csv
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from pyarrow.parquet import ParquetFile, read_metadata

from tasks.data.sources import MAX_CSV_FIELD
from tasks.errors import UserError, unknown_name

ROWS_PER_READ = 1024

# The rows of a file, each with its place for messages.
Rows = Iterator[tuple[str, dict[str, Any]]]


def open_texts(source: Path, column: str) -> tuple[Iterator[str], int | None]:
    """The texts of a file, read lazily, and their number where the format states it.

    Raises:
        UserError: the file does not exist, its format or column is unknown, or it is empty; while it is read: a row
            is broken or holds no text.
    """
    suffix = source.suffix.lower()
    if suffix not in TEXT_FORMATS:
        raise UserError(f"{source}: {unknown_name('input format', suffix, TEXT_FORMATS)}")
    if not source.is_file():
        raise UserError(f"{source}: is not a file; fix: name a file of texts")
    texts = _texts(source, TEXT_FORMATS[suffix](source, column), column)
    first = next(texts, None)  # so that a wrong column is noticed before the checkpoint is loaded
    if first is None:
        raise UserError(f"{source}: holds no text; fix: name a file with at least one row")
    return chain([first], texts), read_metadata(source).num_rows if suffix == ".parquet" else None


def _texts(source: Path, rows: Rows, column: str) -> Iterator[str]:
    """The checked texts of a column; an error of a format's library becomes one message."""
    try:
        for place, row in rows:
            _check_column(place, column, list(row))
            text = row[column]
            if not isinstance(text, str):
                raise UserError(
                    f"{place}: column {column!r} holds {type(text).__name__}; allowed: text; fix: drop or fill the row"
                )
            try:
                text.encode()
            except UnicodeEncodeError:
                raise UserError(f"{place}: column {column!r} is not valid Unicode; fix: correct the row") from None
            yield text
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{source}: cannot be read: {error}; fix: UTF-8 text in the format of its suffix") from error


def _check_column(place: Path | str, column: str, columns: list[str]) -> None:
    if column not in columns:
        raise UserError(f"{place}: {unknown_name('column', column, columns)}; fix: --column NAME")


def _txt_rows(source: Path, column: str) -> Rows:
    with source.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            yield f"{source}:{number}", {"text": line.removesuffix("\n")}


def _jsonl_rows(source: Path, column: str) -> Rows:
    with source.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{source}:{number}: is not JSON ({error}); fix: one JSON object per line") from None
            if not isinstance(row, dict):
                raise UserError(f"{source}:{number}: is not a JSON object; fix: one JSON object per line")
            yield f"{source}:{number}", row


def _csv_rows(source: Path, column: str) -> Rows:
    csv.field_size_limit(MAX_CSV_FIELD)
    with source.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        for row in rows:
            if None in row:
                raise UserError(f"{source}:{rows.line_num}: has more fields than the header; fix: quote its commas")
            yield f"{source}:{rows.line_num}", row


def _parquet_rows(source: Path, column: str) -> Rows:
    with ParquetFile(source) as file:
        _check_column(source, column, file.schema_arrow.names)
        batches = file.iter_batches(batch_size=ROWS_PER_READ, columns=[column])
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from ((f"{source}: row {number}", row) for number, row in enumerate(rows, 1))


TEXT_FORMATS: dict[str, Callable[[Path, str], Rows]] = {
    ".txt": _txt_rows,
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
