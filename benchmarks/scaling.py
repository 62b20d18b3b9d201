"""How time and memory of a forward pass grow with the length of the text, for every variant.

Run: `python benchmarks/scaling.py [--plot FILE.png]` (Linux or macOS: peak memory is the operating system's)
Each variant and length has a process of its own: one text, H64 L2 C32, vocabulary 1,024, all logits. Prints time
and memory, and the slope of both over the four longest on doubly logarithmic axes: 1 is linear, 2 is quadratic. The
allocator is set as in jobs: else tensors of 32 MiB and more are mapped anew at every use, a step at 8,192 tokens.
Results stand in docs/benchmarks.md.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tasks.jobs.launch import KEPT_MEMORY

LENGTHS = [1024, 2048, 4096, 8192, 16384, 32768]
ROUNDS = 5

MEASURE = """
import json, resource, sys, time
import torch
from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.family import VARIANTS

name, length, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)  # threads that wait for each other would be most of what is timed
torch.manual_seed(0)
config = ConceptConfig(
    vocab_size=1024, hidden_size=64, num_concepts=32, num_layers=2, num_attention_heads=2, intermediate_size=128,
    max_sequence_length=32768, decoder_type=VARIANTS[name].decoder, tie_word_embeddings=VARIANTS[name].tied,
    mask_token_id=4,
)
model = ConceptModelForMaskedLM(config).eval()
ids = torch.randint(5, 1024, (1, length))
unit = 1 if sys.platform == "darwin" else 1024
with torch.no_grad():
    model(ids[:, :64])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        model(ids)
        seconds.append(time.perf_counter() - started)
        if seconds[-1] > 20:
            break
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps({"seconds": min(seconds), "bytes": after - before}))
"""


def slope(values: list[float]) -> float:
    """Of the four longest texts, on doubly logarithmic axes."""
    return float(np.polyfit(np.log(LENGTHS[-4:]), np.log(np.maximum(values[-4:], 1e-9)), 1)[0])


def plot(figures: dict[str, dict[str, list[float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, values in figures.items():
        axes[0].loglog(LENGTHS, values["seconds"], marker=".", label=name)
        axes[1].loglog(LENGTHS, np.array(values["bytes"]) / 2**20, marker=".", label=name)
    axes[0].set(xlabel="tokens", ylabel="seconds", title="Time of a forward pass")
    axes[1].set(xlabel="tokens", ylabel="MiB", title="Peak memory of a forward pass")
    for axis in axes:
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    from models.family import VARIANTS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    figures: dict[str, dict[str, list[float]]] = {}
    print(f"| variant | {' | '.join(f'{length:,}' for length in LENGTHS)} | slope of time | slope of memory |")
    print("|" + "---|" * (len(LENGTHS) + 3))
    for name in VARIANTS:
        figures[name] = {"seconds": [], "bytes": []}
        for length in LENGTHS:
            command = [sys.executable, "-c", MEASURE, name, str(length), str(ROUNDS)]
            environment = {**os.environ, "GLIBC_TUNABLES": KEPT_MEMORY}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            for key, value in json.loads(done.stdout).items():
                figures[name][key].append(value)
        cells = [
            f"{1000 * seconds:,.0f} ms, {size / 2**20:,.0f} MiB"
            for seconds, size in zip(*figures[name].values(), strict=True)
        ]
        slopes = [f"{slope(figures[name][key]):.2f}" for key in ("seconds", "bytes")]
        print(f"| {name} | {' | '.join([*cells, *slopes])} |", flush=True)
    if arguments.plot:
        plot(figures, arguments.plot)


if __name__ == "__main__":
    main()
