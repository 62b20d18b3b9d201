"""What a training costs, counted from its operations before it begins.

Legend: B samples of a batch, N tokens.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.family import OBJECTIVES, VARIANTS
from models.labels import locate_labels
from models.objectives import CorruptionSettings, sample_generator
from models.pretraining_step import PretrainingStep
from tasks.data.token_blocks import Batch, pad_samples
from tasks.spec.experiment import ExperimentSpec

# Samples whose mean is taken: objectives draw how many tokens they hide.
SAMPLES = 16


def _added_product(_sum_shape: Any, a: Any, b: Any, **_: Any) -> int:
    return 2 * math.prod(a) * b[-1]


# Products that torch's counter does not know: those that are added in place.
IN_PLACE = {torch.ops.aten.addmm_: _added_product}


def flops_per_token(spec: ExperimentSpec, config: Mapping[str, Any]) -> float:
    """Floating-point operations of a training step for each token of a block, forward and backward.

    Counted are the products that torch carries out, two operations for a multiplication and an addition, on tensors
    without memory; what a CPU or GPU does besides, as norms and the optimizer, is left out, as usual.

    Args:
        config: arguments of `ConceptConfig`.
    """
    built = ConceptConfig(**config)
    fake, batch = FakeTensorMode(), random_batch(spec, built)
    with fake:
        objective = spec.objective
        step = PretrainingStep(ConceptModelForMaskedLM(built), objective.concept_losses, objective.loss_weighting)
    # The kernels for attention on a CPU are not counted; those of plain products are, without what others recompute.
    with fake, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        inputs = tree_map_only(torch.Tensor, fake.from_tensor, batch)
        step(**inputs, num_items_in_batch=1.0, share=1.0)["total"].backward()
    return counter.get_total_flops() / (SAMPLES * spec.data.block_tokens)


def random_batch(spec: ExperimentSpec, config: ConceptConfig, samples: int = SAMPLES) -> Batch:
    """Blocks of random tokens, corrupted as the text will be; whole words are masked like single tokens."""
    objective = VARIANTS[spec.model.variant].objective
    mask, chosen = config.vocab_size - 1, spec.objective
    settings = CorruptionSettings(
        mask_prob=chosen.mask_prob,
        mask_token_id=mask,
        vocab_size=config.vocab_size,
        special_ids=(mask,),
        deletion_prob=chosen.deletion_prob,
        t_min=spec.t_min,
        elbo=chosen.elbo,
    )
    corrupt, text = OBJECTIVES[objective].load(), np.random.default_rng(0)
    corrupted = [
        corrupt(text.integers(0, mask, spec.data.block_tokens), sample_generator(0, 0, 0, number), settings)
        for number in range(samples)
    ]
    batch = pad_samples(corrupted, 0)
    batch["labels"] = locate_labels(batch["labels"], batch.pop("loss_weights", None))
    return batch
