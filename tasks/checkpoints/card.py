"""The model card of a published checkpoint: what it is, how it loads, how it was made and what it scored.

A pure rendering of the run's record. huggingface_hub is imported inside functions, because it would slow the command.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.family import VARIANTS
from tasks.picture import picture_text
from tasks.scores.showing import score_table
from tasks.secrets import redact
from tasks.spec.benchmarks import TASKS, Split, Task
from tasks.spec.pretraining import PYTHON_DOCS
from tasks.spec.settings import flat_keys
from tasks.store.files import public_name
from tasks.store.records import RunRecord, Score

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

PICTURE = "summary.png"
CARD_SECTIONS = ("model", "objective", "data", "training")  # of the spec
# The Hub's names of our metrics, where they differ.
METRIC_IDS = {"pearson": "pearsonr", "spearman": "spearmanr", "matthews": "matthews_correlation"}


def render_card(record: RunRecord) -> str:
    """The model card: what the checkpoint is, how to load it, how it was made, what it scored.

    It names no machine and no local folder: a data set or tokenizer that was read from a folder is shown by the last
    part of its path. It shows PICTURE, which lies beside it.
    """
    from huggingface_hub import ModelCard, ModelCardData

    spec = record.spec
    variant = str(spec.get("model", {}).get("variant", "concept autoencoder"))
    fills_masks = variant in VARIANTS and VARIANTS[variant].fills_masks
    source = record.corpus.dataset if record.corpus else str(spec.get("data", {}).get("dataset", ""))
    publish, results = spec.get("publish", {}), _eval_results(record)
    score_columns, score_rows = score_table(record.scores)
    card = ModelCard.from_template(
        ModelCardData(
            library_name="transformers",
            pipeline_tag="fill-mask" if fills_masks else "feature-extraction",
            language=publish.get("language") or ("en" if source == PYTHON_DOCS else None),
            tags=["concept-encoder", variant, "sentence-transformers"],
            datasets=[source] if is_hub_id(source) else None,
            license=publish.get("license"),
            model_name=record.run_id if results else None,
            eval_results=results,
        ),
        template_path=str(Path(__file__).parent / "templates" / "card.md.j2"),
        record=record,
        variant=variant,
        fills_masks=fills_masks,
        source=public_name(source),
        picture=PICTURE,
        picture_text=_cell(picture_text(record)),
        score_columns=score_columns,
        score_rows=score_rows,
        tables={part.capitalize(): flat_keys(spec.get(part, {})) for part in CARD_SECTIONS},
        public_name=public_name,
        cell=_cell,
    )
    return redact(f"{card}\n")


def _eval_results(record: RunRecord) -> "list[EvalResult] | None":
    """The fine-tuned scores for the card's metadata, each with its floor; none where the tasks were stand-ins."""
    if record.spec.get("evaluation", {}).get("data") == "made":
        return None
    splits = {split.label: (task, split) for task in TASKS.values() for split in task.eval_splits}
    return [
        _eval_result(score, *splits[score.task])
        for score in record.scores
        if score.start == "checkpoint" and score.value is not None and not math.isnan(score.value)
    ] or None


def _eval_result(score: Score, task: Task, split: Split) -> "EvalResult":
    from huggingface_hub import EvalResult

    facts = {"floor": round(score.floor, 4), "floor_name": score.floor_name, "seeds": len(score.seed_values)}
    if score.interval is not None:
        facts["interval"] = [round(end, 4) for end in score.interval]
    if score.start_from is not None:
        facts["start_from"] = score.start_from
    return EvalResult(
        task_type="sentence-similarity" if task.is_similarity else "text-classification",
        dataset_type=task.dataset,
        dataset_name=split.title,
        dataset_config=task.config,
        dataset_split=split.name,
        metric_type=METRIC_IDS.get(score.metric, score.metric),
        metric_name=f"{score.metric} after fine-tuning",
        metric_value=round(score.value or 0.0, 4),
        metric_args=facts,
    )


def _cell(value: Any) -> str:
    values = value if isinstance(value, list | tuple) else [value]
    text = ", ".join(public_name(str(item)) for item in values)
    return " ".join(text.split()).replace("|", "\\|")


def is_hub_id(name: str) -> bool:
    """Whether a data set's name is one of the Hub, as far as the name tells."""
    return public_name(name) == name and not name.startswith("builtin/") and name.count("/") <= 1 and bool(name)
