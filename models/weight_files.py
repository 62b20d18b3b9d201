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
    "tf_model*.h5": "TensorFlow's",
    "flax_model*.msgpack": "Flax's",
    "*.ckpt*": "TensorFlow's or Lightning's",
    "*.gguf": "quantized",
    "*.onnx": "of ONNX",
    "adapter_model.*": "an adapter, not a whole model",
    "model.*.safetensors": "of another precision or variant",
    "pytorch_model.*.bin": "of another precision or variant",
}
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
    present = [name for name in PLACES if (folder / name).is_file()]
    if not present:
        found = {path.name: kind for pattern, kind in FOREIGN.items() for path in sorted(folder.glob(pattern))}
        only = ", ".join(f"{name} ({kind})" for name, kind in found.items())
        instead = f", only {only}; fix: save it as safetensors in transformers" if only else NOT_A_CHECKPOINT
        raise UnfitError(f"{folder}: has no {SAFETENSORS} or {PICKLE}{instead}")
    if (folder / "adapter_config.json").is_file():
        raise UnfitError(f"{folder}: has an adapter beside its weights that would be ignored; fix: merge it into them")
    chosen, *unread = present
    if not chosen.endswith(".json"):
        return WeightFiles((folder / chosen,), None, {}, tuple(unread))
    stated = _read_index(folder / chosen)
    shards = tuple(folder / name for name in sorted(set(stated.values())))
    return WeightFiles(shards, folder / chosen, stated, tuple(unread))


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
