"""Encoding a file of texts with a checkpoint: a text a row in, a vector a row out, streamed from end to end.

Inputs are .txt (a text per line), .jsonl, .csv and .parquet; outputs .parquet and .safetensors. The output is written
under another name and renamed when it is whole.
"""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.checkpoints.inputs import find_evaluation_inputs
from tasks.data.corpus import Progress
from tasks.errors import UserError, unknown_name
from tasks.jobs.devices import Device, lease_for_training, visible_devices
from tasks.store.files import replacing
from tasks.store.home import Home

if TYPE_CHECKING:
    from torch import Tensor

POOLS: dict[str, str | None] = {"none": None, "mean": "mean"}
ROW_GROUP_BYTES = 32 * 2**20
ROWS_PER_READ = 1024
# Longer than any field of a file that fits a disk, and what a C long holds everywhere.
MAX_CSV_FIELD = 2**31 - 1


@dataclass(frozen=True)
class Encoded:
    """What was written.

    Attributes:
        texts: how many.
        shape: of one text's vectors, (C, H) or (H,).
    """

    texts: int
    shape: tuple[int, ...]


def encode_file(
    checkpoint: str,
    source: Path,
    output: Path,
    home: Home,
    data_root: Path | None = None,
    *,
    pool: str = "none",
    column: str = "text",
    batch_size: int = 32,
    max_length: int | None = None,
    tokenizer: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Encoded:
    """Encode every text of a file, in order, on one GPU or the whole CPU.

    Args:
        checkpoint: a run id, a folder or a Hub id, as `cogito analyse` takes it.
        source: .txt, .jsonl, .csv or .parquet.
        output: .parquet with columns `index` and `vector` (a fixed-size list of float32, C * H or H long, its shape
            as JSON in the schema's metadata under `shape`), or .safetensors with one tensor, `concepts` [n, C, H] or
            `vectors` [n, H].
        pool: row of POOLS.
        column: what to read of a file with columns.
        batch_size: texts per batch.
        max_length: tokens of a text; default the model's positions.
        tokenizer: Hub id or folder, for a checkpoint without one.
        overwrite: replace an output that exists.
        progress: called with texts done and texts in all (None when unknown).

    Raises:
        UserError: an input cannot be read, an argument is not allowed, or the output exists or cannot be written.
    """
    if pool not in POOLS:
        raise UserError(unknown_name("pool", pool, POOLS))
    _check_output(source, output, overwrite)
    sink_class = SINKS[output.suffix.lower()]
    texts, total = open_texts(source, column)
    found, tokenizer_folder = find_evaluation_inputs(checkpoint, tokenizer, home, data_root)
    from models.text_encoder import load_encoder

    done = 0
    with lease_for_training(home, 1) as devices:
        try:
            encoder = load_encoder(found.folder, tokenizer_folder, _torch_name(devices[0]))
            shape = encoder.shape(POOLS[pool])
            batches = encoder.stream(texts, batch_size, POOLS[pool], max_length)
        except ValueError as error:
            raise UserError(f"checkpoint {checkpoint}: {error}") from error
        facts = {"checkpoint": found.name, "weights_sha256": found.weights_sha256, "shape": json.dumps(shape)}
        with _writing(output), replacing(output) as part, closing(sink_class(part, shape, facts)) as sink:
            for batch in batches:
                sink.add(batch)
                done += len(batch)
                if progress:
                    progress(done, total)
    return Encoded(done, shape)


def _check_output(source: Path, output: Path, overwrite: bool) -> None:
    if output.suffix.lower() not in SINKS:
        raise UserError(f"{output}: {unknown_name('output format', output.suffix, SINKS)}")
    if output.is_dir() or output.resolve() == source.resolve():
        raise UserError(f"{output}: is a folder, or the input itself; fix: name another output")
    if output.exists() and not overwrite:
        raise UserError(f"{output}: exists; fix: --overwrite, or name another output")


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error}; fix: another place, or room on this one") from error


def _torch_name(device: Device) -> str:
    """torch counts the GPUs that this process sees."""
    return "cpu" if device.kind == "cpu" else f"cuda:{visible_devices().index(device)}"


def open_texts(source: Path, column: str) -> tuple[Iterator[str], int | None]:
    """The texts of a file, read as they are asked for, and their number where the format states it.

    Raises:
        UserError: there is no such file, its format or column is unknown, or it holds no text; later, as it is read,
            a row without a text.
    """
    if source.suffix.lower() not in READERS:
        raise UserError(f"{source}: {unknown_name('input format', source.suffix, READERS)}")
    if not source.is_file():
        raise UserError(f"{source}: is not a file; fix: name a file of texts")
    texts = _readable(source, READERS[source.suffix.lower()](source, column))
    first = next(texts, None)  # so that a wrong column is found before the checkpoint is read
    if first is None:
        raise UserError(f"{source}: holds no text; fix: name a file with at least one row")
    return chain([first], texts), _stated_rows(source)


def _readable(source: Path, texts: Iterator[str]) -> Iterator[str]:
    """The same texts; what the formats' libraries raise becomes one message."""
    try:
        yield from texts
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{source}: cannot be read: {error}; fix: UTF-8 text in the format of its suffix") from error


