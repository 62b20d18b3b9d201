"""Files of texts that `cogito encode` refuses."""

from pathlib import Path

import pytest
from bad_input import assert_refused
from bad_input import model as model
from bad_input import no_work_begins as no_work_begins
from bad_input import place as place

TEXTS: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.txt", b"", "no text"),
    "empty lines of JSON": ("a.jsonl", b"\n\n", "no text"),
    "no JSON": ("a.jsonl", b"hello\n", "not JSON"),
    "list": ("a.jsonl", b"[1]\n", "not a JSON object"),
    "number": ("a.jsonl", b'{"text": 7}\n', "allowed: text"),
    "other column": ("a.jsonl", b'{"texts": "a"}\n', "unknown column"),
    "endless number": ("a.jsonl", b'{"text": ' + b"9" * 5_000 + b"}\n", "a.jsonl"),
    "nested without end": ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n", "a.jsonl"),
    "surrogate": ("a.jsonl", b'{"text": "\\ud800"}\n', "Unicode"),
    "binary text": ("a.txt", b"\xff\xfe\x00", "cannot be read"),
    "binary table": ("a.csv", b"\xff\xfe\x00", "cannot be read"),
    "open quote": ("a.csv", b'text\n"a', "cannot be read"),
    "too many fields": ("a.csv", b"text\na,b\n", "2 fields, the header 1"),
    "no parquet": ("a.parquet", b"hello", "cannot be read"),
    "empty parquet": ("a.parquet", b"", "cannot be read"),
    "cut parquet": ("a.parquet", b"PAR1" + b"\x00" * 40 + b"PAR1", "cannot be read"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_bad_texts(place: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name, content, says = TEXTS[case]
    (place / name).write_bytes(content)
    assert_refused(place, ["encode", "model", name, "--output", "o.parquet"], says, capsys, monkeypatch)
