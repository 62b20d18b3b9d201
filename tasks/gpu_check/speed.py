"""What a step at H512 L6 costs on one device: tokens per second, share of the peak, memory, kernels."""

import time
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.pretraining_step import PretrainingStep
from tasks.gpu_check.numerics import Figures, small_spec
from tasks.gpu_check.work import LARGE, SHORT, VOCABULARY
from tasks.pretraining.cost import flops_per_token, random_batch
from tasks.pretraining.stage import model_config
from tasks.pretraining.timing import peak_flops

WARM, TIMED, KERNELS = 5, 20, 8


def check_speed(device: str) -> Figures:
    """Tokens per second of steps alone, model FLOP utilisation, peak memory, and what the time goes to."""
    on_gpu = device == "cuda"
    spec = small_spec(**LARGE if on_gpu else SHORT)
    config = model_config(spec, VOCABULARY if on_gpu else 600, None, {"mask_token_id": 1})
    step, tokens = _make_step(spec, config, device)
    for _ in range(WARM if on_gpu else 1):
        step()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    _wait(device)
    began, timed = time.perf_counter(), TIMED if on_gpu else 3
    for _ in range(timed):
        step()
    _wait(device)
    speed = timed * tokens / (time.perf_counter() - began)
    achieved = speed * flops_per_token(spec, config)
    figures: Figures = {"model": spec.model.size_name, "tokens/s": speed, "TFLOP/s": achieved / 1e12}
    if on_gpu:
        name = torch.cuda.get_device_name()
        peak = peak_flops(name, "bf16")
        figures["MFU"] = achieved / peak if peak else f"the peak of {name} is not in the table"
        figures["peak memory GB"] = torch.cuda.max_memory_allocated() / 1e9
    return figures | _profile(step, device)


def _make_step(spec: Any, config: dict[str, Any], device: str) -> tuple[Any, int]:
    """A step of training as a function, in bf16 on a GPU; and its tokens."""
    built = ConceptConfig(**config)
    module = PretrainingStep(ConceptModelForMaskedLM(built), {}, "fixed").to(device).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    batch = random_batch(spec, built, samples=spec.training.per_device_batch_size)
    count = batch["labels"].total.float().to(device)
    inputs = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), batch)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            total = module(**inputs, num_items_in_batch=count, share=1.0)["total"]
        total.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, batch["input_ids"].numel()


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _profile(step: Any, device: str) -> Figures:
    """The operations that take most of the device's time, as shares."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(3):
            step()
        _wait(device)
    spent = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    rows = {row.key: getattr(row, spent) for row in profile.key_averages()}
    total = sum(rows.values()) or 1.0
    longest = sorted(rows, key=lambda key: -rows[key])[:KERNELS]
    return {f"time in {name[:60]}": f"{rows[name] / total:.1%}" for name in longest}
