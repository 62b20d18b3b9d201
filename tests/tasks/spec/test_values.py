"""How written values are read: the same in a file, by `--set` and by `--grid`, and never as another value."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from command import ROOT
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from tasks.errors import UserError
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.grid import expand
from tasks.spec.reading import build_spec, load_spec
from tasks.spec.values import Plain, read_flag, read_number, read_text, read_whole

# A spelling, what it is as a whole number, and as a number; a text: what the refusal says.
NUMBERS: list[tuple[str, int | str, float | str]] = [
    ("0", 0, 0.0),
    ("-0", 0, 0.0),
    ("+5", 5, 5.0),
    ("20.0", 20, 20.0),
    ("5.", 5, 5.0),
    ("1e3", 1000, 1000.0),
    ("1E+3", 1000, 1000.0),
    ("0x1F", 31, 31.0),
    ("0o10", 8, 8.0),
    ("9007199254740993", 9007199254740993, 9007199254740992.0),
    ("1e-3", "fix: write 0 or 1", 0.001),
    ("3e-4", "fix: write 0 or 1", 0.0003),
    (".5", "fix: write 0 or 1", 0.5),
    ("1.5", "fix: write 1 or 2", 1.5),
    ("-1.5", "fix: write -2 or -1", -1.5),
    ("1.000", "fix: write 1000 or 1", 1.0),
    ("010", "fix: write 10 or 0o10", "fix: write 10 or 0o10"),
    ("-010", "fix: write -10", "fix: write -10"),
    ("08", "fix: write 8", "fix: write 8"),
    ("00", "fix: write 0", "fix: write 0"),
    ("010.5", "octal", "fix: write 10.5"),
    ("0b101", "fix: write 5", "fix: write 5"),
    ("1_000", "fix: write 1000", "fix: write 1000"),
    ("0_1", "fix: write 1", "fix: write 1"),
    ("1,000", "fix: write 1000", "fix: write 1000 or 1.000"),
    ("1 000", "fix: write 1000", "fix: write 1000"),
    ("1'000", "fix: write 1000", "fix: write 1000"),
    ("0,1", "allowed: a whole number", "fix: write 0.1"),
    ("5%", "a fraction", "fix: write 0.05"),
    ("50 %", "a fraction", "fix: write 0.5"),
    ("10k", "fix: write 10000", "fix: write 10000"),
    ("1.5M", "fix: write 1500000", "fix: write 1500000"),
    ("512MB", "no unit", "no unit"),
    ("20 epochs", "no unit", "no unit"),
    ("1:30", "base 60", "base 60"),
    ("1:30:00.5", "base 60", "base 60"),
    (".inf", "finite", "finite"),
    ("-.INF", "finite", "finite"),
    (".NaN", "finite", "finite"),
    ("nan", "finite", "finite"),
    ("1e400", "64 bits", "64 bits"),
    ("1e-400", "64 bits", "64 bits"),
    ("1e999999999", "64 bits", "64 bits"),
    ("9" * 500, "500 characters", "500 characters"),
    ("\N{MINUS SIGN}5", "fix: write -5", "fix: write -5"),
    ("\N{FULLWIDTH DIGIT ONE}2", "fix: write 12", "fix: write 12"),
    ("2024-01-01", "a whole number", "a number"),
    ("1/3", "a whole number", "a number"),
    ("yes", "a whole number", "a number"),
    ("true", "a whole number", "a number"),
    ("", "a whole number", "a number"),
    ("1e", "a whole number", "a number"),
]


def outcome(read: Callable[[Any], Any], value: Any) -> Any:
    """What a reader makes of a value: its result, or the message of its refusal."""
    try:
        return read(value)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(("text", "whole", "number"), NUMBERS, ids=lambda value: ascii(value)[:30])
def test_numbers(text: str, whole: int | str, number: float | str) -> None:
    for read, kind, expected in ((read_whole, int, whole), (read_number, float, number)):
        for spelling in (text, Plain(text)):
            got = outcome(read, spelling)
            if isinstance(expected, str):
                assert isinstance(got, str) and expected in got, got
            else:
                assert type(got) is kind and got == expected and str(got) != "-0.0"


@pytest.mark.parametrize("value", [True, None, [], {}, ["1"], {"a": 1}])
def test_what_is_no_scalar_is_no_number(value: Any) -> None:
    for read in (read_whole, read_number):
        with pytest.raises(ValueError, match="allowed: a"):
            read(value)


def test_truth_values() -> None:
    for text in ("true", "True", "TRUE", True):
        assert read_flag(text) is True
    for text in ("false", "False", "FALSE", False):
        assert read_flag(text) is False
    for text, fix in {"yes": "true", "On": "true", "1": "true", "no": "false", "off": "false", "0": "false"}.items():
        with pytest.raises(ValueError, match=f"allowed: true or false; fix: write {fix}$"):
            read_flag(Plain(text))
    for other in (1, 0, None, "tRUE", "maybe", 1.0, []):
        with pytest.raises(ValueError, match="allowed: true or false"):
            read_flag(other)


TEXTS = [
    "2024",
    "0123",
    "1234567",
    "1e10",
    "0001",
    "no",
    "off",
    "yes",
    "2024-01-01",
    "1:30",
    "1_000",
    ".inf",
    "0x1F",
    "a",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_what_was_written(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"name: a\ndata: {{config: {text}, revision: {text}}}\n", encoding="utf-8")
    quoted = load_spec(file, [f'data.split="{text}"', f"data.text_column={text}"]).data
    assert (quoted.config, quoted.revision, quoted.split, quoted.text_column) == (text,) * 4
    assert type(quoted.config) is str


def test_a_name_may_look_like_something_else(tmp_path: Path) -> None:
    for name in ("2024", "no", "1e3", "0123"):
        (tmp_path / "a.yaml").write_text(f"name: {name}\ndata: {{}}\n")
        assert load_spec(tmp_path / "a.yaml").name == name


def test_true_and_nothing_are_texts_in_quotes_alone() -> None:
    for text in ("true", "FALSE"):
        with pytest.raises(ValueError, match=f"fix: write '{text}' in quotes"):
            read_text(Plain(text))
        assert read_text(text) == text
    for text in ("", "  "):
        with pytest.raises(ValueError, match="allowed: a text"):
            read_text(text)
    start = {"name": "a", "data": {}}
    for text in ("None", "none", "NONE"):
        for key in ("data.revision", "training.max_steps", "evaluation.head", "model.tie_word_embeddings"):
            with pytest.raises(UserError, match=f"--set {key}: got {text}; fix: write null, or '{text}' in quotes"):
                build_spec(start, [f"{key}={text}"], "a")
        assert build_spec(start, [f"data.revision='{text}'"], "a").data.revision == text
    for text in ("null", "~", "Null", "NULL", ""):
        assert build_spec(start, [f"data.revision={text}", f"training.max_steps={text}"], "a").data.revision is None


# --- every key, every spelling ---


def leaves(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, type]]:
    """Every key that takes a scalar, dotted, with its type; below a mapping under one of its allowed names."""
    names = {"concept_losses": "combined", "per_task": "mrpc"}
    for key, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        kinds += [inner for kind in kinds for inner in get_args(kind)]
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        path = f"{before}{key}" + (f".{names[key]}" if key in names else "")
        if section is not None:
            yield from leaves(section, f"{path}.")
            continue
        scalar = next((kind for kind in kinds if kind in (bool, int, float)), str)
        if key not in ("name", "tasks"):
            yield path, scalar


LEAVES = dict(leaves(ExperimentSpec))
START = {"name": "a", "data": {}}


def core(text: str) -> Any:
    """What the core schema of YAML 1.2.2 (section 10.3.2) makes of an unquoted scalar."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if re.fullmatch("true|True|TRUE|false|False|FALSE", text):
        return text.lower() == "true"
    for pattern, base in (("[-+]?[0-9]+", 10), ("0o[0-7]+", 8), ("0x[0-9a-fA-F]+", 16)):
        if re.fullmatch(pattern, text):
            return int(text, base)
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        return float(text)
    if re.fullmatch(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", text):
        return float(text.replace(".", ""))
    return text


def value_at(spec: BaseModel, key: str) -> Any:
    place: Any = spec
    for part in key.split("."):
        place = place[part] if isinstance(place, dict) else getattr(place, part)
    return place


WORDS = [
    "yes",
    "no",
    "on",
    "off",
    "y",
    "n",
    "true",
    "True",
    "FALSE",
    "null",
    "~",
    "None",
    "none",
    ".inf",
    ".nan",
    "inf",
]
WORDS += ["2024-01-01", "1:30", "0x10", "0o17", "0b11", "10k", "512M", "5%", "0,1", "1,5", "1_000", "1e-3", "3E4", "+7"]
DIGITS = st.text("0123456789", min_size=1, max_size=4)
SPELLINGS = st.one_of(
    st.sampled_from(WORDS),
    st.text("0123456789.-+eExob_:%kM", min_size=1, max_size=7),
    st.builds(
        "{}{}{}".format, st.sampled_from(["", "-", "+", "0"]), DIGITS, st.sampled_from(["", ".0", ".5", "e1", "_0"])
    ),
)


@given(st.sampled_from(sorted(LEAVES)), SPELLINGS)
@example("training.seed", "010")
@example("training.max_steps", "10.000")
@example("data.config", "0001")
@example("objective.concept_losses.combined", "1:30")
def test_every_key_reads_what_the_core_schema_and_a_person_read_or_refuses(key: str, text: str) -> None:
    try:
        spec = build_spec(START, [f"{key}={text}"], "a")
    except UserError as error:
        assert f"--set {key}" in str(error) or "a: " in str(error)
        return
    got, meant = value_at(spec, key), core(text)
    if meant is None:
        assert got is None
    elif LEAVES[key] is str:
        assert got == text and type(got) is str and not isinstance(meant, bool)
    else:
        assert type(got) is LEAVES[key] and type(meant) is not str and got == meant
        assert isinstance(meant, bool) == (LEAVES[key] is bool)
        assert not re.match("[-+]?0[0-9]", text), "a person may read octal"


def documented() -> list[list[str]]:
    """The rows of the table in docs/spec.md."""
    lines = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]


