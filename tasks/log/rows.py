"""One row of the experiment log, rendered from a run's record and from nothing else.

The style is the user's own: `**MRPC:** 82.2% <br> **STS-B:** 0.627`. A score stands beside its interval and its
floor, because a figure alone invites conclusions that it does not bear.
"""

import hashlib
import math
import re
from collections.abc import Iterable
from datetime import UTC
from typing import Any

from models.family import VARIANTS
from tasks.scores.metrics import UNIGRAM_MARGIN_NATS
from tasks.scores.showing import BELOW_FLOOR_HINT, floor_mark, is_above_floor, log_cell, metric_text
from tasks.secrets import redact
from tasks.spec.benchmarks import TASKS, score_names
from tasks.store.records import RunRecord

_TRAINING_HEADER = (
    "Date | Run ID / Model Type | Architecture | Pretraining Data | Machine | Epochs | Concept Losses | Task Loss"
    " | Eff. Rank | Key GLUE Scores | Speed (Steps/s) | WandB Link | Git Tag | Conclusion / Takeaway"
)
TRAINING_COLUMNS = tuple(_TRAINING_HEADER.split(" | "))
EVALUATION_COLUMNS = ("Date", "Eval Type", "Source Checkpoint", "Machine", "Tasks", "Key Scores", "WandB", "Conclusion")

_GENERATED = re.compile(r"\(auto ([0-9a-f]{6})\) (.*)")


def render_row(record: RunRecord) -> dict[str, str]:
    """The cells of a record's row by column header, in the order of the table, safe to stand between pipes."""
    training = record.kind == "training"
    *cells, conclusion = map(escape_cell, _training_cells(record) if training else _evaluation_cells(record))
    return dict(zip(TRAINING_COLUMNS if training else EVALUATION_COLUMNS, [*cells, _sign(conclusion)], strict=True))


def escape_cell(text: str) -> str:
    """A text on one line that a table takes as one cell: blanks and control characters joined, pipes escaped."""
    printable = re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", redact(text).encode("utf-8", "replace").decode("utf-8"))
    return " ".join(printable.split()).replace("|", r"\|")


def is_generated(cell: str) -> bool:
    """Whether a conclusion still is, letter by letter, what was written here: its mark carries a checksum of it."""
    match = _GENERATED.fullmatch(cell.strip())
    return match is not None and cell.strip() == _sign(match[2])


def _sign(text: str) -> str:
    return f"(auto {hashlib.sha256(text.encode()).hexdigest()[:6]}) {text}"


def _training_cells(record: RunRecord) -> list[str]:
    model, data = record.spec.get("model", {}), record.spec.get("data", {})
    done = record.pretraining
    return [
        f"{record.created.astimezone(UTC):%Y-%m-%d}",
        code_span(record.run_id) + (f" <br> {_plain(record.name)}" if record.row_form >= 2 else ""),
        " ".join(f"{letter}{model.get(key, '?')}" for letter, key in _SIZES),
        _data(data),
        _plain(record.environment.machine),
        f"{round(done.epochs, 2):g}" if done else "--",
        _concept_losses(record.spec.get("objective", {})),
        _task_loss(record),
        _effective_rank(record) or "--",
        _key_scores(record),
        f"{done.steps_per_second:.{2 if done.steps_per_second >= 0.1 else 4}f}" if done else "--",
        f"[Link]({_url(done.wandb_url)})" if done and done.wandb_url else "--",
        _commit(record),
        _conclusion(record),
    ]


def _evaluation_cells(record: RunRecord) -> list[str]:
    return [
        f"{record.created.astimezone(UTC):%Y-%m-%d}",
        code_span(record.run_id) + (f" ({_head_name(record.head)})" if record.head else ""),
        _source(record),
        _plain(record.environment.machine),
        ", ".join(_scored_labels(record.spec.get("evaluation", {}).get("tasks", ()))) or "--",
        _key_scores(record),
        "--",
        _conclusion(record),
    ]


