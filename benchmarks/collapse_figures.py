"""Do the figures of collapse rank encoders rightly? Five of them, of known worth, on the same held-out text.

Run: `python benchmarks/collapse_figures.py experiments/quickstart.yaml [--checkpoint PATH] [--set KEY=VALUE ...]`
Trains the spec's model, or takes the folder of a checkpoint with its tokenizer. Beside it: its concepts with a large
vector added to all of them (nothing is lost), the same model before training, random projections of the bag of tokens,
and orthogonal concepts that never look at the text (everything is lost). Results stand in docs/benchmarks.md.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from models.autoencoder import ConceptModel
from models.checkpoints import load_checkpoint
from tasks.analysis.loop import measure_concepts
from tasks.data.corpus import prepare_corpus
from tasks.data.sources import find_dataset, resolve_data_root
from tasks.data.token_blocks import Batch, TokenBlocks
from tasks.pretraining.stage import pretrain
from tasks.spec.reading import load_spec
from tasks.store.home import claim_run, cogito_home

COLUMNS = {
    "old ratio": ("nuclear_rank_of_mean", "{:.1f}"),
    "effective rank of mean": ("effective_rank_of_mean", "{:.1f}"),
    "centred effective rank": ("centred_effective_rank", "{:.1f}"),
    "input share": ("input_variance_share", "{:.3f}"),
    "smallest slot's": ("input_variance_share_slot_min", "{:.3f}"),
    "same-slot cosine": ("same_slot_similarity", "{:.3f}"),
    "centred": ("same_slot_similarity_centred", "{:.3f}"),
    "retrieval": ("retrieval_top_1", "{:.1%}"),
    "chance": ("retrieval_chance", "{:.1%}"),
}


def token_bags(concepts: int, width: int, vocabulary: int, pad_token_id: int) -> Callable[[Batch], Tensor]:
    """Every slot is a random projection of the bag of tokens: mean of a random vector per token and slot."""
    tables = torch.randn(vocabulary, concepts * width, generator=torch.Generator().manual_seed(0))

    def encode(batch: Batch) -> Tensor:
        ids = batch["input_ids"]
        assert ids is not None
        bags = functional.embedding_bag(ids, tables, mode="mean", padding_idx=pad_token_id)
        return bags.unflatten(1, (concepts, width))

    return encode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data-root")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    home, mirror = cogito_home(), resolve_data_root(arguments.data_root)
    spec = load_spec(arguments.spec, [*arguments.overrides, "tracking.wandb=disabled"])
    source = find_dataset(spec.data.dataset, home, mirror)
    corpus = prepare_corpus(spec.data, source, home, mirror, tokenizer_folder=arguments.checkpoint)
    folder = arguments.checkpoint
    if folder is None:
        folder = pretrain(spec, corpus, claim_run(home, "collapse_figures"), home, processes=1).model
    config = load_checkpoint(folder).config
    concepts, width = config.num_concepts, config.hidden_size
    trained = load_checkpoint(folder).get_submodule("encoder").eval()
    torch.manual_seed(0)
    untrained = ConceptModel(config).get_submodule("encoder").eval()
    with torch.no_grad():
        # As long as ten concepts: the final norm gives each of them about the length sqrt(H).
        offset = 10 * width**0.5 * functional.normalize(torch.randn(width), dim=0)
    orthogonal = torch.linalg.qr(torch.randn(width, width)).Q[:concepts]
    encoders: dict[str, Callable[[Batch], Tensor]] = {
        "constant, orthogonal": lambda batch: orthogonal.expand(len(batch["input_ids"]), -1, -1),  # type: ignore[arg-type]
        "untrained": lambda batch: untrained(**batch),
        "bags of tokens": token_bags(concepts, width, config.vocab_size, corpus.special_token_ids["pad_token_id"]),
        "trained": lambda batch: trained(**batch),
        "trained + shared offset": lambda batch: trained(**batch) + offset,
    }
    blocks = TokenBlocks(corpus.folder, "held_out")
    print(f"{concepts} concepts of {width} dimensions; {min(spec.analysis.max_samples, len(blocks))} held-out blocks\n")
    print(f"| encoder | {' | '.join(COLUMNS)} |")
    print("|" + "---|" * (len(COLUMNS) + 1))
    for name, encode in encoders.items():
        _, figures = measure_concepts(
            encode,
            (concepts, width),
            blocks,
            spec.analysis.max_samples,
            spec.analysis.batch_size,
            corpus.special_token_ids,
        )
        print(f"| {name} | {' | '.join(form.format(figures[key]) for key, form in COLUMNS.values())} |", flush=True)


if __name__ == "__main__":
    main()
