"""The table of downstream tasks. A new task is one row here.

Example: `cogito ls tasks`
"""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Split:
    """A split that is scored.

    Attributes:
        name: its name in the data set.
        label: its name in figures and files: `mnli-m`.
        title: its name in the log: `MNLI-m`.
        class_counts: examples of each class in the published split, in the order of the labels; a single count for
            regression. Only `log check` uses them: scores count the examples that they see.
        log_pattern: regular expression of its name in hand-written logs, without groups; empty: its title, whose
            hyphen may be missing.
    """

    name: str
    label: str
    title: str
    class_counts: tuple[int, ...]
    log_pattern: str = ""

    @property
    def examples(self) -> int:
        """The number of examples in the published split."""
        return sum(self.class_counts)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One downstream task.

    Attributes:
        dataset, config: Hub name, and configuration if there are several.
        text_columns: one or two text columns.
        labels: class names in the order of their ids; empty for regression.
        score_range: lowest and highest label of a regression.
        metrics: keys of `tasks.scores.metrics.METRICS`; the first is the primary one, by which the epoch is chosen.
        eval_splits: the splits that are reported; the model is fine-tuned once for all of them.
        selection_split: the split on which the epoch is chosen; None: a held-out part of train.
        epochs: fine-tuning epochs of the log's protocol.
        source: publications to cite.
        may_start_from: tasks whose fine-tuned model it may start from (`per_task.NAME.start_from`).
        made_sizes: examples in each split of its generated stand-in, which `tasks.data.made_tasks` makes; empty: it
            has none.
    """

    name: str
    dataset: str = "nyu-mll/glue"
    config: str | None = None
    text_columns: tuple[str, ...]
    label_column: str = "label"
    labels: tuple[str, ...]
    score_range: tuple[float, float] | None = None
    metrics: tuple[str, ...]
    eval_splits: tuple[Split, ...]
    selection_split: str | None = None
    epochs: int
    source: str
    may_start_from: tuple[str, ...] = ()
    made_sizes: dict[str, int] = field(default_factory=dict)

    @property
    def is_regression(self) -> bool:
        """Whether the labels are numbers."""
        return not self.labels

    @property
    def label_range(self) -> tuple[float, float]:
        """The lowest and the highest label."""
        return self.score_range or (0.0, len(self.labels) - 1.0)

    @property
    def is_pair(self) -> bool:
        """Whether an example has two texts."""
        return len(self.text_columns) == 2

    @property
    def is_similarity(self) -> bool:
        """Whether the cosine of two texts can answer it, zero-shot: a number for a pair."""
        return self.is_regression and self.is_pair

    @property
    def primary_metric(self) -> str:
        """The metric by which the epoch is chosen, and which stands in the log."""
        return self.metrics[0]

    @property
    def num_outputs(self) -> int:
        """The number of outputs of a head: one per class, or one number."""
        return len(self.labels) or 1


TASKS: dict[str, Task] = {
    row.name: row
    for row in [
        Task(
            name="mrpc",
            config="mrpc",
            text_columns=("sentence1", "sentence2"),
            labels=("not_equivalent", "equivalent"),
            metrics=("f1", "accuracy"),
            eval_splits=(Split("validation", "mrpc", "MRPC", (129, 279)),),
            epochs=20,
            source="Dolan & Brockett 2005; GLUE, Wang et al. 2019",
            may_start_from=("mnli",),
            made_sizes={"train": 2000, "validation": 500},
        ),
        Task(
            name="qqp",
            config="qqp",
            text_columns=("question1", "question2"),
            labels=("not_duplicate", "duplicate"),
            metrics=("f1", "accuracy"),
            eval_splits=(Split("validation", "qqp", "QQP", (25_545, 14_885)),),
            epochs=3,
            source="Quora Question Pairs 2017; GLUE, Wang et al. 2019",
            made_sizes={"train": 1800, "validation": 600},
        ),
        Task(
            name="mnli",
            config="mnli",
            text_columns=("premise", "hypothesis"),
            labels=("entailment", "neutral", "contradiction"),
            metrics=("accuracy",),
            eval_splits=(
                Split(
                    "validation_matched", "mnli-m", "MNLI-m", (3_479, 3_123, 3_213), r"MNLI[-_ ]?\(?(?:matched|m)\b\)?"
                ),
                Split(
                    "validation_mismatched",
                    "mnli-mm",
                    "MNLI-mm",
                    (3_463, 3_129, 3_240),
                    r"MNLI[-_ ]?\(?(?:mismatched|mm)\b\)?",
                ),
            ),
            epochs=3,
            source="Williams et al. 2018; GLUE, Wang et al. 2019",
            made_sizes={"train": 2600, "validation_matched": 500, "validation_mismatched": 500},
        ),
        Task(
            name="stsb",
            config="stsb",
            text_columns=("sentence1", "sentence2"),
            labels=(),
            score_range=(0.0, 5.0),
            metrics=("pearson", "spearman"),
            eval_splits=(Split("validation", "stsb", "STS-B", (1_500,)),),
            epochs=20,
            source="Cer et al. 2017; GLUE, Wang et al. 2019",
            may_start_from=("mnli",),
            made_sizes={"train": 2600, "validation": 500},
        ),
        Task(
            name="paws",
            dataset="google-research-datasets/paws",
            config="labeled_final",
            text_columns=("sentence1", "sentence2"),
            labels=("different", "paraphrase"),
            metrics=("accuracy", "f1"),
            eval_splits=(Split("test", "paws", "PAWS", (4_464, 3_536)),),
            selection_split="validation",
            epochs=5,
            source="Zhang, Baldridge & He 2019",
            made_sizes={"train": 2000, "validation": 400, "test": 600},
        ),
        Task(
            name="cola",
            config="cola",
            text_columns=("sentence",),
            labels=("unacceptable", "acceptable"),
            metrics=("matthews", "accuracy"),
            eval_splits=(Split("validation", "cola", "CoLA", (322, 721)),),
            epochs=20,
            source="Warstadt, Singh & Bowman 2019; GLUE, Wang et al. 2019",
        ),
        Task(
            name="sst2",
            config="sst2",
            text_columns=("sentence",),
            labels=("negative", "positive"),
            metrics=("accuracy",),
            eval_splits=(Split("validation", "sst2", "SST-2", (428, 444)),),
            epochs=5,
            source="Socher et al. 2013; GLUE, Wang et al. 2019",
        ),
        Task(
            name="qnli",
            config="qnli",
            text_columns=("question", "sentence"),
            labels=("entailment", "not_entailment"),
            metrics=("accuracy",),
            eval_splits=(Split("validation", "qnli", "QNLI", (2_702, 2_761)),),
            epochs=3,
            source="Rajpurkar et al. 2016; GLUE, Wang et al. 2019",
        ),
        Task(
            name="rte",
            config="rte",
            text_columns=("sentence1", "sentence2"),
            labels=("entailment", "not_entailment"),
            metrics=("accuracy",),
            eval_splits=(Split("validation", "rte", "RTE", (146, 131)),),
            epochs=20,
            source="Dagan et al. 2006 and its successors; GLUE, Wang et al. 2019",
            may_start_from=("mnli",),
        ),
        Task(
            name="wnli",
            config="wnli",
            text_columns=("sentence1", "sentence2"),
            labels=("not_entailment", "entailment"),
            metrics=("accuracy",),
            eval_splits=(Split("validation", "wnli", "WNLI", (40, 31)),),
            epochs=20,
            source="Levesque, Davis & Morgenstern 2012; GLUE, Wang et al. 2019",
        ),
        Task(
            name="sick_r",
            dataset="RobZamp/sick",
            text_columns=("sentence_A", "sentence_B"),
            label_column="relatedness_score",
            labels=(),
            score_range=(1.0, 5.0),
            metrics=("pearson", "spearman"),
            eval_splits=(Split("test", "sick_r", "SICK-R", (4_906,), r"SICK[-_ ]?R"),),
            selection_split="validation",
            epochs=10,
            source="Marelli et al. 2014",
        ),
        Task(
            name="sick_e",
            dataset="RobZamp/sick",
            text_columns=("sentence_A", "sentence_B"),
            labels=("entailment", "neutral", "contradiction"),
            metrics=("accuracy",),
            eval_splits=(Split("test", "sick_e", "SICK-E", (1_404, 2_790, 712), r"SICK[-_ ]?E"),),
            selection_split="validation",
            epochs=10,
            source="Marelli et al. 2014",
        ),
    ]
}


def score_names() -> dict[str, str]:
    """The title of every score by its label, in the order of the tasks."""
    return {split.label: split.title for task in TASKS.values() for split in task.eval_splits}


def tasks_where(condition: Callable[[Task], bool]) -> list[str]:
    """The names of the tasks whose row meets a condition."""
    return [row.name for row in TASKS.values() if condition(row)]
