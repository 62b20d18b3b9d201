"""Files that are no log, and tags in a log that Git could take for an option."""

import subprocess
from pathlib import Path

import pytest
from bad_input import assert_refused, files_under, run_command
from bad_input import model as model
from bad_input import no_work_begins as no_work_begins
from bad_input import place as place

from tests.factories import RUN_ID

AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@example.invalid")

ROW = "| Run ID | MLM Loss |\n|---|---|\n"
LOGS: dict[str, tuple[bytes, str]] = {
    "binary": (bytes(range(256)), "not UTF-8"),
    "UTF-16": (ROW.encode("utf-16"), "not UTF-8"),
    "Latin-1": ("caf\xe9".encode("latin-1"), "not UTF-8"),
    "cut in a letter": ("caf\xe9".encode()[:-1], "not UTF-8"),
    "endless number": (f"{ROW}| a | {'9' * 5_000} |\n".encode(), "digits"),
    "too large": (b"x" * 4_100_000, "bytes"),
}


@pytest.mark.parametrize("command", ["show", "check", "export", "add"])
@pytest.mark.parametrize("case", LOGS)
def test_bad_logs(
    place: Path, case: str, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, says = LOGS[case]
    (place / "bad.md").write_bytes(content)
    words = {
        "show": ["log", "show", "--log", "bad.md"],
        "check": ["log", "check", "bad.md"],
        "export": ["log", "export", "o.csv", "--log", "bad.md"],
        "add": ["log", "add", "record.json", "--log", "bad.md"],
    }
    assert_refused(place, words[command], says, capsys, monkeypatch)


@pytest.mark.parametrize(
    "tag", ["--output=harmed", "-x", "a\x00b", "v20260231", "$(touch harmed)", "..", "@{-1}", "a:b"]
)
def test_a_tag_of_a_log_is_never_an_option_of_git(
    place: Path, tag: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", "."], check=True)
    subprocess.run(["git", *AUTHOR, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    row = f"| Run ID | Git Tag |\n|---|---|\n| {RUN_ID} | {tag} |\n"
    (place / "log.md").write_text(row, encoding="utf-8")
    before = files_under(place)
    code, out, err = run_command(["log", "check", "log.md", "--git", "."], capsys, monkeypatch)
    assert code in (0, 1) and "Traceback" not in err and out
    assert files_under(place) == before
