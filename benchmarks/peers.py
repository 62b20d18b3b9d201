"""One training step over the length of the text, against encoders of transformers with as many parameters.

H512, 37 to 40 M parameters without the positions: six layers of ours with a vocabulary of 4,096, so that most of a step
is the encoder and not the LM head, and two layers with the lab's vocabulary. Every step reads the same tokens with the
same 15 % of labels and no padding. Dropout is off in all: with dropout in its attention torch keeps N x N scores on a
CPU, some 60 GB for BERT at 8,192. The others are as their packages have them: Perceiver has no SDPA attention; BERT and
ModernBERT use it, and ModernBERT its logits at labels only (`sparse_prediction`), which one more row gives Perceiver.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PerceiverConfig,
    PerceiverForMaskedLM,
)

from benchmarks.measuring import Step, fresh, in_turn, ratio, spread
from benchmarks.step import SMALL, Size, corrupted_batch, optimized, our_config, our_step
from models.autoencoder import ConceptModelForMaskedLM
from tasks.pretraining.cost import IN_PLACE

TITLE = "Length of the text against encoders of transformers"
TOKENS = 4096  # of a step, or one text of more
OURS = {"ours": {}, "ours, shared K and V": {"share_token_kv": True}}
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class Depths(NamedTuple):
    """Layers that make up as many parameters."""

    ours: int
    perceiver: int
    bert: int
    modernbert: int


# vocabulary, depths, lengths
SETTINGS = [(4096, Depths(6, 20, 11, 16), (512, 2048, 8192)), (50_368, Depths(2, 7, 4, 6), (512, 2048))]


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Of the kernel for attention on a CPU, which torch's counter does not know."""
    return sdpa_flop_count(query, key, value)


def attention_backward_flops(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any) -> int:
    """Twice the forward pass; what the kernel computes again does not count."""
    return 2 * sdpa_flop_count(query, key, value)


COUNTED = {
    **IN_PLACE,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
}


def perceiver(size: Size, layers: int) -> torch.nn.Module:
    """One cross-attention into 128 latents, layers of self-attention, queries at every position."""
    return PerceiverForMaskedLM(
        PerceiverConfig(
            vocab_size=size.vocabulary,
            d_model=size.width,
            d_latents=size.width,
            num_latents=128,
            num_self_attends_per_block=layers,
            max_position_embeddings=size.length,
            attention_probs_dropout_prob=0.0,
        )
    )


def bert(size: Size, layers: int) -> torch.nn.Module:
    """Layers in which all tokens read all."""
    return BertForMaskedLM(
        BertConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.width,
            num_hidden_layers=layers,
            num_attention_heads=size.width // 64,
            intermediate_size=4 * size.width,
            max_position_embeddings=size.length,
            attn_implementation="sdpa",
            **WITHOUT_DROPOUT,
        )
    )


def modernbert(size: Size, layers: int) -> torch.nn.Module:
    """Layers as wide as in its base size; in every third all tokens read all, in the others the nearest 128."""
    return ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.width,
            num_hidden_layers=layers,
            num_attention_heads=size.width // 64,
            intermediate_size=3 * size.width // 2,
            max_position_embeddings=size.length,
            sparse_prediction=True,
            attn_implementation="sdpa",
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
        )
    )


PEERS = {"Perceiver": perceiver, "BERT": bert, "ModernBERT": modernbert}
CAREFUL = "Perceiver, logits at labels"


class Training(NamedTuple):
    """A step, and the parameters that it trains."""

    step: Step
    parameters: int


def peer(name: str, size: Size, depths: Depths, batch: Mapping[str, Any]) -> Training:
    """An encoder of transformers, with its own loss."""
    torch.manual_seed(0)
    kind = name.split(",")[0]
    model = PEERS[kind](size, getattr(depths, kind.lower())).train()
    ids, labels = batch["input_ids"], batch["labels"]

    def loss() -> torch.Tensor:
        if name != CAREFUL:
            return model(input_ids=ids, labels=labels).loss
        states = model.perceiver(inputs=ids).logits[labels != -100]
        logits = model.embedding_decoder(states[None], model.perceiver.input_preprocessor.embeddings)[0]
        return functional.cross_entropy(logits, labels[labels != -100])

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    return Training(optimized(model, optimizer, loss), model.num_parameters())


def ours(size: Size, depths: Depths, batch: Mapping[str, Any], **more: Any) -> Training:
    """perceiver_mlm."""
    model = {"num_layers": depths.ours, **more, **WITHOUT_DROPOUT}
    config = our_config("perceiver_mlm", size, **model)
    return Training(our_step("perceiver_mlm", size, batch, **model), ConceptModelForMaskedLM.count_parameters(config))


def measure(name: str, size: Size, depths: Depths) -> list[dict[str, Any]]:
    """Parameters, operations and seconds of a step of one encoder beside ours; 10 GB for BERT at 8,192."""
    batch = corrupted_batch("perceiver_mlm", size)
    trainings = {name: ours(size, depths, batch, **more) for name, more in OURS.items()}
    trainings[name] = peer(name, size, depths, batch)
    flops = {}
    for name, training in trainings.items():
        with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
            training.step()
        flops[name] = counter.get_total_flops()
    seconds = in_turn({name: training.step for name, training in trainings.items()}, size.rounds, warm=True)
    return [
        {
            "V": size.vocabulary,
            "N": size.length,
            "encoder": name,
            "M parameters": training.parameters / 1e6,
            "tokens/s": spread(size.batch * size.length / second for second in seconds[name]),
            "MFLOP a token": flops[name] / size.batch / size.length / 1e6,
            "GFLOP/s": flops[name] / spread(seconds[name])[0] / 1e9,
            **{f"over {own}": ratio(seconds[name], seconds[own]) for own in OURS},
        }
        for name, training in trainings.items()
    ]


def rows(quick: bool) -> list[dict[str, Any]]:
    """A row for each vocabulary, length and encoder; ours as they were beside the first of the others."""
    sizes = [
        (Size(512, vocabulary, length, max(1, TOKENS // length), 3), depths)
        for vocabulary, depths, lengths in SETTINGS
        for length in lengths
    ]
    table = []
    for size, depths in [(SMALL, Depths(1, 1, 1, 1))] if quick else sizes:
        for number, name in enumerate(("Perceiver", CAREFUL, "BERT", "ModernBERT")):
            table += fresh(measure, name, size, depths)[len(OURS) if number else 0 :]
    return table


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Tokens a second over the length, and how many times as long the others take."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    rows = [row for row in rows if row["V"] == rows[0]["V"]]
    lengths = list(dict.fromkeys(row["N"] for row in rows))
    for name in dict.fromkeys(row["encoder"] for row in rows):
        of_name = [row for row in rows if row["encoder"] == name]
        measured = [row["N"] for row in of_name]
        axes[0].loglog(measured, [row["tokens/s"][0] for row in of_name], marker=".", label=name)
        axes[1].loglog(measured, [row["over ours"][0] for row in of_name], marker=".", label=name)
    axes[0].set(xlabel="tokens of a text", title="Tokens in a CPU-second of training")
    axes[1].set(xlabel="tokens of a text", title="Time of a step, as a multiple of ours")
    for axis in axes:
        axis.grid(alpha=0.3, which="both")
        axis.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axis.tick_params(axis="x", which="minor", labelbottom=False)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
