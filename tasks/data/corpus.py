"""Data preparation: documents become token blocks on disk, streamed, and cached by content.

A prepared corpus is a folder with `tokenizer/` and, for each of `train` and `held_out`, `tokens.bin` (uint16 or
uint32), `blocks.npy` (start and length of every block) and `documents.npy` (start of every document). No text is lost:
with `concat`, documents are joined as [CLS] text [SEP] and cut into full blocks, the last of which overlaps the one
before it; with `document`, every document is cut into blocks [CLS] part [SEP] of its own.
transformers and tokenizers are imported late: they take seconds, and a prepared corpus needs neither.
"""

import hashlib
import logging
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from models.tokenizing import text_only, vocabulary_size
from tasks.data.builtin import BUILTIN_CORPORA
from tasks.data.overlap import Overlap
from tasks.data.sources import Source, check_unchanged, find_tokenizer
from tasks.data.splits import Split, open_split
from tasks.data.text_files import checked_text
from tasks.data.tokenizers import copy_tokenizer, load_tokenizer, tokenizer_fingerprint
from tasks.errors import UserError
from tasks.interruption import go_on, hurrying, stopping
from tasks.spec.pretraining import DataSpec
from tasks.store.files import built_once, content_hash, read_json, write_json
from tasks.store.home import Home
from tasks.store.records import CorpusResult

log = logging.getLogger("cogito.corpus")

# Raise when the same input would give other bytes on disk.
CONTRACT_VERSION = 2
DOCUMENTS_PER_BATCH = 256
GROUPS_AHEAD = 2
SPECIAL_TOKENS = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"}

# Side, text, and the number of documents in all where it is known.
_Document = tuple[str, str, int | None]
# Called with the number done and the number in all (None when unknown).
Progress = Callable[[int, int | None], None]


def data_identity(spec: DataSpec, source: Source, home: Home, data_root: Path | None) -> str:
    """The identity of what a corpus is made from; it changes with the text, the tokenizer and every setting."""
    if spec.train_tokenizer_vocab_size:
        tokenizer = f"trained:{spec.train_tokenizer_vocab_size}"
    else:
        tokenizer = tokenizer_fingerprint(find_tokenizer(spec.tokenizer_name, home, data_root))
    return _identity(spec, source, tokenizer, set())


def _identity(spec: DataSpec, source: Source, tokenizer: str, unread: set[str]) -> str:
    """The hash of text, tokenizer and settings; names are left out, since content decides."""
    unread = {"tokenizer", "dataset", "revision"} | unread
    settings = spec.model_dump(mode="json", exclude=unread, exclude_defaults=True)
    return content_hash([CONTRACT_VERSION, source.fingerprint, tokenizer, settings])


def prepare_corpus(
    spec: DataSpec,
    source: Source,
    home: Home,
    data_root: Path | None = None,
    *,
    tokenizer_folder: Path | None = None,
    progress: Progress | None = None,
) -> CorpusResult:
    """Tokenise a data set into blocks, unless that has been done before, by the tokenizer of the spec or the given one.

    Raises:
        UserError: the data set lacks the split or column, the tokenizer lacks a special token, or there is too little
            text.
    """
    tokenizer = tokenizer_folder or _tokenizer_folder(spec, source, home, data_root)
    corpus_id = _identity(spec, source, tokenizer_fingerprint(tokenizer), {"train_tokenizer_vocab_size"})
    target = home.corpora / corpus_id

    def build(folder: Path) -> None:
        write_json(folder / "corpus.json", _tokenise(spec, source, home, tokenizer, folder, progress))
        check_unchanged(source)

    reused = built_once(home.lock(f"corpus-{corpus_id}"), target, build)
    facts = read_json(target / "corpus.json")
    for warning in facts["warnings"]:  # at each use: data that is odd stays so
        log.warning(warning)
    return CorpusResult(corpus_id=corpus_id, folder=target, tokenizer=target / "tokenizer", reused=reused, **facts)


def _documents(spec: DataSpec, rows: Split | None) -> Iterator[str]:
    """The texts of a split, or the built-in ones; blank ones are left out, with a warning that counts them."""
    left_out, first, seen = 0, "", 0
    texts = (
        _texts(spec, rows) if rows is not None else (("", text) for text in BUILTIN_CORPORA[spec.dataset].documents())
    )
    for place, text in islice(texts, spec.max_documents):
        seen += 1
        if text is not None and text.strip():
            yield text
        else:
            left_out, first = left_out + 1, first or place
    if left_out:
        total = f"{left_out:,} of {seen:,}"
        log.warning(
            "data set %r: %s documents hold no text and are left out, the first is %s", spec.dataset, total, first
        )


def _texts(spec: DataSpec, rows: Split) -> Iterator[tuple[str, str | None]]:
    """The text of every row with its place; None where the row has none."""
    for place, row in rows:
        present = row.get(spec.text_column) is not None
        yield place, checked_text(f"data set {spec.dataset!r}: {place}", spec.text_column, row) if present else None


