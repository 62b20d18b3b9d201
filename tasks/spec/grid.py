"""Deriving experiments from files: miniatures and the points of a grid."""

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.spec.benchmarks import TASKS
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.pretraining import PYTHON_DOCS
from tasks.spec.reading import Change, build_spec, load_spec, parse_override, refuse_replaced
from tasks.spec.yaml_text import parse_yaml
from tasks.store.files import content_hash

# A miniature is narrower by this factor in every width, and as deep as the original.
SHRINK = 8
MOST_EXPERIMENTS = 1_000


def miniature(spec: ExperimentSpec, overrides: Sequence[str] = ()) -> ExperimentSpec:
    """The same variant, losses, schedule and depth in a size for two CPU cores, on made data.

    Concepts and feed-forward width are an eighth and the hidden size is 64, so ranks as shares of the concepts stay
    comparable.

    Args:
        overrides: `key=value`, applied after shrinking.

    Raises:
        UserError: none of its tasks has made data, or an override is wrong.
    """
    raw = spec.model_dump(mode="json", exclude_defaults=True)
    model, evaluation = spec.model, spec.evaluation
    narrow = model.token_embedding_dim
    # Where none has made data, all stay, and the evaluation section refuses them.
    tasks = [name for name in evaluation.tasks if TASKS[name].made_sizes] or list(evaluation.tasks)
    raw["name"] = f"{spec.name}_miniature"[:100]
    raw["data"] = {
        "dataset": PYTHON_DOCS,
        "train_tokenizer_vocab_size": 2048,
        "block_tokens": 64,
        "held_out_share": 0.05,
        "blocks": spec.data.blocks,
    }
    raw["model"] = raw.get("model", {}) | {
        "hidden_size": 64,
        "token_embedding_dim": None if narrow is None else max(4, 64 * narrow // model.hidden_size),
        "num_concepts": max(2, model.num_concepts // SHRINK),
        "num_attention_heads": 4,
        "intermediate_size": max(64, model.intermediate_size // SHRINK),
        "max_sequence_length": None,
    }
    raw["training"] = raw.get("training", {}) | {
        "epochs": 3,
        "max_steps": None,
        "global_batch_size": 64,
        "per_device_batch_size": 64,
        "learning_rate": 3e-3,
        "warmup_steps": 50,
        "eval_every_steps": 100,
        "checkpoint_every_steps": 200,
    }
    raw["evaluation"] = raw.get("evaluation", {}) | {
        "tasks": tasks,
        "data": "made",
        "max_length": 64,
        "epochs": 3,
        "global_batch_size": 32,
        "learning_rate": 1e-3,
        "max_train_examples": 1000,
        "per_task": {},
    }
    raw["publish"] = {"store": "local"}
    raw["analysis"] = {"max_samples": 256}
    return build_spec(raw, overrides, f"the miniature of {spec.name}")


def expand(
    paths: Sequence[Path], overrides: Sequence[str], grid: Sequence[str], *, small: bool = False
) -> list[ExperimentSpec]:
    """Every experiment file at every point of the grid; one error reports the mistakes of all.

    Args:
        paths: experiment files.
        overrides: `key=value` for every experiment, applied after shrinking.
        grid: `key=[a, b]`, a YAML list of values for a key; several span a product.
        small: take the miniature of every file.

    Raises:
        UserError: with one line per mistake.
    """
    axes = [_axis(text) for text in grid]
    count = len(paths) * math.prod(len(axis) for axis in axes)
    if count > MOST_EXPERIMENTS:
        raise UserError(f"--grid: asks for {count:,} experiments; allowed: {MOST_EXPERIMENTS:,}; fix: fewer values")
    specs: list[ExperimentSpec] = []
    problems: list[str] = []
    points: dict[str, str] = {}
    for path in paths:
        for point in itertools.product(*axes):
            try:
                base, spec = _at_point(path, point, overrides, small)
            except UserError as error:
                problems += [line for line in str(error).splitlines() if line not in problems]
                continue
            place = ", ".join([str(path), *(f"{'.'.join(one.key)}={_written(one.value)}" for one in point)])
            content = content_hash([base.name, spec.settled()])
            if content in points:
                problems.append(f"{place}: is the same experiment as {points[content]}; fix: drop one of them")
            points[content] = place
            specs.append(spec)
    if problems:
        raise UserError("\n".join(problems))
    return specs


def _at_point(
    path: Path, point: Sequence[Change], overrides: Sequence[str], small: bool
) -> tuple[ExperimentSpec, ExperimentSpec]:
    """The experiment of a file, and what it becomes at a point of the grid."""
    base = load_spec(path, [] if small else overrides)
    base = miniature(base, overrides) if small else base
    raw = base.model_dump(mode="json", exclude_defaults=True)
    parts = [f"{one.key[-1]}{_written(one.value)}" for one in point]
    raw["name"] = "_".join([base.name, *(re.sub(r"[^A-Za-z0-9_.-]", "", part) for part in parts)])[:100]
    refuse_replaced([*map(parse_override, overrides), *point])
    return base, build_spec(raw, point, str(path))


def _written(value: Any) -> str:
    return "null" if value is None else str(value)


def _axis(text: str) -> list[Change]:
    key, separator, values = text.partition("=")
    reason, parsed = "", None
    try:
        parsed, _ = parse_yaml(values, key)
    except UserError as error:
        reason = f"; {error}"
    if not separator or not key.strip() or not isinstance(parsed, list) or not parsed:
        raise UserError(
            f"--grid {text[:200]}: must be KEY=[VALUE, ...], for example --grid training.seed=[1,2,3]{reason}"
        )
    if len(parsed) == 1:
        raise UserError(f"--grid {text[:200]}: has one value; fix: --set {key}={values.strip()[1:-1]}, or add a value")
    return [Change("--grid", tuple(key.strip().split(".")), value) for value in parsed]
