"""Which way of cutting text into blocks should be the default? Trains the same model on both, on the same tokens.

Run: `python benchmarks/blocks.py experiments/quickstart.yaml --tokens 2000000 [--data-root DIR] [--set KEY=VALUE ...]`
Prints, for `concat` and `document`: padding, speed in real tokens, and the held-out loss of each model on both kinds of
held-out blocks (the same text, the same tokenizer), for every seed. Results stand in docs/benchmarks.md.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from models.checkpoints import load_checkpoint
from models.objectives import CorruptionSettings
from tasks.data.corpus import prepare_corpus
from tasks.data.sources import find_dataset, resolve_data_root
from tasks.data.token_blocks import BatchPlan, HeldOutBatches, TokenBlocks, epoch_order
from tasks.pretraining.stage import pretrain
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.reading import load_spec
from tasks.store.home import claim_run, cogito_home
from tasks.store.records import CorpusResult

MODES = ("concat", "document")


def padding_share(blocks: TokenBlocks, batch_size: int) -> float:
    """Share of padding in the micro-batches of one epoch."""
    lengths = np.asarray(blocks.lengths)[epoch_order(blocks, 0, 0, batch_size)]
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    return 1.0 - lengths.sum() / sum(int(batch.max()) * len(batch) for batch in batches)


@torch.no_grad()
def held_out_loss(model_folder: Path, corpus: CorpusResult, spec: ExperimentSpec) -> float:
    """Nats per masked token of a model on the held-out blocks of a corpus."""
    model = load_checkpoint(model_folder)
    special = corpus.special_token_ids
    settings = CorruptionSettings(
        spec.objective.mask_prob, special["mask_token_id"], corpus.vocab_size, tuple(special.values())
    )
    plan = BatchPlan("mlm", settings, special["pad_token_id"], seed=0, global_batch_size=32, per_device_batch_size=32)
    batches = HeldOutBatches(TokenBlocks(corpus.folder, "held_out"), plan, max_blocks=1000)
    total = count = 0.0
    for number in range(len(batches)):
        batch = batches[number]
        concepts = model.encoder(batch["input_ids"], batch["attention_mask"])  # type: ignore[operator]
        reads = model.decoder_input(batch["input_ids"], batch["attention_mask"], None, None)  # type: ignore[operator]
        total += float(model.task_loss(concepts, reads, batch["labels"], num_items_in_batch=1.0))  # type: ignore[operator]
        count += int(batch["labels"].total)
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--tokens", type=int, default=2_000_000, help="real tokens to train on")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data-root")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    home, mirror = cogito_home(), resolve_data_root(arguments.data_root)
    common = [*arguments.overrides, "tracking.wandb=disabled"]
    specs = {mode: load_spec(arguments.spec, [*common, f"data.blocks={mode}"]) for mode in MODES}
    source = find_dataset(specs["concat"].data.dataset, home, mirror)
    corpora = {mode: prepare_corpus(spec.data, source, home, mirror) for mode, spec in specs.items()}
    print("| blocks | seed | mean length | padding | real tokens/s | loss on concat | loss on document |")
    print("|---|---|---|---|---|---|---|")
    for mode in MODES:
        corpus = corpora[mode]
        blocks = TokenBlocks(corpus.folder, "train")
        for seed in range(arguments.seeds):
            batch_size = specs[mode].training.global_batch_size
            mean_length = corpus.train_tokens / corpus.train_blocks
            steps = round(arguments.tokens / (batch_size * mean_length))
            changes = [*common, f"data.blocks={mode}", f"training.max_steps={steps}", f"training.seed={seed}"]
            spec = load_spec(arguments.spec, [*changes, "training.epochs=1000"])
            result = pretrain(spec, corpus, claim_run(home, f"blocks_{mode}"), home, processes=1)
            losses = [held_out_loss(result.model, corpora[other], spec) for other in MODES]
            speed = arguments.tokens / result.seconds
            padding = padding_share(blocks, specs[mode].training.per_device_batch_size)
            print(
                f"| {mode} | {seed} | {mean_length:.1f} | {padding:.1%} | {speed:,.0f} "
                f"| {losses[0]:.3f} | {losses[1]:.3f} |",
                flush=True,
            )
    print(f"\nunigram entropy: {corpora['concat'].unigram_entropy_nats:.3f} nats")


if __name__ == "__main__":
    main()
