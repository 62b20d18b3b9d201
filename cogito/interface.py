"""The functions of `import cogito` that turn what a user has at hand, names and paths, into what the rooms take.

torch is imported inside functions: reading a log does without it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.checkpoints import finding
from tasks.log import check, experiment_log
from tasks.log.check.finding import Finding
from tasks.review import comparisons, sides
from tasks.spec import reading
from tasks.spec.experiment import ExperimentSpec
from tasks.store.home import cogito_home
from tasks.store.run_names import run_called

if TYPE_CHECKING:
    import pandas
    import torch
    from transformers import PreTrainedModel

    from models.text_encoder import TextEncoder

StrPath = str | Path


def load_spec(path: StrPath, overrides: Sequence[str] = ()) -> ExperimentSpec:
    """The validated spec of an experiment file.

    Args:
        path: a YAML file.
        overrides: `key=value` changes, as `--set` takes them.

    Raises:
        UserError: with every mistake of the file, one a line.
    """
    return reading.load_spec(Path(path), overrides)


def load_checkpoint(checkpoint: StrPath) -> "PreTrainedModel":
    """A concept model on the CPU in eval mode, of earlier formats too.

    Args:
        checkpoint: a folder, a run (its id, the beginning of it, or the name of its experiment), or a Hub id
            `account/name[@revision]`.

    Raises:
        CheckpointError: it is not a whole checkpoint of a concept model.
        UserError: the run has no checkpoint, or the name stands for several runs.
    """
    from models import checkpoints

    return checkpoints.load_checkpoint(_place(checkpoint))


def load_encoder(
    checkpoint: StrPath, tokenizer: StrPath | None = None, device: "str | torch.device | None" = None
) -> "TextEncoder":
    """A checkpoint with its tokenizer as an encoder of texts.

    Args:
        checkpoint: as `load_checkpoint` takes it.
        tokenizer: folder or Hub id[@revision]; default the checkpoint's own.
        device: default a GPU where there is one, else the CPU.

    Raises:
        CheckpointError, UserError: as `load_checkpoint`; also for a tokenizer that does not fit.
    """
    from models import text_encoder

    return text_encoder.load_encoder(_place(checkpoint), tokenizer, device)


def _place(checkpoint: StrPath) -> StrPath:
    """The folder of the checkpoint of a run; any other name as it is."""
    home = cogito_home()
    run = None if Path(checkpoint).is_dir() else run_called(str(checkpoint), home)
    return finding.resolve_checkpoint(run.run_id, home).folder if run else checkpoint


def read_log(path: StrPath) -> "dict[str, pandas.DataFrame]":
    """The tables `training` and `evaluation` of a log as data frames with typed columns.

    Raises:
        UserError: there is no such file, or it is not UTF-8 text.
    """
    return experiment_log.read_log(Path(path))


def check_log(
    path: StrPath, *, against: StrPath | None = None, reports: StrPath | None = None, repository: StrPath | None = None
) -> list[Finding]:
    """What a log states that is impossible, contradicts itself or means too little, in the order of its lines.

    Args:
        against: another version of the same log.
        reports: a folder of Markdown files that state figures of the same runs.
        repository: a Git checkout that holds the tags and commits of the log.

    Raises:
        UserError: a file or folder cannot be read.
    """
    others = {"against": against, "reports": reports, "repository": repository}
    return check.check_log(Path(path), **{name: Path(place) for name, place in others.items() if place is not None})


def compare(a: str, b: str) -> comparisons.Comparison:
    """Two runs side by side: what differs, and the verdict on every figure that they share.

    Args:
        a: the baseline: a run (its id, the beginning of it, or its experiment), or a row as `LOG.md#RUN`.
        b: the run or row that is compared with it.

    Raises:
        UserError: there is no such run or row.
    """
    home = cogito_home()
    return comparisons.compare(sides.find_side(a, home), sides.find_side(b, home))
