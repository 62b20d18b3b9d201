"""English text that every Python installation carries: its help topics and the docstrings of its standard library.

With it, the quickstart needs no network. About 1.9 MB; the text depends only on the Python version, unless a system
leaves out parts of the standard library. The topics are imported late, since some systems leave them out.
"""

import ast
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from inspect import cleandoc
from pathlib import Path

from tasks.errors import UserError
from tasks.store.files import content_hash, file_sha256

# Raise when this file makes another text from the same sources: prepared corpora are cached by the fingerprint.
CONTRACT_VERSION = 1

# Not prose, or not part of every Python from 3.11 to 3.13. Help topics are read as topics, not as a module.
_SKIPPED_FOLDERS = re.compile(
    "__pycache__|distutils|dist-packages|encodings|ensurepip|idle_test|idlelib|lib2to3|pydoc_data|site-packages"
    "|tests?|turtledemo"
)
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_BLANK_LINES = re.compile(r"\n\s*\n")
_RULE = re.compile(r"^[^\w\n]*[*=~^\"'#+-]{3,}[^\w\n]*$", re.MULTILINE)  # the underline of a heading, a table's frame


def iterate_documents() -> Iterator[str]:
    """Yield one document per help topic and per module, always in the same order.

    The document of a module is its docstring, then the name and docstring of each of its classes and functions.
    Repeated texts are left out.

    Raises:
        UserError: this Python carries neither topics nor sources.
    """
    library = _library_folder()
    seen: set[str] = set()
    for name, text in _read_topics():
        yield from _document([(name, text)], seen)
    for path in _source_files(library):
        yield from _document(_docstrings(path, library), seen)
    if not seen:
        raise UserError(
            f"the embedded corpus is empty: got a Python with neither help topics nor sources in {library}; "
            "allowed: any Python with one of them; fix: use your system's full Python package, or another data.dataset"
        )


def embedded_fingerprint() -> str:
    """The identity of the documents: the version of this code and of Python, and the content of its source files."""
    library = _library_folder()
    paths = [*_source_files(library), *library.glob("pydoc_data/topics.py")]
    hashes = [(path.relative_to(library).as_posix(), file_sha256(path)) for path in paths]
    return content_hash([CONTRACT_VERSION, platform.python_version(), hashes])


def _library_folder() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _source_files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():  # some installations keep the library compiled, in an archive
        return
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.is_dir():
            if not _SKIPPED_FOLDERS.fullmatch(path.name):
                yield from _source_files(path)
        elif path.suffix == ".py":
            yield path


def _read_topics() -> list[tuple[str, str]]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return []
    return sorted(topics.items())


def _docstrings(path: Path, library: Path) -> Iterator[tuple[str, str]]:
    """Yield name and docstring of a module and of everything it defines, without importing it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in the library's own strings
        try:
            module = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # a template, or a broken file
            return
    parts = path.relative_to(library).with_suffix("").parts
    if text := ast.get_docstring(module, clean=False):
        yield ".".join(part for part in parts if part != "__init__"), text
    yield from _docstrings_within(module, "")


def _docstrings_within(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield `Class.method` and its docstring for every definition below a node, also under `if` and `try`."""
    for block in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, block, None) or ():
            if isinstance(child, _DEFINITIONS):
                if text := ast.get_docstring(child, clean=False):
                    yield prefix + child.name, text
                yield from _docstrings_within(child, f"{prefix}{child.name}.")
            elif isinstance(child, (ast.If, ast.Try, ast.ExceptHandler)):
                yield from _docstrings_within(child, prefix)


def _document(entries: Iterable[tuple[str, str]], seen: set[str]) -> Iterator[str]:
    """Yield the entries as one document; nothing if none of them is new."""
    sections = []
    for name, text in entries:
        prose = _tidy(text)
        if prose and prose not in seen:
            seen.add(prose)
            sections.append(f"{name}\n{prose}")
    if sections:
        yield "\n\n".join(sections)


def _tidy(text: str) -> str:
    """One line per paragraph, single spaces, no underlines; examples at the prompt are code and left out."""
    paragraphs = (" ".join(part.split()) for part in _BLANK_LINES.split(_RULE.sub("", cleandoc(text))))
    return "\n".join(part for part in paragraphs if part and not part.startswith(">>>"))
