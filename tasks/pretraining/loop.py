"""The rank side of pretraining: what every process of `accelerate launch` runs.

The step's loss is divided by the labelled tokens of the whole step over all processes and micro-batches, so the curve
does not depend on how the global batch is cut. Nothing but dropout draws from the global random state.
Legend: B samples of a micro-batch, N tokens.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils.memory import should_reduce_batch_size
from torch.utils.data import DataLoader, Subset

from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import CheckpointError, LoadReport, save_checkpoint, warm_start
from models.configuration import ConceptConfig
from models.family import IGNORE_INDEX, VARIANTS
from models.geometry import GeometryStream
from models.objectives import CorruptionSettings, word_starts
from models.pretraining_step import PretrainingStep
from tasks.data.corpus import load_tokenizer
from tasks.data.token_blocks import Batch, BatchPlan, HeldOutBatches, MicroBatches, TokenBlocks, clean_batches
from tasks.errors import StageError
from tasks.jobs.messages import (
    PAUSE_REQUEST,
    TERMINATED,
    PauseAnswer,
    PretrainingJob,
    answer_pause,
    report_progress,
    report_warning,
)
from tasks.pretraining.guards import TrainingGuard
from tasks.pretraining.state import last_complete_state, load_best, load_state, save_best, save_state
from tasks.pretraining.tracking import start_tracking
from tasks.spec.experiment import ExperimentSpec, training_steps, warmup_steps
from tasks.store.files import building, write_atomic, write_json, write_manifest, writing
from tasks.store.records import Divergence, PretrainingResult

# Progress lines and the training curve are written about this often.
REPORT_SECONDS = 1.0
# The geometry that is followed while a model trains; the whole of it is the analysis stage's.
LIVE_FIGURES = (
    "nuclear_rank_of_mean",
    "effective_rank_of_mean",
    "effective_rank_per_sample_mean",
    "mean_concept_similarity",
    "centred_effective_rank",
    "input_variance_share",
)


def learning_rate_factor(schedule: str, warmup_steps: int, steps: int) -> Callable[[int], float]:
    """The factor on the learning rate at a step: linear warm-up, then the schedule, to zero at the end."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = (step - warmup_steps) / max(1, steps - warmup_steps)
        if schedule == "constant":
            return 1.0
        if schedule == "linear":
            return max(0.0, 1.0 - done)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    return factor


def parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices; leave biases, norms and loss weights alone."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def run_pretraining(job: PretrainingJob, folder: Path) -> PretrainingResult | None:
    """Train to the end, from the last complete state if there is one; rank 0 returns the result.

    Raises:
        StageError: the training failed, out of memory among others.
    """
    spec = job.spec
    try:
        result = _train(job, folder)
        PartialState().destroy_process_group()  # its threads, alive at exit, can abort a process that is done
        return result
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
            raise
        size, steps_of = spec.training.per_device_batch_size, spec.training.global_batch_size
        smaller = f"--set training.per_device_batch_size={max(1, size // 2)}" if size > 1 else "a smaller model"
        raise StageError(
            f"out of memory with training.per_device_batch_size {size}: {str(error).partition('. ')[0] or 'no room'}; "
            f"fix: {smaller} (a step still sees the {steps_of} sequences of training.global_batch_size)"
        ) from error


