"""Benchmarks run in their quick size (all by `-m long`); their figures reach the JSON, the document and the plots."""

import importlib
import json
import os
from pathlib import Path

import pytest

from benchmarks.__main__ import TABLE, main, markdown, placed
from benchmarks.measuring import ENVIRONMENT


@pytest.mark.parametrize("names", [["loss"], pytest.param([], marks=pytest.mark.long)], ids=["one", "all"])
def test_one_command_measures_every_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, os.environ.get(name, ""))  # what the command sets ends with the test
    main([*names, "--quick", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "benchmarks.json").read_text(encoding="utf-8"))
    document = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert list(found) == (names or list(TABLE))
    for name, result in found.items():
        module = importlib.import_module(f"benchmarks.{name}")
        assert result["title"] == module.TITLE and result["commit"]
        assert result["rows"] and all(list(row) == list(result["rows"][0]) for row in result["rows"]), name
        assert markdown(result["rows"]) in document, name
        assert (tmp_path / f"{name}.png").exists() == hasattr(module, "plot"), name


@pytest.mark.parametrize("name", TABLE)
def test_every_benchmark_has_what_the_command_wants(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    assert module.TITLE and callable(module.rows) and (module.__doc__ or "").strip()


def test_a_table_is_replaced_where_it_stands_and_nothing_else() -> None:
    text = placed(placed("# B\n\nWords.\n", "one", "One", "| a |\n|---|\n| 1 |"), "two", "Two", "| b |")
    assert text.count("## One\n") == text.count("## Two\n") == 1
    assert placed("<!-- one -->\n<!-- end of one -->\n", "one", "One", "| a |") in text.replace("\n|---|\n| 1 |", "")
    assert placed(text, "one", "One", "| a |\n|---|\n| 2 |") == text.replace("| 1 |", "| 2 |")


def test_cells() -> None:
    rows = [{"step": "L2", "ratio": (1.294, 1.24, 1.31), "MB": 2271.8, "plain": None}]
    assert markdown(rows).splitlines()[2] == "| L2 | **1.29** (1.24 to 1.31) | 2,272 |  |"


@pytest.mark.parametrize("words", [["nothing"], ["step", "--quick"]])
def test_a_name_that_is_none_and_quick_figures_in_the_document_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
