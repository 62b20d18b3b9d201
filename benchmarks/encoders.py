"""What becomes of plain encoders in whatever form a Hub folder has them, and that each family runs on a real task.

Run: `python benchmarks/encoders.py --data-root DIR [--write docs/encoders.md]`, DIR with nyu-mll/glue
Every family of `tests/encoder_folders.py` is written as a tiny folder of random weights in seven forms, found and
loaded as `cogito evaluate` does; then its stages fine-tune each for one epoch of MRPC. Results stand in
docs/encoders.md.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from encoder_folders import FAMILIES, encoder_folder  # noqa: E402

from models.plain import load_plain_classifier  # noqa: E402
from tasks.checkpoints.finding import reading, resolve_checkpoint  # noqa: E402
from tasks.checkpoints.inputs import longest_text  # noqa: E402
from tasks.data.task_data import prepare_task  # noqa: E402
from tasks.errors import UserError  # noqa: E402
from tasks.finetuning.cell import Cell  # noqa: E402
from tasks.finetuning.loop import run_finetuning  # noqa: E402
from tasks.finetuning.scoring import score_task  # noqa: E402
from tasks.jobs.messages import FinetuningJob  # noqa: E402
from tasks.runs.checkpoint_spec import PLAIN_HEAD  # noqa: E402
from tasks.runs.preflight import find_evaluation  # noqa: E402
from tasks.runs.request import Request  # noqa: E402
from tasks.spec.benchmarks import TASKS  # noqa: E402
from tasks.store.home import Home  # noqa: E402

FORMS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp16": {"dtype": torch.float16},
    "bf16": {"dtype": torch.bfloat16},
    "two shards": {"sharded": True},
    "pickle": {"format": "bin"},
    "prefix `module.`": {"prefix": "module."},
    "a layer too few": {},
}
LAYER_KEYS = ("num_hidden_layers", "n_layers", "num_layers")
HEADER = """# Plain encoders, in the forms in which people publish them

Made by `python benchmarks/encoders.py --data-root DIR --write docs/encoders.md`. All weights are **random** and the
models tiny (two layers, 32 wide), with the config keys, weight names and tokenizer files of the family's folders on the
Hub: the scores show that the path runs, and nothing about the families.

## Loading

*Loaded* are the weights that come from the file, *new* those that a classifier adds, *dropped* those of the file that
it has no use for (heads of pretraining). Every other weight that is missing or left over is an error. A file of a layer
too few is made by raising the number of layers in the config; ALBERT's layers share their weights, so it lacks none.
*Positions* are the tokens of the longest text that it reads.

A setting of config.json that the code of transformers no longer names, and that would change what the encoder computes
(`position_embedding_type: relative_key`, `pruned_heads`), is refused; other keys that it does not name are listed
beside each cell. Weights whose table of positions is BERT's are refused under RoBERTa's `model_type`, and the reverse.
A tokenizer that uses less than 90 % of the table of embeddings, or has other ids than config.json states, is warned of.

"""


def load(family: str, form: str, root: Path) -> list[str]:
    """One row: what loading a folder for two classes makes of it."""
    folder = encoder_folder(
        family, root / f"{family}-{form.strip('`').replace(' ', '-').replace('`', '')}", **FORMS[form]
    )
    if form == "a layer too few":
        config = json.loads((folder / "config.json").read_text())
        config |= {key: config[key] + 1 for key in LAYER_KEYS if key in config}
        (folder / "config.json").write_text(json.dumps(config))
    try:
        checkpoint = resolve_checkpoint(str(folder), Home(root / "home"))
        with reading(checkpoint.name):
            model, report = load_plain_classifier(checkpoint.folder, 2)
    except UserError as error:
        message = " ".join(str(error).replace(f"{folder}: ", "").replace(f"checkpoint {folder.name}: ", "").split())
        return [family, form, *"–––––", f"refused: {message}"]
    kinds = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}
    try:
        longest = str(longest_text(checkpoint, folder) or "any")
    except UserError:
        longest = "its tokenizer cannot be read"
    counts = [f"{len(names)}" for names in (report.loaded, report.new, report.dropped)]
    return [family, form, *counts, " and ".join(kinds), longest, "; ".join(["loads", *report.notes])]


def score(family: str, root: Path, data_root: Path) -> list[str]:
    """One row: MRPC after an epoch, by the stages of `cogito evaluate`, all in this process."""
    folder, home = encoder_folder(family, root / f"mrpc-{family}"), Home(root / "home")
    changes = ["evaluation.epochs=1", "evaluation.learning_rate=1e-3"]
    try:
        inputs = find_evaluation(
            str(folder), Request(home, data_root, root / "log.md"), tasks=["mrpc"], overrides=changes
        )
    except UserError as error:
        message = str(error).replace(f"{folder}: ", "").replace(str(folder), folder.name)
        return [family, *"–––––", f"refused: {message}"]
    protocol, checkpoint = inputs.spec.evaluation.for_task("mrpc"), inputs.checkpoint
    data = prepare_task(TASKS["mrpc"], protocol, inputs.tokenizer, inputs.tasks["mrpc"], home, checkpoint.family)
    cell = Cell("mrpc", 42, "checkpoint", PLAIN_HEAD, protocol)
    job = FinetuningJob(
        identity="benchmark",
        **vars(cell),
        checkpoint=checkpoint.folder,
        family=checkpoint.family,
        precision=cell.precision,
        start_from=None,
        data=data.folder,
    )
    run = home.run(family)
    run.root.mkdir(parents=True)
    (f1,) = (found for found in score_task([run_finetuning(job, run.root)], data, run) if found.metric == "f1")
    assert f1.interval is not None and f1.value is not None
    interval, verdict = "{:.3f} to {:.3f}".format(*f1.interval), "above the floor" if f1.above_floor else "at floor"
    length = str(protocol.max_length)
    return [family, str(f1.precision), length, f"{f1.value:.3f}", interval, f"{f1.floor:.3f}", verdict]


def table(columns: list[str], rows: Iterator[list[str]]) -> str:
    """A Markdown table; rows are told as they are measured."""
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write the document if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        columns = ["family", "stored as", "loaded", "new", "dropped", "trained in", "positions", "outcome"]
        loading = table(columns, (load(family, form, root) for family in FAMILIES for form in FORMS))
        columns = ["family", "precision", "longest pair", "F1", "95 % interval", "floor", "outcome"]
        scores = table(columns, (score(family, root, arguments.data_root.resolve()) for family in FAMILIES))
    text = f"{HEADER}{loading}\n## One epoch of MRPC\n\n3,668 pairs, one seed, learning rate 1e-3.\n\n{scores}"
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
