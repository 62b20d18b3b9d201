"""How much real text a CPU-second of an epoch reads, against the usual way.

The usual way makes a row of 512 tokens of every document: the rest of a long one is dropped, a short one is padded, and
the textbook encoder computes logits at every position (the careful one: at labels). Ours joins documents into full
blocks, so an epoch reads all of the text. Steps are those of the `step` benchmark, on blocks and rows of one corpus; an
epoch is as many of them as it has. The text is English Wikipedia of the data root (COGITO_DATA_ROOT), or, without one,
the documentation of Python; a tokenizer of 50,368 entries is trained on it.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import fresh, in_turn, ratio, spread
from benchmarks.step import SMALL, Size, corrupted, our_step, textbook_step
from tasks.data.corpus import prepare_corpus
from tasks.data.sources import find_dataset, resolve_data_root
from tasks.data.token_blocks import TokenBlocks
from tasks.spec.pretraining import DataSpec
from tasks.store.home import Home

TITLE = "Real text in an epoch"
VARIANT = "perceiver_mlm"


def prepared(size: Size, quick: bool) -> tuple[list[np.ndarray], list[np.ndarray], str]:
    """The blocks of ours and the rows of the usual way, of the same documents, and the name of the text."""
    mirror = None if quick else resolve_data_root(None)
    name = "local/enwiki2015" if mirror else "builtin/python_docs"
    spec = DataSpec(
        dataset=name,
        train_tokenizer_vocab_size=size.vocabulary,
        block_tokens=size.length,
        max_documents=20 if quick else None,
    )
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        home.create()
        corpus = prepare_corpus(spec, find_dataset(name, home, mirror), home, mirror)
        blocks = TokenBlocks(corpus.folder, "train")
        documents = np.load(corpus.folder / "train" / "documents.npy")
        tokens = np.array(blocks.tokens, dtype=np.int64)
        rows = [part[: size.length] for part in np.split(tokens, documents) if len(part)]
        return [blocks.block(number) for number in range(len(blocks))], rows, name


def measure(layers: int, size: Size, blocks: list[np.ndarray], truncated: list[np.ndarray]) -> dict[str, list[float]]:
    """CPU-seconds of a step of each way; the usual ones on padded rows."""
    packed, padded = (corrupted(VARIANT, texts, size) for texts in (blocks, truncated))
    steps = {"ours": our_step(VARIANT, size, packed, num_layers=layers)}
    for kind in ("textbook", "careful"):
        steps[kind] = textbook_step(VARIANT, layers, False, size, kind == "careful", padded)
    return in_turn(steps, size.rounds)


def rows(quick: bool) -> list[dict[str, Any]]:
    """A row for each depth, against both encoders of the usual way."""
    size = SMALL if quick else Size(rounds=3)
    blocks, truncated, name = prepared(size, quick)
    read, usual = sum(map(len, blocks)), sum(map(len, truncated))
    order = np.random.default_rng(0).permutation(len(truncated))
    sample = [truncated[number] for number in order[: size.batch]]
    packing = size.length * len(truncated) / usual
    table = []
    for layers in (2,) if quick else (2, 6):
        seconds = fresh(measure, layers, size, blocks[: size.batch], sample)
        for kind in ("textbook", "careful"):
            speed = ratio(seconds[kind], seconds["ours"])
            table.append(
                {
                    "text": name,
                    "encoder": f"L{layers} against the {kind} one",
                    "M tokens of an epoch, ours": read / 1e6,
                    "usual": usual / 1e6,
                    "CPU-hours of an epoch, ours": spread(seconds["ours"])[0] / size.batch * len(blocks) / 3600,
                    "usual way": spread(seconds[kind])[0] / size.batch * len(truncated) / 3600,
                    "from packing": packing,
                    "from speed": speed,
                    "tokens of text in a CPU-second, times the usual": [packing * one for one in speed],
                }
            )
    return table
