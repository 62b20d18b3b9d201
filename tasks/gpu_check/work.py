"""Real jobs on the devices of this machine, as a run starts them: training, resuming, fine-tuning, analysis.

Legend: B samples of a batch, N tokens.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Timer

import psutil

from models.weight_files import SAFETENSORS
from tasks.analysis.stage import analyse_concepts
from tasks.data.corpus import prepare_corpus
from tasks.data.sources import find_dataset
from tasks.data.task_data import find_task_source, prepare_task
from tasks.errors import StageError
from tasks.finetuning.cell import Cell
from tasks.finetuning.stage import finetune
from tasks.gpu_check.numerics import Changes, CheckFailed, Figures, small_spec
from tasks.jobs.devices import Device
from tasks.jobs.launch import end_process_tree, job_file, run_job
from tasks.jobs.leases import lease_for_training
from tasks.jobs.messages import OnProgress, PretrainingJob
from tasks.pretraining.stage import model_config
from tasks.spec.benchmarks import TASKS
from tasks.spec.experiment import ExperimentSpec
from tasks.store.files import file_sha256
from tasks.store.home import Home
from tasks.store.records import Checkpoint, CorpusResult, PretrainingResult

# A job that says nothing for so long hangs, as NCCL does where GPUs cannot reach each other.
JOB_SECONDS = 180
SHORT_STEPS, KILLED_AT = 30, 16
VOCABULARY = 50_368
SHORT: Changes = {
    "training.epochs": 1000,
    "training.max_steps": SHORT_STEPS,
    "training.warmup_steps": 3,
    "training.global_batch_size": 32,
    "training.per_device_batch_size": 16,
    "training.learning_rate": 1e-3,
    "training.eval_every_steps": 10,
    "training.max_eval_blocks": 64,
    "training.checkpoint_every_steps": 6,
    "training.deterministic": "true",
    "analysis.live_samples": 8,
}
LARGE: Changes = SHORT | {
    "data.block_tokens": 512,
    "model.hidden_size": 512,
    "model.num_layers": 6,
    "model.num_concepts": 128,
    "model.intermediate_size": 2048,
    "model.num_attention_heads": 8,
    "model.hidden_dropout_prob": 0.1,
    "training.max_steps": 200,
    "training.warmup_steps": 20,
    "training.per_device_batch_size": 32,
    "training.learning_rate": 3e-4,
    "training.eval_every_steps": 100,
    "training.max_eval_blocks": 128,
    "training.checkpoint_every_steps": 100,
    "training.deterministic": "false",
}
# More than any GPU holds: 4 million tokens of width 512.
TOO_MANY = 8192


@dataclass
class Bench:
    """Where the jobs run, and what one leaves for the next.

    Attributes:
        home: a home of the check alone.
        devices: of this machine.
    """

    home: Home
    devices: tuple[Device, ...]
    trained: dict[str, PretrainingResult] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.devices[0].kind == "cuda"

    @cached_property
    def short(self) -> ExperimentSpec:
        """A training of seconds."""
        return small_spec(**SHORT)

    @cached_property
    def large(self) -> ExperimentSpec:
        """200 steps at H512 L6 on 512 tokens; on a CPU, which would take an hour, the short one in as many words."""
        return small_spec(**LARGE if self.on_gpu else SHORT | {"training.max_steps": 60})

    def corpus(self, spec: ExperimentSpec) -> CorpusResult:
        """The made text of a spec, cut and tokenized once."""
        return prepare_corpus(spec.data, find_dataset(spec.data.dataset, self.home, None), self.home)

    def train(
        self, name: str, spec: ExperimentSpec, processes: int = 1, on_progress: OnProgress | None = None
    ) -> PretrainingResult:
        """Train, or go on with the training of this name."""
        corpus = self.corpus(spec)
        config = model_config(spec, corpus.vocab_size, name, corpus.special_token_ids)
        if spec is self.large and self.on_gpu:
            config["vocab_size"] = VOCABULARY
        folder = self.home.run(name).pretraining
        job = PretrainingJob(
            identity=name,
            spec=spec,
            run_id=name,
            corpus=corpus.folder,
            config=config,
            init_from=None,
            unigram_entropy=corpus.unigram_entropy_nats,
            processes=processes,
            tracking_folder=folder / "wandb",
        )
        with lease_for_training(self.home, processes) as devices, limited(JOB_SECONDS):
            result = run_job(folder, job, devices, on_progress=on_progress)
        self.trained[name] = result
        return result

    def checkpoint(self) -> Checkpoint:
        """The model of the short training."""
        folder = (self.trained.get("short") or self.train("short", self.short)).model
        weights, config = (file_sha256(folder / name) for name in (SAFETENSORS, "config.json"))
        return Checkpoint(
            name="short",
            folder=folder,
            origin="run",
            weights_sha256=weights,
            config_sha256=config,
            variant=self.short.model.variant,
        )


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End all jobs of this process that outlive the block's time."""

    def end() -> None:
        for process in psutil.Process().children():
            end_process_tree(process.pid)

    timer = Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except StageError as error:
        if not timer.is_alive():
            raise CheckFailed(f"no end within {seconds:.0f} seconds: {error}") from error
        raise
    finally:
        timer.cancel()


def losses(result: PretrainingResult) -> list[float]:
    """The task loss of every step."""
    return [json.loads(line)["task_loss"] for line in result.curve.read_text(encoding="utf-8").splitlines()]


