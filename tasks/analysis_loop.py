"""Concept analysis in its own process: encode held-out text, stream the geometry, write figures and arrays."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.checkpoints import CheckpointError, load_checkpoint
from models.geometry import GeometryStream
from tasks.errors import StageError
from tasks.plots import plot_similarity, plot_singular_values
from tasks.token_blocks import TokenBlocks, clean_batches
from tasks.worker import report_progress


def run_analysis(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Encode uncorrupted held-out blocks; returns the fields of an AnalysisResult."""
    started = time.monotonic()
    try:
        model = load_checkpoint(job["checkpoint"])
    except CheckpointError as error:
        raise StageError(str(error)) from error
    device = torch.device(job["device"])
    torch.nn.Module.to(model, device)  # transformers wraps its own `to` in a way that hides its types
    blocks = TokenBlocks(Path(job["corpus"]), "held_out")
    count = min(job["max_samples"], len(blocks))
    stream = GeometryStream(model.config.num_concepts, model.config.hidden_size)
    with torch.no_grad():
        for batch in clean_batches(blocks, count, job["batch_size"], job["pad_token_id"]):
            tensors = {name: None if t is None else t.to(device) for name, t in batch.items()}
            stream.update(model.get_submodule("encoder")(**tensors))
            report_progress(step=stream.samples, steps=count)
    singular = stream.singular_values().numpy()
    similarity = stream.mean_similarity().numpy()
    np.savez(folder / "geometry.npz", singular_values=singular, mean_similarity=similarity)
    plots = {
        "singular_values": folder / "singular_values.png",
        "concept_similarity": folder / "concept_similarity.png",
    }
    plot_singular_values(singular, plots["singular_values"])
    plot_similarity(similarity, plots["concept_similarity"])
    return {
        "figures": stream.figures(),
        "samples": stream.samples,
        "num_concepts": stream.num_concepts,
        "plots": plots,
        "seconds": time.monotonic() - started,
    }
