"""Experiment files: every mistake at once with its place and the nearest name, overrides, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
from command import ROOT
from factories import make_corpus
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from models.family import HEADS, VARIANTS
from tasks.data.task_data import PreparedTask
from tasks.errors import UserError
from tasks.runs.claiming import evaluation_identity
from tasks.spec.benchmarks import TASKS
from tasks.spec.experiment import ExperimentSpec, pretraining_part
from tasks.spec.reading import build_spec, load_spec

EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
SMALL = "name: small\ndata: {}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my.yaml"


def mistakes(file: Path, text: str, *overrides: str) -> list[str]:
    """The lines of the message for a file with mistakes, without its folder."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_spec(file, overrides)
    return str(caught.value).replace(f"{file.parent}/", "").splitlines()


def make_spec(text: str = SMALL, *overrides: str, **sections: Any) -> ExperimentSpec:
    return build_spec({"name": "small", "data": {}, **sections}, overrides, text)


# --- good files ---


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_is_valid_and_named_as_its_file(path: Path) -> None:
    assert load_spec(path).name == path.stem


def test_there_are_experiments() -> None:
    assert ROOT / "experiments/quickstart.yaml" in EXPERIMENTS


def test_a_file_states_only_what_differs(file: Path) -> None:
    file.write_text("name: small\ndata: {dataset: ada/tales}\ntraining: {epochs: 3}\n")
    spec = load_spec(file)
    assert (spec.data.dataset, spec.training.epochs) == ("ada/tales", 3)
    assert spec.training.global_batch_size == 512 and spec.model.variant == "perceiver_mlm"
    assert spec.max_sequence_length == spec.data.block_tokens == 512
    assert spec.run_prefix == "perceiver_mlm_H512L6C128"


def all_parts(model: BaseModel) -> list[BaseModel]:
    parts = [value for value in dict(model).values() if isinstance(value, BaseModel)]
    return [model, *(part for child in parts for part in all_parts(child))]