def check_training(bench: Bench) -> Figures:
    """200 steps at H512 L6 with evaluations: the loss falls, and nothing is not finite."""
    result = bench.train("large", bench.large)
    curve = losses(result)
    if result.diverged is not None or not math.isfinite(result.eval_loss) or not result.eval_loss < curve[0]:
        raise CheckFailed(f"the loss went from {curve[0]:.3f} to {result.eval_loss:.3f} held out; {result.diverged}")
    return {
        "steps": result.steps,
        "first loss": curve[0],
        "held-out loss": result.eval_loss,
        "tokens/s with evaluations": result.tokens_per_second,
        "precision": result.precision,
    }


def check_processes(bench: Bench) -> Figures:
    """Every GPU in one training by NCCL, or two processes of a CPU by gloo: the loss of one process."""
    count = len(bench.devices) if bench.on_gpu else 2
    one = losses(bench.trained.get("short") or bench.train("short", bench.short))
    if count == 1:
        return {"processes": 1, "NCCL": _nccl_alone()}
    many = losses(bench.train("parallel", bench.short, processes=count))
    error = max(abs(a / b - 1) for a, b in zip(one, many, strict=True))
    if not error <= 0.02:
        raise CheckFailed(f"the loss of {count} processes differs from that of one by {error:.1%}")
    return {"processes": count, "largest difference of the loss": error}


def _nccl_alone() -> str:
    """Whether NCCL works within one GPU, where there is no second one to talk to."""
    import torch
    from torch import distributed

    store = distributed.HashStore()
    distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
    try:
        ones = torch.ones(1000, device="cuda")
        distributed.all_reduce(ones)
        if ones.sum().item() != 1000:
            raise CheckFailed("NCCL adds wrongly")
    finally:
        distributed.destroy_process_group()
    return "works within one GPU; there is no second one to talk to"


def check_resume(bench: Bench) -> Figures:
    """A training that is killed and resumed has the weights of one that was not."""
    whole = bench.trained.get("short") or bench.train("short", bench.short)
    folder = bench.home.run("killed").pretraining
    try:
        bench.train("killed", bench.short, on_progress=_kill_at(KILLED_AT, folder))
    except StageError as error:
        if "killed" not in str(error):
            raise
    else:
        raise CheckFailed("the process that was to be killed came to its end")
    resumed = bench.train("killed", bench.short)
    if resumed.steps != whole.steps or not resumed.steps_per_second:
        raise CheckFailed(f"resumed up to step {resumed.steps}, expected {whole.steps}")
    same = file_sha256(whole.model / SAFETENSORS) == file_sha256(resumed.model / SAFETENSORS)
    if not same or losses(whole) != losses(resumed):
        raise CheckFailed("the weights or the curve differ from those of a training that was not killed")
    return {"killed after step": KILLED_AT, "weights and curve": "the same bytes"}


def _kill_at(step: int, folder: Path) -> Callable[..., None]:
    def kill(progress: object) -> None:
        if getattr(progress, "step", 0) < step:
            return
        for process in psutil.Process().children(recursive=True):
            try:
                if job_file(process) == folder / "job.json":
                    process.kill()
            except psutil.Error:
                continue

    return kill


def check_memory(bench: Bench) -> Figures:
    """A training that cannot fit says so and names the batch size."""
    if not bench.on_gpu:
        return {"skipped": "on a CPU it would take the memory of everything else"}
    batch: Changes = {f"training.{key}_batch_size": TOO_MANY for key in ("global", "per_device")}
    try:
        bench.train("too_large", small_spec(**LARGE | batch))
    except StageError as error:
        if not str(error).startswith(f"out of memory with training.per_device_batch_size {TOO_MANY}"):
            raise
        return {"told": str(error)}
    raise CheckFailed(f"a batch of {TOO_MANY} found room")


def check_cell(bench: Bench) -> Figures:
    """A fine-tuning."""
    return _cell(bench, "mrpc", "checkpoint", bench.checkpoint())


def check_zero_shot(bench: Bench) -> Figures:
    """The cosines of pairs, nothing trained."""
    return _cell(bench, "stsb", "zero_shot", bench.checkpoint())


def _cell(bench: Bench, task: str, start: str, checkpoint: Checkpoint) -> Figures:
    few = {"tasks": "[mrpc, stsb]", "max_train_examples": 500, "epochs": 1}
    protocol = small_spec(**{f"evaluation.{key}": value for key, value in few.items()}).evaluation.for_task(task)
    source = find_task_source(TASKS[task], "made", bench.home, None)
    data = prepare_task(TASKS[task], protocol, checkpoint.folder, source, bench.home)
    head = "sentence_pair" if start == "zero_shot" else "via_decoder"
    cell = Cell(task, 42, start, head, protocol)  # type: ignore[arg-type]
    with limited(JOB_SECONDS):
        result = finetune(cell, checkpoint, data, bench.home.run("short"), bench.home)
    figures: Figures = {"precision": str(result.precision), "seconds": float(result.seconds or 0)}
    return figures | {name: value for name, value in (result.history or [{}])[-1].items() if name != "epoch"}


def check_analysis(bench: Bench) -> Figures:
    """The geometry of the concepts."""
    spec = bench.short.analysis.model_copy(update={"max_samples": 128})
    with limited(JOB_SECONDS):
        result = analyse_concepts(
            bench.checkpoint(), bench.corpus(bench.short), spec, bench.home.run("short"), bench.home
        )
    if not all(math.isfinite(value) for value in result.figures.values()):
        raise CheckFailed("a figure of the geometry is not finite")
    chosen = ("effective_rank_of_mean", "input_variance_share", "retrieval_top_1")
    return {"seconds": result.seconds, **{name: result.figures[name] for name in chosen}}
