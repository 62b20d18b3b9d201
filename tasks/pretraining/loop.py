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
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils.memory import should_reduce_batch_size
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Subset

from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import CheckpointError, LoadReport, save_checkpoint, warm_start
from models.configuration import ConceptConfig
from models.family import VARIANTS
from models.geometry import GeometryStream
from models.objectives import CorruptionSettings, word_starts
from models.pretraining_step import PretrainingStep
from models.rounding import chaos_warning, rounding_error
from tasks.data.token_blocks import Batch, BatchPlan, HeldOutBatches, MicroBatches, TokenBlocks, clean_batches
from tasks.data.tokenizers import load_tokenizer
from tasks.errors import StageError
from tasks.jobs.messages import PAUSE_REQUEST, TERMINATED, PretrainingJob, answer_pause, report_progress, report_warning
from tasks.pretraining.guards import TrainingGuard
from tasks.pretraining.state import (
    TrainingState,
    last_complete_state,
    load_best,
    load_state,
    precision_of,
    save_best,
    save_state,
)
from tasks.pretraining.tracking import Tracking, start_tracking
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


def learning_rate_factor(step: int, schedule: str, warmup_steps: int, steps: int) -> float:
    """The factor on the learning rate at a step: linear warm-up, then the schedule, to zero at the end."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    if schedule == "constant":
        return 1.0
    return max(0.0, 1.0 - done) if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


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


@dataclass
class _Training:
    """One training as one rank sees it.

    Attributes:
        state: what is saved and restored; its module is the bare one.
        step_module: the module as accelerate wraps it.
        start: what a warm start loaded.
        sample: batches of the held-out text whose geometry is followed.
        resumed, finished: steps before this start of the job, and up to now.
        curve, tracking: on rank 0 alone.
        tokens: tokens of the steps of this start, over all processes.
        eval_loss: of the last evaluation, in nats per labelled token.
        stopped: why the guard ended the training.
    """

    job: PretrainingJob
    folder: Path
    state: TrainingState
    step_module: torch.nn.Module
    start: LoadReport | None
    blocks: TokenBlocks
    micro_batches: MicroBatches
    held_out: HeldOutBatches
    sample: Callable[[], Iterator[Batch]]
    steps: int
    resumed: int
    finished: int
    curve: "_Curve | None"
    tracking: Tracking | None
    tokens: int = 0
    eval_loss: float = math.nan
    stopped: str | None = None
    started: float = 0.0
    reported: float = 0.0

    def epochs(self) -> float:
        """Passes over the training blocks so far."""
        return self.finished * self.job.spec.training.global_batch_size / len(self.blocks)

    def save(self, keep: int) -> None:
        """Save the state after the last step and keep the newest `keep` states."""
        if self.curve is not None:
            os.fsync(self.curve.file.fileno())  # a state after step N stands beside N points, even after a power loss
        save_state(self.folder / "checkpoints", self.state, self.finished, keep)


@dataclass(frozen=True)
class _Step:
    """Losses of one step over all processes, and the gradient norm and learning rate that it was taken with."""

    number: int
    losses: dict[str, float]
    gradient_norm: float
    learning_rate: float


def _train(job: PretrainingJob, folder: Path) -> PretrainingResult | None:
    """Train to the end; None on other ranks than 0, and after a pause."""
    training = _set_up(job, folder)
    _warn_of_chaos(training)
    settings, accelerator, step = job.spec.training, training.state.accelerator, None
    batches = _batches_from(training)
    training.state.module.train()
    training.started = time.monotonic()
    while training.finished < training.steps and training.stopped is None:
        step = _take_step(training, list(islice(batches, training.micro_batches.per_step)))
        if training.stopped is not None:
            break
        evaluate = training.finished % settings.eval_every_steps == 0 or training.finished == training.steps
        _report(training, step, _watch(training) if evaluate else None)
        if training.stopped is not None or training.finished == training.steps:
            break
        if _must_pause(training):
            training.save(settings.keep_checkpoints)
            if accelerator.is_main_process:
                answer_pause(folder, job.identity, training.finished)
            return None
        if training.finished % settings.checkpoint_every_steps == 0:
            training.save(settings.keep_checkpoints)
    seconds = time.monotonic() - training.started
    accelerator.wait_for_everyone()
    diverged = None
    if training.stopped is not None and step is not None:
        diverged = _return_to_best(training, step, training.stopped)
    elif step is None:
        _evaluate(training)  # killed between the last step's state and the result: only the evaluation is missing
    else:
        training.save(keep=1)
    return _result(training, seconds, diverged) if accelerator.is_main_process else None


def _start_accelerator(job: PretrainingJob) -> Accelerator:
    """The accelerator of this rank; refuses another device or number of processes than the job has."""
    bf16 = job.spec.training.precision_on(job.device) == "bf16"
    accelerator = Accelerator(cpu=job.device == "cpu", mixed_precision="bf16" if bf16 else "no")
    if accelerator.device.type != job.device:  # accelerate silently takes the CPU where it finds no GPU
        raise StageError(f"requested {job.device}, found {accelerator.device.type}: the GPU does not respond")
    if accelerator.num_processes != job.processes:
        raise StageError(f"requested {job.processes} processes, the launcher started {accelerator.num_processes}")
    return accelerator


def _set_up(job: PretrainingJob, folder: Path) -> _Training:
    """Build model, optimizer and batches, and restore the last complete state."""
    accelerator = _start_accelerator(job)
    spec, settings = job.spec, job.spec.training
    tokenizer = load_tokenizer(job.corpus / "tokenizer")
    config = ConceptConfig(**job.config)
    torch.manual_seed(settings.seed)
    model = ConceptModelForMaskedLM(config)
    start = _warm_start(model, job.init_from) if job.init_from else None
    module = PretrainingStep(model, spec.objective.concept_losses, spec.objective.loss_weighting, spec.label_smoothing)
    groups = parameter_groups(module, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    blocks, held_out_blocks = TokenBlocks(job.corpus, "train"), TokenBlocks(job.corpus, "held_out")
    steps = training_steps(spec, len(blocks))
    warmup = warmup_steps(spec, steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, settings.schedule, warmup, steps)
    )
    plan = BatchPlan(
        VARIANTS[spec.model.variant].objective,
        corruption_settings(spec, tokenizer, config.vocab_size),
        tokenizer.pad_token_id,
        seed=settings.seed,
        global_batch_size=settings.global_batch_size,
        per_device_batch_size=settings.per_device_batch_size,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    step_module = accelerator.prepare(module)
    optimizer = accelerator.prepare(optimizer)
    # Dropout differs between ranks; the initial weights do not.
    torch.manual_seed(settings.seed * 1000 + accelerator.process_index)
    main = accelerator.is_main_process
    warn = report_warning if main else (lambda text: None)
    guard = TrainingGuard(job.unigram_entropy, warn)
    state = TrainingState(job.identity, module, optimizer, scheduler, accelerator, guard)
    saved = last_complete_state(folder / "checkpoints", job.identity, warn)
    resumed = load_state(saved, state) if saved else 0
    return _Training(
        job=job,
        folder=folder,
        state=state,
        step_module=step_module,
        start=start,
        blocks=blocks,
        micro_batches=MicroBatches(blocks, plan, steps),
        held_out=HeldOutBatches(held_out_blocks, plan, settings.max_eval_blocks),
        sample=partial(
            clean_batches, held_out_blocks, spec.analysis.live_samples, spec.analysis.batch_size, tokenizer.pad_token_id
        ),
        steps=steps,
        resumed=resumed,
        finished=resumed,
        curve=_Curve(folder / "curve.jsonl", resumed) if main else None,
        tracking=start_tracking(job) if main else None,
    )


def _warn_of_chaos(training: _Training) -> None:
    """Measure the start of a training from new weights; rank 0 alone."""
    new = training.start is None and training.resumed == 0
    if new and training.state.accelerator.is_main_process:
        warning = chaos_warning(rounding_error(training.state.module.model.config))
        if warning is not None:
            report_warning(warning)


def _batches_from(training: _Training) -> Iterator[Batch]:
    """The micro-batches that remain."""
    micro_batches, on_gpu = training.micro_batches, training.job.device != "cpu"
    loader = DataLoader(
        Subset(micro_batches, range(training.resumed * micro_batches.per_step, len(micro_batches))),
        batch_size=None,
        num_workers=2 if on_gpu else 0,
        pin_memory=on_gpu,
        # Its own generator: a loader draws from the global one on start, which would shift dropout after a resume.
        generator=torch.Generator(),
    )
    return iter(loader)


def _take_step(training: _Training, group: list[Batch]) -> _Step:
    """Compute the gradients of a step and take it, unless the guard stops the training first."""
    state, limit = training.state, training.job.spec.training.max_grad_norm
    losses = _forward_backward(training, group)
    norm = state.accelerator.clip_grad_norm_(training.step_module.parameters(), limit)
    step = _Step(training.finished + 1, losses, float(norm), state.scheduler.get_last_lr()[0])
    training.stopped = state.guard.after_gradient(losses["total"], step.gradient_norm)
    if training.stopped is None:
        state.optimizer.step()
        state.scheduler.step()
        state.optimizer.zero_grad(set_to_none=True)
        training.tokens += training.micro_batches.tokens(training.finished)
        training.finished = step.number
    return step


def _watch(training: _Training) -> dict[str, float]:
    """Evaluate, let the guard judge, and keep the weights if they are the best; the figures of the evaluation."""
    state, main = training.state, training.state.accelerator.is_main_process
    _evaluate(training)
    geometry = _live_geometry(training) if main else {}
    training.stopped = state.guard.after_evaluation(training.finished, training.eval_loss, geometry)
    if main and state.guard.best_step == training.finished < training.steps:
        save_best(training.folder / "checkpoints", state.module, training.finished)
    return {"eval_loss": training.eval_loss, **geometry}


def _report(training: _Training, step: _Step, evaluation: dict[str, float] | None) -> None:
    """Add a step to the curve and the tracking, and report it at evaluations and once a second; rank 0 alone."""
    if training.curve is None or training.tracking is None:
        return
    figures: dict[str, Any] = {
        "step": step.number,
        "epoch": round(training.epochs(), 4),
        "learning_rate": step.learning_rate,
        "gradient_norm": step.gradient_norm,
        **{f"{name}_loss": value for name, value in step.losses.items()},
        **_loss_weights(training.state.module),
        **(evaluation or {}),
    }
    training.curve.add(figures)
    training.tracking.log(figures, step=step.number)
    now = time.monotonic()
    if evaluation is not None or now - training.reported >= REPORT_SECONDS:
        training.reported = now
        speed = (training.finished - training.resumed) / (now - training.started)
        report_progress(**figures, steps=training.steps, steps_per_second=speed)


def _return_to_best(training: _Training, step: _Step, reason: str) -> Divergence:
    """Take the weights of the best evaluation, or keep those before the bad step where there was none yet."""
    best_step = training.state.guard.best_step
    restored = load_best(training.folder / "checkpoints", training.state.module, best_step)
    _evaluate(training)
    return Divergence(
        reason=reason,
        step=step.number,
        kept_step=best_step if restored else training.finished,
        loss=step.losses["task"],
        gradient_norm=step.gradient_norm,
        learning_rate=step.learning_rate,
    )


def _result(training: _Training, seconds: float, diverged: Divergence | None) -> PretrainingResult:
    """Write the model, end the tracking, and say what came out. Speeds are those of the steps of this start."""
    job, folder, accelerator, start = training.job, training.folder, training.state.accelerator, training.start
    model = training.state.module.model
    facts = {"run_id": job.run_id, "spec": job.spec.model_dump(mode="json")}
    _write_model(folder / "model", model, job.corpus / "tokenizer", facts)
    steps = training.finished - training.resumed
    return PretrainingResult(
        model=folder / "model",
        steps=training.finished,
        epochs=training.epochs(),
        train_loss=_last_train_loss(folder),
        eval_loss=training.eval_loss,
        curve=folder / "curve.jsonl",
        steps_per_second=steps / seconds if steps else 0.0,
        tokens_per_second=training.tokens / seconds if steps else 0.0,
        processes=accelerator.num_processes,
        device=torch.cuda.get_device_name() if job.device == "cuda" else "CPU",
        precision=precision_of(accelerator),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        wandb_url=training.tracking.finish() if training.tracking else None,
        seconds=seconds,
        loaded_weights=len(start.loaded) if start else 0,
        new_weights=start.new if start else [],
        diverged=diverged,
        warnings=list(training.state.guard.warnings.values()),
    )


def _must_pause(training: _Training) -> bool:
    """Whether a pause was requested of any process of the run; all of them get the same answer."""
    accelerator = training.state.accelerator
    requested = (training.folder / PAUSE_REQUEST).exists() or TERMINATED.is_set()
    if accelerator.num_processes == 1:
        return requested
    return bool(accelerator.reduce(torch.tensor(float(requested), device=accelerator.device), reduction="sum") > 0)


def _write_model(target: Path, model: ConceptModelForMaskedLM, tokenizer: Path, facts: dict[str, Any]) -> None:
    with building(target) as folder:
        save_checkpoint(model, folder)
        # The very files: saving again would write other bytes, and so another identity of the same tokenizer.
        for path in sorted(tokenizer.iterdir()):
            shutil.copyfile(path, folder / path.name)
        write_json(folder / "experiment.json", facts)
        write_manifest(folder)


def _on_device(batch: Batch, device: torch.device) -> Batch:
    return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device, non_blocking=True), batch)


def _forward_backward(training: _Training, group: list[Batch]) -> dict[str, float]:
    """Gradients of one step; returns its losses over all processes."""
    accelerator, step_module = training.state.accelerator, training.step_module
    device, world = accelerator.device, accelerator.num_processes
    group = [_on_device(batch, device) for batch in group]
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
    means = accelerator.reduce(torch.stack(list(sums.values())), reduction="mean")
    return dict(zip(sums, means.tolist(), strict=True))


def _warm_start(model: ConceptModelForMaskedLM, folder: Path) -> LoadReport:
    """Fill a new model from the checkpoint of `training.init_from`, and say what was taken."""
    try:
        report = warm_start(model, folder)
    except CheckpointError as error:
        raise StageError(f"training.init_from: {error}") from error
    print(f"warm start: {len(report.loaded)} weights loaded")
    print(f"{len(report.new)} new: {', '.join(report.new)}; {len(report.dropped)} dropped: {', '.join(report.dropped)}")
    for note in report.notes:
        print(f"training.init_from: {note}")
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


def _loss_weights(module: PretrainingStep) -> dict[str, float]:
    """The factor of every loss after a step, where there is more than one loss."""
    if not module.concept_losses:
        return {}
    factors = module.weighting.coefficients().detach().tolist()
    return {f"{name}_weight": factor for name, factor in zip(["task", *module.concept_losses], factors, strict=True)}


@torch.no_grad()
def _live_geometry(training: _Training) -> dict[str, float]:
    """Ranks and input share of the concepts of a fixed held-out sample, so that collapse is seen while it happens."""
    module, device = training.state.module, training.state.accelerator.device
    module.eval()
    geometry = GeometryStream(module.model.config.num_concepts, module.model.config.hidden_size)
    for batch in training.sample():
        geometry.update(module.model.encoder(**_on_device(batch, device)))
    module.train()
    figures = geometry.figures()
    return {name: figures[name] for name in LIVE_FIGURES}


@torch.no_grad()
def _evaluate(training: _Training) -> None:
    """Set the loss on held-out text: no concept losses, no label smoothing, no token weights."""
    accelerator, module = training.state.accelerator, training.state.module
    module.eval()
    totals = torch.zeros(2, device=accelerator.device, dtype=torch.float64)
    for number in range(len(training.held_out)):
        batch = _on_device(training.held_out[number], accelerator.device)
        with accelerator.autocast():
            losses = module(**batch, num_items_in_batch=1.0, share=1.0)
        totals += torch.stack([losses["task"].double(), batch["labels"].total])
    module.train()
    loss, count = accelerator.reduce(totals, reduction="sum")
    training.eval_loss = float(loss / count)


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
