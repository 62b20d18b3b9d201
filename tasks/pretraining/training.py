"""Setting up a training on a rank: accelerator, model, optimizer, batches, and the last complete state.

Legend: B samples of a micro-batch, N tokens.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DDPCommunicationHookType, DistributedDataParallelKwargs
from torch.utils.data import DataLoader, Subset

from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import CheckpointError, LoadReport, warm_start
from models.configuration import ConceptConfig
from models.family import VARIANTS
from models.objectives import CorruptionSettings, word_starts
from models.pretraining_step import PretrainingStep
from tasks.data.token_blocks import Batch, BatchPlan, HeldOutBatches, MicroBatches, TokenBlocks, clean_batches
from tasks.data.tokenizers import load_tokenizer
from tasks.errors import StageError
from tasks.jobs.messages import PretrainingJob, report_warning
from tasks.pretraining.background import BackgroundWriter
from tasks.pretraining.compiling import compile_step, shall_compile
from tasks.pretraining.curve import Curve
from tasks.pretraining.guards import TrainingGuard
from tasks.pretraining.markers import last_complete_state
from tasks.pretraining.state import TrainingState, load_state
from tasks.pretraining.timing import Clock
from tasks.pretraining.tracking import Tracking, start_tracking
from tasks.spec.experiment import ExperimentSpec, training_steps, warmup_steps


@dataclass(frozen=True)
class StepFigures:
    """What a step came to over all processes: losses, gradient norm, learning rate, and the factor of every loss."""

    number: int
    losses: dict[str, float]
    gradient_norm: float
    learning_rate: float
    loss_weights: dict[str, float]


@dataclass(frozen=True)
class StepUnderWay:
    """A step whose figures are on their way from the device; its optimizer step is taken unless they are bad.

    Attributes:
        values: losses, gradient norm, share of the ranks that ask for a pause, factors of the losses, in main memory.
        ready: what the host waits for before it reads them; None where they are there.
    """

    number: int
    learning_rate: float
    names: tuple[str, ...]
    values: torch.Tensor
    ready: torch.cuda.Event | None


@dataclass
class Training:
    """One training as one rank sees it.

    Attributes:
        state: what is saved and restored; its module is the bare one.
        step_module: the module as accelerate wraps it.
        start: what a warm start loaded.
        sample: batches of the held-out text whose geometry is followed.
        resumed, finished: steps before this start of the job, and up to now.
        curve, tracking: on rank 0 alone.
        under_way: the last step, while its figures are unread.
        last: the figures that were read last, of a step that was taken or of the one that stopped the training.
        tokens: tokens of the steps of this start, over all processes.
        eval_loss: of the last evaluation, in nats per labelled token.
        pause_asked: whether a pause was asked of any rank.
        stopped: why the guard ended the training.
        clock: of this start, from its first step on.
        reported: its reading at the last progress line.
        forecast: what it will read at the end, as the first steps foretell.
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
    curve: Curve | None
    tracking: Tracking | None
    writer: BackgroundWriter = field(default_factory=BackgroundWriter)
    under_way: StepUnderWay | None = None
    last: StepFigures | None = None
    tokens: int = 0
    eval_loss: float = math.nan
    pause_asked: bool = False
    stopped: str | None = None
    clock: Clock = field(default_factory=Clock)
    reported: float = 0.0
    forecast: float | None = None

    def epochs(self) -> float:
        """Passes over the training blocks so far."""
        return self.finished * self.job.spec.training.global_batch_size / len(self.blocks)

    def batches(self) -> Iterator[Batch]:
        """The micro-batches that remain."""
        on_gpu = self.job.device != "cpu"
        loader = DataLoader(
            Subset(self.micro_batches, range(self.resumed * self.micro_batches.per_step, len(self.micro_batches))),
            batch_size=None,
            num_workers=2 if on_gpu else 0,
            pin_memory=on_gpu,
            # Its own generator: a loader draws from the global one on start, which would shift dropout after a resume.
            generator=torch.Generator(),
        )
        return iter(loader)


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


def set_up(job: PretrainingJob, folder: Path) -> Training:
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
    compiled = shall_compile(spec, job.device)
    micro_batches = MicroBatches(blocks, replace(plan, fixed_shapes=compiled), steps)
    step_module = accelerator.prepare(module)
    optimizer = accelerator.prepare(optimizer)
    # Dropout differs between ranks; the initial weights do not.
    torch.manual_seed(settings.seed * 1000 + accelerator.process_index)
    main = accelerator.is_main_process
    warn = report_warning if main else (lambda text: None)
    guard = TrainingGuard(job.unigram_entropy, warn)
    state = TrainingState(job.identity, module, optimizer, scheduler, accelerator, guard)
    if compiled:
        compile_step(module, spec, micro_batches[0], accelerator.num_processes, warn)
    saved = last_complete_state(folder / "checkpoints", job.identity, warn)
    resumed = load_state(saved, state) if saved else 0
    return Training(
        job=job,
        folder=folder,
        state=state,
        step_module=step_module,
        start=start,
        blocks=blocks,
        micro_batches=micro_batches,
        held_out=HeldOutBatches(held_out_blocks, plan, settings.max_eval_blocks),
        sample=partial(
            clean_batches, held_out_blocks, spec.analysis.live_samples, spec.analysis.batch_size, tokenizer.pad_token_id
        ),
        steps=steps,
        resumed=resumed,
        finished=resumed,
        curve=Curve(folder / "curve.jsonl", resumed) if main else None,
        tracking=start_tracking(job) if main else None,
    )


def _start_accelerator(job: PretrainingJob) -> Accelerator:
    """The accelerator of this rank; refuses another device or number of processes than the job has."""
    bf16, use_cpu = job.spec.training.precision_on(job.device) == "bf16", job.device == "cpu"
    # Gradients of a training in bf16 travel between GPUs in bf16, half the bytes; a CPU's stay exact.
    hook = DDPCommunicationHookType.BF16 if bf16 and not use_cpu else DDPCommunicationHookType.NO
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True, comm_hook=hook)
    if job.spec.training.deterministic and not use_cpu:  # a CPU is so anyway
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
        torch.use_deterministic_algorithms(True)
    accelerator = Accelerator(cpu=use_cpu, mixed_precision="bf16" if bf16 else "no", kwargs_handlers=[ddp])
    if accelerator.device.type != job.device:  # accelerate silently takes the CPU where it finds no GPU
        raise StageError(
            f"requested {job.device}, found {accelerator.device.type}: the GPU does not respond; "
            "fix: check it with `nvidia-smi`, then run the same command again"
        )
    if accelerator.num_processes != job.processes:
        raise StageError(f"requested {job.processes} processes, found {accelerator.num_processes}")
    return accelerator


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
