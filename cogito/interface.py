"""The functions of `import cogito` that name a run as well as a folder, which `models/` cannot.

torch is imported inside functions: reading a log does without it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.checkpoints import finding
from tasks.store.home import StrPath, cogito_home
from tasks.store.run_names import run_called

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from models.text_encoder import TextEncoder


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
        device: default a GPU where there is one, else the CPU; COGITO_DEVICE chooses as for jobs.

    Raises:
        CheckpointError, UserError: as `load_checkpoint`; also for a tokenizer that does not fit, and for a GPU that
            torch cannot use.
    """
    from models import text_encoder
    from tasks.jobs.devices import visible_devices

    return text_encoder.load_encoder(_place(checkpoint), tokenizer, device or visible_devices()[0].kind)


def _place(checkpoint: StrPath) -> StrPath:
    """The folder of the checkpoint of a run; any other name as it is."""
    home = cogito_home()
    run = None if Path(checkpoint).is_dir() else run_called(str(checkpoint), home)
    return finding.resolve_checkpoint(run.run_id, home).folder if run else checkpoint
