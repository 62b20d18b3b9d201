"""How two sides were made: the settings that differ, and those that are not known of one of them."""

import re
from typing import Any

from tasks.review.sides import Side, spec_section
from tasks.spec.benchmarks import TASKS
from tasks.spec.evaluation import TaskOverride
from tasks.spec.settings import WITHOUT_EFFECT, flat_keys
from tasks.store.files import public_name
from tasks.store.records import Result

# Keys whose content is compared under others: per task, or as the head that was scored.
REGROUPED = ("evaluation.per_task", "evaluation.tasks", "evaluation.head")
# The columns of a log that state how a run was made.
ROW_COLUMNS = {
    "architecture": "architecture",
    "pretraining_data": "pretraining data",
    "epochs": "pretraining epochs",
    "concept_losses": "concept losses",
    "machine": "machine",
    "git_tag": "git tag",
}
# What decides a figure and stands in no column of a log.
NEVER_IN_A_ROW = (
    "fine-tuning epochs",
    "fine-tuning learning rate",
    "fine-tuning global batch size",
    "fine-tuning seeds",
    "pretraining learning rate",
    "pretraining global batch size",
    "pretraining seed",
    "corpus id",
    "tokenizer",
    "device",
    "precision",
    "fine-tuning precision",
    "texts behind the rank",
)


class Difference(Result):
    """A setting that the two sides do not share."""

    key: str
    a: Any
    b: Any


def differences(a: Side, b: Side) -> tuple[list[Difference], dict[str, list[str]]]:
    """The settings that differ, and for `a` and `b` those that are known of the other side only."""
    facts = [_run_facts(side) if a.record and b.record else _row_facts(side) for side in (a, b)]
    not_known: dict[str, list[str]] = {"a": [], "b": []}
    differs = []
    for key in dict.fromkeys([*facts[0], *facts[1]]):
        missing = [letter for letter, settings in zip("ab", facts, strict=True) if key not in settings]
        for letter in missing:
            not_known[letter].append(key)
        if not missing and (pair := _unequal(key, facts[0][key], facts[1][key])) is not None:
            differs.append(Difference(key=key, a=pair[0], b=pair[1]))
    for letter, side in (("a", a), ("b", b)):
        if side.record is None:
            not_known[letter] += [*NEVER_IN_A_ROW, *side.assumed]
    return differs, not_known


def _unequal(key: str, a: Any, b: Any) -> tuple[Any, Any] | None:
    """Both values where they differ; of settings per task, the tasks that both sides have and treat differently."""
    if key.startswith("evaluation.") and isinstance(a, dict) and isinstance(b, dict):
        changed = [name for name in a if name in b and a[name] != b[name]]
        values = [{name: side[name] for name in changed} for side in (a, b)]
        single = [next(iter(value.values())) if len(set(value.values())) == 1 else value for value in values]
        return (single[0], single[1]) if changed else None
    same = normalized(a) == normalized(b) if isinstance(a, str) and isinstance(b, str) else a == b
    return None if same else (a, b)


def normalized(text: str) -> str:
    """A text without what is only style: `ViaDecoder` is via_decoder, `**40**` is 40."""
    return re.sub(r"[\W_]+", "", text).casefold() or text


def _run_facts(side: Side) -> dict[str, Any]:
    """How a run was made, by dotted key."""
    record, trained = side.record, side.trained
    assert record is not None and trained is not None
    sections = {name: spec_section(record, name) for name in record.spec if name not in WITHOUT_EFFECT}
    facts = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
    facts = {"kind": record.kind} | {key: value for key, value in facts.items() if key not in REGROUPED}
    evaluation = spec_section(record, "evaluation")
    for key in TaskOverride.model_fields:
        facts[f"evaluation.{key}"] = {
            task: evaluation.get("per_task", {}).get(task, {}).get(key)
            or evaluation.get(key)
            or (TASKS[task].epochs if key == "epochs" and task in TASKS else None)
            for task in evaluation.get("tasks", ())
        }
    facts["head"] = record.head
    if record.checkpoint is not None:
        facts |= {
            "checkpoint": record.checkpoint.name,
            "checkpoint.revision": record.checkpoint.revision,
            "checkpoint.weights": record.checkpoint.weights_sha256[:12],
        }
    if precisions := sorted({score.precision for score in record.scores if score.precision}):
        facts["fine-tuning precision"] = " and ".join(precisions)
    if trained.corpus is not None:
        names = ("corpus_id", "dataset", "source_fingerprint", "tokenizer_name", "train_tokens")
        facts |= {f"corpus.{name}": getattr(trained.corpus, name) for name in names}
    if trained.pretraining is not None:
        names = ("device", "precision", "processes", "parameters", "steps")
        facts |= {f"pretraining.{name}": getattr(trained.pretraining, name) for name in names}
    return facts | flat_keys(record.environment.model_dump()) | {"status": record.status, "made_data": record.made_data}


def _row_facts(side: Side) -> dict[str, Any]:
    """How a run was made as far as its row states it."""
    stated = {title: side.row.get(name, "") for name, title in ROW_COLUMNS.items()}
    facts: dict[str, Any] = {name: text for name, text in stated.items() if text.strip(" *—-")}
    return facts | ({"head": side.head} if side.head else {}) | ({"checkpoint": side.source} if side.source else {})


def value_text(value: Any) -> str:
    """A setting in few words; a path of this machine is cut to its last name."""
    if value is None:
        return "not set"
    if isinstance(value, dict):
        return ", ".join(f"{name} {value_text(part)}" for name, part in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else public_name(str(value))