def test_a_spec_is_frozen_throughout() -> None:
    spec = make_spec()
    assert len(all_parts(spec)) == 9
    for part in all_parts(spec):
        field = next(iter(type(part).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, field, None)


def test_every_field_of_a_spec_survives_its_own_json() -> None:
    spec = make_spec(evaluation={"tasks": ["mrpc"], "per_task": {"mrpc": {"epochs": 2.5}}})
    assert ExperimentSpec.model_validate(spec.model_dump(mode="json")) == spec


# --- mistakes ---


def test_all_mistakes_of_a_file_come_at_once_with_line_and_nearest_name(file: Path) -> None:
    text = """\
name: wrong
data:
  blocks: concatt
trainig:
  epochs: 1
model:
  variant: perceiver_mml
  hidden_siz: 3
  num_layers: 0
objective:
  concept_losses:
    vicregg: 0.1
evaluation:
  tasks: [mrpc, qqqp]
  head: via_decodr
  per_task:
    mrpc: {epoch: 3}
    stbs: {epochs: 3}
training:
  schedule: cosin
"""
    found = mistakes(file, text)
    expected = [
        ("my.yaml:3: data.blocks", "'concatt'; allowed: 'concat' or 'document'; did you mean 'concat'?"),
        ("my.yaml:4: trainig", "did you mean 'training'? allowed: analysis, data, evaluation, model, name, "),
        ("my.yaml:7: model.variant", f"did you mean 'perceiver_mlm'? allowed: {', '.join(sorted(VARIANTS))}"),
        ("my.yaml:8: model.hidden_siz", "unknown key 'hidden_siz': did you mean 'hidden_size'? allowed: att"),
        ("my.yaml:9: model.num_layers", "got 0; input should be greater than or equal to 1"),
        ("my.yaml:12: objective.concept_losses.vicregg", "did you mean 'vicreg'?"),
        ("my.yaml:14: evaluation.tasks.1", f"did you mean 'qqp'? allowed: {', '.join(sorted(TASKS))}"),
        ("my.yaml:15: evaluation.head", f"did you mean 'via_decoder'? allowed: {', '.join(sorted(HEADS))}"),
        ("my.yaml:17: evaluation.per_task.mrpc.epoch", "did you mean 'epochs'? allowed: epochs, learning_rate,"),
        ("my.yaml:18: evaluation.per_task.stbs", "unknown task 'stbs': did you mean 'stsb'?"),
        ("my.yaml:20: training.schedule", "did you mean 'cosine'?"),
    ]
    assert len(found) == len(expected), "\n".join(found)
    for place, what in expected:
        assert [line for line in found if line.startswith(f"{place}: ") and what in line], (place, what, found)


def test_an_empty_file_lacks_name_and_data(file: Path) -> None:
    for text in ("", "# nothing\n", "---\n"):
        assert mistakes(file, text) == [f"my.yaml: {key}: is required and missing" for key in ("name", "data")]
    assert mistakes(file, "name: a\n") == ["my.yaml: data: is required and missing"]


def test_repeated_keys_are_refused_with_their_lines(file: Path) -> None:
    text = "name: a\nname: b\ndata: {}\nmodel:\n  variant: perceiver_mlm\n  variant: weighted_mlm\n"
    assert mistakes(file, text) == [
        "my.yaml:2: key 'name' stands twice; fix: keep one",
        "my.yaml:6: key 'variant' stands twice; fix: keep one",
    ]


@pytest.mark.parametrize("text", ["name: a\ndata: &x {}\n", "name: &x a\ndata: {dataset: *x}\n", "name: a\ndata: *x\n"])
def test_anchors_are_refused(file: Path, text: str) -> None:
    (line,) = mistakes(file, text)
    assert line.startswith(f"my.yaml:{1 if 'name: &x' in text else 2}: YAML anchors and aliases are not allowed")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ndata: {\n", "my.yaml:3: not valid YAML"),
        ("name: a\n  data: {}\n", "my.yaml:2: not valid YAML"),
        ("? {a: b}\n: c\n", "my.yaml:1: not valid YAML"),
        ("- a\n", "my.yaml: is no experiment; allowed: a mapping with the keys name, data, model"),
        ("just text", "my.yaml: is no experiment"),
        ("name: a b\ndata: {}\n", "my.yaml:1: name: got 'a b'"),
        ("name: ../a\ndata: {}\n", "my.yaml:1: name: got '../a'"),
        ("a" * 200_001, "my.yaml: has 200001 characters"),
        ("name: a\ndata: {}\ntraining: {epochs: .nan}\n", "my.yaml:3: training.epochs: got '.nan'; it must be finite"),
    ],
)
def test_what_is_no_experiment_is_said_in_one_line(file: Path, text: str, message: str) -> None:
    (line,) = mistakes(file, text)
    assert line.startswith(message)


