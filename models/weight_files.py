"""Which files hold the weights of a checkpoint folder, found without torch, so that a folder is refused quickly.

A folder has one file, or shards and the index that names them; safetensors is read before a pickle.
"""

import json
from dataclasses import dataclass
from pathlib import Path

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
# The places of weights, in the order in which they are looked for.
PLACES = (SAFETENSORS, f"{SAFETENSORS}.index.json", PICKLE, f"{PICKLE}.index.json")
# Weights in other formats, of which none is read.
FOREIGN = {
    "*.h5": "TensorFlow's",
    "*.msgpack": "Flax's",
    "*.ckpt*": "TensorFlow's or Lightning's",
    "*.gguf": "quantized",
    "*.onnx": "of ONNX",
    "onnx/*.onnx": "of ONNX",
    "openvino*.bin": "of OpenVINO",
    "*.npz": "of MLX or JAX",
    "*.ot": "of Rust",
    "*.pt": "of PyTorch alone",
    "*.pth": "of PyTorch alone",
    "adapter_config.json": "an adapter, not a whole model",
    "model-*-of-*.safetensors": "a shard without its index",
    "pytorch_model-*-of-*.bin": "a shard without its index",
    "model.*.safetensors": "of another precision or variant",
    "pytorch_model.*.bin": "of another precision or variant",
}
SHOWN = 4
NOT_A_CHECKPOINT = "; fix: name a finished checkpoint's folder"


class CheckpointError(ValueError):
    """A checkpoint cannot be read as what its config says it is."""


class UnfitError(CheckpointError):
    """A whole checkpoint that is of no use here: of another kind, format or type of numbers. It says what to do."""


@dataclass(frozen=True)
class WeightFiles:
    """The files that are read.

    Attributes:
        files: one file, or every shard.
        index: the index of the shards; None of a single file.
        stated: name of every weight -> name of its shard, as the index says.
        unread: other files with weights, which are not read.
    """

    files: tuple[Path, ...]
    index: Path | None
    stated: dict[str, str]
    unread: tuple[str, ...]

    @property
    def packed(self) -> bool:
        """Whether they are safetensors."""
        return self.files[0].suffix == ".safetensors"

    @property
    def title(self) -> str:
        """The file or the index that is read, in words."""
        return self.files[0].name if self.index is None else f"{self.index.name} ({len(self.files)} shards)"


def find_weight_files(folder: Path) -> WeightFiles:
    """The files with the weights of a folder, every shard of them there.

    Raises:
        UnfitError: it has no weights in a format that is read.
        CheckpointError: the index is damaged, names a file outside the folder, or a shard is missing.
    """
    present = _places(folder)
    if not present:
        raise UnfitError(f"{folder}: has no {SAFETENSORS} or {PICKLE}{found_instead(folder)}")
    if (folder / "adapter_config.json").is_file():
        raise UnfitError(f"{folder}: has an adapter beside its weights that would be ignored; fix: merge it into them")
    chosen, *unread = present
    check_no_pointer(folder / chosen)
    if not chosen.endswith(".json"):
        return WeightFiles((folder / chosen,), None, {}, tuple(unread))
    stated = _read_index(folder / chosen)
    shards = tuple(folder / name for name in sorted(set(stated.values())))
    for shard in shards:
        check_no_pointer(shard)
    return WeightFiles(shards, folder / chosen, stated, tuple(unread))


def weights_size(folder: Path) -> int:
    """Bytes of the files with the weights of a checkpoint folder.

    Raises:
        CheckpointError: as `find_weight_files`.
    """
    return sum(file.stat().st_size for file in find_weight_files(folder).files)


def found_instead(folder: Path) -> str:
    """The end of a message about a folder that is no checkpoint: what it holds instead, and what to do."""
    inner = sorted(path.parent.name for path in folder.glob("*/config.json") if any(_places(path.parent)))
    if inner:  # sentence-transformers' `0_Transformer`, a Trainer's `checkpoint-500`
        return f"; fix: name a folder within it: {', '.join(inner[:SHOWN])}"
    found = {path.name: kind for pattern, kind in FOREIGN.items() for path in sorted(folder.glob(pattern))}
    if found:
        only = ", ".join(f"{name} ({kind})" for name, kind in [*found.items()][:SHOWN])
        return f", only {only}; fix: save the whole model as safetensors in transformers"
    return NOT_A_CHECKPOINT if any(folder.iterdir()) else f", it is empty{NOT_A_CHECKPOINT}"


def _places(folder: Path) -> list[str]:
    return [name for name in PLACES if (folder / name).is_file()]


def is_pointer(path: Path) -> bool:
    """Whether a file is the pointer that git-lfs leaves in place of a large file that was not downloaded."""
    return path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs")


def check_no_pointer(path: Path) -> None:
    """Refuse a file that is a pointer of git-lfs.

    Raises:
        UnfitError: it is one.
    """
    if is_pointer(path):
        raise UnfitError(
            f"{path}: is a pointer of git-lfs, the file itself is not here; fix: `git lfs pull` in its folder"
        )


def _read_index(path: Path) -> dict[str, str]:
    """Name of every weight -> name of its shard, all of them files in the folder of the index."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no index of shards: {type(error).__name__}") from error
    if not isinstance(stated, dict) or not stated or not all(isinstance(name, str) for name in stated.values()):
        raise CheckpointError(f"{path}: its weight_map does not name a file for every weight")
    suffix = ".safetensors" if path.name.startswith(SAFETENSORS) else ".bin"
    for name in sorted(set(stated.values())):
        shown = repr(name[:100])
        if Path(name).name != name or "\\" in name or ":" in name or not name.endswith(suffix):
            raise CheckpointError(f"{path}: names {shown}; allowed: a {suffix} file in the same folder")
        if not (path.parent / name).is_file():
            raise CheckpointError(f"{path}: its shard {shown} is missing")
    return stated
