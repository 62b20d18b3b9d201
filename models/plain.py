"""Plain encoders as yardsticks: encoders of transformers under the same tasks and protocol as a concept model.

Loading is strict. transformers fills whatever it does not find with random numbers and says so in a log that few read;
here every weight of the encoder has to come from the file, and every weight of the file has to find its place, but for
those that `NEW`, `HEADS` and `BUFFERS` name. What became of each is in the report.
"""

import copy
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from .checkpoints import NEW_WEIGHTS, LoadReport, without_remarks
from .plain_config import check_settings, read_config
from .plain_inputs import check_positions
from .weight_files import CheckpointError, UnfitError, find_weight_files
from .weights import StoredWeights, Weights, first_line, read_weights, some

# Parts of the encoder itself that may be new: the pooler, which a masked language model is trained without.
NEW = re.compile(r"pooler\.")
# What a file may hold beyond the encoder, by the names of transformers: heads of pretraining and of other tasks, the
# pooler where the classifier has none;
HEADS = re.compile(
    r"(cls|lm_head|predictions|sop_classifier|mlm_head|lm_predictions|mask_predictions|vocab_transform"
    r"|vocab_layer_norm|vocab_projector|generator_predictions|generator_lm_head|discriminator_predictions"
    r"|qa_outputs|classifier|score|pre_classifier|(\w+\.)?pooler|head|decoder|fit_denses?)\..+"
)
# buffers that are computed, and a table that a config with relative positions has switched off.
BUFFERS = re.compile(
    r"(\w+\.)?(embeddings\.)?(position_ids|token_type_ids)|.*rotary_emb\.inv_freq"
    r"|(deberta|esm)\.embeddings\.position_embeddings\.weight"
)
# Settings of a stranger's config that are about its own task or its own use, and what they are here.
OWN_SETTINGS = {
    **dict.fromkeys(("output_attentions", "output_hidden_states", "torchscript"), False),
    "return_dict": True,
    "attn_implementation": None,
}


@without_remarks()
def load_plain_classifier(
    path: Path, num_labels: int, *, random_start: bool = False
) -> tuple[PreTrainedModel, LoadReport]:
    """An encoder with the classification head that transformers gives it, in fp32.

    The last layer is always new: even where an old one has the same shape, its classes may mean something else.

    Args:
        path: folder of the encoder, or of a model fine-tuned on another task. No code of its own is run.
        num_labels: classes; 1 is regression.
        random_start: keep the random initialisation, for comparison.

    Raises:
        CheckpointError: its weights are not those of the encoder that its config describes.
        UnfitError: it is no encoder of text, or stored in a form that is not read.
    """
    raw = read_config(path)
    kind: Any = CONFIG_MAPPING[raw["model_type"]]
    cls: type[PreTrainedModel] = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[kind]  # type: ignore[assignment]
    notes = check_settings(raw, cls, path)
    try:
        config = _task_config(path, num_labels)
        expected = _outline(cls, config)
        last = _last_layer(cls, config, expected)
    except Exception as error:  # transformers raises anything for a config that a stranger wrote
        raise CheckpointError(f"{path}: config.json describes no encoder: {first_line(error)}") from error
    _check_size(expected, path)
    if random_start:
        model = cls(config).float()
        return model, LoadReport([], sorted(model.state_dict()), [])
    stored = read_weights(path)
    weights, renamed = _without_prefix(stored, cls.base_model_prefix, expected, path)
    notes = [*renamed, *notes]
    if "auto_map" in raw:
        notes.append("its own code is not run: the model is that of transformers")
    kept = {name: tensor for name, tensor in weights.items() if name not in last}
    model, found = _fill(cls, config, kept, path)
    new, unplaced = {*found["missing_keys"], *last}, {*found["unexpected_keys"], *_unsaid(model, kept)}
    _check_strict(new, unplaced, found["mismatched_keys"], cls.base_model_prefix, path)
    _check_once(kept, unplaced, expected.keys() - new, path)
    _check_types(model, weights, cls.base_model_prefix, path)
    _check_filled(model, new, path)
    check_positions(model, path)
    dropped = sorted(unplaced | (weights.keys() & last))
    return model, LoadReport(sorted({*expected} - new), sorted(new), dropped, stored.precision, notes)


def check_plain(path: Path) -> LoadReport:
    """What loading a plain encoder for a task of two classes makes of its weights.

    Raises:
        CheckpointError: as in `load_plain_classifier`.
    """
    return load_plain_classifier(path, 2)[1]


def _task_config(path: Path, num_labels: int) -> PreTrainedConfig:
    """The encoder's config with the task of ours in place of the one that it was fine-tuned on, if it was."""
    labels = {number: f"LABEL_{number}" for number in range(num_labels)}
    return AutoConfig.from_pretrained(
        path,
        local_files_only=True,
        trust_remote_code=False,
        num_labels=num_labels,
        id2label=labels,
        label2id={name: number for number, name in labels.items()},
        problem_type="regression" if num_labels == 1 else "single_label_classification",
        dtype=torch.float32,
        **OWN_SETTINGS,
    )


def _outline(cls: type[PreTrainedModel], config: PreTrainedConfig) -> Weights:
    """The weights that a config asks for, without memory: it may ask for terabytes."""
    with torch.device("meta"):
        return cls(config).state_dict()


