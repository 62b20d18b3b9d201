"""The table of stages: one row for each step of the DAG, in order. The record, the report and Prefect's tasks read it.

A new stage takes three places: its row here, its task in `tasks/stages.py`, its call in `flows/`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tasks.errors import unknown_name

Kind = Literal["training", "evaluation"]


@dataclass(frozen=True)
class Stage:
    """One step of the DAG.

    Attributes:
        kinds: the kinds of run that have this stage.
        recorded: when its outcome stands in the record: `always`, on `failure` alone, or `never`, as the stage comes
            after the record.
    """

    kinds: tuple[Kind, ...] = ("training", "evaluation")
    recorded: Literal["always", "failure", "never"] = "always"


# By name, which is the key in a record's `stages`.
STAGES: dict[str, Stage] = {
    "data": Stage(kinds=("training",)),
    "pretraining": Stage(kinds=("training",)),
    "publishing": Stage(kinds=("training",)),
    "finetuning": Stage(),
    "analysis": Stage(),
    "scores": Stage(recorded="failure"),
    "row": Stage(recorded="never"),
    "report": Stage(recorded="never"),
}


def check_stage(name: str) -> str:
    """The name of a stage.

    Raises:
        KeyError: the table has no such row, which is a mistake in the code.
    """
    if name not in STAGES:
        raise KeyError(unknown_name("stage", name, STAGES))
    return name


def recorded_stages(kind: Kind) -> list[str]:
    """The stages whose outcome the record of a finished run holds, in order."""
    return [name for name, row in STAGES.items() if kind in row.kinds and row.recorded == "always"]


def in_order(names: Iterable[str]) -> list[str]:
    """Names in the order of the table; those of another version, which it lacks, come last."""
    order = {name: place for place, name in enumerate(STAGES)}
    return sorted(names, key=lambda name: order.get(name, len(order)))
