"""What `cogito explain` says, and the JSON schema: every key, in agreement with what is read."""

from typing import Any

import pytest
import yaml
from command import ROOT
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from test_values import LEAVES

from tasks.errors import UserError
from tasks.spec.base import Spec
from tasks.spec.evaluation import CellProtocol
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.explaining import NAME, all_keys, find_keys, spec_schema
from tasks.spec.pretraining import TrainingSpec
from tasks.spec.reading import build_spec, load_spec
from tasks.spec.yaml_text import parse_yaml, spec_text

SCHEMA = Draft202012Validator(spec_schema())
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


def test_every_key_has_a_meaning_of_its_own() -> None:
    for section in Spec.__subclasses__():
        assert section.__doc__
        for name, field in section.model_fields.items():
            is_section = name in ExperimentSpec.model_fields and section is ExperimentSpec and name != "name"
            if section is not CellProtocol and not is_section:
                assert field.description and field.description[-1] != ".", (section.__name__, name)
                assert "None" not in field.description, "an experiment file says null"


def test_every_key_is_explained() -> None:
    paths = [key.path for key in all_keys()]
    assert len(paths) == len(set(paths))
    for leaf in LEAVES:
        path = leaf.replace("per_task.mrpc", f"per_task.{NAME}").removesuffix(".combined")
        (key,) = [key for key in all_keys() if key.path == path]
        assert key.meaning and key.allowed and key.default
    assert {key.path for key in all_keys() if not key.allowed} == {
        *(name for name in ExperimentSpec.model_fields if name != "name"),
        "evaluation.per_task",
    }


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("training.learning_rate", "a number, above 0, at most 1; default 0.0003"),
        ("training.max_steps", "a whole number, at least 1, at most 1,000,000,000 or null; default null"),
        ("model.use_bixt", "true or false; default false"),
        ("data.blocks", "one of concat, document; default concat"),
        ("data.text_column", "a text; default text"),
        ("name", "a text; required"),
        ("evaluation.per_task.mrpc.seeds", "a whole number, at least 1, at most 100 or null; default null"),
        ("evaluation.tasks", "wnli; default [mrpc, qqp, mnli, stsb, paws]"),
        ("objective.concept_losses", "to a number, above 0, at most 1,000,000; default {}"),
        ("objective.loss_weighting", "one of fixed, kendall_gal, learnable"),
    ],
)
def test_a_key_is_explained(name: str, lines: str) -> None:
    (key,) = find_keys(name)
    assert lines in str(key).splitlines()[2]


def test_a_section_a_name_and_a_mistake() -> None:
    section = find_keys("training")
    assert [key.path for key in section][:2] == ["training", "training.epochs"]
    assert len(section) == 1 + len(TrainingSpec.model_fields)
    assert [key.path for key in find_keys("epochs")] == [
        "training.epochs",
        "evaluation.epochs",
        "evaluation.per_task.NAME.epochs",
    ]
    for mistake, near in (
        ("trainig", "training"),
        ("training.epoch", "training.epochs"),
        ("block_token", "block_tokens"),
    ):
        with pytest.raises(UserError, match=f"did you mean '{near}'"):
            find_keys(mistake)
    with pytest.raises(UserError, match="unknown key 'x': fix: `cogito explain` lists every key"):
        find_keys("x")


# --- the schema ---


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_schema_holds_for_every_experiment(path: Any) -> None:
    assert not list(SCHEMA.iter_errors(yaml.safe_load(path.read_text(encoding="utf-8"))))
    assert not list(SCHEMA.iter_errors(load_spec(path).model_dump(mode="json")))


WRONG: list[dict[str, Any]] = [
    {},
    {"training": {"epochs": 0}},
    {"training": {"max_steps": 0}},
    {"training": {"epoch": 1}},
    {"training": {"learning_rate": 1.5}},
    {"model": {"variant": "perceiver"}},
    {"model": {"hidden_size": 8.5}},
    {"evaluation": {"tasks": ["mrcp"]}},
    {"evaluation": {"per_task": {"mrpc": {"epochs": 0}}}},
    {"objective": {"concept_losses": {"combined": 0}}},
    {"objective": {"concept_losses": {"combine": 1}}},
    {"name": "a b"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_the_schema_refuses_what_is_refused(wrong: dict[str, Any]) -> None:
    raw = {"name": "a", "data": {}, **wrong} if wrong else {"name": "a"}
    assert list(SCHEMA.iter_errors(raw))
    with pytest.raises(ValidationError):
        ExperimentSpec.model_validate(raw)


NUMERIC = sorted(key for key, kind in LEAVES.items() if kind in (int, float))
VALUES = st.one_of(
    st.integers(-2, 2), st.sampled_from([7, 8, 49, 50, 100, 101, 65_536, 65_537, 10**6, 10**6 + 1, 10**9, 2**31])
)


@given(st.sampled_from(NUMERIC), VALUES)
def test_the_schema_has_the_bounds_that_are_read(key: str, value: int) -> None:
    raw: dict[str, Any] = {"name": "a", "data": {}}
    *parents, last = key.split(".")
    place = raw
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    try:
        build_spec(raw, [], "a")
    except UserError as error:
        bounds = ("greater than", "less than")
        assert bool(list(SCHEMA.iter_errors(raw))) == any(bound in str(error) for bound in bounds), error
    else:
        assert not list(SCHEMA.iter_errors(raw))


# --- what `cogito show` prints ---

ODD = st.sampled_from(
    ["none", "None", "null", "~", "no", "true", "0123", "1e10", "1:30", "2024-01-01", "a: b", "#a", "é", "- a"]
)


@given(
    ODD | st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1).filter(lambda text: text.strip()),
    st.floats(1e-300, 1),
)
def test_what_is_shown_is_read_as_the_same(text: str, number: float) -> None:
    raw = {
        "name": "a",
        "data": {"revision": text, "split": text, "config": None},
        "training": {"learning_rate": number},
        "objective": {"concept_losses": {"combined": number}},
        "evaluation": {"per_task": {"mrpc": {"epochs": number}}},
    }
    spec = ExperimentSpec.model_validate(raw)
    again, _ = parse_yaml(spec_text(spec.model_dump(mode="json")), "shown")
    assert build_spec(again, [], "shown") == spec