@pytest.mark.parametrize("row", documented(), ids=lambda row: row[0])
def test_the_document_says_how_a_value_is_read(row: list[str]) -> None:
    written, *told = row
    keys = ("training.max_steps", "objective.concept_losses.combined", "model.use_bixt", "data.split")
    for key, expected in zip(keys, told, strict=True):
        if expected == "refused":
            with pytest.raises(UserError, match=key):
                build_spec(START, [f"{key}={written}"], "a")
        else:
            got = value_at(build_spec(START, [f"{key}={written}"], "a"), key)
            assert repr(got) == (repr(written.strip('"')) if expected == "the text" else expected.capitalize())


@given(SPELLINGS)
def test_every_fix_of_a_number_is_read(text: str) -> None:
    for read in (read_whole, read_number):
        message = outcome(read, text)
        if isinstance(message, str) and (fix := re.search("; fix: write (.*)", message)):
            for spelling in fix[1].split(" or "):
                assert not isinstance(outcome(read, spelling), str), message


def test_there_are_keys_of_every_type() -> None:
    assert len(LEAVES) > 65 and set(LEAVES.values()) == {bool, int, float, str}
    for key, text, value in (("training.learning_rate", "1e-3", 0.001), ("training.max_steps", "1e3", 1000)):
        assert value_at(build_spec(START, [f"{key}={text}"], "a"), key) == value
    assert build_spec(START, ["model.use_bixt=True"], "a").model.use_bixt is True


@pytest.mark.parametrize("text", ["010", "1:30", "1_000", "yes", "1.5", "0,1", "5%", "10k", ".inf"])
def test_a_file_set_and_grid_say_the_same(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("name: a\ndata: {}\n")
    said = []
    for ask in (
        lambda: load_spec(file, [f"training.seed={text}"]),
        lambda: expand([file], [], [f"training.seed=[1, '{text}']"]),
        lambda: (file.write_text(f"name: a\ndata: {{}}\ntraining:\n  seed: {text}\n"), load_spec(file)),
    ):
        with pytest.raises(UserError) as caught:
            ask()
        said.append(str(caught.value).partition("seed: ")[2])
    assert len(set(said)) == 1 and "allowed: a whole number" in said[0]


def test_what_a_grid_reads_is_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("name: a\ndata: {}\n")
    specs = expand([file], [], ["data.revision=[0123, 1e10]", "training.learning_rate=[1e-3, 3e-4]"])
    assert [(spec.data.revision, spec.training.learning_rate) for spec in specs] == [
        ("0123", 0.001),
        ("0123", 0.0003),
        ("1e10", 0.001),
        ("1e10", 0.0003),
    ]
    assert specs[0].name == "a_revision0123_learning_rate1e-3"
