"""Plain encoders as yardsticks: encoders of transformers under the same tasks and protocol as a concept model."""

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from .bounds import check_config
from .checkpoints import NEW_WEIGHTS, CheckpointError, LoadReport, first_line

# Layers that belong to a task: another task may have another number of classes.
TASK_LAYERS = ("classifier.", "score.", "logits_proj.", "sequence_summary.")


def check_plain(path: Path) -> None:
    """Compare the weights that a plain encoder's config asks for with the size of its files, without building it.

    Raises:
        CheckpointError: transformers does not know it, or it asks for far more weights than the folder holds.
    """
    try:
        check_config(json.loads((path / "config.json").read_text(encoding="utf-8")), strict=False)
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers raises anything for a config that a stranger wrote
        raise CheckpointError(f"{path}: config.json describes no encoder: {first_line(error)}") from error
    required = sum(parameter.numel() for parameter in model.parameters())
    stored = sum(file.stat().st_size for file in path.iterdir() if file.suffix in (".safetensors", ".bin"))
    if required > stored + NEW_WEIGHTS:  # a weight takes a byte at least
        raise CheckpointError(f"{path}: the config asks for {required:,} weights, its files hold {stored:,} bytes")


def load_plain_classifier(
    path: Path, num_labels: int, *, random_start: bool = False
) -> tuple[PreTrainedModel, LoadReport]:
    """An encoder with the classification head that transformers gives it.

    Args:
        path: folder of the encoder, or of a model fine-tuned on another task. No code of its own is run.
        num_labels: classes; 1 is regression.
        random_start: keep the random initialisation, for comparison.

    Raises:
        CheckpointError: transformers cannot load it, or weights other than the last layer's do not fit.
    """
    check_plain(path)
    local = {"num_labels": num_labels, "local_files_only": True}
    try:
        if random_start:
            config = AutoConfig.from_pretrained(path, **local)
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
            return model, LoadReport([], sorted(model.state_dict()), [])
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path, **local, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: transformers cannot load it: {first_line(error)}") from error
    mismatched = {str(entry[0] if isinstance(entry, tuple) else entry) for entry in report["mismatched_keys"]}
    wrong = sorted(name for name in mismatched if not name.startswith(TASK_LAYERS))
    if wrong:
        raise CheckpointError(f"{path}: weights of another shape than its config says: {', '.join(wrong)}")
    new = sorted({*report["missing_keys"], *mismatched})
    loaded = sorted({*model.state_dict()} - {*new})
    return model, LoadReport(loaded, new, sorted({*report["unexpected_keys"], *mismatched}))
