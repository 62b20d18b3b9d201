"""A training step, in which the host never waits for the device.

The step's loss is divided by the labelled tokens of the whole step over all processes and micro-batches, so the curve
does not depend on how the global batch is cut. Its figures stay on the device and are read during the next step, before
the weights change again; whether a step may be taken is decided on the device, by the rule of the guard.
"""

from contextlib import nullcontext

import torch

from tasks.data.token_blocks import Batch, on_device
from tasks.jobs.messages import PAUSE_REQUEST, TERMINATED
from tasks.pretraining.training import StepFigures, StepUnderWay, Training


def take_step(training: Training, group: list[Batch]) -> StepFigures | None:
    """Compute the gradients of a step, read the step before it, and take this one unless the guard stops the training.

    Returns:
        The figures of the step before this one; None where they were read already, or the training has stopped.
    """
    state, limit = training.state, training.job.spec.training.max_grad_norm
    names, losses = forward_backward(training, group)
    norm = state.accelerator.clip_grad_norm_(training.step_module.parameters(), limit)
    before = read_figures(training)
    if training.stopped is None:
        good = losses[0].isfinite() & (norm.double() <= state.guard.largest_norm)
        state.optimizer.optimizer.found_inf = (
            good.logical_not().float()
        )  # a fused optimizer skips the step where it is 1
        rate = state.scheduler.get_last_lr()[0]
        state.optimizer.step()
        state.scheduler.step()
        state.optimizer.zero_grad(set_to_none=True)
        training.finished += 1
        factors = state.module.weighting.coefficients().detach()
        values, ready = _to_host(torch.cat([losses, norm.detach().float()[None], factors.float()]))
        training.under_way = StepUnderWay(training.finished, rate, names, values, ready)
    return before


def forward_backward(training: Training, group: list[Batch]) -> tuple[tuple[str, ...], torch.Tensor]:
    """Gradients of one step.

    Returns:
        The names of its losses; their values over all processes and, last, the share of ranks that were asked to pause.
    """
    accelerator, step_module = training.state.accelerator, training.step_module
    device, world = accelerator.device, accelerator.num_processes
    group = [on_device(batch, device) for batch in group]
    labelled = accelerator.reduce(torch.stack([batch["labels"].total for batch in group]).sum(), reduction="sum")
    sums: dict[str, torch.Tensor] = {}
    for number, batch in enumerate(group):
        last = number == len(group) - 1
        # DDP averages gradients over processes; the factor `world` turns that into the sum.
        share = len(batch["input_ids"]) * world / training.job.spec.training.global_batch_size
        with nullcontext() if last else accelerator.no_sync(step_module):
            losses = step_module(**batch, num_items_in_batch=labelled.float() / world, share=share)
            accelerator.backward(losses["total"])
        for name, loss in losses.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + loss.detach().float()
    asked = (training.folder / PAUSE_REQUEST).exists() or TERMINATED.is_set()
    figures = torch.stack([*sums.values(), torch.full((), float(asked), device=device)])
    return tuple(sums), accelerator.reduce(figures, reduction="mean")


def _to_host(values: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """Start to copy values to main memory; the event says when they are there."""
    if values.device.type == "cpu":
        return values, None
    there = values.to("cpu", non_blocking=True)  # into pinned memory, which torch takes by itself
    ready = torch.cuda.Event()
    ready.record()
    return there, ready


def read_figures(training: Training) -> StepFigures | None:
    """Read the step under way and have the guard judge it: a step that it refuses was not taken, and ends the training.

    Returns:
        Its figures; None where none is under way, or it was not taken.
    """
    step, training.under_way = training.under_way, None
    if step is None:
        return None
    if step.ready is not None:
        step.ready.synchronize()  # long since, as the device works on a later step
    values, count = step.values.tolist(), len(step.names)
    losses, (asked, norm, *factors) = dict(zip(step.names, values[:count], strict=True)), values[count:]
    concept_losses = training.state.module.concept_losses
    weights = {f"{name}_weight": factor for name, factor in zip(["task", *concept_losses], factors, strict=True)}
    training.last = StepFigures(step.number, losses, norm, step.learning_rate, weights if concept_losses else {})
    training.pause_asked = asked > 0
    training.stopped = training.state.guard.after_gradient(losses["total"], norm)
    if training.stopped is not None:
        training.finished = step.number - 1
        return None
    training.tokens += training.micro_batches.tokens(step.number - 1)
    return training.last
