"""Made-up experiment files, logs and checkpoints: whatever they hold, they are taken or refused by one message.

A few dozen in the ordinary tests; `pytest -m long tests/whole/test_fuzz.py --fuzz-seconds 600` goes on for ten minutes.
"""

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command import TINY
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import CheckpointError, load_checkpoint, read_weights, save_checkpoint
from models.configuration import ConceptConfig
from tasks.checkpoints.finding import resolve_checkpoint
from tasks.errors import UserError
from tasks.log.check import check_log
from tasks.log.experiment_log import export_log, find_tables, read_text, show_log, write_row
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.reading import load_spec
from tasks.store.home import Home
from tests.factories import make_record

# Of the processor, for one input.
SECONDS = 10
NUMBERS = (
    "0",
    "-1",
    "1",
    "0.5",
    "1e400",
    "-1e-400",
    ".nan",
    ".inf",
    "NaN",
    "Infinity",
    "9" * 30,
    "9" * 400,
    "0x10",
    "1_000",
    "0o7",
    "true",
    "yes",
    "null",
    "~",
    "''",
    "[]",
    "{}",
    "2024-02-30",
    "12:30:45",
    "1e5",
    "+.5",
)
MARKS = (
    "|",
    "||",
    "\\|",
    "`",
    "``",
    "```\n",
    "~~~\n",
    "<!--",
    "-->",
    "<br>",
    "**",
    "%",
    "\n",
    "\r\n",
    "\r",
    "\t",
    "\x00",
    "\ufeff",
    "\u2028",
    "\x85",
    "---|",
    "|---|---|\n",
    "- ",
    "# ",
    "> ",
    "    ",
    "](http://[::1",
    "](https://wandb.ai/a/b/runs/c)",
    "n ",
    "(",
    "n 1,000,",
    "2 seeds",
    "**MRPC:** 82.2%",
    "**STS-B P:** 0.627",
    "H512L6C128",
    "_20260101_000000",
    "at floor",
    "&a ",
    "*a",
    "!!x ",
    ": ",
    "? ",
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    "\\",
    "<<: ",
    "%YAML 1.1\n",
    "--- ",
    "... ",
    "@",
    "--output=x",
    "$(id)",
    "\u0660",
    "±",
    "−",
    "Δ",
    "99999999",
    "1/3",
    "15.9 / 128 (12.5%)",
)
PIECES = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(MARKS), st.text(max_size=8))
# Where, as a share of the text; how many characters go; what comes, and how often.
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from([0, 0, 1, 3, 20, 200]), PIECES, st.sampled_from([1, 1, 1, 2, 50])),
    max_size=8,
)
JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.floats(),
        st.text(max_size=6),
        st.integers(-3, 70),
        st.integers(),
        st.sampled_from([10**9, 2**31, 2**63, 10**18, -1, 0]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def edited(text: str, edits: list[tuple[float, int, str, int]]) -> str:
    for share, gone, piece, times in edits:
        place = int(share * len(text))
        text = text[:place] + piece * times + text[place + gone :]
    return text


def keys_of_specs() -> list[str]:
    found = []
    for section, field in ExperimentSpec.model_fields.items():
        inner = getattr(field.annotation, "model_fields", {})
        found += [f"{section}.{key}" for key in inner] or [section]
    return found


@st.composite
def specs(draw: st.DrawFn) -> bytes:
    """TINY with keys set to anything, then with pieces put anywhere."""
    raw = yaml.safe_load(TINY)
    for key, value in draw(st.dictionaries(st.sampled_from(keys_of_specs()), JSON_VALUES, max_size=3)).items():
        section, _, name = key.partition(".")
        if name:
            raw[section] = {**raw.get(section, {}), name: value}
        else:
            raw[section] = value
    text = edited(yaml.safe_dump(raw, allow_unicode=True), draw(EDITS))
    return text.encode("utf-8", "surrogatepass")


def good_log(folder: Path) -> str:
    path = folder / "good.md"
    path.unlink(missing_ok=True)
    write_row(path, make_record())
    write_row(path, make_record(kind="evaluation"))
    return path.read_text(encoding="utf-8")


def check_spec(content: bytes, folder: Path) -> None:
    path = folder / "spec.yaml"
    path.write_bytes(content)
    load_spec(path)


def check_a_log(edits: Any, folder: Path) -> None:
    path = folder / "log.md"
    path.write_bytes(edited(good_log(folder), edits).encode("utf-8", "surrogatepass"))
    for look in (show_log, check_log, lambda log: export_log(log, folder / "out.json")):
        try:
            look(path)
        except UserError:
            continue
    record = make_record(run_id="tsdae_H8L1C2_20260401_000000")
    write_row(path, record)
    assert sum(record.run_id in map(table.run_id, table.rows) for table in find_tables(read_text(path)).values()) == 1
    assert not write_row(path, record), "the same row twice changes nothing"


_CONFIG = ConceptConfig(
    vocab_size=20,
    hidden_size=8,
    num_concepts=2,
    num_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    max_sequence_length=8,
)
_FILES: dict[str, bytes] = {}


def good_files(folder: Path) -> dict[str, bytes]:
    if not _FILES:
        torch.manual_seed(0)
        save_checkpoint(ConceptModelForMaskedLM(_CONFIG), folder / "good")
        _FILES.update({path.name: path.read_bytes() for path in (folder / "good").iterdir()})
    return _FILES


CONFIGS = st.dictionaries(
    st.sampled_from([*_CONFIG.to_dict(), "architectures", "model_type", "run_id", "auto_map", "id2label", "dtype"]),
    JSON_VALUES,
    max_size=3,
)
FACTS = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "I64", "BOOL", "F4", "", 3]),
        "shape": JSON_VALUES,
        "data_offsets": JSON_VALUES | st.lists(st.integers(-1, 2**64), min_size=2, max_size=2),
    },
)
CHECKPOINTS = st.tuples(
    CONFIGS,
    EDITS,
    st.lists(st.tuples(st.integers(0, 60), FACTS), max_size=2),
    st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=9)), max_size=3),
    st.sampled_from([None, None, "config.json", "model.safetensors"]),
)


