"""`training.compile`: a training step as one compiled graph.

torch's compiler loads slowly, so it is imported where a step is compiled.
"""

from collections.abc import Callable

import torch

from models.pretraining_step import PretrainingStep
from tasks.data.token_blocks import Batch, on_device
from tasks.spec.experiment import ExperimentSpec


def shall_compile(spec: ExperimentSpec, device: str) -> bool:
    """Whether to compile: as stated; `auto` where it gains, on a GPU, and all blocks have one length."""
    if spec.training.compile == "auto":
        return device == "cuda" and spec.data.blocks == "concat"
    return spec.training.compile == "on"


def compile_step(
    module: PretrainingStep, spec: ExperimentSpec, batch: Batch, processes: int, warn: Callable[[str], None]
) -> None:
    """Compile a module in place, for training; where `auto` cannot, it stays as it is, with a warning.

    Args:
        module: as accelerate leaves it, so that its precision is compiled with it.
        batch: of the shapes of the training.
        processes: of the training; a micro-batch's share of a step is a constant of the graph.
    """
    device = next(module.parameters()).device
    module.compile(fullgraph=True, dynamic=False)
    if spec.training.compile == "on":
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            module.train()
            one = torch.ones((), device=device)
            share = len(batch["input_ids"]) * processes / spec.training.global_batch_size
            module(**on_device(batch, device), num_items_in_batch=one, share=share)["total"].backward()
        module.zero_grad(set_to_none=True)
    except (TorchDynamoException, ImportError, OSError) as error:
        module._compiled_call_impl = None  # as before `compile`
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        warn(f"training.compile auto: this machine cannot compile the step, which runs without: {reason}")
