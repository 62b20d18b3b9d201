"""Plain encoders of transformers as yardsticks: the same tasks and protocol as for a concept model."""

from pathlib import Path

from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from .checkpoints import CheckpointError, LoadReport

# The last layer belongs to its task, and another task may have another number of classes.
TASK_LAYERS = ("classifier.", "score.", "logits_proj.", "sequence_summary.")


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
    try:
        if random_start:
            config = AutoConfig.from_pretrained(path, local_files_only=True, num_labels=num_labels)
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
            return model, LoadReport([], sorted(model.state_dict()), [])
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path, num_labels=num_labels, local_files_only=True, trust_remote_code=False, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: transformers cannot load it: {str(error).splitlines()[0]}") from error
    mismatched = {str(entry[0] if isinstance(entry, tuple) else entry) for entry in report["mismatched_keys"]}
    wrong = sorted(name for name in mismatched if not name.startswith(TASK_LAYERS))
    if wrong:
        raise CheckpointError(f"{path}: weights of another shape than its config says: {', '.join(wrong)}")
    new = sorted({*report["missing_keys"], *mismatched})
    loaded = sorted({*model.state_dict()} - {*new})
    return model, LoadReport(loaded, new, sorted({*report["unexpected_keys"], *mismatched}))
