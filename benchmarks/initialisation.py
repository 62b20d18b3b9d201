"""What the start of the attention changes: the same short trainings from the old initialisation and from the new one.

Run: `python benchmarks/initialisation.py [--seeds 42,43,44] [--only NAME]` (resumable: what is finished is read)
Old: queries, keys and values normal with std 0.1, as every other layer; new: Xavier uniform as one matrix [3H, H]. Both
starts of a seed share every other weight, the order of the text and its corruption, so they are compared seed by seed.
Results go to COGITO_HOME/initialisation, a JSON file for each training; the table stands in docs/findings.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.family import VARIANTS
from models.layers import InputProjection
from models.pretraining_step import PretrainingStep
from tasks.data.corpus import load_tokenizer, prepare_corpus
from tasks.data.sources import find_dataset
from tasks.data.token_blocks import Batch, BatchPlan, HeldOutBatches, MicroBatches, TokenBlocks
from tasks.pretraining.stage import model_config
from tasks.pretraining.training import corruption_settings, learning_rate_factor, parameter_groups
from tasks.scores.intervals import mean_interval
from tasks.spec.experiment import ExperimentSpec, training_steps, warmup_steps
from tasks.spec.reading import load_spec
from tasks.store.files import write_json
from tasks.store.home import cogito_home
from tasks.store.records import CorpusResult

QUICKSTART = Path(__file__).resolve().parents[1] / "experiments" / "quickstart.yaml"
# Real text, as the quickstart had it when the figures were measured.
TEXT = ["data.dataset=builtin/python_docs", "data.train_tokenizer_vocab_size=2048", "training.epochs=3"]
SHORT = [
    *TEXT,
    *("training.max_steps=100", "training.global_batch_size=16", "training.per_device_batch_size=16"),
    *("training.learning_rate=5.0e-4", "training.warmup_steps=20", "training.max_eval_blocks=128"),
    *("model.hidden_size=256", "model.intermediate_size=1024", "model.num_concepts=16", "model.num_attention_heads=4"),
]
# What is trained: the quickstart's model, and short trainings of wider models on the same text.
TRAININGS = {
    "quickstart": TEXT,
    "perceiver_mlm_H256L6C16": [*SHORT, "model.num_layers=6"],
    "tsdae_bixt_H256L6C16": [*SHORT, "model.num_layers=6", "model.variant=tsdae", "model.use_bixt=true"],
    "diffusion_H256L2C16": [*SHORT, "model.variant=diffusion"],
}
STARTS = ("old", "new")


def train(spec: ExperimentSpec, corpus: CorpusResult, start: str) -> dict[str, Any]:
    """One training: its loss on held-out text at the end, and the largest gradient norm on the way."""
    settings = spec.training
    tokenizer = load_tokenizer(corpus.tokenizer)
    torch.manual_seed(settings.seed)
    config = ConceptConfig(**model_config(spec, corpus.vocab_size, None, corpus.special_token_ids))
    model = ConceptModelForMaskedLM(config)
    if start == "old":
        for module in model.modules():
            if isinstance(module, InputProjection):
                torch.nn.init.normal_(module.weight, std=config.initializer_range)
    torch.manual_seed(settings.seed)
    step_module = PretrainingStep(model, {}, "fixed", spec.label_smoothing)
    optimizer = torch.optim.AdamW(
        parameter_groups(step_module, settings.weight_decay), lr=settings.learning_rate, fused=True
    )
    plan = BatchPlan(
        VARIANTS[spec.model.variant].objective,
        corruption_settings(spec, tokenizer, corpus.vocab_size),
        tokenizer.pad_token_id,
        settings.seed,
        settings.global_batch_size,
        settings.global_batch_size,
    )
    blocks = TokenBlocks(corpus.folder, "train")
    steps = training_steps(spec, len(blocks))
    batches, norms = MicroBatches(blocks, plan, steps), []
    for step in range(steps):
        factor = learning_rate_factor(step, settings.schedule, warmup_steps(spec, steps), steps)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        loss, _ = batch_loss(step_module.train(), batches[step])
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(step_module.parameters(), settings.max_grad_norm)))
        optimizer.step()
        optimizer.zero_grad()
    held_out = HeldOutBatches(TokenBlocks(corpus.folder, "held_out"), plan, settings.max_eval_blocks)
    with torch.no_grad():
        parts = [batch_loss(step_module.eval(), held_out[number]) for number in range(len(held_out))]
    loss = sum(float(mean) * count for mean, count in parts) / sum(count for _, count in parts)
    return {"loss": loss, "peak_gradient_norm": max(norms), "steps": steps}


def batch_loss(module: PretrainingStep, batch: Batch) -> tuple[torch.Tensor, float]:
    """The mean task loss of a batch, and the weight of its labels."""
    count = float(batch["labels"].total)
    return module(**batch, num_items_in_batch=count, share=1.0)["total"], count


def table(results: dict[tuple[str, str], list[dict[str, Any]]], entropy: float) -> str:
    """One line for each training: losses of both starts, and their difference seed by seed."""
    lines = [
        f"Unigram entropy of the held-out text: {entropy:.3f} nats.",
        "",
        "| training | steps | seeds | loss, old | loss, new | new - old (95 % interval) | peak gradient norms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in TRAININGS:
        old, new = (results.get((name, start), []) for start in STARTS)
        if not old or len(old) != len(new):
            continue
        losses = [[run["loss"] for run in runs] for runs in (old, new)]
        differences = [after - before for before, after in zip(*losses, strict=True)]
        interval = mean_interval(differences)
        shown = f"{sum(differences) / len(differences):+.3f}"
        shown += f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else ""
        means = [sum(values) / len(values) for values in losses]
        peaks = [sum(run["peak_gradient_norm"] for run in runs) / len(runs) for runs in (old, new)]
        lines.append(
            f"| {name} | {old[0]['steps']} | {len(old)} | {means[0]:.3f} | {means[1]:.3f} | {shown} "
            f"| {peaks[0]:.2f}, {peaks[1]:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", default="42,43,44")
    parser.add_argument("--only", choices=TRAININGS, action="append")
    arguments = parser.parse_args()
    home = cogito_home()
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    entropy = float("nan")
    for seed in arguments.seeds.split(","):
        for name in arguments.only or TRAININGS:
            spec = load_spec(QUICKSTART, [*TRAININGS[name], f"training.seed={seed}"])
            corpus = prepare_corpus(spec.data, find_dataset(spec.data.dataset, home, None), home)
            entropy = corpus.unigram_entropy_nats
            for start in STARTS:
                path = home.root / "initialisation" / f"{name}-seed{seed}-{start}.json"
                if not path.is_file():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_json(path, train(spec, corpus, start))
                results.setdefault((name, start), []).append(json.loads(path.read_text(encoding="utf-8")))
                print(path.stem, results[name, start][-1], flush=True)
    print(table(results, entropy))


if __name__ == "__main__":
    main()
