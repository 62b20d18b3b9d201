"""Simulated GPUs: an nvidia-smi on PATH that answers from files, and a torch that counts what it is told."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tasks.jobs import gpus

SCRIPT = """\
#!/bin/sh
[ -e "{0}/broken" ] && {{ cat "{0}/broken"; exit 18; }}
case "$1" in
  *compute_cap*) cat "{0}/caps" ;;
  --query-gpu*) cat "{0}/gpus" ;;
  *) cat "{0}/programs" ;;
esac
"""


def uuid(number: int) -> str:
    return f"GPU-{number}5f6c2d1-0000-4000-8000-00000000000{number}"


class FakeGpus:
    """GPUs of a made host.

    Args:
        count: how many nvidia-smi lists.
        folder: for its program and its answers.
    """

    def __init__(self, count: int, folder: Path, name: str = "NVIDIA GeForce RTX 3090", compute: str = "8.6") -> None:
        self.count, self.folder, self.name = count, folder, name
        folder.mkdir(exist_ok=True)
        program = folder / "nvidia-smi"
        program.write_text(SCRIPT.format(folder), encoding="utf-8")
        program.chmod(0o755)
        self.memory([0] * count)
        self.programs([])
        self.write("caps", [f"{uuid(number)}, {compute}" for number in range(count)])

    def write(self, name: str, lines: Sequence[str]) -> None:
        part = self.folder / f".{name}"
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        part.replace(self.folder / name)

    def memory(self, used: Sequence[int]) -> None:
        """Say how many MiB are taken on each GPU."""
        rows = [f"{number}, {uuid(number)}, {self.name}, {taken}, 24576" for number, taken in enumerate(used)]
        self.write("gpus", rows or ["No devices were found"])

    def programs(self, rows: Sequence[tuple[int, int, int]]) -> None:
        """Say which programs compute: (GPU, process id, MiB)."""
        self.write("programs", [f"{uuid(number)}, {pid}, {memory}" for number, pid, memory in rows])

    def fail(self, message: str) -> None:
        self.write("broken", [message])

    @property
    def path(self) -> str:
        """PATH with this nvidia-smi first."""
        return f"{self.folder}{os.pathsep}{os.environ['PATH']}"

    def show(self, monkeypatch: pytest.MonkeyPatch, *, usable: int | None = None) -> None:
        """Put the GPUs into this process: torch can use `usable` of them, by default all that are visible."""
        monkeypatch.setenv("PATH", self.path)
        for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "COGITO_DEVICE"):
            monkeypatch.delenv(name, raising=False)

        def count() -> int:
            named = os.environ.get("CUDA_VISIBLE_DEVICES")
            visible = self.count if named is None else len([name for name in named.split(",") if name.strip()])
            return visible if usable is None else usable

        monkeypatch.setattr(torch.cuda, "is_available", lambda: count() > 0)
        monkeypatch.setattr(torch.cuda, "device_count", count)
        monkeypatch.setattr(gpus, "has_driver", lambda: True)
