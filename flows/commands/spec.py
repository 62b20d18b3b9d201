"""The commands about experiment files: `cogito check`, `show`, `ls`."""

import sys
from typing import Annotated

import typer

from flows.commands.options import AsJson, Overrides, SpecPath, SpecPaths, print_json
from tasks.errors import UserError, unknown_name
from tasks.spec.reading import load_spec
from tasks.store.files import content_hash


def check(specs: SpecPaths, overrides: Overrides = None) -> None:
    """Check experiment files; all mistakes of all files at once."""
    problems = []
    for path in specs:
        try:
            for warning in load_spec(path, overrides or []).warnings:
                print(f"{path}: warning: {warning}", file=sys.stderr)
            print(f"{path}: ok")
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def show(spec: SpecPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print the resolved spec with its parameter count and identity."""
    import yaml

    # torch, for the built module; `check` and `ls` do without it
    from models.autoencoder import ConceptModelForMaskedLM
    from models.configuration import ConceptConfig
    from tasks.pretraining.stage import model_config

    loaded = load_spec(spec, overrides or [])
    resolved = loaded.model_dump(mode="json")
    vocab_size = loaded.data.train_tokenizer_vocab_size or ConceptConfig().vocab_size
    config = ConceptConfig(**model_config(loaded, vocab_size, None, {}))
    facts = {
        "parameters": ConceptModelForMaskedLM.count_parameters(config),
        "vocab_size": vocab_size,
        "identity": content_hash(resolved),
    }
    if as_json:
        print_json({"spec": resolved, **facts})
        return
    print(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True), end="")
    assumed = "" if loaded.data.train_tokenizer_vocab_size else " (assuming ModernBERT's vocabulary)"
    print(f"# parameters: {facts['parameters']:,} with {vocab_size:,} tokens{assumed}")
    print(f"# identity: {facts['identity']}")


def list_kind(
    kind: Annotated[str, typer.Argument(help="variants, objectives, decoders, heads, losses, tasks or experiments")],
    as_json: AsJson = False,
) -> None:
    """List what can be named in a spec."""
    from flows.commands.listing import KINDS  # numpy, which `check` does without

    if kind not in KINDS:
        raise UserError(unknown_name("kind", kind, KINDS))
    rows = KINDS[kind]()
    if as_json:
        print_json([{"name": name, "summary": summary} for name, summary in rows])
        return
    width = max((len(name) for name, _ in rows), default=0)
    for name, summary in rows:
        print(f"{name:{width}}  {summary}")