_SIZES = (("H", "hidden_size"), ("L", "num_layers"), ("C", "num_concepts"))


def _data(data: dict[str, Any]) -> str:
    name = _plain(str(data.get("dataset", "--")).rstrip("/").split("/")[-1])
    documents = data.get("max_documents")
    return f"{name} ({documents:,} documents)" if documents else name


def _concept_losses(objective: dict[str, Any]) -> str:
    weights = objective.get("concept_losses") or {}
    if not weights:
        return "None"
    weighting = objective.get("loss_weighting", "fixed")
    if weighting == "fixed":
        weighting += "=" + ",".join(f"{weight:g}" for weight in weights.values())
    return " + ".join(code_span(name) for name in [*weights, weighting])


def _task_loss(record: RunRecord) -> str:
    if record.pretraining is None:
        stage = record.stages.get("pretraining")
        return stage.status if stage and stage.status != "complete" else "--"
    variant = VARIANTS.get(record.spec.get("model", {}).get("variant", ""))
    objective = variant.objective.replace("_", " ") if variant else "task"
    name = "MLM" if objective == "mlm" else objective.capitalize()
    loss, train_loss = record.pretraining.eval_loss, record.pretraining.train_loss
    if not math.isfinite(loss):
        return f"{name} eval **{loss}**"  # no other figure here, lest it be read as the loss
    unigram = record.corpus.unigram_entropy_nats if record.corpus else None
    if unigram is None:
        beside = ""
    else:
        title = "unigram" if loss < unigram - UNIGRAM_MARGIN_NATS else "**at unigram floor**"
        beside = f" ({title} {unigram:.2f}, {record.bits_per_byte:.2f} bits/byte)"
    trained = "--" if math.isnan(train_loss) else f"{train_loss:.3f}"  # NaN: it diverged in its first step
    return f"{name} eval **{loss:.3f}**{beside} <br> train {trained}"


def _effective_rank(record: RunRecord) -> str:
    """The log's old figure, a nuclear/spectral ratio of the mean, and under their names those that mean more."""
    if record.analysis is None:
        return ""
    figures, texts = record.analysis.figures, []
    if "nuclear_rank_of_mean" in figures:
        rank = round(figures["nuclear_rank_of_mean"], 1)  # the percentage follows from the figure that is shown
        percent = round(100 * rank / record.analysis.num_concepts, 1)
        texts.append(f"**{rank:g} / {record.analysis.num_concepts}** ({percent:g}%)")
    if "effective_rank_per_sample_mean" in figures:
        texts.append(f"per-sample effective rank {figures['effective_rank_per_sample_mean']:.1f}")
    shares = {"input_variance_share": "input share {:.2f}", "retrieval_top_1": "retrieval {:.0%}"}
    told = [text.format(figures[name]) for name, text in shares.items() if name in figures]
    return " <br> ".join([*texts, ", ".join(told)] if told else texts)


def _key_scores(record: RunRecord) -> str:
    texts = {score.task: log_cell(score) for score in record.primary_scores()}
    failed = {cell.task for cell in record.cells if cell.status == "failed" and cell.start == "checkpoint"}
    for label in _scored_labels(sorted(failed)):
        texts.setdefault(label, "failed")
    if not texts:
        return "Not evaluated"
    lines = [f"**{_score_name(label)}:** {texts[label]}" for label in _in_order(texts)]
    if record.made_data:
        lines.append("*made data*")
    if record.spec.get("evaluation", {}).get("select_on") == "dev":
        lines.append("*epoch chosen on dev: optimistic*")
    return " <br> ".join(lines)


