"""From a row of a log back to an experiment: what it states, what must be assumed, and whether a repetition agrees.

A row of ours leads to its record, which holds everything. An old row states little: the rest is taken from the one
file of `experiments/` that states the same, or from the defaults, and every value so assumed is listed. Example:
`cogito reproduce master_experiment_log.md#perceiver_mlm_H512L6C128_20260208_211633 --plan`
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.family import CONCEPT_LOSSES, HEADS, LOSS_WEIGHTINGS, VARIANTS
from tasks.errors import UserError, unknown_name
from tasks.log.check.document import SPLITS, Document, Row, head_in, scores_in
from tasks.log.experiment_log import is_missing
from tasks.review.comparisons import Comparison, Verdict
from tasks.review.rendering import delta_text, shown
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.grid import miniature
from tasks.spec.reading import build_spec, load_spec
from tasks.store.home import Home
from tasks.store.records import Result, first_mistake, load_record
from tasks.store.run_names import row_called

# What no hand-typed row states, so that its repetition can only be similar.
NEVER_STATED = (
    "random seeds of pretraining and fine-tuning",
    "number of processes and their micro-batches",
    "versions of the libraries",
    "the very texts: revision of the data set, order of its documents",
    "the code of that day: a variant of the same name may compute something else",
    "epoch or checkpoint that was scored",
    "number of seeds behind a score",
)
HUB_NAMES = {"minipile": "JeanKaddour/minipile"}
_SIZES = {"H": "hidden_size", "L": "num_layers", "C": "num_concepts", "D": "num_decoder_layers"}


SECTIONS = ("data", "model", "objective", "training", "evaluation")  # of a spec: those that decide a figure
OWN_RECORD = "its record"
Outcome = Literal["agrees", "differs", "undecided"]
OUTCOMES: dict[Verdict, Outcome] = {"within noise": "agrees", "better": "differs", "worse": "differs"}


class Agreement(Result):
    """Whether a repetition agrees with one figure of a row, and why."""

    figure: str
    stated: str
    repeated: str
    outcome: Outcome
    reason: str

    @property
    def text(self) -> str:
        """The outcome with its reason."""
        return f"{self.outcome}: {self.reason}"


@dataclass(frozen=True)
class Plan:
    """How a row can be repeated.

    Attributes:
        run_id, kind: of the row's run.
        spec: the experiment.
        source: where the spec comes from: OWN_RECORD, an experiment file, or the defaults.
        stated: what the row states, by key of the spec.
        assumed: what it does not state, by key, and the value taken for it.
        unrecoverable: what no row states.
        checkpoint: the pretraining that an evaluation row is of.
    """

    run_id: str
    kind: str
    spec: ExperimentSpec
    source: str
    stated: dict[str, Any]
    assumed: dict[str, Any]
    unrecoverable: tuple[str, ...]
    checkpoint: str | None

    @property
    def has_record(self) -> bool:
        """Whether the row's run lies here with its record and predictions, so that nothing is assumed."""
        return self.source == OWN_RECORD

    def facts(self) -> dict[str, Any]:
        """The plan ready for JSON, without the spec."""
        return {
            "row": self.run_id,
            "source": self.source,
            "stated": self.stated,
            "assumed": self.assumed,
            "unrecoverable": list(self.unrecoverable),
        }

    def lines(self) -> list[str]:
        """The plan in words."""
        lines = [f"{self.run_id}: repeated from {self.source}"]
        lines += [f"  stated by the row: {key} = {value}" for key, value in self.stated.items()]
        lines += [f"  assumed: {key} = {value}" for key, value in self.assumed.items()]
        lines += [f"  unrecoverable: {text}" for text in self.unrecoverable]
        return lines