def _train(job: PretrainingJob, folder: Path) -> PretrainingResult | None:
    spec, training = job.spec, job.spec.training
    objective = VARIANTS[spec.model.variant].objective
    use_cpu = job.device == "cpu"
    bf16 = training.mixed_precision == "bf16" or (training.mixed_precision == "auto" and not use_cpu)
    accelerator = Accelerator(cpu=use_cpu, mixed_precision="bf16" if bf16 else "no")
    if accelerator.device.type != job.device:  # accelerate takes the CPU where it finds no GPU, and says nothing
        raise StageError(f"asked for {job.device}, found {accelerator.device.type}: the GPU does not answer")
    if accelerator.num_processes != job.processes:
        raise StageError(f"asked for {job.processes} processes, the launcher started {accelerator.num_processes}")

    corpus = job.corpus
    tokenizer = load_tokenizer(corpus / "tokenizer")
    config = ConceptConfig(**job.config)
    torch.manual_seed(training.seed)
    model = ConceptModelForMaskedLM(config)
    start = _warm_start(model, job.init_from) if job.init_from else None
    module = PretrainingStep(model, spec.objective.concept_losses, spec.objective.loss_weighting, spec.label_smoothing)
    optimizer = torch.optim.AdamW(
        parameter_groups(module, training.weight_decay), lr=training.learning_rate, fused=True
    )
    blocks = TokenBlocks(corpus, "train")
    steps = training_steps(spec, len(blocks))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, learning_rate_factor(training.schedule, warmup_steps(spec, steps), steps)
    )
    settings = corruption_settings(spec, tokenizer, config.vocab_size)
    plan = BatchPlan(
        objective,
        settings,
        tokenizer.pad_token_id,
        seed=training.seed,
        global_batch_size=training.global_batch_size,
        per_device_batch_size=training.per_device_batch_size,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    micro_batches = MicroBatches(blocks, plan, steps)
    held_out_blocks = TokenBlocks(corpus, "held_out")
    held_out = HeldOutBatches(held_out_blocks, plan, training.max_eval_blocks)
    step_module = accelerator.prepare(module)
    optimizer = accelerator.prepare(optimizer)
    # Dropout differs between ranks; the initial weights do not.
    torch.manual_seed(training.seed * 1000 + accelerator.process_index)

    warn = report_warning if accelerator.is_main_process else (lambda text: None)
    state = last_complete_state(folder / "checkpoints", job.identity, warn)
    guard = TrainingGuard(job.unigram_entropy, warn)
    done = load_state(state, module, optimizer, scheduler, accelerator, guard) if state else 0
    curve = _Curve(folder / "curve.jsonl", done) if accelerator.is_main_process else None
    tracking = start_tracking(job, done) if accelerator.is_main_process else None

    def save(step: int, keep: int) -> None:
        if curve is not None:
            os.fsync(curve.file.fileno())  # a state after step N stands beside N points, even after a loss of power
        save_state(
            folder / "checkpoints",
            job.identity,
            step,
            module,
            optimizer,
            scheduler,
            accelerator,
            keep,
            guard.state_dict(),
        )

    device = accelerator.device
    loader = DataLoader(
        Subset(micro_batches, range(done * micro_batches.per_step, len(micro_batches))),
        batch_size=None,
        num_workers=0 if use_cpu else 2,
        pin_memory=not use_cpu,
        # Its own generator: a loader draws from the global one on start, which would shift dropout after a resume.
        generator=torch.Generator(),
    )
    batches = iter(loader)
    module.train()
    started = time.monotonic()
    first_step, trained_tokens, last_report = done, 0, 0.0
    eval_loss = math.nan
    stopped: str | None = None
    diverged_at = finished = done
    for step in range(done, steps):
        group = list(islice(batches, micro_batches.per_step))
        losses, tokens = _forward_backward(accelerator, step_module, group, training.global_batch_size, device)
        gradient_norm = accelerator.clip_grad_norm_(step_module.parameters(), training.max_grad_norm)
        learning_rate = scheduler.get_last_lr()[0]
        values = {name: value.item() for name, value in losses.items()}
        stopped = guard.after_gradient(values["total"], float(gradient_norm))
        diverged_at = step + 1
        if stopped is not None:
            break  # before the step is taken
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        trained_tokens += tokens
        finished = step + 1
        evaluate = finished % training.eval_every_steps == 0 or finished == steps
        geometry: dict[str, float] = {}
        if evaluate:
            eval_loss = _evaluate(accelerator, module, held_out, device)
            if accelerator.is_main_process:
                sample = clean_batches(
                    held_out_blocks, spec.analysis.live_samples, spec.analysis.batch_size, tokenizer.pad_token_id
                )
                geometry = _live_geometry(module, sample, device)
            stopped = guard.after_evaluation(finished, eval_loss, geometry)
            if accelerator.is_main_process and guard.best_step == finished < steps:
                save_best(folder / "checkpoints", module, finished)
        if curve is not None and tracking is not None:
            figures: dict[str, Any] = {
                "step": finished,
                "epoch": round(finished * training.global_batch_size / len(blocks), 4),
                "learning_rate": learning_rate,
                "gradient_norm": float(gradient_norm),
                **{f"{name}_loss": value for name, value in values.items()},
                **_loss_weights(module),
            }
            if evaluate:
                figures |= {"eval_loss": eval_loss, **geometry}
            curve.add(figures)
            tracking.log(figures, step=finished)
            now = time.monotonic()
            if evaluate or now - last_report >= REPORT_SECONDS:
                last_report = now
                speed = (finished - first_step) / (now - started)
                report_progress(**figures, steps=steps, steps_per_second=speed)
        if stopped is not None:
            break
        if finished < steps and _must_pause(accelerator, folder, device):
            save(finished, training.keep_checkpoints)
            if accelerator.is_main_process:
                answer_pause(folder, PauseAnswer(identity=job.identity, step=finished))
            return None
        if finished % training.checkpoint_every_steps == 0 and finished < steps:
            save(finished, training.keep_checkpoints)
    seconds = time.monotonic() - started
    accelerator.wait_for_everyone()
    diverged = None
    if stopped is not None:
        # What is kept are the weights of the best evaluation; where there was none yet, those before the bad step.
        best = load_best(folder / "checkpoints", module, guard.best_step)
        diverged = Divergence(
            reason=stopped,
            step=diverged_at,
            kept_step=guard.best_step if best else finished,
            loss=values["task"],
            gradient_norm=float(gradient_norm),
            learning_rate=learning_rate,
        )
        eval_loss = _evaluate(accelerator, module, held_out, device)
    elif steps == done:
        # Killed between the last step's state and the result: all that is missing is the evaluation.
        eval_loss = _evaluate(accelerator, module, held_out, device)
    if steps > done and stopped is None:
        save(steps, 1)
    if not accelerator.is_main_process:
        return None
    assert tracking is not None
    facts = {"run_id": job.run_id, "spec": spec.model_dump(mode="json")}
    _write_model(folder / "model", model, corpus / "tokenizer", facts)
    url = tracking.finish()
    return PretrainingResult(
        model=folder / "model",
        steps=finished,
        epochs=finished * training.global_batch_size / len(blocks),
        train_loss=_last_train_loss(folder),
        eval_loss=eval_loss,
        curve=folder / "curve.jsonl",
        steps_per_second=(finished - first_step) / seconds,
        tokens_per_second=trained_tokens / seconds,
        processes=accelerator.num_processes,
        device=torch.cuda.get_device_name() if not use_cpu else "CPU",
        precision="bf16" if bf16 else "fp32",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        wandb_url=url,
        seconds=seconds,
        loaded_weights=len(start.loaded) if start else 0,
        new_weights=start.new if start else [],
        diverged=diverged,
        warnings=list(guard.warnings.values()),
    )


def _must_pause(accelerator: Accelerator, folder: Path, device: torch.device) -> bool:
    """Whether any process of the run was told to pause; all of them get the same answer."""
    told = (folder / PAUSE_REQUEST).exists() or TERMINATED.is_set()
    if accelerator.num_processes == 1:
        return told
    return bool(accelerator.reduce(torch.tensor(float(told), device=device), reduction="sum") > 0)


def _write_model(target: Path, model: ConceptModelForMaskedLM, tokenizer: Path, facts: dict[str, Any]) -> None:
    with building(target) as folder:
        save_checkpoint(model, folder)
        # The very files: saving again would write other bytes, and so another identity of the same tokenizer.
        for path in sorted(tokenizer.iterdir()):
            shutil.copyfile(path, folder / path.name)
        write_json(folder / "experiment.json", facts)
        write_manifest(folder)


def _forward_backward(
    accelerator: Accelerator,
    step_module: torch.nn.Module,
    group: list[Batch],
    global_batch_size: int,
    device: torch.device,
) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of one step; returns its losses over all processes, and its tokens over all processes."""
    world = accelerator.num_processes
    group = [
        {name: None if tensor is None else tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        for batch in group
    ]
    counts = torch.zeros(2, device=device, dtype=torch.float64)
    for batch in group:
        labels = batch["labels"]
        assert labels is not None
        counts += torch.stack([_label_weight(batch), torch.tensor(labels.numel(), device=device)])
    labelled, tokens = accelerator.reduce(counts, reduction="sum")
    sums: dict[str, torch.Tensor] = {}
    for number, batch in enumerate(group):
        last = number == len(group) - 1
        assert batch["labels"] is not None
        # DDP averages gradients over processes; the factor `world` turns that into the sum.
        share = len(batch["labels"]) * world / global_batch_size
        with nullcontext() if last else accelerator.no_sync(step_module):
            losses = step_module(**batch, num_items_in_batch=labelled.float() / world, share=share)
            accelerator.backward(losses["total"])
        for name, loss in losses.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + loss.detach().float()
    means = accelerator.reduce(torch.stack(list(sums.values())), reduction="mean")
    return dict(zip(sums, means, strict=True)), int(tokens)


def _warm_start(model: ConceptModelForMaskedLM, folder: Path) -> LoadReport:
    """Fill a new model from the checkpoint of `training.init_from`, and say what was taken."""
    try:
        report = warm_start(model, folder)
    except CheckpointError as error:
        raise StageError(f"training.init_from: {error}") from error
    print(f"warm start: {len(report.loaded)} weights loaded")
    print(f"{len(report.new)} new: {', '.join(report.new)}; {len(report.dropped)} dropped: {', '.join(report.dropped)}")
    return report


def corruption_settings(spec: ExperimentSpec, tokenizer: Any, vocab_size: int) -> CorruptionSettings:
    """What the objective of a spec needs to know."""
    objective = spec.objective
    return CorruptionSettings(
        mask_prob=objective.mask_prob,
        mask_token_id=tokenizer.mask_token_id,
        vocab_size=vocab_size,
        special_ids=tuple(tokenizer.all_special_ids),
        whole_word=objective.whole_word,
        deletion_prob=objective.deletion_prob,
        t_min=spec.t_min,
        elbo=objective.elbo,
        word_starts=word_starts(tokenizer) if objective.whole_word else None,
    )


def _label_weight(batch: Batch) -> torch.Tensor:
    """The weights of all labelled tokens of a batch; each counts 1 unless the objective says otherwise."""
    labels, weights = batch["labels"], batch.get("loss_weights")
    assert labels is not None
    labelled = labels != IGNORE_INDEX
    return labelled.sum() if weights is None else weights[labelled].sum()


def _loss_weights(module: PretrainingStep) -> dict[str, float]:
    """The factor of every loss after a step, where there is more than one loss."""
    if not module.concept_losses:
        return {}
    factors = module.weighting.coefficients().detach().tolist()
    return {f"{name}_weight": factor for name, factor in zip(["task", *module.concept_losses], factors, strict=True)}


@torch.no_grad()
def _live_geometry(module: PretrainingStep, sample: Iterator[Batch], device: torch.device) -> dict[str, float]:
    """Ranks and input share of the concepts of a fixed held-out sample, so that collapse is seen while it happens."""
    module.eval()
    shape = module.model.config.num_concepts, module.model.config.hidden_size
    geometry = GeometryStream(*shape)
    for batch in sample:
        tensors = {name: None if t is None else t.to(device) for name, t in batch.items()}
        geometry.update(module.model.encoder(**tensors))
    module.train()
    figures = geometry.figures()
    return {name: figures[name] for name in LIVE_FIGURES}


@torch.no_grad()
def _evaluate(
    accelerator: Accelerator, module: PretrainingStep, batches: HeldOutBatches, device: torch.device
) -> float:
    """Nats per labelled token on held-out text: no concept losses, no label smoothing, no token weights."""
    module.eval()
    totals = torch.zeros(2, device=device, dtype=torch.float64)
    for number in range(len(batches)):
        batch = {name: None if t is None else t.to(device) for name, t in batches[number].items()}
        batch.pop("loss_weights", None)
        labels = batch["labels"]
        assert labels is not None
        with accelerator.autocast():
            losses = module(**batch, num_items_in_batch=1.0, share=1.0)
        totals += torch.stack([losses["task"].double(), (labels != IGNORE_INDEX).sum().double()])
    module.train()
    loss, count = accelerator.reduce(totals, reduction="sum")
    return float(loss / count)


class _Curve:
    """The training curve as JSON lines; on resume what lies after the resumed step is dropped."""

    def __init__(self, path: Path, done: int) -> None:
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= done]
        write_atomic(path, "".join(kept))
        self.file = path.open("ab", buffering=0)  # a line that found no room is not kept to fail once more

    def add(self, figures: dict[str, Any]) -> None:
        line = json.dumps(figures).encode() + b"\n"
        with writing(Path(self.file.name)):
            while line:  # of a nearly full disk the system takes a part first, and says so at the rest
                line = line[self.file.write(line) :]


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        with path.open(encoding="utf-8") as file:
            # A kill may leave half a line at the end.
            yield from [line for line in file if line.endswith("\n")]


def _last_train_loss(folder: Path) -> float:
    losses = [json.loads(line)["task_loss"] for line in _lines(folder / "curve.jsonl")]
    return sum(losses[-100:]) / len(losses[-100:])