def test_a_file_that_is_not_there_or_no_text(file: Path) -> None:
    with pytest.raises(UserError, match=r"my\.yaml: cannot be read \(.*\); fix: "):
        load_spec(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        load_spec(file)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"tokenizer": "a/b", "train_tokenizer_vocab_size": 500}}, "exclude each other; fix: state one"),
        (
            {"model": {"hidden_size": 100, "num_attention_heads": 3}},
            "num_attention_heads 3 must divide hidden_size 100",
        ),
        ({"model": {"hidden_size": 64, "token_embedding_dim": 65}}, "token_embedding_dim 65 must not exceed"),
        ({"model": {"token_embedding_dim": 64, "tie_word_embeddings": True}}, "tie_word_embeddings needs"),
        ({"model": {"max_sequence_length": 256}}, "max_sequence_length 256 is smaller than data.block_tokens 512"),
        ({"data": {"block_tokens": 64}}, "evaluation.max_length 128 exceeds the model's 64 positions; fix: "),
        ({"objective": {"loss_weighting": "learnable"}}, "would be ignored without concept_losses"),
        ({"evaluation": {"tasks": ["mrpc", "mrpc"]}}, "tasks names a task twice"),
        ({"model": {"num_decoder_layers": 2}}, "num_decoder_layers would be ignored by perceiver_mlm; allowed with: "),
        ({"objective": {"t_min": 0.2}}, "objective.t_min would be ignored: variant perceiver_mlm reads mask_prob"),
        (
            {"model": {"variant": "diffusion"}, "objective": {"mask_prob": 0.3}},
            "objective.mask_prob would be ignored: variant diffusion reads t_min, elbo; fix: drop it",
        ),
        ({"evaluation": {"tasks": ["mrpc"], "zero_shot": True}}, "zero_shot would be ignored"),
        (
            {"evaluation": {"tasks": ["rte"], "per_task": {"rte": {"start_from": "mnli"}}}},
            "start_from mnli of rte needs mnli among tasks; fix: add it",
        ),
        (
            {"evaluation": {"tasks": ["qqp", "mnli"], "per_task": {"qqp": {"start_from": "mnli"}}}},
            "start_from mnli of qqp: allowed for mrpc, stsb, rte",
        ),
        ({"evaluation": {"tasks": ["cola"], "data": "made"}}, "data made has no cola; allowed: mrpc, qqp"),
        ({"evaluation": {"tasks": ["cola"], "head": "sentence_pair"}}, "head sentence_pair compares two texts; cola"),
        ({"evaluation": {"tasks": ["mrpc"], "per_task": {"qqp": {}}}}, "per_task names qqp, which tasks does not list"),
        ({"evaluation": {"head": "weighted_decoder"}}, "allowed: via_decoder, weighted_pooling"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        make_spec(**sections)
    assert message in str(caught.value)


def test_untied_by_itself_where_the_widths_differ() -> None:
    assert make_spec().model.tied
    assert not make_spec(model={"token_embedding_dim": 64}).model.tied
    assert not make_spec(model={"tie_word_embeddings": False}).model.tied
    assert not make_spec(model={"variant": "weighted_mlm"}).model.tied


# --- --set ---


def test_overrides_win_and_may_reach_any_depth(file: Path) -> None:
    file.write_text("name: a\ndata: {}\ntraining: {epochs: 3}\nmodel:\n")
    overrides = [
        "model.hidden_size=64",
        "evaluation.tasks=[mrpc, mnli]",
        "evaluation.per_task.mrpc.seeds=3",
        "data.held_out_split=null",
        "data.dataset=a=b",
        "training.epochs = 0.25",
    ]
    spec = load_spec(file, overrides)
    assert spec.training.epochs == 0.25 and spec.model.hidden_size == 64
    assert spec.evaluation.tasks == ("mrpc", "mnli") and spec.evaluation.per_task["mrpc"].seeds == 3
    assert spec.data.held_out_split is None and spec.data.dataset == "a=b"


def test_mistakes_of_overrides_are_placed_there(file: Path) -> None:
    text = "name: a\ndata: {}\nmodel: {num_layers: 0}\n"
    found = mistakes(file, text, "training.epoch=1", "model.variant=percever_mlm")
    assert len(found) == 3
    assert any(
        line.startswith("--set training.epoch: unknown key") and "did you mean 'epochs'?" in line for line in found
    )
    assert any(line.startswith("--set model.variant: ") and "did you mean 'perceiver_mlm'?" in line for line in found)
    assert any(line.startswith("my.yaml:3: model.num_layers: ") for line in found)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "--set training.epochs: must be KEY=VALUE"),
        ("=1", "--set =1: must be KEY=VALUE"),
        ("training=[", "--set training=[: the value is not valid YAML"),
        ("name.first=1", "--set name.first: name has no keys of its own"),
        ("trainig.epochs=1", "trainig: unknown key 'trainig': did you mean 'training'?"),
    ],
)
def test_a_malformed_override_is_said_in_one_line(file: Path, override: str, message: str) -> None:
    (line,) = mistakes(file, SMALL, override)
    assert message in line


# --- what follows from a spec ---


def test_a_task_takes_its_own_settings_then_the_section_then_its_row() -> None:
    section = {"tasks": ["mrpc", "qqp"], "seeds": 2, "first_seed": 7, "per_task": {"mrpc": {"epochs": 2, "seeds": 3}}}
    evaluation = make_spec(evaluation=section).evaluation
    mrpc, qqp = evaluation.for_task("mrpc"), evaluation.for_task("qqp")
    assert (mrpc.epochs, mrpc.seeds) == (2, (7, 8, 9))
    assert (qqp.epochs, qqp.seeds) == (TASKS["qqp"].epochs, (7, 8))
    general = make_spec(evaluation={**section, "epochs": 5, "learning_rate": 0.1}).evaluation
    assert (general.for_task("qqp").epochs, general.for_task("mrpc").epochs) == (5, 2)
    assert general.for_task("mrpc").learning_rate == 0.1


def asked(spec: ExperimentSpec, data: str = "same") -> str:
    """The identity of a spec's evaluation on given task data."""
    tasks = {name: PreparedTask(name, data, Path(), 100, 3000) for name in spec.evaluation.tasks}
    return evaluation_identity(spec, spec.head, make_corpus(), tasks)