def _is_held_out(text: str, share: float) -> bool:
    """Decide by a hash of the text, so that a repeated document is never on both sides."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < share


def _sides(spec: DataSpec, source: Source, home: Home, warnings: list[str]) -> Iterator[_Document]:
    """(side, text, total) of every document, in order; the total is None where it is not known.

    At the end `warnings` has got what makes the held-out loss too good.

    Raises:
        UserError: the named held-out split is, or lies in, what is trained on.
    """

    def opened(split: str) -> Split | None:
        if spec.is_builtin:
            return None
        return open_split(source, spec.config, split, [spec.text_column], home, spec.txt_document)

    train = opened(spec.split)
    if spec.held_out_split is None:
        total = _total(spec, [train])
        for text in _documents(spec, train):
            yield "held_out" if _is_held_out(text, spec.held_out_share) else "train", text, total
        return
    held_out = opened(spec.held_out_split)
    total = _total(spec, [train, held_out])
    what = f"data set {spec.dataset!r}: split {spec.held_out_split} and split {spec.split}"
    fix = "another data.held_out_split, or data.held_out_split: null, so that a share is held out (data.held_out_share)"
    if train is not None and held_out is not None and train.overlaps(held_out):
        raise UserError(f"{what} share rows; fix: {fix}")
    overlap = Overlap(((text,) for text in _documents(spec, held_out)), what, fix)
    for text in _documents(spec, train):
        overlap.meet((text,))
        yield "train", text, total
    warnings += overlap.warnings()
    for text in _documents(spec, held_out):
        yield "held_out", text, total


def _total(spec: DataSpec, splits: list[Split | None]) -> int | None:
    """The documents that are read of the splits in all, where that is known."""
    counts = [None if split is None else split.count() for split in splits]
    most = spec.max_documents
    limits = [most if count is None else min(count, most or count) for count in counts]
    return sum(limit for limit in limits if limit is not None) if None not in limits else None


def _tokenise(
    spec: DataSpec, source: Source, home: Home, tokenizer_folder: Path, folder: Path, progress: Progress | None
) -> dict[str, Any]:
    started = time.monotonic()
    tokenizer = load_tokenizer(tokenizer_folder)
    encode = text_only(tokenizer).encode_batch_fast
    vocab_size = vocabulary_size(tokenizer)
    dtype = np.uint16 if vocab_size <= 2**16 else np.uint32
    (folder / "tokenizer").mkdir()
    copy_tokenizer(tokenizer_folder, folder / "tokenizer")
    writers = {side: _BlockWriter(folder / side, spec, dtype, tokenizer, vocab_size) for side in ("train", "held_out")}
    done = 0
    warnings: list[str] = []
    for group, encodings in _encoded(_sides(spec, source, home, warnings), encode):
        for (side, text, _), encoding in zip(group, encodings, strict=True):
            writers[side].add(np.asarray(encoding.ids, dtype=dtype), len(text.encode("utf-8", "replace")))
        done += len(group)
        if stopping.is_set() or hurrying.is_set():
            go_on("while it prepared the text")
        if progress:
            progress(done, group[-1][2])
    counts: dict[str, int] = {}
    for side, writer in writers.items():
        writer.close(side)
        sizes = {"documents": len(writer.documents), "blocks": len(writer.starts), "tokens": writer.tokens_written}
        counts |= {f"{side}_{name}": size for name, size in sizes.items()}
    train, held_out = writers["train"], writers["held_out"]
    special = np.array(sorted(set(tokenizer.all_special_ids)))
    special_ids = [f"{name}_token_id" for name in ("pad", "cls", "sep", "mask")]
    return {
        "tokenizer_name": f"trained BPE {vocab_size:,}" if spec.train_tokenizer_vocab_size else spec.tokenizer_name,
        "dataset": spec.dataset,
        "source_fingerprint": source.fingerprint,
        "blocks": spec.blocks,
        "block_tokens": spec.block_tokens,
        "vocab_size": vocab_size,
        **counts,
        "bytes_per_token": held_out.bytes_read / max(held_out.text_tokens, 1),
        "unigram_entropy_nats": unigram_cross_entropy(train.counts, held_out.counts, special),
        "special_token_ids": {name: getattr(tokenizer, name) for name in special_ids},
        "warnings": warnings,
        "seconds": time.monotonic() - started,
    }


def _encoded(
    sides: Iterator[_Document], encode: Callable[..., list[Any]]
) -> Iterator[tuple[list[_Document], list[Any]]]:
    """Documents with their encodings, in groups; while one group is packed, the next ones are read and encoded."""
    ahead: deque[tuple[list[_Document], Future[list[Any]]]] = deque()
    with ThreadPoolExecutor(1) as encoder:  # it uses all cores, and none of Python's time
        while group := list(islice(sides, DOCUMENTS_PER_BATCH)):
            ahead.append((group, encoder.submit(encode, [text for _, text, _ in group], add_special_tokens=False)))
            if len(ahead) > GROUPS_AHEAD:
                first, encodings = ahead.popleft()
                yield first, encodings.result()
        while ahead:
            first, encodings = ahead.popleft()
            yield first, encodings.result()


def unigram_cross_entropy(train: np.ndarray, held_out: np.ndarray, special: np.ndarray) -> float:
    """Cross-entropy in nats per token of the add-one unigram of train on the held-out text: a model without context.

    `train` and `held_out` are token counts [V]; the ids `special` are left out of both.
    """
    train, held_out = train.astype(np.float64) + 1.0, held_out.astype(np.float64)
    train[special] = 0.0
    held_out[special] = 0.0
    log_probability = np.log(train / train.sum(), where=train > 0, out=np.zeros_like(train))
    return float(-(held_out * log_probability).sum() / held_out.sum())


class _BlockWriter:
    """Streams one side of a corpus to disk."""

    def __init__(self, folder: Path, spec: DataSpec, dtype: type, tokenizer: Any, vocab_size: int) -> None:
        folder.mkdir()
        self.folder, self.spec, self.dtype = folder, spec, dtype
        self.file = (folder / "tokens.bin").open("wb")
        self.first: np.ndarray = np.array([tokenizer.cls_token_id], dtype=dtype)
        self.last: np.ndarray = np.array([tokenizer.sep_token_id], dtype=dtype)
        self.documents, self.starts, self.lengths = array("q"), array("q"), array("q")
        self.counts = np.zeros(vocab_size, dtype=np.int64)
        self.tokens_written = self.text_tokens = self.bytes_read = 0

    def add(self, ids: np.ndarray, size: int) -> None:
        """Add a document: its token ids, and the size of its text in bytes."""
        self.documents.append(self.tokens_written)
        self.bytes_read += size
        self.text_tokens += len(ids)
        self.counts += np.bincount(ids, minlength=len(self.counts))
        if self.spec.blocks == "concat":
            self._write(np.concatenate([self.first, ids, self.last]))
            return
        room = self.spec.block_tokens - 2
        for start in range(0, len(ids), room):
            part = np.concatenate([self.first, ids[start : start + room], self.last])
            self.starts.append(self.tokens_written)
            self.lengths.append(len(part))
            self._write(part)

    def _write(self, ids: np.ndarray) -> None:
        self.file.write(ids.tobytes())
        self.tokens_written += len(ids)

    def close(self, side: str) -> None:
        self.file.close()
        size = self.spec.block_tokens
        if self.spec.blocks == "concat" and self.tokens_written >= size:
            starts = list(range(0, self.tokens_written - size + 1, size))
            if starts[-1] + size < self.tokens_written:
                starts.append(self.tokens_written - size)
            self.starts, self.lengths = array("q", starts), array("q", [size] * len(starts))
        if not self.starts:
            raise UserError(
                f"data set {self.spec.dataset!r}: its {side} part has {self.tokens_written} tokens, "
                f"which fill no block of {size}; fix: more text, smaller data.block_tokens, another held-out part, "
                "or data.txt_document: line if it is a .txt file with a document per line"
            )
        blocks = np.stack([np.asarray(self.starts, dtype=np.int64), np.asarray(self.lengths, dtype=np.int64)])
        np.save(self.folder / "blocks.npy", blocks)
        np.save(self.folder / "documents.npy", np.asarray(self.documents, dtype=np.int64))


def _tokenizer_folder(spec: DataSpec, source: Source, home: Home, data_root: Path | None) -> Path:
    if spec.train_tokenizer_vocab_size is None:
        return find_tokenizer(spec.tokenizer_name, home, data_root)
    text_settings = {
        "config",
        "split",
        "text_column",
        "txt_document",
        "held_out_split",
        "held_out_share",
        "max_documents",
    }
    settings = spec.model_dump(mode="json", include=text_settings, exclude_defaults=True)
    size = spec.train_tokenizer_vocab_size
    target = home.tokenizers / content_hash([CONTRACT_VERSION, source.fingerprint, size, settings])

    def build(folder: Path) -> None:
        log.info("training a byte-level BPE tokenizer of %s entries", f"{size:,}")
        train_tokenizer((text for side, text, _ in _sides(spec, source, home, []) if side == "train"), size, folder)
        check_unchanged(source)

    built_once(home.lock(f"tokenizer-{target.name}"), target, build)
    return target


def train_tokenizer(texts: Iterator[str], vocab_size: int, folder: Path) -> None:
    """Train a byte-level BPE tokenizer with BERT's special tokens and save it as a transformers folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    cls_id, sep_id = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", cls_id), ("[SEP]", sep_id)]
    )
    named = {f"{name}_token": token for name, token in SPECIAL_TOKENS.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(str(folder))
