"""Facts of a record that several parts of a report need."""

import json
import math
from typing import Any

from pydantic import ValidationError

from tasks.report.rendering import first_line
from tasks.scores.metrics import UNIGRAM_MARGIN_NATS
from tasks.scores.showing import START_TITLES
from tasks.spec.experiment import ExperimentSpec
from tasks.store.files import public_name
from tasks.store.records import RunRecord

MADE_DATA = "The corpus or the tasks are generated stand-ins: nothing here says anything about the real tasks."


def spec_of(record: RunRecord) -> ExperimentSpec | None:
    """The spec of a run; None where another version with other keys wrote it."""
    try:
        return ExperimentSpec.model_validate(record.spec)
    except ValidationError:
        return None


def why_missing(record: RunRecord, stage: str) -> str:
    """Why a stage left no result."""
    state = record.stages.get(stage)
    if state is None:
        return f"{stage} was not reached"
    if state.status == "complete":
        return f"the record holds no result of it, though {stage} is complete"
    return f"{stage} {state.status}" + (f" ({first_line(state.message)})" if state.message.strip() else "")


def failures(record: RunRecord) -> list[tuple[str, str | None]]:
    """What did not end well, and its message."""
    stages = [(f"{name} {stage.status}", stage) for name, stage in record.stages.items()]
    return [
        *((title, stage.message) for title, stage in stages if stage.status != "complete"),
        *(
            (f"fine-tuning of {cell.task}, seed {cell.seed}, {START_TITLES[cell.start]} failed", cell.error)
            for cell in record.cells
            if cell.status == "failed"
        ),
    ]


def loss_mark(record: RunRecord) -> str:
    """The mark of a held-out loss that is no better than that of a model without context."""
    done, corpus = record.pretraining, record.corpus
    if done is None:
        return ""
    if not math.isfinite(done.eval_loss):
        return "not finite"
    if corpus is not None and done.eval_loss >= corpus.unigram_entropy_nats - UNIGRAM_MARGIN_NATS:
        return "at unigram floor"
    return ""


def setting_text(value: Any) -> str:
    """A value of a spec; folders are cut to their last name."""
    if isinstance(value, list):
        return ", ".join(map(setting_text, value))
    return public_name(value) if isinstance(value, str) else json.dumps(value)
