"""Records of runs that are broken, of another version, or lead elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_input import assert_refused
from bad_input import model as model
from bad_input import no_work_begins as no_work_begins
from bad_input import place as place

from tasks.store.files import write_json
from tests.factories import make_record

RECORDS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "empty object": (lambda raw: {}, "kind"),
    "list": (lambda raw: [raw], "record"),
    "null": (lambda raw: None, "record"),
    "without a run id": (lambda raw: raw.pop("run_id") and raw, "run_id"),
    "of a later version": (lambda raw: raw | {"colour": "red"}, "colour"),
    "of an odd kind": (lambda raw: raw | {"kind": "guess"}, "kind"),
    "of an odd status": (lambda raw: raw | {"status": "fine"}, "status"),
    "created never": (lambda raw: raw | {"created": "never"}, "created"),
    "scores are words": (lambda raw: raw | {"scores": ["good"]}, "scores"),
    "score without floor": (lambda raw: raw["scores"][0].pop("floor") and raw, "floor"),
    "environment is a word": (lambda raw: raw | {"environment": "here"}, "environment"),
    "named after a folder": (lambda raw: raw | {"run_id": "../../etc/x"}, "run_id"),
    "named after a device": (lambda raw: raw | {"run_id": "nul"}, "run_id"),
    "named absolutely": (lambda raw: raw | {"run_id": "/etc/x"}, "run_id"),
    "named with NUL": (lambda raw: raw | {"run_id": "a\x00b"}, "run_id"),
    "named nothing": (lambda raw: raw | {"run_id": ""}, "run_id"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_bad_records(
    place: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, says = RECORDS[case]
    write_json(place / "bad.json", change(make_record().model_dump(mode="json")))
    assert_refused(place, ["log", "add", "bad.json", "--log", "log.md"], says, capsys, monkeypatch)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 200_000, b'{"a": 1' + b"0" * 5_000 + b"}", b"NaN", b'"text"']
)
@pytest.mark.parametrize("command", ["log add", "compare"])
def test_records_that_do_not_read(
    place: Path, content: bytes, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "bad.json").write_bytes(content)
    words = ["log", "add", "bad.json", "--log", "log.md"] if command == "log add" else ["compare", *["bad.json"] * 2]
    assert_refused(place, words, "bad.json", capsys, monkeypatch)