def _conclusion(record: RunRecord) -> str:
    """What happened, in one line: status, what failed, how many scores mean something, what a random start reaches."""
    failures = []
    for name, stage in record.stages.items():
        if stage.status != "complete":
            reason = next(iter(stage.message.strip().splitlines()), "")
            failures.append(f"{name} {stage.status}" + (f" ({_plain(reason[:100])})" if reason else ""))
    cells = [
        f"{cell.task} seed {cell.seed}" + ("" if cell.start == "checkpoint" else f" ({cell.start.replace('_', '-')})")
        for cell in record.cells
        if cell.status == "failed"
    ]
    if cells:
        failures.append(f"failed cells {', '.join(cells)}")
    diverged = record.pretraining.diverged if record.pretraining and record.kind == "training" else None
    if diverged is not None:
        failures = [
            f"step {diverged.step}: {diverged.reason} (loss {diverged.loss:.4g}, gradient norm "
            f"{diverged.gradient_norm:.4g}, lr {diverged.learning_rate:.3g}); kept: step {diverged.kept_step}"
        ]
    sentences = [f"{record.status}: {'; '.join(failures)}." if failures else f"{record.status}."]
    sentences += [f"Warning: {_plain(warning)}." for warning in record.warnings]
    scores = record.primary_scores()
    if scores:
        above = sum(map(is_above_floor, scores))
        head = f"{_head_name(record.head)}: " if record.head else ""
        sentences.append(f"{head}{above} of {len(scores)} scores above their floor.")
    below = [score.task for score in scores if floor_mark(score) == "below floor"]
    if below:
        sentences.append(f"Below floor: {', '.join(map(_score_name, _in_order(below)))}: {BELOW_FLOOR_HINT}.")
    if record.kind == "evaluation" and _effective_rank(record):
        sentences.append(f"Eff. rank {_effective_rank(record).replace(' <br>', ',')}.")
    for start, title in (("random", "random start"), ("zero_shot", "zero-shot")):
        figures = {
            score.task: f"{_score_name(score.task)} {metric_text(score.metric, score.value)}"
            for score in record.primary_scores(start)
            if score.value is not None
        }
        if figures:
            sentences.append(f"{title}: {', '.join(figures[label] for label in _in_order(figures))}.")
    if record.made_data:
        sentences.append("Made data.")
    return " ".join(sentences)


def _source(record: RunRecord) -> str:
    checkpoint = record.checkpoint
    if checkpoint is None:
        return "--"
    origin: str = checkpoint.origin
    if origin == "hub":
        origin = "from HF Hub" + (f"@{checkpoint.revision[:12]}" if checkpoint.revision else "")
    return f"{code_span(checkpoint.name)} ({origin})"


def _commit(record: RunRecord) -> str:
    environment = record.environment
    name = environment.git_tag or (environment.git_commit or "")[:7]
    return code_span(name + ("-dirty" if environment.git_dirty else "")) if name else "—"


def _scored_labels(tasks: Iterable[str]) -> list[str]:
    """The scored splits of tasks: mnli is trained once and scored as mnli-m and mnli-mm."""
    return [
        label
        for task in tasks
        for label in ([split.label for split in TASKS[task].eval_splits] if task in TASKS else [task])
    ]


def _in_order(labels: Iterable[str]) -> list[str]:
    """Labels in the order of the user's log, unknown ones last."""
    order = list(score_names())
    return sorted(labels, key=lambda label: order.index(label) if label in order else len(order))


def _score_name(label: str) -> str:
    return score_names().get(label, label.upper())


def _head_name(head: str) -> str:
    return "".join(part.capitalize() for part in head.split("_"))


def code_span(name: str) -> str:
    """A name as a Markdown code span, fenced by more backticks than it holds."""
    longest = max((len(run) for run in re.findall("`+", name)), default=0)
    return f"`{name}`" if not longest else f"{'`' * (longest + 1)} {name} {'`' * (longest + 1)}"


def _plain(text: str) -> str:
    return text.replace("<", "&lt;")


def _url(url: str) -> str:
    return url.replace(" ", "%20").replace("(", "%28").replace(")", "%29")