def plan_reproduction(
    log: Path,
    name: str,
    home: Home,
    experiments: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    *,
    small: bool = False,
) -> Plan:
    """The experiment that repeats a row.

    Args:
        log: a Markdown log, ours or hand-typed.
        name: of the row: its run id, the beginning of it, or the name of its experiment.
        experiments: files that may state what the row leaves open.
        overrides: `key=value`, applied last.
        small: whether to repeat it as a miniature.

    Raises:
        UserError: there is no such row, or it states too little.
    """
    document = Document.read(log)
    rows = {row.run_id: row for row in document.rows if row.run_id}
    run_id = row_called(name, rows, home)
    if run_id is None:
        raise UserError(f"{log}: {unknown_name('row', name, rows)}")
    row = rows[run_id]
    if home.has_run(run_id):
        record = load_record(home.run(run_id))
        try:
            recorded = ExperimentSpec.model_validate(record.spec)
        except ValueError as error:
            raise UserError(
                f"run {run_id}: its record holds no experiment: {first_mistake(error)}; fix: name another row"
            ) from None
        spec = _changed(recorded, overrides, small, run_id)
        source = record.checkpoint.name if record.kind == "evaluation" and record.checkpoint else None
        if source is not None and not home.has_run(source):
            raise UserError(
                f"{run_id} evaluates {source}, which was not trained under {home.root}; "
                f"fix: `cogito evaluate {source}` and compare"
            )
        return Plan(run_id, record.kind, spec, OWN_RECORD, {}, {}, (), checkpoint=source)
    trained = row if row.kind == "training" else rows.get(row.checkpoint or "")
    if trained is None:
        raise UserError(
            f"{log}: {run_id} evaluates {row.checkpoint or 'an unnamed checkpoint'}, which has no row; "
            "fix: `cogito evaluate CHECKPOINT` with that checkpoint"
        )
    stated = _stated(trained) | _evaluation_stated(row)
    base, source = _base(stated, experiments)
    raw = _nested(stated, _shown(base) if base else {})
    raw["name"] = re.sub(r"_20\d{6}_\d{6}$", "", trained.run_id or "row")[:90] + "_again"
    spec = _changed(build_spec(raw, [], f"the row of {run_id}"), overrides, small, run_id)
    assumed = {
        key: value
        for key, value in _flat(spec.model_dump(mode="json")).items()
        if key not in stated and value not in (None, {}, [])
    }
    return Plan(run_id, row.kind, spec, source, stated, assumed, NEVER_STATED, row.checkpoint)


def agreements(comparison: Comparison) -> list[Agreement]:
    """Whether the repetition agrees with every figure of the row, within the interval of their difference."""
    rows = []
    for figure in comparison.figures:
        outcome = OUTCOMES.get(figure.verdict, "undecided")
        if figure.verdict == "undecided" and _rounds_to(figure.a, figure.b):
            outcome = "agrees"
        reason = figure.refused or delta_text(figure)
        if figure.verdict == "undecided":
            reason = f"difference {figure.delta:+.4g}, no interval is known"
        stated, repeated = shown(figure, figure.a), shown(figure, figure.b)
        rows.append(Agreement(figure=figure.name, stated=stated, repeated=repeated, outcome=outcome, reason=reason))
    return rows


def _rounds_to(stated: float | None, repeated: float | None) -> bool:
    """Whether a figure is the stated one to the digits that are stated."""
    if stated is None or repeated is None:
        return False
    # A float drops trailing zeros: rows give fractions to three digits at least, ranks to one
    digits = max(len(repr(round(stated, 8)).partition(".")[2]), 3 if abs(stated) <= 1 else 1)
    return abs(stated - repeated) <= 0.5 * 10**-digits


def _changed(spec: ExperimentSpec, overrides: Sequence[str], small: bool, name: str) -> ExperimentSpec:
    return miniature(spec, overrides) if small else build_spec(_shown(spec), overrides, name)


def _shown(spec: ExperimentSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_defaults=True)


