"""Training states on disk: written whole beside the training, marked complete last, old ones removed.

Every rank hands over its random state, and a thread of rank 0 writes all: `step-00000500/` holds `module.pt`,
`optimizer.pt`, `scheduler.pt` and one `random-RANK.pt` per process; `complete.json` lists the files with sizes and
hashes. A folder that differs from its marker is skipped with a warning.
"""

import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import gather_object

from tasks.errors import StageError
from tasks.pretraining.background import BackgroundWriter, host_copy
from tasks.pretraining.markers import PARTS
from tasks.store.files import (
    building,
    file_sha256,
    is_complete,
    read_json,
    remove_tree,
    write_json,
    write_manifest,
    writing,
)


@dataclass(frozen=True)
class TrainingState:
    """Everything that a training continues from, in the objects that hold it."""

    identity: str
    module: Any
    optimizer: Any
    scheduler: Any
    accelerator: Any
    guard: Any


def save_state(
    folder: Path,
    state: TrainingState,
    step: int,
    keep: int,
    writer: BackgroundWriter,
    before: Callable[[], None] | None = None,
) -> None:
    """Copy the state after `step` and have rank 0 write it; every rank calls this. Only the newest `keep` states stay.

    Args:
        writer: writes the copy; its next call raises a StageError if the disk is full.
        before: done before the first file is written.
    """
    accelerator = state.accelerator
    random: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    ranks = gather_object([random]) if accelerator.num_processes > 1 else [random]
    if not accelerator.is_main_process:
        return
    parts = {name: host_copy(getattr(state, name).state_dict()) for name in PARTS}
    parts |= {f"random-{rank}": host_copy(own) for rank, own in enumerate(ranks)}
    facts = {"identity": state.identity, "step": step, "processes": accelerator.num_processes, **_conditions(state)}
    facts["guard"] = deepcopy(state.guard.state_dict())

    target = folder / f"step-{step:08d}"

    def write() -> None:
        if before is not None:
            before()
        _write_state(target, parts, facts)
        # Newer states were skipped as broken or foreign; if they counted, they would push out complete ones.
        kept = sorted(saved for saved in folder.glob("step-*") if saved.name <= target.name)[-keep:]
        for old in [*folder.glob("step-*"), *folder.glob(".*.part")]:
            if old not in kept:
                remove_tree(old)

    writer.submit(write)


def _write_state(target: Path, parts: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write all parts of all ranks, then the marker."""
    part = target.with_name(f".{target.name}.part")
    try:
        with writing(target):
            remove_tree(part)
            part.mkdir(parents=True)
            files = {}
            for name, content in parts.items():
                path = part / f"{name}.pt"
                torch.save(content, path)
                with path.open("r+b") as file:
                    os.fsync(file.fileno())  # before the marker, which then holds even after a power loss
                files[path.name] = {"size": path.stat().st_size, "sha256": file_sha256(path)}
            write_json(part / "complete.json", {**facts, "files": dict(sorted(files.items()))})
            remove_tree(target)
            part.replace(target)
    except BaseException:
        remove_tree(part)  # it takes the room that everything else needs on a full disk
        raise


def precision_of(accelerator: Any) -> Literal["fp32", "bf16"]:
    """In what the training of an accelerator computes."""
    return "bf16" if accelerator.mixed_precision == "bf16" else "fp32"


def _conditions(state: TrainingState) -> dict[str, str]:
    """What decides how a step rounds: precision, kind of device, and whether its graph is compiled."""
    compiled = state.module._compiled_call_impl is not None
    device = state.accelerator.device.type
    return {
        "precision": precision_of(state.accelerator),
        "device": device,
        "graph": "compiled" if compiled else "eager",
    }


def load_state(saved: Path, state: TrainingState) -> int:
    """Restore everything from a folder and return the step it was saved after.

    Raises:
        StageError: it was saved by another number of processes, in another precision, on another kind of device, or
            compiled where this one is not.
    """
    facts, accelerator = read_json(saved / "complete.json"), state.accelerator
    fixes = {"precision": "a device as before", "device": "a device as before", "graph": "a compiler as before"}
    for name, own in _conditions(state).items():
        if facts.get(name, own) != own:  # states of earlier versions have none
            raise StageError(
                f"{saved}: its {name} is {facts[name]} and cannot become {own}, which rounds otherwise; "
                f"fix: {fixes[name]}, or --fresh for a new run"
            )
    if facts["processes"] != accelerator.num_processes:
        raise StageError(
            f"{saved}: was saved by {facts['processes']} processes and cannot go on with {accelerator.num_processes}; "
            f"fix: --processes {facts['processes']}, or --fresh for a new run"
        )
    for name in PARTS:
        getattr(state, name).load_state_dict(torch.load(saved / f"{name}.pt", map_location="cpu", weights_only=True))
    random = torch.load(saved / f"random-{accelerator.process_index}.pt", map_location="cpu", weights_only=True)
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])
    if "guard" in facts:  # states of earlier versions have none
        state.guard.load_state_dict(facts["guard"])
    return int(facts["step"])


def save_best(folder: Path, weights: dict[str, torch.Tensor], step: int) -> None:
    """Keep the weights of the best evaluation so far, and no others; rank 0 alone calls this."""
    target = folder / f"best-{step:08d}"
    with building(target) as part:
        torch.save(weights, part / "module.pt")
        write_manifest(part)
    for old in folder.glob("best-*"):
        if old != target:
            remove_tree(old)


def load_best(folder: Path, module: torch.nn.Module, step: int) -> bool:
    """Take the weights of the best evaluation; False where there are none."""
    target = folder / f"best-{step:08d}"
    if not is_complete(target):
        return False
    module.load_state_dict(torch.load(target / "module.pt", map_location="cpu", weights_only=True))
    return True
