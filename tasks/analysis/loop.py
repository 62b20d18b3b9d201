"""Concept analysis in its own process: encode held-out text, stream the geometry, write figures and arrays."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.checkpoints import CheckpointError, load_checkpoint
from models.geometry import GeometryStream, compare_texts
from models.objectives import drop_tokens, sample_generator
from tasks.data.token_blocks import Batch, TokenBlocks, clean_batches
from tasks.errors import StageError
from tasks.jobs.messages import AnalysisJob, report_progress
from tasks.plots import plot_similarity, plot_singular_values
from tasks.store.files import replacing
from tasks.store.records import AnalysisResult

# Retrieval holds the concepts of so many texts in memory, twice.
RETRIEVAL_TEXTS = 256
# The share of its tokens without which a text is to be found again.
DROPPED_SHARE = 0.3


def run_analysis(job: AnalysisJob, folder: Path) -> AnalysisResult:
    """Encode uncorrupted held-out blocks and measure the geometry of their concepts.

    Raises:
        StageError: the checkpoint cannot be loaded.
    """
    started = time.monotonic()
    try:
        model = load_checkpoint(job.checkpoint)
    except CheckpointError as error:
        raise StageError(str(error)) from error
    device = torch.device(job.device)
    torch.nn.Module.to(model, device)  # transformers wraps its own `to` in a way that hides its types
    encoder = model.get_submodule("encoder")

    def encode(batch: Batch) -> Tensor:
        return encoder(**{name: None if t is None else t.to(device) for name, t in batch.items()})

    geometry, figures = measure_concepts(
        encode,
        (model.config.num_concepts, model.config.hidden_size),
        TokenBlocks(job.corpus, "held_out"),
        job.max_samples,
        job.batch_size,
        job.special_token_ids,
        report=report_progress,
    )
    singular = geometry.singular_values().numpy()
    similarity = geometry.mean_similarity().numpy()
    with replacing(folder / "geometry.npz") as part, part.open("wb") as file:
        np.savez(file, singular_values=singular, mean_similarity=similarity)
    plots = {"singular_values": folder / "singular_values.png", "concept_similarity": folder / "concept_similarity.png"}
    plot_singular_values(singular, plots["singular_values"])
    plot_similarity(similarity, plots["concept_similarity"])
    return AnalysisResult(
        figures=figures,
        samples=geometry.samples,
        num_concepts=geometry.num_concepts,
        precision="fp32",
        plots=plots,
        seconds=time.monotonic() - started,
    )


@torch.no_grad()
def measure_concepts(
    encode: Callable[[Batch], Tensor],
    shape: tuple[int, int],
    blocks: TokenBlocks,
    max_samples: int,
    batch_size: int,
    special_ids: dict[str, int],
    report: Callable[[int, int], None] = lambda step, steps: None,
) -> tuple[GeometryStream, dict[str, float]]:
    """Every figure of whatever makes concepts [B, C, H] of a batch, and the geometry that holds its arrays.

    Args:
        encode: the encoder.
        shape: (C, H).
        blocks, max_samples: the text, and how many blocks of it, spread evenly, to encode.
        special_ids: as in `CorpusResult.special_token_ids`.
        report: called with step and steps after every batch.
    """
    count = min(max_samples, len(blocks))
    compared = min(count, RETRIEVAL_TEXTS)
    batches = partial(clean_batches, blocks, batch_size=batch_size, pad_token_id=special_ids["pad_token_id"])
    steps = count + 2 * compared
    geometry = GeometryStream(*shape)
    for batch in batches(count):
        geometry.update(encode(batch))
        report(geometry.samples, steps)

    def drop(ids: np.ndarray, index: int) -> np.ndarray:
        return drop_tokens(ids, sample_generator(2, 0, 0, index), DROPPED_SHARE, special_ids.values())

    kept: dict[str, Tensor] = {}
    for name, change in (("whole", None), ("part", drop)):
        parts = []
        for batch in batches(compared, change=change):
            parts.append(encode(batch).cpu())
            report(count + compared * len(kept) + sum(map(len, parts)), steps)
        kept[name] = torch.cat(parts)
    return geometry, {**geometry.figures(), **compare_texts(**kept)}
