"""Texts in, concept matrices or one vector per text out, by a trained encoder and in memory that does not grow.

Example: `load_encoder("checkpoint").encode(["A text.", "Another."], pool="mean")`.

Legend: B batch, n texts, C concepts, H hidden.
"""

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .bounds import split_hub_id
from .checkpoints import CheckpointError, load_checkpoint
from .tokenizing import TOKENIZER_FILES, TokenizerError, read_tokenizer, text_only, vocabulary_size

log = logging.getLogger("cogito.encoding")

# Batches that are read at once, so that texts of similar length share a batch.
WINDOW_BATCHES = 8
# [CLS], [SEP] and one token of text.
MIN_LENGTH = 3


class TextEncoder:
    """A model of the family and its tokenizer, ready to encode texts in 32-bit floats without gradients.

    Args:
        model: any model with an `encoder` that takes ids and mask.
        tokenizer: a fast one whose ids the model knows; its settings for cutting and padding are not used, and the
            name of a special token in a text, such as "[MASK]", is read as text.
        device: where to compute; None takes the first GPU, or the CPU of a machine without one.

    Raises:
        CheckpointError: the tokenizer has more entries than the model, or lacks [CLS], [SEP] or [PAD].
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, device: str | torch.device | None = None
    ) -> None:
        config = model.config
        if vocabulary_size(tokenizer) > config.vocab_size:
            raise CheckpointError(
                f"tokenizer: has {vocabulary_size(tokenizer):,} entries, the model knows {config.vocab_size:,}; "
                "fix: take the tokenizer that the model was trained with"
            )
        special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad")}
        missing = [name for name, number in special.items() if number is None]
        if missing:
            raise CheckpointError(
                f"tokenizer: has no {', '.join(missing)} token; fix: take the one that the model was trained with"
            )
        self._cls, self._sep, self._pad = special["cls"], special["sep"], special["pad"]
        self._tokenizer = text_only(tokenizer)
        self._encoder = model.get_submodule("encoder").eval()
        self.move(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.num_concepts: int = config.num_concepts
        self.hidden_size: int = config.hidden_size
        self.positions: int = config.max_sequence_length

    def move(self, device: str | torch.device) -> None:
        """Compute on another device from now on."""
        self.device = torch.device(device)
        self._encoder.to(self.device, torch.float32)

    def shape(self, pool: str | None = None) -> tuple[int, ...]:
        """The shape of one encoded text: (C, H), or (H,) with pool="mean"."""
        if pool not in (None, "mean"):
            raise ValueError(f"pool: got {pool!r}; allowed: 'mean', or None for whole concept matrices")
        return (self.num_concepts, self.hidden_size) if pool is None else (self.hidden_size,)

    def encode(
        self, texts: Iterable[str], batch_size: int = 32, pool: str | None = None, max_length: int | None = None
    ) -> Tensor:
        """All texts at once: `stream` in one tensor, float32 on the CPU, [n, C, H], or [n, H] with pool="mean"."""
        return torch.cat([torch.empty(0, *self.shape(pool)), *self.stream(texts, batch_size, pool, max_length)])

    def stream(
        self, texts: Iterable[str], batch_size: int = 32, pool: str | None = None, max_length: int | None = None
    ) -> Iterator[Tensor]:
        """Encode texts batch by batch, reading at most `WINDOW_BATCHES` batches ahead.

        Args:
            texts: any number; each becomes [CLS] text [SEP].
            batch_size: texts per batch.
            pool: "mean" averages the concepts, the only pooling without trained weights; None keeps them apart.
            max_length: tokens to which a text is cut, [CLS] and [SEP] included; default and upper limit are the model's
                positions. The number of texts that were cut is logged once, as a warning, at the end.

        Returns:
            Batches in the order of the texts, float32 on the CPU: [B, C, H], or [B, H] with pool="mean".

        Raises:
            ValueError: an argument is not allowed, or one of the texts is not a str.
        """
        self.shape(pool)
        length = self.positions if max_length is None else max_length
        if isinstance(texts, str):
            raise ValueError("texts: got one str; allowed: an iterable of texts; fix: [text]")
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}; allowed: 1 and more")
        if not MIN_LENGTH <= length <= self.positions:
            raise ValueError(f"max_length: got {length}; allowed: {MIN_LENGTH} to {self.positions} (its positions)")
        return self._stream(iter(texts), batch_size, pool, length)

    def _stream(self, texts: Iterator[str], batch_size: int, pool: str | None, length: int) -> Iterator[Tensor]:
        done = cut = 0
        try:
            while window := list(islice(texts, batch_size * WINDOW_BATCHES)):
                ids = self._tokenise(window, done)
                cut += sum(len(text) > length - 2 for text in ids)
                done += len(window)
                vectors = self._encode_window([text[: length - 2] for text in ids], batch_size, pool)
                yield from vectors.split(batch_size)
        finally:
            if cut:
                log.warning("%s of %s texts were cut to %s tokens", f"{cut:,}", f"{done:,}", length)

    def _tokenise(self, texts: list[str], before: int) -> list[list[int]]:
        for number, text in enumerate(texts, before):
            if not isinstance(text, str):
                raise ValueError(f"texts: number {number} is of type {type(text).__name__}; allowed: str")
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _encode_window(self, ids: list[list[int]], batch_size: int, pool: str | None) -> Tensor:
        """Encode texts of similar length together and put the results [n, ...] back in order."""
        vectors = torch.empty(len(ids), *self.shape(pool))
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            vectors[chosen] = self._encode_batch([ids[index] for index in chosen], pool)
        return vectors

    @torch.no_grad()
    def _encode_batch(self, ids: list[list[int]], pool: str | None) -> Tensor:
        longest = max(map(len, ids)) + 2
        padded = torch.full((len(ids), longest), self._pad)
        mask = torch.zeros(len(ids), longest, dtype=torch.long)
        for row, text in enumerate(ids):
            padded[row, : len(text) + 2] = torch.tensor([self._cls, *text, self._sep])
            mask[row, : len(text) + 2] = 1
        concepts = self._encoder(padded.to(self.device), mask.to(self.device))
        return (concepts if pool is None else concepts.mean(dim=1)).cpu()


def load_encoder(
    path: str | Path, tokenizer: str | Path | None = None, device: str | torch.device | None = None
) -> TextEncoder:
    """A checkpoint as an encoder of texts.

    Args:
        path: whatever `load_checkpoint` takes.
        tokenizer: folder or Hub id[@revision]; default the checkpoint's own.
        device: as in `TextEncoder`.

    Raises:
        CheckpointError: the checkpoint or the tokenizer cannot be read, or they do not fit each other.
    """
    return TextEncoder(load_checkpoint(path), _read_tokenizer(tokenizer or path), device)


def _read_tokenizer(place: str | Path) -> PreTrainedTokenizerFast:
    folder = Path(place)
    try:
        hub = None if folder.is_dir() else split_hub_id(str(place))
        if hub:
            from huggingface_hub import snapshot_download

            patterns = [*TOKENIZER_FILES, "config.json"]
            folder = Path(snapshot_download(hub[0], revision=hub[1], allow_patterns=patterns))
        return read_tokenizer(folder)
    except TokenizerError as error:
        raise CheckpointError(str(error)) from error
    except Exception as error:  # of the Hub's client
        raise CheckpointError(
            f"tokenizer {place}: cannot be read: {str(error).splitlines()[0]}; fix: name a folder or Hub id with a "
            "tokenizer.json as `tokenizer`"
        ) from error