def test_what_is_asked_follows_the_data_and_not_how_it_is_written() -> None:
    plain = make_spec()
    assert asked(plain, "full") != asked(plain, "a subset")
    explicit = make_spec(evaluation={"head": plain.head, "tasks": list(reversed(plain.evaluation.tasks))})
    assert asked(explicit) == asked(make_spec())


@given(st.sampled_from(["evaluation.learning_rate=0.5", "evaluation.seeds=9", "analysis.max_samples=5"]))
def test_evaluation_settings_do_not_change_what_is_pretrained(override: str) -> None:
    plain, changed = make_spec(), make_spec(SMALL, override)
    assert pretraining_part(plain) == pretraining_part(changed)
    assert asked(plain) != asked(changed)


@given(st.sampled_from(["training.seed=1", "model.num_layers=3", "objective.mask_prob=0.3"]))
def test_training_settings_change_what_is_pretrained_and_not_what_is_asked_of_it(override: str) -> None:
    plain, changed = make_spec(), make_spec(SMALL, override)
    assert pretraining_part(plain) != pretraining_part(changed)
    assert asked(plain) == asked(changed)


@given(st.sampled_from(["publish.store=local", "tracking.wandb=online", "name=other"]))
def test_publishing_tracking_and_name_are_no_part_of_an_identity(override: str) -> None:
    plain, changed = make_spec(), make_spec(SMALL, override)
    assert pretraining_part(plain) == pretraining_part(changed)
    assert asked(plain) == asked(changed)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epochs=.inf", "training.epochs"),
        ("training.epochs=true", "got 'true'; allowed: a number"),
        ("training.mixed_precision=no", "got 'no'; allowed: 'auto', 'fp32' or 'bf16'"),
        ("objective.concept_losses={combined: -1}", "greater than 0"),
        ("trainig.epochs=1", "--set trainig.epochs: trainig: unknown key 'trainig': did you mean 'training'"),
    ],
)
def test_values_that_would_fail_later_are_refused(tmp_path: Path, override: str, expected: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("name: x\ndata: {}\n", encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(expected)):
        load_spec(path, [override])


def test_mistakes_between_sections_come_together(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        "name: x\ndata: {block_tokens: 64}\nmodel: {num_concepts: 1}\nobjective: {concept_losses: {combined: 0.1}}\n"
        "evaluation: {head: weighted_decoder}\n",
        encoding="utf-8",
    )
    with pytest.raises(UserError) as caught:
        load_spec(path)
    for part in ("evaluation.max_length 128", "num_concepts of at least 2", "weighted_decoder does not fit"):
        assert part in str(caught.value)


def test_an_empty_section_is_one_of_defaults_and_merge_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("name: x\ndata:\nmodel:\n", encoding="utf-8")
    assert load_spec(path) == load_spec(path, ["model.num_layers=6"])
    path.write_text("name: x\ndata: {<<: {block_tokens: 64}}\n", encoding="utf-8")
    with pytest.raises(UserError, match="merge"):
        load_spec(path)


def test_losses_that_cannot_reach_their_best_are_warned_of() -> None:
    losses = {"concept_losses": {"orthogonality": 0.1, "soft_orthogonality": 0.1}}
    assert make_spec(model={"hidden_size": 64, "num_concepts": 64}, objective=losses).warnings == []
    both = make_spec(model={"hidden_size": 64, "num_concepts": 256}, objective=losses).warnings
    assert [text.split(":")[0] for text in both] == [
        "objective.concept_losses.orthogonality",
        "objective.concept_losses.soft_orthogonality",
    ]
    # 65 vectors in 64 dimensions can keep every cosine at 1/64.
    (hard,) = make_spec(model={"hidden_size": 64, "num_concepts": 65}, objective=losses).warnings
    assert "of 65 concepts of width 64 some pair has a cosine of at least 0.02, above 0.0" in hard


def test_a_mistake_of_the_whole_spec_is_not_said_of_a_set() -> None:
    raw = {"name": "a", "data": {"dataset": "a/b", "block_tokens": 32}, "evaluation": {"max_length": 64}}
    with pytest.raises(UserError) as caught:
        build_spec(raw, ["training.seed=1"], "a.yaml")
    assert str(caught.value).startswith("a.yaml: evaluation.max_length 64 exceeds")
