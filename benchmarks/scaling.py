"""How time and memory of a forward pass grow with the length of the text, for every variant.

One text, H64 L2 C32, vocabulary 1,024, all logits; each variant and length in a process of its own. The slope is that
of the four longest on doubly logarithmic axes: 1 is linear, 2 is quadratic.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import fresh, in_turn, peak_bytes
from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.family import VARIANTS

TITLE = "Length of the text"
LENGTHS = [1024, 2048, 4096, 8192, 16384, 32768]


def forward(variant: str, length: int) -> dict[str, float]:
    """The shortest of three passes in CPU-milliseconds, and the growth of this process in MiB."""
    torch.manual_seed(0)
    config = ConceptConfig(
        vocab_size=1024,
        hidden_size=64,
        num_concepts=32,
        num_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_sequence_length=LENGTHS[-1],
        decoder_type=VARIANTS[variant].decoder,
        tie_word_embeddings=VARIANTS[variant].tied,
        mask_token_id=4,
    )
    model = ConceptModelForMaskedLM(config).eval()
    ids = torch.randint(5, 1024, (1, length))
    with torch.no_grad():
        model(ids[:, :64])
        before = peak_bytes()
        seconds = in_turn({"forward": lambda: model(ids)}, 3)["forward"]
    return {"CPU-ms": 1000 * min(seconds), "MiB": (peak_bytes() - before) / 2**20}


def slope(values: list[float]) -> float:
    """Of the four longest texts, on doubly logarithmic axes."""
    return float(np.polyfit(np.log(LENGTHS[-len(values) :][-4:]), np.log(np.maximum(values[-4:], 1e-9)), 1)[0])


def rows(quick: bool) -> list[dict[str, Any]]:
    """Two rows for each variant: time and memory."""
    lengths, table = LENGTHS[: 2 if quick else None], []
    for variant in list(VARIANTS)[: 1 if quick else None]:
        found = [fresh(forward, variant, length) for length in lengths]
        for unit in found[0]:
            values = [one[unit] for one in found]
            cells = {f"{length:,}": value for length, value in zip(lengths, values, strict=True)}
            table.append({"variant": variant, "in": unit, **cells, "slope": slope(values)})
    return table


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Both over the length, on doubly logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    titles = {"CPU-ms": "Time of a forward pass", "MiB": "Peak memory of a forward pass"}
    for axis, (unit, title) in zip(axes, titles.items(), strict=True):
        for row in (row for row in rows if row["in"] == unit):
            lengths = [key for key in row if key[0].isdigit()]
            points = [int(key.replace(",", "")) for key in lengths]
            axis.loglog(points, [row[key] for key in lengths], marker=".", label=row["variant"])
        axis.set(xlabel="tokens", ylabel=unit, title=title)
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
