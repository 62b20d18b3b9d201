"""`cogito checkpoint ...`: look at a checkpoint, or bring one of the earlier code into our format."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at checkpoints and convert those of earlier code.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Run id, folder, or Hub id with an optional @revision.")]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder that mirrors checkpoints and tokenizers by Hub name (COGITO_DATA_ROOT).")
]


@app.command()
def show(
    checkpoint: Name,
    data_root: DataRoot = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON alone on standard output.")] = False,
) -> None:
    """Tell variant, size, parameters and tokenizer of a checkpoint, and what can be done with it."""
    from tasks.checkpoint_source import resolve_checkpoint
    from tasks.checkpoint_tools import checkpoint_facts
    from tasks.run_folder import cogito_home
    from tasks.sources import resolve_data_root

    facts = checkpoint_facts(resolve_checkpoint(checkpoint, cogito_home(), resolve_data_root(data_root)))
    if as_json:
        print(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    for name, value in facts.items():
        text = "; ".join(value) if isinstance(value, list) else f"{value:,}" if isinstance(value, int) else value
        if value is not None:
            print(f"{name.replace('_', ' '):18}{text}")


@app.command()
def convert(
    old: Name,
    new: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    tokenizer: Annotated[str | None, typer.Option(help="Hub id or folder, for a checkpoint without one.")] = None,
    data_root: DataRoot = None,
) -> None:
    """Write a checkpoint of the earlier code in our format; it then also loads in plain transformers."""
    from tasks.checkpoint_source import resolve_checkpoint
    from tasks.checkpoint_tools import convert_checkpoint
    from tasks.run_folder import cogito_home
    from tasks.sources import find_tokenizer, resolve_data_root

    home, mirror = cogito_home(), resolve_data_root(data_root)
    found = resolve_checkpoint(old, home, mirror)
    convert_checkpoint(found, new, find_tokenizer(tokenizer, home, mirror) if tokenizer else None)
    print(new)
