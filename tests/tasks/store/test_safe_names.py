"""Names that lead out of a folder on some system are no names of runs."""

import pytest

from tasks.errors import UserError
from tasks.store.files import is_safe_name
from tasks.store.home import Home
from tests.factories import RUN_ID

UNSAFE = [
    "",
    ".",
    "..",
    "../x",
    "a/../b",
    "/etc/hosts",
    "a/b",
    "a\\b",
    "..\\x",
    "C:\\x",
    "C:x",
    "a\x00b",
    "a\nb",
    "nul",
    "NUL",
    "con.txt",
    "Com1",
    "lpt9.json",
    "aux",
    "prn",
    "a.",
    " a",
    "a ",
    "a?",
    "a*",
    "a|b",
    "<a>",
    'a"b',
    "a" * 300,
    "\udc80",
    "é" * 200,
]
SAFE = [RUN_ID, "a", "a.b", "a-b_c", "com10", "console", "..a", "tsdae_fixed0.1,0.2_20260101_000000", "ä"]


@pytest.mark.parametrize("name", UNSAFE, ids=ascii)
def test_names_that_lead_elsewhere(name: str, home: Home) -> None:
    assert not is_safe_name(name) and not home.has_run(name)
    with pytest.raises(UserError, match="is no name of a run"):
        home.run(name)


@pytest.mark.parametrize("name", SAFE)
def test_names_that_are_fine(name: str, home: Home) -> None:
    assert is_safe_name(name)
    assert home.run(name).root.parent == home.runs