def _stated(row: Row) -> dict[str, Any]:
    """What a training row states, by key of the spec."""
    name = re.sub(r"_20\d{6}_\d{6}$", "", row.run_id or "")
    variant = max(filter(name.startswith, VARIANTS), key=len, default=None)
    if variant is None:
        raise UserError(f"row {row.run_id}: names no variant; allowed: {', '.join(VARIANTS)}")
    stated: dict[str, Any] = {"model.variant": variant}
    if "bixt" in name:
        stated["model.use_bixt"] = True
    sizes = dict(re.findall(r"([HLCD])(\d+)", row.text("architecture").replace("*", " ")))
    sizes |= dict(re.findall(r"([HLCD])(\d+)", name.removeprefix(variant)))
    for letter, key in _SIZES.items():
        if letter in sizes and (letter != "D" or VARIANTS[variant].has_decoder_layers):
            stated[f"model.{key}"] = int(sizes[letter])
    data = row.text("pretraining_data").split("(")[0].strip(" *`")
    if not is_missing(data):
        stated["data.dataset"] = HUB_NAMES.get(data.casefold(), data)
    epochs = re.search(r"\d+(?:\.\d+)?", row.text("epochs"))
    if epochs:
        stated["training.epochs"] = float(epochs[0])
    return stated | _losses(row.text("concept_losses"))


def _losses(cell: str) -> dict[str, Any]:
    names = [part.strip(" `*") for part in re.split(r"\s\+\s|,\s", cell)]
    losses = [name for name in names if name in CONCEPT_LOSSES]
    if not losses:
        return {}
    fixed = next((re.search(r"fixed\s*=\s*([\d.,]+)", name) for name in names if name.startswith("fixed")), None)
    if fixed is None:
        weighting = next((name for name in names if name in LOSS_WEIGHTINGS), "fixed")
        return {"objective.concept_losses": dict.fromkeys(losses, 1.0), "objective.loss_weighting": weighting}
    weights = [float(weight) for weight in fixed[1].strip(",").split(",")]
    weights += weights[-1:] * (len(losses) - len(weights))
    return {"objective.concept_losses": dict(zip(losses, weights, strict=False)), "objective.loss_weighting": "fixed"}


def _evaluation_stated(row: Row) -> dict[str, Any]:
    """The tasks and the head of a row's scores, by key of the spec."""
    labels = [figure.task for figure in scores_in(row.text("key_scores"), row.at("key_scores"))]
    stated: dict[str, Any] = {}
    if labels:
        stated["evaluation.tasks"] = list(dict.fromkeys(SPLITS[label][0].name for label in labels))
    head = head_in(row.text("eval_type")) if row.kind == "evaluation" else None
    if head in HEADS:
        stated["evaluation.head"] = head
    return stated


def _base(stated: dict[str, Any], experiments: Sequence[Path]) -> tuple[ExperimentSpec | None, str]:
    """The one experiment file that states the same model, data, epochs and concept losses."""
    fitting = []
    for path in experiments:
        with suppress(UserError):  # a file with mistakes is no candidate; `cogito check` names them
            spec = load_spec(path, [])
            if _states_the_same(stated, _flat(spec.model_dump(mode="json"))):
                fitting.append((path, spec))
    if len(fitting) == 1:
        return fitting[0][1], f"{fitting[0][0].as_posix()}, which states the same"
    return None, "the defaults" + (f" ({len(fitting)} experiment files fit)" if fitting else "")


def _states_the_same(stated: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether an experiment has all that a row states of its training; learned weights of losses may differ."""
    wanted = {"model.use_bixt": False, "objective.concept_losses": {}, **stated}
    losses, own = wanted.pop("objective.concept_losses"), settings["objective.concept_losses"]
    same_losses = own == losses if stated.get("objective.loss_weighting") == "fixed" else list(own) == list(losses)
    return same_losses and all(
        settings.get(key) == value for key, value in wanted.items() if not key.startswith("evaluation.")
    )


def _flat(raw: dict[str, Any]) -> dict[str, Any]:
    """The SECTIONS of a spec as dotted keys; dictionaries inside a section stay whole."""
    return {f"{section}.{key}": value for section in SECTIONS for key, value in raw.get(section, {}).items()}


def _nested(flat: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as the sections of a spec, over those of `base`."""
    raw = {section: dict(part) if isinstance(part, dict) else part for section, part in base.items()}
    for key, value in flat.items():
        section, name = key.split(".")
        raw.setdefault(section, {})[name] = value
    return {"data": {}, **raw}
