"""Encoding the texts of a file with a checkpoint: one vector per text, in order, streamed from end to end.

Inputs are those of `tasks.data.text_files`; outputs are .parquet and .safetensors. The output is written under another
name and renamed when it is complete. torch is imported late, so that a wrong argument is refused at once.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow
from pyarrow.parquet import ParquetWriter

from tasks.checkpoints.inputs import find_evaluation_inputs
from tasks.data.corpus import Progress
from tasks.data.text_files import open_texts
from tasks.errors import UserError, unknown_name
from tasks.jobs.devices import Device, visible_devices
from tasks.jobs.leases import lease_for_training
from tasks.store.files import replacing
from tasks.store.home import Home

if TYPE_CHECKING:
    from torch import Tensor

POOLS: dict[str, str | None] = {"none": None, "mean": "mean"}
ROW_GROUP_BYTES = 32 * 2**20


@dataclass(frozen=True)
class EncodeOptions:
    """How the texts of a file are encoded.

    Attributes:
        pool: row of POOLS.
        max_length: tokens per text; None: the positions of the model.
        tokenizer: Hub id or folder, for a checkpoint without a tokenizer.
    """

    column: str = "text"
    pool: str = "none"
    batch_size: int = 32
    max_length: int | None = None
    tokenizer: str | None = None
    overwrite: bool = False


DEFAULTS = EncodeOptions()


@dataclass(frozen=True)
class Encoded:
    """The number of texts that were written, and the shape of the vectors of each: (C, H) or (H,)."""

    texts: int
    shape: tuple[int, ...]


def encode_file(
    checkpoint: str,
    source: Path,
    output: Path,
    home: Home,
    data_root: Path | None = None,
    options: EncodeOptions = DEFAULTS,
    progress: Progress | None = None,
) -> Encoded:
    """Encode every text of a file, in order, on one GPU or the whole CPU.

    Args:
        checkpoint: a run id, a folder or a Hub id, as `cogito analyse` takes it.
        source: a file of `tasks.data.text_files.TEXT_FORMATS`.
        output: .parquet with columns `index` and `vector` (a fixed-size list of float32, C * H or H long; its shape
            stands as JSON in the schema's metadata under `shape`), or .safetensors with one tensor, `concepts`
            [n, C, H] or `vectors` [n, H].
        progress: called with texts done and texts in all (None when unknown).

    Raises:
        UserError: an input cannot be read, an option is not allowed, or the output exists or cannot be written.
    """
    if options.pool not in POOLS:
        raise UserError(unknown_name("pool", options.pool, POOLS))
    pool = POOLS[options.pool]
    _check_output(source, output, options.overwrite)
    sink_class = SINKS[output.suffix.lower()]
    texts, total = open_texts(source, options.column)
    found, tokenizer_folder = find_evaluation_inputs(checkpoint, options.tokenizer, home, data_root)
    from models.text_encoder import load_encoder

    done = 0
    try:
        encoder = load_encoder(found.folder, tokenizer_folder, "cpu")
        shape = encoder.shape(pool)
        batches = encoder.stream(texts, options.batch_size, pool, options.max_length)
    except ValueError as error:
        raise UserError(f"checkpoint {checkpoint}: {error}") from error
    facts = {"checkpoint": found.name, "weights_sha256": found.weights_sha256, "shape": json.dumps(shape)}
    with ExitStack() as stack:
        stack.enter_context(_writing(output))
        part = stack.enter_context(replacing(output))
        sink = stack.enter_context(closing(sink_class(part, shape, facts)))
        devices = stack.enter_context(lease_for_training(home, 1))  # last: what is refused needs none
        encoder.move(_torch_name(devices[0]))
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
    """The device's name in torch, which counts only the GPUs that this process sees."""
    return "cpu" if device.kind == "cpu" else f"cuda:{visible_devices().index(device)}"


class ParquetSink:
    """A Parquet file of index and vector, written in row groups of about ROW_GROUP_BYTES."""

    def __init__(self, path: Path, shape: tuple[int, ...], facts: dict[str, str]) -> None:
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
        """Write the remaining rows and the footer."""
        self._flush()
        self._file.close()


class SafetensorsSink:
    """A safetensors file of one tensor, streamed: the header, which states its length, is filled in at the end.

    The library writes only tensors that are in memory as a whole. The format is the length of the header, a JSON
    header that may end in spaces, and the data (https://github.com/huggingface/safetensors#format).
    """

    def __init__(self, path: Path, shape: tuple[int, ...], facts: dict[str, str]) -> None:
        self._name = "vectors" if len(shape) == 1 else "concepts"
        self._shape, self._facts, self._count = shape, facts, 0
        # Room for the largest count, rounded up to a multiple of 8 so that the data is aligned.
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
