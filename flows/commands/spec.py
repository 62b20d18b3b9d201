"""The commands about experiment files: `cogito check`, `show`, `explain`, `ls`."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from flows.commands.options import AsJson, DataRoot, Overrides, SpecPath, SpecPaths, print_json
from models import family
from tasks.data.sources import resolve_data_root
from tasks.errors import UserError, try_all, unknown_name
from tasks.jobs.devices import precision_warnings
from tasks.runs.whereabouts import missing_inputs, text_documents
from tasks.spec.benchmarks import TASKS
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.explaining import all_keys, find_keys, spec_schema
from tasks.spec.reading import experiment_files, load_spec
from tasks.spec.yaml_text import spec_text
from tasks.store.files import content_hash
from tasks.store.home import cogito_home

Rows = list[tuple[str, str]]


def _summaries(table: Mapping[str, family.Row | family.Variant]) -> Rows:
    return [(name, row.summary) for name, row in table.items()]


def _tasks() -> Rows:
    rows = []
    for row in TASKS.values():
        splits = ", ".join(split.label for split in row.eval_splits)
        rows.append((row.name, f"{row.dataset} {row.config}: {', '.join(row.metrics)} on {splits}"))
    return rows


def _experiments() -> Rows:
    rows = []
    for path in experiment_files():
        text = path.read_text(encoding="utf-8")
        comment = next(iter(text.strip().splitlines()), "").lstrip("# ")
        try:
            name = str((yaml.safe_load(text) or {}).get("name", path.stem))
        except (yaml.YAMLError, AttributeError):
            name = path.stem
        rows.append((name, f"experiments/{path.name}: {comment}"))
    return rows


# What `cogito ls` lists: the rows of each kind, a name and a summary.
KINDS: dict[str, Callable[[], Rows]] = {
    "variants": partial(_summaries, family.VARIANTS),
    "objectives": partial(_summaries, family.OBJECTIVES),
    "decoders": partial(_summaries, family.DECODERS),
    "heads": partial(_summaries, family.HEADS),
    "losses": partial(_summaries, family.CONCEPT_LOSSES),
    "tasks": _tasks,
    "experiments": _experiments,
}


def check(specs: SpecPaths, overrides: Overrides = None, data_root: DataRoot = None) -> None:
    """Check experiment files, all mistakes of all files at once, and say which inputs are not on this machine."""
    home, mirror = cogito_home(), resolve_data_root(data_root)

    def check_file(path: Path) -> None:
        spec = load_spec(path, overrides or [])
        precision = precision_warnings(spec.training.mixed_precision)
        for warning in [*spec.warnings, *precision, *missing_inputs(spec, home, mirror)]:
            print(f"{path}: warning: {warning}", file=sys.stderr)
        if note := text_documents(spec, mirror):
            print(f"{path}: note: {note}", file=sys.stderr)
        print(f"{path}: ok")

    try_all({path: partial(check_file, path) for path in specs})


def _config(spec: ExperimentSpec) -> dict[str, Any]:
    """The arguments of `ConceptConfig` for a spec; a tokenizer that is not trained is taken for ModernBERT's."""
    from models.configuration import ConceptConfig  # torch
    from tasks.pretraining.stage import model_config

    vocab_size = spec.data.train_tokenizer_vocab_size or ConceptConfig().vocab_size
    return model_config(spec, vocab_size, None, {})


def show(spec: SpecPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print the resolved spec with its parameter count and identity, and whether its start is sound."""
    # torch, for the built module; `check` and `ls` do without it
    from models.autoencoder import ConceptModelForMaskedLM
    from models.configuration import ConceptConfig
    from models.rounding import chaos_warning, rounding_error
    from tasks.forecast.estimate import estimates
    from tasks.pretraining.cost import flops_per_token

    loaded = load_spec(spec, overrides or [])
    resolved, fields = loaded.model_dump(mode="json"), _config(loaded)
    config = ConceptConfig(**fields)
    flops = flops_per_token(loaded, fields)
    home, estimated = cogito_home(), []
    try:
        estimated = estimates(loaded, fields, flops, home)
    except UserError as unusable:  # the GPUs of this machine: a spec can be read all the same
        print(f"{spec}: warning: {unusable}", file=sys.stderr)
    error = None if loaded.training.init_from else rounding_error(config)
    facts = {
        "parameters": ConceptModelForMaskedLM.count_parameters(config),
        "vocab_size": config.vocab_size,
        "flops_per_token": flops,
        "estimates": [estimate.as_json() for estimate in estimated],
        "identity": content_hash(resolved),
        "rounding_error": error,
    }
    for warning in filter(None, [chaos_warning(error), *(one.room.warning for one in estimated[:1])]):
        print(f"{spec}: warning: {warning}", file=sys.stderr)
    if as_json:
        print_json({"spec": resolved, **facts})
        return
    print(spec_text(resolved), end="")
    assumed = "" if loaded.data.train_tokenizer_vocab_size else " (assuming ModernBERT's vocabulary)"
    print(f"# parameters: {facts['parameters']:,} with {config.vocab_size:,} tokens{assumed}")
    print(f"# training: {flops / 1e6:.3g} MFLOP for each token of text, forward and backward")
    # What this machine takes is no property of the spec: the same spec is the same text everywhere.
    for line in [line for estimate in estimated for line in estimate.lines()]:
        print(f"# {line}", file=sys.stderr)
    print(f"# identity: {facts['identity']}")
    if error is not None:
        print(f"# start: rounding to 32 bits moves the concepts by {error:.0e} of their size")


def explain(
    key: Annotated[str | None, typer.Argument(help="A key or section, e.g. training.epochs; default all.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Write the JSON schema of a spec, for editors.")] = False,
) -> None:
    """Say what a key of a spec means, what it may be and its default."""
    if schema and key is not None:
        raise UserError(f"explain: got {key} and --schema; fix: drop one of them")
    if schema:
        print_json(spec_schema())
        return
    print("\n".join(map(str, all_keys() if key is None else find_keys(key))))


def list_kind(
    kind: Annotated[str, typer.Argument(help="variants, objectives, decoders, heads, losses, tasks or experiments")],
    as_json: AsJson = False,
) -> None:
    """List what can be named in a spec."""
    if kind not in KINDS:
        raise UserError(unknown_name("kind", kind, KINDS))
    rows = KINDS[kind]()
    if as_json:
        print_json([{"name": name, "summary": summary} for name, summary in rows])
        return
    width = max((len(name) for name, _ in rows), default=0)
    for name, summary in rows:
        print(f"{name:{width}}  {summary}")