def check_a_checkpoint(changes: Any, folder: Path) -> None:
    """Its config with other values, its header with other facts, its bytes with others."""
    config, edits, facts, holes, spoilt = changes
    files = dict(good_files(folder))
    text = json.dumps(json.loads(files["config.json"]) | config)
    files["config.json"] = (edited(text, edits) if spoilt == "config.json" else text).encode("utf-8", "surrogatepass")
    weights = files["model.safetensors"]
    (length,) = struct.unpack("<Q", weights[:8])
    header = json.loads(weights[8 : 8 + length])
    for number, change in facts:
        header[list(header)[number % len(header)]].update(change)
    changed = json.dumps(header).encode()
    weights = struct.pack("<Q", len(changed)) + changed + weights[8 + length :]
    if spoilt == "model.safetensors":
        for share, bits in holes:
            place = int(share * len(weights))
            weights = weights[:place] + bits + weights[place + len(bits) :]
    files["model.safetensors"] = weights
    target = folder / "model"
    target.mkdir(exist_ok=True)
    for name, content in files.items():
        (target / name).write_bytes(content)
    resolve_checkpoint(str(target), Home(folder / "home"))
    load_checkpoint(target)


PICKLES = st.tuples(
    st.booleans(), st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0, 1, 4]), st.binary(max_size=9)), max_size=5)
)


def check_a_pickle(changes: Any, folder: Path) -> None:
    """The pickle of earlier code, an archive or the older bare form, with other bytes."""
    archive, holes = changes
    (folder / "pickled").mkdir(exist_ok=True)
    path = folder / "pickled" / "pytorch_model.bin"
    torch.save({"a": torch.zeros(3, 4), "b": torch.ones(2)}, path, _use_new_zipfile_serialization=archive)
    content = path.read_bytes()
    for share, gone, bits in holes:
        place = int(share * len(content))
        content = content[:place] + bits + content[place + gone :]
    path.write_bytes(content)
    for tensor in read_weights(path.parent).tensors.values():
        assert tensor.numel() * tensor.element_size() <= len(content)


KINDS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any, Path], None]]] = {
    "experiment files": (specs(), check_spec),
    "logs": (EDITS, check_a_log),
    "checkpoints": (CHECKPOINTS, check_a_checkpoint),
    "pickles": (PICKLES, check_a_pickle),
}


def never_crashes(kind: str, folder: Path) -> Callable[[], None]:
    strategy, check = KINDS[kind]

    @given(strategy)
    def run(made: Any) -> None:
        started = time.process_time()
        try:
            check(made, folder)
        except (UserError, CheckpointError) as error:
            assert str(error).strip(), "a refusal says why"
        assert time.process_time() - started < SECONDS

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_crashes(kind: str, tmp_path: Path, home: Home) -> None:
    never_crashes(kind, tmp_path)()


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_crashes_for_long(kind: str, tmp_path: Path, home: Home, request: pytest.FixtureRequest) -> None:
    until = time.monotonic() + request.config.getoption("--fuzz-seconds") / len(KINDS)
    run = settings(max_examples=200, phases=[Phase.generate, Phase.shrink])(never_crashes(kind, tmp_path))
    while time.monotonic() < until:
        run()
