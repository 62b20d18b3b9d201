"""The counted cost of a training against sums made by hand from the sizes of its layers."""

import pytest

from models.family import VARIANTS
from tasks.pretraining.cost import flops_per_token
from tasks.pretraining.stage import model_config
from tasks.spec.experiment import ExperimentSpec

H, C, WIDE, N, V = 16, 6, 24, 32, 100
# A product takes two operations an entry; backward makes two products of each forward one.
STEP = 2 * 3


def cost(variant: str, vocab: int = V, *, losses: dict[str, float] | None = None, **model: object) -> float:
    sizes = {"hidden_size": H, "num_concepts": C, "intermediate_size": WIDE, "num_attention_heads": 2, "num_layers": 1}
    spec = ExperimentSpec.model_validate(
        {
            "name": "counted",
            "data": {"dataset": "builtin/python_docs", "train_tokenizer_vocab_size": 300, "block_tokens": N},
            "model": {"variant": variant, "max_sequence_length": 128, **sizes, **model},
            "objective": {"concept_losses": losses or {}, "loss_weighting": "kendall_gal" if losses else "fixed"},
        }
    )
    return flops_per_token(spec, model_config(spec, vocab, None, {}))


def test_a_layer_costs_its_products() -> None:
    reading = N * H * 2 * H + 2 * C * H * H + 2 * C * N * H
    thinking = 4 * C * H * H + 2 * C * C * H
    feed_forward = C * H * 2 * WIDE + C * WIDE * H
    more = cost("perceiver_mlm", num_layers=3) - cost("perceiver_mlm", num_layers=1)
    assert more == pytest.approx(2 * STEP * (reading + thinking + feed_forward) / N)


def test_the_vocabulary_costs_a_product_for_each_label() -> None:
    """tsdae predicts every token; a masked language model few of them."""
    assert cost("tsdae", 2 * V) - cost("tsdae", V) == pytest.approx(STEP * H * V)
    share = (cost("perceiver_mlm", 2 * V) - cost("perceiver_mlm", V)) / (STEP * H * V)
    assert 0.1 < share < 0.25


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_counted(variant: str) -> None:
    assert cost(variant) > STEP * N * H * 2 * H / N


def test_a_concept_loss_costs_something_and_its_learned_weights_are_counted() -> None:
    assert cost("perceiver_mlm", losses={"combined": 1.0}) >= cost("perceiver_mlm")
