"""A training in one and in two processes, each on a core of its own: tokens a second by the clock.

`pretrain` as the product starts it, gradients averaged over gloo. On a busy machine the figures mean little, since two
processes wait for the slower one.
"""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring import ratio, spread
from tasks.data.corpus import prepare_corpus
from tasks.data.sources import find_dataset
from tasks.pretraining.stage import pretrain
from tasks.spec.reading import load_spec
from tasks.store.home import Home, claim_run

TITLE = "Processes"
QUICKSTART = Path(__file__).resolve().parents[1] / "experiments" / "quickstart.yaml"
WIDE = ("hidden_size=256", "intermediate_size=1024", "num_concepts=64")


def rows(quick: bool) -> list[dict[str, Any]]:
    """A row for each number of processes."""
    steps, counts, rounds = (2, (1,), 1) if quick else (60, (1, 2), 3)
    settings = ["tracking.wandb=disabled", f"training.max_steps={steps}", "training.warmup_steps=1"]
    settings += [] if quick else [f"model.{setting}" for setting in WIDE]
    spec = load_spec(QUICKSTART, [*settings, "training.per_device_batch_size=32"])
    speeds: dict[int, list[float]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        home.create()
        corpus = prepare_corpus(spec.data, find_dataset(spec.data.dataset, home, None), home)
        for _ in range(rounds):
            for count in counts:
                result = pretrain(spec, corpus, claim_run(home, f"processes_{count}"), home, processes=count)
                speeds[count].append(result.tokens_per_second)
    return [
        {"processes": count, "tokens/s": spread(speeds[count]), "times one": ratio(speeds[count], speeds[1])}
        for count in counts
    ]