def _last_layer(cls: type[PreTrainedModel], config: PreTrainedConfig, expected: Weights) -> set[str]:
    """The weights whose shape depends on the number of classes."""
    other = copy.deepcopy(config)
    other.num_labels = (config.num_labels or 0) + 1
    shapes = {name: tensor.shape for name, tensor in _outline(cls, other).items()}
    return {name for name, tensor in expected.items() if shapes[name] != tensor.shape}


def _check_size(expected: Weights, path: Path) -> None:
    required = sum(tensor.numel() for tensor in expected.values())
    stored = sum(file.stat().st_size for file in find_weight_files(path).files)
    if required > stored + NEW_WEIGHTS:  # a weight takes a byte at least
        raise CheckpointError(f"{path}: the config asks for {required:,} weights, its files hold {stored:,} bytes")


def _without_prefix(stored: StoredWeights, base: str, expected: Weights, path: Path) -> tuple[Weights, list[str]]:
    """The weights without what a training put in front of the encoder's own names, such as `model.` or `student.`.

    The prefix is what stands before most of the encoder's names. One that is itself the name of a family is no prefix:
    roberta's weights fit a bert in shape, and mean something else.
    """
    names = {name.removeprefix(f"{base}.") for name in expected if name.startswith(f"{base}.")}
    counted = Counter(prefix for name in stored.tensors if (prefix := _prefix(name, names)) is not None)
    prefix = counted.most_common(1)[0][0] if counted else ""
    foreign = prefix.removesuffix(f"{base}.") if f".{prefix}".endswith(f".{base}.") else prefix
    if not foreign:
        return dict(stored.tensors), list(stored.notes)
    if family := next((part for part in foreign.split(".") if part in CONFIG_MAPPING_NAMES and part != base), None):
        raise CheckpointError(f"{path}: its weights are those of a {family}, its config is of another family")
    found = [name for name in stored.tensors if name.startswith(foreign)]
    weights = {name.removeprefix(foreign): tensor for name, tensor in stored.tensors.items()}
    if len(weights) < len(stored.tensors):
        raise CheckpointError(f"{path}: has weights twice, with and without {foreign}")
    return weights, [*stored.notes, f"removed {foreign} from the names of {len(found):,} weights"]


def _prefix(name: str, known: set[str]) -> str | None:
    """What stands before the longest end of a name that is known; None where no end of it is."""
    starts = [0, *(match.end() for match in re.finditer(r"\.", name))]
    return next((name[:start] for start in starts if name[start:] in known), None)


def _fill(
    cls: type[PreTrainedModel], config: PreTrainedConfig, weights: Weights, path: Path
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model as transformers loads it, which knows the older names of each family, and its account of the names."""
    try:
        loaded: Any = cls.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        return loaded[0], loaded[1]
    except Exception as error:  # as above
        raise CheckpointError(f"{path}: transformers cannot load it: {first_line(error)}") from error


def _unsaid(model: PreTrainedModel, weights: Weights) -> set[str]:
    """The weights that found no place without a word in transformers' account, since it expects them in old files."""
    expected, base = model.state_dict(), model.base_model_prefix
    ignored = model._keys_to_ignore_on_load_unexpected or ()
    return {
        name
        for name in weights
        if name not in expected
        and f"{base}.{name}" not in expected
        and (BUFFERS.fullmatch(name) or any(re.search(pattern, name) for pattern in ignored))
    }


def _check_strict(new: set[str], unplaced: set[str], mismatched: Any, base: str, path: Path) -> None:
    """Refuse an encoder of which a part would be random, or a file of which a part would be ignored."""
    inside = {name for name in new if name.startswith(f"{base}.")}
    missing = {name for name in inside if not NEW.match(name.removeprefix(f"{base}."))}
    left_over = {name for name in unplaced if not HEADS.fullmatch(name) and not BUFFERS.fullmatch(name)}
    wrong = {str(entry[0] if isinstance(entry, tuple) else entry) for entry in mismatched}
    problems = {
        "weights of another shape than its config says": wrong,
        "weights are missing": missing,
        "weights without a place": left_over,
    }
    found = [f"{what} ({len(names):,}): {some(names)}" for what, names in problems.items() if names]
    if left_over and not missing and not wrong:
        fix = "fix: if the encoder computes nothing with them, save it without them"
        raise UnfitError(f"{path}: {'; '.join(found)}; {fix}")
    if found:
        raise CheckpointError(f"{path}: {'; '.join(found)}")


def _check_once(weights: Weights, unplaced: set[str], filled: set[str], path: Path) -> None:
    """Refuse two weights for one place, such as x.gamma beside x.weight: transformers takes either without a word."""
    if (more := len(weights) - len(unplaced) - len(filled)) > 0:
        raise CheckpointError(
            f"{path}: weights twice, under different names ({more:,}): {some(weights.keys() - unplaced - filled)}"
        )


def _check_filled(model: PreTrainedModel, new: set[str], path: Path) -> None:
    """Refuse matrices of zeros, which no training leaves: a save that went wrong does, as one of a sharded model."""
    linear = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    state = model.state_dict()
    empty = [name for name in (f"{name}.weight" for name in linear) if name not in new and not state[name].any()]
    if empty:
        raise CheckpointError(f"{path}: weights are all zero ({len(empty):,}): {some(empty)}")


def _check_types(model: PreTrainedModel, weights: Weights, base: str, path: Path) -> None:
    state = model.state_dict()
    for name, tensor in weights.items():
        place = state.get(name, state.get(f"{base}.{name}"))
        if place is not None and place.is_floating_point() != tensor.is_floating_point():
            raise CheckpointError(f"{path}: {name} is of type {tensor.dtype}, which it cannot be in this model")
