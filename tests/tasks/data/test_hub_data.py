"""Data sets and tokenizers from a Hub over real HTTP, and again from what was downloaded when the Hub is gone."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import HubStandIn

READ = """
import sys
from tasks.store.home import cogito_home
from tasks.data.sources import find_dataset, find_tokenizer, tokenizer_fingerprint
from tasks.data.splits import open_split
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
def hub() -> Iterator[HubStandIn]:
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
