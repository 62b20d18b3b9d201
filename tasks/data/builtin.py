"""The corpora that are built into Cogito: they need no network, and their text is always the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tasks.data.made_tasks import iterate_made_documents, made_fingerprint
from tasks.data.python_docs import embedded_fingerprint, iterate_documents
from tasks.spec.pretraining import MADE_TEXT, PYTHON_DOCS


@dataclass(frozen=True)
class BuiltinCorpus:
    """A corpus that is read or made on this machine.

    Attributes:
        documents: yields the documents in a fixed order.
        fingerprint: the identity of the documents.
    """

    documents: Callable[[], Iterator[str]]
    fingerprint: Callable[[], str]


BUILTIN_CORPORA = {
    PYTHON_DOCS: BuiltinCorpus(iterate_documents, embedded_fingerprint),
    MADE_TEXT: BuiltinCorpus(iterate_made_documents, made_fingerprint),
}
