"""Look at checkpoints and convert those of earlier code."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import (
    AsJson,
    CheckpointName,
    DataRoot,
    DeviceChoice,
    Overrides,
    Tokenizer,
    console,
    new_table,
    print_json,
)
from tasks.analysis.stage import analyse_concepts
from tasks.checkpoints.converting import checkpoint_facts, convert_checkpoint
from tasks.checkpoints.encoding import EncodeOptions, encode_file
from tasks.checkpoints.finding import resolve_checkpoint
from tasks.checkpoints.inputs import find_evaluation_inputs, longest_text
from tasks.data.corpus import prepare_corpus
from tasks.data.sources import find_dataset, find_tokenizer, resolve_data_root
from tasks.errors import UserError
from tasks.jobs.devices import visible_devices
from tasks.progress import DISPLAY
from tasks.runs.checkpoint_spec import evaluation_spec
from tasks.store.home import RunFolder, cogito_home

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.command()
def show(checkpoint: CheckpointName, data_root: DataRoot = None, as_json: AsJson = False) -> None:
    """Tell variant, size, parameters and tokenizer of a checkpoint, and what can be done with it."""
    facts = checkpoint_facts(resolve_checkpoint(checkpoint, cogito_home(), resolve_data_root(data_root)))
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        text = "; ".join(value) if isinstance(value, list) else f"{value:,}" if isinstance(value, int) else value
        if value is not None and value != []:
            print(f"{name.replace('_', ' '):18}{text}")


@app.command()
def convert(
    old: CheckpointName,
    new: Annotated[Path, typer.Argument(help="Folder to write; it must not exist yet.")],
    tokenizer: Tokenizer = None,
    data_root: DataRoot = None,
) -> None:
    """Write a checkpoint of the earlier code in our format; it then also loads in plain transformers."""
    home, mirror = cogito_home(), resolve_data_root(data_root)
    found = resolve_checkpoint(old, home, mirror)
    for note in convert_checkpoint(found, new, find_tokenizer(tokenizer, home, mirror) if tokenizer else None):
        print(f"{found.name}: {note}", file=sys.stderr)
    print(new)


def analyse(
    checkpoint: CheckpointName,
    device: DeviceChoice = None,
    tokenizer: Tokenizer = None,
    data_root: DataRoot = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Measure the concept geometry of a checkpoint on held-out text; writes no row."""
    home, mirror = cogito_home(), resolve_data_root(data_root)
    visible_devices()  # refuses GPUs that cannot be used
    found, tokenizer_folder = find_evaluation_inputs(checkpoint, tokenizer, home, mirror)
    if found.family == "plain":
        raise UserError(
            f"checkpoint {found.name}: is a plain {found.variant} with no concepts to analyse; allowed: a concept model"
        )
    spec = evaluation_spec(found, longest_text(found, tokenizer_folder), overrides or [])
    source = find_dataset(spec.data.dataset, home, mirror, spec.data.revision)
    corpus = prepare_corpus(spec.data, source, home, mirror, tokenizer_folder=tokenizer_folder)
    folder = RunFolder(home.root / "analyses" / f"{found.weights_sha256[:16]}-{corpus.corpus_id}")
    result = analyse_concepts(found, corpus, spec.analysis, folder, home)
    if as_json:
        print_json({"checkpoint": found.name, **result.model_dump(mode="json")})
        return

    table = new_table("figure", "value", title=f"Concept geometry of {found.name}, {result.samples} samples")
    for name, value in result.figures.items():
        table.add_row(name, f"{value:.5g}")
    console().print(table)
    for name, path in result.plots.items():
        print(f"{name}: {path}")


def encode(
    checkpoint: CheckpointName,
    file: Annotated[Path, typer.Argument(help="Texts: .txt (one per line), .jsonl, .csv or .parquet.")],
    output: Annotated[Path, typer.Option(help="Vectors in the order of the texts: .parquet or .safetensors.")],
    pool: Annotated[str, typer.Option(help="none: all concepts of a text; mean: their mean.")] = "none",
    column: Annotated[str, typer.Option(help="The column with the texts.")] = "text",
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per batch.")] = 32,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a text; default all positions.")] = None,
    device: DeviceChoice = None,
    tokenizer: Tokenizer = None,
    data_root: DataRoot = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
) -> None:
    """Encode a file of texts into concept vectors."""
    options = EncodeOptions(column, pool, batch_size, max_length, tokenizer, overwrite)
    mirror, progress = resolve_data_root(data_root), partial(DISPLAY.update, "encode")
    with DISPLAY.on_terminal():
        done = encode_file(checkpoint, file, output, cogito_home(), mirror, options, progress)
    print(f"{output}: {done.texts:,} texts, float32 {list(done.shape)} each")