def _read_lines(source: Path, column: str) -> Iterator[str]:
    _check_column(source, column, ["text"])
    with source.open(encoding="utf-8-sig") as file:
        for line in file:
            yield line.removesuffix("\n")


def _read_jsonl(source: Path, column: str) -> Iterator[str]:
    with source.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{source}:{number}: is not JSON ({error}); fix: one JSON object per line") from None
            if not isinstance(row, dict):
                raise UserError(f"{source}:{number}: is no JSON object; fix: one JSON object per line")
            _check_column(f"{source}:{number}", column, list(row))
            yield _checked_text(f"{source}:{number}", column, row[column])


def _read_csv(source: Path, column: str) -> Iterator[str]:
    csv.field_size_limit(MAX_CSV_FIELD)
    with source.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        _check_column(source, column, list(rows.fieldnames or []))
        for row in rows:
            if None in row:
                raise UserError(f"{source}:{rows.line_num}: has more fields than the header; fix: quote its commas")
            yield _checked_text(f"{source}:{rows.line_num}", column, row[column])


def _read_parquet(source: Path, column: str) -> Iterator[str]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(source) as file:
        _check_column(source, column, file.schema_arrow.names)
        batches = file.iter_batches(batch_size=ROWS_PER_READ, columns=[column])
        for number, value in enumerate((value for batch in batches for value in batch.column(0)), 1):
            yield _checked_text(f"{source}: row {number}", column, value.as_py())


READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _read_lines,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _stated_rows(source: Path) -> int | None:
    if source.suffix.lower() != ".parquet":
        return None
    from pyarrow.parquet import read_metadata

    return int(read_metadata(source).num_rows)


def _check_column(place: Path | str, column: str, columns: list[str]) -> None:
    if column not in columns:
        raise UserError(f"{place}: {unknown_name('column', column, columns)}; fix: --column NAME")


def _checked_text(place: str, column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(
            f"{place}: column {column!r} holds {type(value).__name__}; allowed: text; fix: drop or fill the row"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{place}: column {column!r} is not valid Unicode; fix: drop or mend the row") from None
    return value


class ParquetSink:
    """Rows of index and vector, a row group whenever enough of them are there."""

    def __init__(self, path: Path, shape: tuple[int, ...], facts: dict[str, str]) -> None:
        import pyarrow
        from pyarrow.parquet import ParquetWriter

        self._width = prod(shape)
        fields = [("index", pyarrow.int64()), ("vector", pyarrow.list_(pyarrow.float32(), self._width))]
        self._schema = pyarrow.schema(fields, metadata=facts)
        self._file = ParquetWriter(path, self._schema, use_dictionary=False)
        self._waiting: list[Tensor] = []
        self._written = 0

    def add(self, vectors: "Tensor") -> None:
        """vectors: float32 [B, *shape] on the CPU."""
        self._waiting.append(vectors)
        if sum(map(len, self._waiting)) * self._width * 4 >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow
        import torch

        if not self._waiting:
            return
        values = torch.cat(self._waiting)
        self._waiting.clear()
        index = pyarrow.array(range(self._written, self._written + len(values)), pyarrow.int64())
        vector = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.flatten().numpy()), self._width)
        self._file.write_batch(pyarrow.record_batch([index, vector], schema=self._schema))
        self._written += len(values)

    def close(self) -> None:
        """Write what waits and the end of the file."""
        self._flush()
        self._file.close()


class SafetensorsSink:
    """One tensor, written as it comes: its header, which states how many, is filled in at the end.

    The library writes whole tensors from memory. The format is a length, a JSON header that may end in spaces, the
    data (https://github.com/huggingface/safetensors#format).
    """

    def __init__(self, path: Path, shape: tuple[int, ...], facts: dict[str, str]) -> None:
        self._name = "vectors" if len(shape) == 1 else "concepts"
        self._shape, self._facts, self._count = shape, facts, 0
        # Room for the largest count, to a multiple of 8 so that the data is aligned.
        self._room = -(-len(self._header(2**40)) // 8) * 8
        self._file = path.open("wb")
        self._file.write(bytes(8 + self._room))

    def add(self, vectors: "Tensor") -> None:
        """vectors: float32 [B, *shape] on the CPU."""
        self._file.write(vectors.numpy().astype("<f4").tobytes())
        self._count += len(vectors)

    def _header(self, count: int) -> bytes:
        size = count * prod(self._shape) * 4
        tensor = {"dtype": "F32", "shape": [count, *self._shape], "data_offsets": [0, size]}
        return json.dumps({"__metadata__": self._facts, self._name: tensor}).encode()

    def close(self) -> None:
        """Fill in the header."""
        with self._file:
            self._file.seek(0)
            self._file.write(self._room.to_bytes(8, "little") + self._header(self._count).ljust(self._room))


SINKS: dict[str, type[ParquetSink] | type[SafetensorsSink]] = {".parquet": ParquetSink, ".safetensors": SafetensorsSink}
