"""The embedded corpus: English, whole, always the same, and there without help topics too."""

import sys
import time
from pathlib import Path

import pytest

from tasks.data import python_docs as embedded_corpus
from tasks.data.python_docs import embedded_fingerprint, iterate_documents
from tasks.errors import UserError


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return list(iterate_documents())


@pytest.fixture
def no_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the standard library."""
    monkeypatch.setattr(embedded_corpus, "_library_folder", lambda: tmp_path)
    return tmp_path


def test_there_is_enough_english(documents: list[str]) -> None:
    assert 1_000_000 < sum(len(document.encode()) for document in documents) < 4_000_000
    assert len(documents) > 200
    words = " ".join(documents).lower().split()
    assert sum(words.count(word) for word in ("the", "a", "is", "of", "to")) > 0.1 * len(words)


def test_known_documentation_is_there(documents: list[str]) -> None:
    text = "\n".join(documents)
    assert "Combine multiple context managers" not in text
    assert any(document.startswith("textwrap\nText wrapping and filling.") for document in documents)
    assert "TextWrapper.wrap\nwrap(text : string) -> [string]" in text


def test_two_passes_are_equal(documents: list[str]) -> None:
    assert list(iterate_documents()) == documents


def test_whitespace_is_tidy_and_nothing_repeats(documents: list[str]) -> None:
    assert len(set(documents)) == len(documents)
    for document in documents:
        assert document.strip() == document
        assert "  " not in document and "\t" not in document and "\n\n\n" not in document
        assert not any(line.startswith(">>>") for line in document.splitlines())


def test_a_pass_is_cheap() -> None:
    started = time.process_time()
    for _ in iterate_documents():
        pass
    assert time.process_time() - started < 12  # about 1.6 on a desk machine; the bound leaves room for slow ones


def test_a_module_reads_as_prose(library: Path, no_topics: None) -> None:
    (library / "shapes.py").write_text(
        '"""Shapes\n======\n\nSimple   shapes\nand more.\n\n>>> Square()\n"""\n'
        "class Square:\n    '''Four equal sides.'''\n    def area(self):\n        '''Side times side.'''\n"
        "    def copy(self):\n        '''Four equal sides.'''\n"
        "try:\n    pass\nexcept ImportError:\n    def late():\n        '''Only sometimes.'''\n"
    )
    assert list(iterate_documents()) == [
        "shapes\nShapes\nSimple shapes and more.\n\n"
        "Square\nFour equal sides.\n\nSquare.area\nSide times side.\n\nlate\nOnly sometimes."
    ]


def test_order_is_by_name_and_other_folders_are_skipped(library: Path, no_topics: None) -> None:
    for name in ("b", "a/__init__", "a/z", "test/t", "site-packages/s", "encodings/e", "__pycache__/p"):
        path = library / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'"""Text of {name}."""')
    (library / "broken.py").write_text("def (")
    assert [document.split("\n")[0] for document in iterate_documents()] == ["a", "a.z", "b"]


def test_topics_alone_are_enough(library: Path) -> None:
    pytest.importorskip("pydoc_data.topics")
    assert len(list(iterate_documents())) > 50


def test_sources_alone_are_enough(no_topics: None, documents: list[str]) -> None:
    fewer = list(iterate_documents())
    assert 0 < len(fewer) <= len(documents)


def test_nothing_at_all_is_an_error(library: Path, no_topics: None) -> None:
    with pytest.raises(UserError, match="embedded corpus is empty"):
        list(iterate_documents())


def test_fingerprint_follows_sources_version_and_contract(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {embedded_fingerprint()}
    (library / "one.py").write_text('"""One."""')
    seen.add(embedded_fingerprint())
    assert embedded_fingerprint() in seen
    monkeypatch.setattr(embedded_corpus.platform, "python_version", lambda: "3.99.0")
    seen.add(embedded_fingerprint())
    monkeypatch.setattr(embedded_corpus, "CONTRACT_VERSION", 99)
    seen.add(embedded_fingerprint())
    assert len(seen) == 4
