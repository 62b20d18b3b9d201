"""What commands share: options, and how JSON and tables are printed."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.jobs.gpus import CHOICES, device_choice

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Columns where the output is no terminal: no cell is ever cut or wrapped, and a table is as wide as what it holds.
UNLIMITED = 100_000

SpecPath = Annotated[Path, typer.Argument(help="Experiment file, or a name of `cogito ls experiments`.")]
SpecPaths = Annotated[list[Path], typer.Argument(help="Experiment files, or names of `cogito ls experiments`.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. training.epochs=1.")
]
RUN_HELP = "A run: its id, the beginning of it, or the name of its experiment; see `cogito runs`."
CheckpointName = Annotated[
    str, typer.Argument(help="A run (id, its beginning, or experiment), a folder, or a Hub id[@revision].")
]
Tokenizer = Annotated[str | None, typer.Option(help="Hub id or folder, for a checkpoint without one.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder that mirrors data sets, checkpoints and tokenizers by Hub name (COGITO_DATA_ROOT)."),
]
LogPath = Annotated[Path | None, typer.Option("--log", help="The log (COGITO_LOG; default master_experiment_log.md).")]


def _choose_device(choice: str | None) -> str | None:
    """Hand `--device` to every part of this command, which ask `device_choice`."""
    if choice is not None:
        os.environ["COGITO_DEVICE"] = device_choice(choice)
    return choice


DeviceChoice = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="|".join(CHOICES),
        callback=_choose_device,
        help="What jobs run on; auto: all GPUs, or the CPU of a machine without (COGITO_DEVICE).",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON alone on standard output.")]


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str, allow_nan=False))


def console(**settings: Any) -> "Console":
    """Where tables are printed; `settings` are those of rich."""
    from rich.console import Console

    terminal = Console(**settings)
    return terminal if terminal.is_terminal else Console(width=UNLIMITED, **settings)


def new_table(*titles: str, **settings: Any) -> "Table":
    """An empty table, which breaks a word that is wider than its column, where rich would cut it."""
    from rich.table import Column, Table

    return Table(*(Column(title, overflow="fold") for title in titles), **settings)
