"""Reading the weights of a checkpoint folder: names and tensors on the CPU, in a type that can be trained as fp32.

A pickle is read as weights alone and runs no code. Nothing is read in part: a shard that is missing, a number that is
not finite or of a quantized type is an error.
"""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .weight_files import CheckpointError, UnfitError, find_weight_files

Weights = dict[str, torch.Tensor]

# Names for the types of numbers that are read; all are turned into fp32.
PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
# How many names a message states.
SHOWN = 8
# What wraps a module while it is trained leaves its name within the names of the weights.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


@dataclass(frozen=True)
class StoredWeights:
    """The weights of a folder, and what a reader of their scores should know of how they were stored.

    Attributes:
        tensors: by name, without the names of wrappers.
        precision: of the stored numbers: fp32, fp16, bf16, fp64, or several of them.
        notes: whatever is not as plain as one file of fp32 weights.
    """

    tensors: Weights
    precision: str
    notes: list[str] = field(default_factory=list)


def read_weights(folder: Path) -> StoredWeights:
    """All tensors of a checkpoint folder, on the CPU.

    Raises:
        CheckpointError: a file cannot be read, does not hold what its index says, or its tensors claim more than it
            holds; a value is not finite.
        UnfitError: there are no weights in a format that is read, or they are quantized.
    """
    found = find_weight_files(folder)
    stored: Weights = {}
    for path in found.files:
        tensors = _read_file(path)
        if found.index is not None:
            own = {name for name, shard in found.stated.items() if shard == path.name}
            if own != tensors.keys():
                raise CheckpointError(f"{path}: holds other weights than its index says: {some(own ^ tensors.keys())}")
        stored |= tensors
    notes = [f"read from {found.title}; not read: {', '.join(found.unread)}"] if found.unread else []
    unwrapped, notes = _unwrap(stored, notes)
    precision = _check_numbers(unwrapped, folder)
    if precision != "fp32":
        notes.append(f"stored in {precision}, used in fp32")
    return StoredWeights(unwrapped, precision, notes)


def _read_file(path: Path) -> Weights:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _check_packed(path)
        _check_claims(torch.load(path, map_location="meta", weights_only=True), path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the libraries raise anything for what a stranger wrote
        raise CheckpointError(f"{path.parent}: {path.name} cannot be read: {first_line(error)}") from error


def _unwrap(stored: Weights, notes: list[str]) -> tuple[Weights, list[str]]:
    """The weights under the names that they have without wrappers such as DistributedDataParallel's `module.`."""
    ours, seen = {}, set()
    for old, tensor in stored.items():
        parts = str(old).split(".")
        name = ".".join(part for part in parts if part not in WRAPPERS)
        seen |= {part for part in parts if part in WRAPPERS}
        if name in ours:
            raise CheckpointError(f"{name[:100]} is there twice, with and without {' and '.join(sorted(seen))}")
        ours[name] = tensor
    return ours, [*notes, *(f"removed {word}. from the names of the weights" for word in sorted(seen))]


def _check_numbers(weights: Weights, folder: Path) -> str:
    """The precision of the stored numbers.

    Raises:
        UnfitError: of a type that needs more than a cast to be used.
        CheckpointError: NaN or infinite.
    """
    kinds = {tensor.dtype for tensor in weights.values() if tensor.dtype not in (torch.int64, torch.bool)}
    if strange := sorted(str(kind).removeprefix("torch.") for kind in kinds - PRECISIONS.keys()):
        raise UnfitError(
            f"{folder}: its weights are of type {', '.join(strange)}, so they are quantized; "
            f"allowed: {', '.join(sorted(PRECISIONS.values()))}; fix: name the model that it was made from"
        )
    broken = [name for name, tensor in weights.items() if not tensor.float().isfinite().all()]  # fp64 holds more
    if broken:
        raise CheckpointError(f"{folder}: {len(broken):,} weights hold NaN or infinite values: {some(broken)}")
    return " and ".join(sorted(PRECISIONS[kind] for kind in kinds)) or "fp32"


def some(names: Any) -> str:
    """The first names of many, in order."""
    ordered = sorted(names)
    more = f" and {len(ordered) - SHOWN:,} more" if len(ordered) > SHOWN else ""
    return ", ".join(name[:100] for name in ordered[:SHOWN]) + more


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its kind where there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _check_packed(path: Path) -> None:
    """Refuse a compressed archive: torch writes none, and one may hold a thousand times its size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.file_size > entry.compress_size]
        if packed:
            raise ValueError("its archive is compressed; allowed: what torch.save writes")


def _check_claims(loaded: Any, path: Path) -> None:
    """Refuse tensors that claim more bytes than the file has; `loaded` is on the meta device, so none is taken yet."""
    if not isinstance(loaded, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in loaded.values()):
        raise ValueError("it holds something else than named tensors")
    size = path.stat().st_size
    for name, tensor in loaded.items():
        if tensor.numel() * tensor.element_size() > size or tensor.untyped_storage().nbytes() > size:
            raise ValueError(f"{str(name)[:100]} claims more bytes than the file has")
