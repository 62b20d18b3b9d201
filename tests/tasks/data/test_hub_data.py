"""Data sets and tokenizers from a Hub over real HTTP, and again from what was downloaded when the Hub is gone."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import Fault, HubStandIn

from tasks.store.home import Home

READ = """
import sys
from tasks.store.home import cogito_home
from tasks.data.sources import find_dataset, find_tokenizer
from tasks.data.splits import open_split
from tasks.data.tokenizers import tokenizer_fingerprint
home = cogito_home()
source = find_dataset("lab/texts", home, None)
rows = [row for _, row in open_split(source, None, "train", ["text"], home)]
print(source.revision, len(rows), rows[0]["text"], tokenizer_fingerprint(find_tokenizer("lab/words", home, None)))
"""


def parquet(texts: list[str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), buffer)
    return buffer.getvalue()


@pytest.fixture
def hub(home: Home) -> Iterator[HubStandIn]:
    with HubStandIn() as stand_in:
        stand_in.add("datasets/lab/texts", {"data/train-00000-of-00001.parquet": parquet(["one", "two", "three"])})
        stand_in.add("lab/words", {"tokenizer.json": b"{}", "tokenizer_config.json": json.dumps({"a": 1}).encode()})
        yield stand_in


def test_from_the_hub_and_then_without_it(hub: HubStandIn, tmp_path: Path) -> None:
    first = hub.run(READ, tmp_path)
    assert first.returncode == 0, first.stderr
    revision, count, text, fingerprint = first.stdout.split()
    assert (revision, count, text) == (hub.repos["datasets/lab/texts"].commits[-1][0], "3", "one")
    gone = hub.run(READ, tmp_path, HF_HUB_OFFLINE="1")
    assert gone.returncode == 0, gone.stderr
    assert gone.stdout.split() == [revision, count, text, fingerprint]
    assert "cannot be reached" in gone.stderr


def test_a_new_commit_is_another_source(hub: HubStandIn, tmp_path: Path) -> None:
    first = hub.run(READ, tmp_path).stdout.split()
    hub.add("datasets/lab/texts", {"data/train-00000-of-00001.parquet": parquet(["four"])})
    second = hub.run(READ, tmp_path)
    assert second.returncode == 0, second.stderr
    assert second.stdout.split()[0] != first[0] and second.stdout.split()[1:3] == ["1", "four"]


READ_ALL = """
import sys
from tasks.errors import UserError
from tasks.store.home import cogito_home
from tasks.data.sources import find_dataset
from tasks.data.splits import open_split
home = cogito_home()
try:
    source = find_dataset("lab/parts", home, None, *sys.argv[1:])
    print(source.fingerprint, *(row["text"] for _, row in open_split(source, None, "train", ["text"], home)))
except UserError as error:
    print(error)
"""
PARTS = {f"data/train-{name}.parquet": parquet([name]) for name in ("a", "b", "c")}


@pytest.fixture
def parts(hub: HubStandIn) -> HubStandIn:
    """A Hub with a data set of three files."""
    hub.add("datasets/lab/parts", PARTS)
    return hub


def test_a_download_that_was_cut_off_is_not_read_offline(parts: HubStandIn, tmp_path: Path) -> None:
    """The client, offline, takes whatever files there are: two of three, under the identity of all."""
    parts.fault(Fault("train-c", status=404, left=99))
    first = parts.run(READ_ALL, tmp_path)
    assert " a b" not in first.stdout, first.stdout
    assert len(list(tmp_path.rglob("train-*.parquet"))) >= 1, "a part did arrive"
    gone = parts.run(READ_ALL, tmp_path, HF_HUB_OFFLINE="1")
    assert gone.stdout.startswith("data set 'lab/parts': was not downloaded in full"), gone.stdout + gone.stderr
    parts.heal()
    assert parts.run(READ_ALL, tmp_path).stdout.split()[1:] == ["a", "b", "c"]
    assert parts.run(READ_ALL, tmp_path, HF_HUB_OFFLINE="1").stdout.split()[1:] == ["a", "b", "c"]


def test_a_branch_that_moved_is_another_source(parts: HubStandIn, tmp_path: Path) -> None:
    old = parts.repos["datasets/lab/parts"].commits[-1][0]
    first = parts.run(READ_ALL, tmp_path, "main").stdout.split()
    parts.add("datasets/lab/parts", {"data/train-a.parquet": parquet(["d"])})
    second = parts.run(READ_ALL, tmp_path, "main").stdout.split()
    assert (first[1:], second[1:]) == (["a", "b", "c"], ["d", "b", "c"]) and first[0] != second[0]
    assert parts.run(READ_ALL, tmp_path, old).stdout.split() == first, "a commit stays what it is"


@pytest.mark.parametrize(
    ("files", "fault", "says"),
    [
        (PARTS, Fault("resolve", status=403, headers={"X-Error-Code": "GatedRepo"}, left=99), "is gated; fix: accept"),
        ({"parts.py": b"import datasets\n"}, None, "has a loading script, parts.py"),
    ],
)
def test_a_data_set_that_is_not_for_all(
    hub: HubStandIn, tmp_path: Path, files: dict[str, bytes], fault: Fault | None, says: str
) -> None:
    hub.add("datasets/lab/parts", files)
    if fault is not None:
        hub.fault(fault)
    done = hub.run(READ_ALL, tmp_path)
    assert done.stdout.startswith(f"data set 'lab/parts': {says}"), done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1 and done.stdout.count("fix:") == 1


def test_other_formats_beside_it_are_told(hub: HubStandIn, tmp_path: Path) -> None:
    hub.add("datasets/lab/parts", PARTS | {"raw/all.csv": b"text,n\nx,1\n"})
    done = hub.run(READ_ALL, tmp_path)
    assert done.stdout.split()[1:] == ["a", "b", "c"], done.stderr
    assert "1 of its files would not be read, the first is raw/all.csv" in done.stderr


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("find_dataset('lab/none', home, None)", "no such data set"),
        ("find_dataset('lab/texts', home, None, 'v9')", "no revision 'v9'"),
        ("open_split(find_dataset('lab/texts', home, None), None, 'test', ['text'], home)", "test"),
        ("open_split(find_dataset('lab/texts', home, None), None, 'train', ['body'], home)", "allowed: text"),
        ("find_tokenizer('lab/none', home, None)", "no such repository"),
    ],
)
def test_what_the_hub_does_not_have(hub: HubStandIn, tmp_path: Path, call: str, expected: str) -> None:
    code = (
        READ.split("source =")[0]
        + f"""
from tasks.errors import UserError
try:
    {call}
except UserError as error:
    print(error)
"""
    )
    done = hub.run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
