"""What a training costs, counted from its operations before it begins.

Legend: B samples of a batch, N tokens.
"""

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.family import OBJECTIVES, VARIANTS
from models.labels import locate_labels
from models.objectives import CorruptionSettings, sample_generator
from models.pretraining_step import PretrainingStep
from tasks.data.token_blocks import Batch, micro_batches_per_step, pad_samples
from tasks.spec.experiment import ExperimentSpec

# Samples whose mean is taken: objectives draw how many tokens they hide.
SAMPLES = 16
# Tokens of the largest micro-batch whose memory is counted; that of a larger one is in proportion.
COUNTED_TOKENS = 2**19


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


@dataclass(frozen=True)
class StepMemory:
    """Bytes of tensors on one device at the peak of a training step.

    Attributes:
        gradients: where they are kept, from micro-batch to micro-batch, or from step to step by DDP; else zero.
        working: activations of a micro-batch, logits of a chunk of labels, what backward makes of them, and gradients
            that are not kept.
    """

    weights: int
    gradients: int
    optimizer: int
    working: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.working


class _Memory(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, as long as they live.

    Attributes:
        peak: the most there were at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return tree_map_only(torch.Tensor, self._count, func(*args, **(kwargs or {})))

    def _count(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return tensor

    def _forget(self, storage: int, size: int) -> None:
        self._known.remove(storage)
        self._now -= size


def step_memory(
    spec: ExperimentSpec, config: Mapping[str, Any], device: Literal["cpu", "cuda"], processes: int
) -> StepMemory:
    """The memory that a step of a training takes on each device, counted on tensors without memory.

    The step is that of an eager training: a compiled one takes less. The kernels are those of a CPU, but for attention
    on a GPU, whose weights are never in memory. Not counted: libraries, and what an allocator loses to fragments.

    Args:
        config: arguments of `ConceptConfig`.
        processes: of the training; with several, DDP keeps gradients from step to step.
    """
    training = spec.training
    built = ConceptConfig(**{**config, **({"attention_probs_dropout_prob": 0.0} if device == "cuda" else {})})
    per_step = micro_batches_per_step(training.global_batch_size, training.per_device_batch_size, processes)
    samples = math.ceil(training.global_batch_size / (processes * per_step))
    counted = max(1, min(samples, COUNTED_TOKENS // spec.data.block_tokens))
    batch, fake, memory = random_batch(spec, built, counted), FakeTensorMode(), _Memory()
    with fake, memory:
        objective = spec.objective
        step = PretrainingStep(ConceptModelForMaskedLM(built), objective.concept_losses, objective.loss_weighting)
        optimizer = torch.optim.AdamW(step.parameters(), lr=1e-3, fused=True)
        inputs = tree_map_only(torch.Tensor, fake.from_tensor, batch)
        for _ in range(2):  # the first makes what the optimizer keeps
            with torch.autocast("cpu", torch.bfloat16, enabled=training.precision_on(device) == "bf16"):
                total = step(**inputs, num_items_in_batch=1.0, share=1.0)["total"]
            total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=per_step == processes == 1)
    weights = sum(parameter.nbytes for parameter in step.parameters())
    kept = weights if per_step * processes > 1 else 0
    state = sum(part.nbytes for states in optimizer.state.values() for part in states.values())
    working = (memory.peak - weights - kept - state) * samples / counted
    return StepMemory(weights, kept, state, working=round(working))


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
        for number in range(min(samples, SAMPLES))
    ]
    batch = pad_samples([corrupted[number % SAMPLES] for number in range(samples)], 0)
    batch["labels"] = locate_labels(batch["labels"], batch.pop("loss_weights", None))
    return batch
