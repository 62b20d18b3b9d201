"""The rank side of pretraining: what each of its processes runs.

Set-up is `training.py`, a step `step.py`; here they become a training with evaluations, states and an end. Nothing but
dropout draws from the global random state.
"""

import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import save_checkpoint
from models.geometry import GeometryStream
from models.rounding import chaos_warning, rounding_error
from tasks.data.token_blocks import on_device
from tasks.jobs.messages import PretrainingJob, answer_pause, report_progress, report_warning
from tasks.pretraining.background import host_copy
from tasks.pretraining.cost import flops_per_token
from tasks.pretraining.curve import last_train_loss
from tasks.pretraining.state import load_best, precision_of, save_best, save_state
from tasks.pretraining.step import read_figures, take_step
from tasks.pretraining.timing import Clock, peak_flops, peak_memory
from tasks.pretraining.training import StepFigures, Training, set_up
from tasks.store.files import building, write_json, write_manifest
from tasks.store.records import Divergence, PretrainingResult, Timing

# Progress lines and the training curve are written about this often.
REPORT_SECONDS = 1.0
# The part of a training whose time foretells that of the whole.
FORETELLING = 0.05
# The geometry that is followed while a model trains; the whole of it is the analysis stage's.
LIVE_FIGURES = (
    "nuclear_rank_of_mean",
    "effective_rank_of_mean",
    "effective_rank_per_sample_mean",
    "mean_concept_similarity",
    "centred_effective_rank",
    "input_variance_share",
)


def run_pretraining(job: PretrainingJob, folder: Path) -> PretrainingResult | None:
    """Train to the end, from the last complete state if there is one; rank 0 returns the result.

    Raises:
        StageError: the training failed.
    """
    result = _train(job, folder)
    PartialState().destroy_process_group()  # its threads, alive at exit, can abort a process that is done
    return result


def _train(job: PretrainingJob, folder: Path) -> PretrainingResult | None:
    """Train to the end; None on other ranks than 0, and after a pause."""
    training = set_up(job, folder)
    try:
        _warn_of_chaos(training)
        training.state.module.train()
        training.clock = Clock()
        paused = _take_steps(training)
        if paused:
            training.writer.wait()
            if training.state.accelerator.is_main_process:
                answer_pause(folder, job.identity, training.finished)
            return None
        return _end(training)
    finally:
        training.writer.close()


def _take_steps(training: Training) -> bool:
    """Take the steps that remain, unless the guard stops the training; True where it is to pause instead."""
    settings, batches = training.job.spec.training, training.batches()
    while training.finished < training.steps and training.stopped is None:
        training.writer.check()
        with training.clock.spends_on("data_wait"):
            group = list(islice(batches, training.micro_batches.per_step))
        before = take_step(training, group)
        if before is not None:
            _report(training, before, None)
        step, last = training.finished, training.finished == training.steps
        evaluate = last or step % settings.eval_every_steps == 0
        save = training.pause_asked or step % settings.checkpoint_every_steps == 0
        if training.stopped is not None or not (evaluate or save):
            continue
        now = read_figures(training)  # what is evaluated or saved is a step that the guard has judged
        if now is not None:
            _report(training, now, _watch(training) if evaluate else None)
        if training.stopped is None and save and not last:
            _save(training, settings.keep_checkpoints)
            if training.pause_asked:
                return True
    return False


def _end(training: Training) -> PretrainingResult | None:
    """What stands at the end: the last weights, or the best ones of a training that the guard stopped."""
    seconds, timing, accelerator = training.clock.total, training.clock.timing(), training.state.accelerator
    training.writer.wait()
    accelerator.wait_for_everyone()
    diverged = None
    if training.stopped is not None and training.last is not None:
        diverged = _return_to_best(training, training.last, training.stopped)
    elif training.last is None:
        _evaluate(training)  # killed between the last step's state and the result: only the evaluation is missing
    else:
        _save(training, keep=1)
        training.writer.wait()
    return _result(training, seconds, timing, diverged) if accelerator.is_main_process else None


def _save(training: Training, keep: int) -> None:
    """Save the state after the last step, beside the training, and keep the newest `keep` states."""
    # A state after step N stands beside N points, even after a power loss.
    flush = training.curve.flush if training.curve is not None else None
    with training.clock.spends_on("checkpoints"):
        save_state(training.folder / "checkpoints", training.state, training.finished, keep, training.writer, flush)


def _warn_of_chaos(training: Training) -> None:
    """Measure the start of a training from new weights; rank 0 alone."""
    new = training.start is None and training.resumed == 0
    if new and training.state.accelerator.is_main_process:
        warning = chaos_warning(rounding_error(training.state.module.model.config))
        if warning is not None:
            report_warning(warning)


def _watch(training: Training) -> dict[str, float]:
    """Evaluate, let the guard judge, and keep the weights if they are the best; the figures of the evaluation."""
    state, main = training.state, training.state.accelerator.is_main_process
    with training.clock.spends_on("evaluation"):
        _evaluate(training)
        geometry = _live_geometry(training) if main else {}
    training.stopped = state.guard.after_evaluation(training.finished, training.eval_loss, geometry)
    if main and state.guard.best_step == training.finished < training.steps:
        weights, folder, step = host_copy(state.module.state_dict()), training.folder / "checkpoints", training.finished
        training.writer.submit(lambda: save_best(folder, weights, step))
    return {"eval_loss": training.eval_loss, **geometry}


def _report(training: Training, step: StepFigures, evaluation: dict[str, float] | None) -> None:
    """Add a step to the curve and the tracking, and report it at evaluations and once a second; rank 0 alone."""
    if training.curve is None or training.tracking is None:
        return
    samples = training.job.spec.training.global_batch_size
    figures: dict[str, Any] = {
        "step": step.number,
        "epoch": round(step.number * samples / len(training.blocks), 4),
        "learning_rate": step.learning_rate,
        "gradient_norm": step.gradient_norm,
        **{f"{name}_loss": value for name, value in step.losses.items()},
        **step.loss_weights,
        **(evaluation or {}),
    }
    training.curve.add(figures)
    done, left = step.number - training.resumed, training.steps - training.resumed
    if training.forecast is None and done >= FORETELLING * left:
        training.forecast = training.clock.total * left / done
    seconds = training.clock.timing().training
    if evaluation is not None or training.clock.total - training.reported >= REPORT_SECONDS:
        training.reported = training.clock.total
        speed = (step.number - training.resumed) / seconds
        figures |= {"steps_per_second": speed, "tokens_per_second": training.tokens / seconds}
        report_progress(**figures, steps=training.steps)
    training.tracking.log(figures, step=step.number)  # the curve has no speeds: it is the same after a kill


def _return_to_best(training: Training, step: StepFigures, reason: str) -> Divergence:
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


def _result(training: Training, seconds: float, timing: Timing, diverged: Divergence | None) -> PretrainingResult:
    """Write the model, end the tracking, and say what came out. Speeds are those of the steps of this start."""
    job, folder, accelerator, start = training.job, training.folder, training.state.accelerator, training.start
    model = training.state.module.model
    facts = {"run_id": job.run_id, "spec": job.spec.model_dump(mode="json")}
    _write_model(folder / "model", model, job.corpus / "tokenizer", facts)
    steps, device = training.finished - training.resumed, "CPU"
    if job.device == "cuda":
        device = torch.cuda.get_device_name()
    speed = training.tokens / timing.training if steps else 0.0
    precision, flops = precision_of(accelerator), flops_per_token(job.spec, job.config)
    peak = peak_flops(device, precision)
    return PretrainingResult(
        model=folder / "model",
        steps=training.finished,
        epochs=training.epochs(),
        train_loss=last_train_loss(folder / "curve.jsonl"),
        eval_loss=training.eval_loss,
        curve=folder / "curve.jsonl",
        steps_per_second=steps / timing.training if steps else 0.0,
        tokens_per_second=speed,
        processes=accelerator.num_processes,
        device=device,
        precision=precision,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        wandb_url=training.tracking.finish() if training.tracking else None,
        seconds=seconds,
        forecast=training.forecast,
        timing=timing,
        flops_per_token=flops,
        utilisation=flops * speed / (peak * accelerator.num_processes) if peak else None,
        peak_memory=peak_memory(),
        loaded_weights=len(start.loaded) if start else 0,
        new_weights=start.new if start else [],
        diverged=diverged,
        warnings=list(training.state.guard.warnings.values()),
    )


def _write_model(target: Path, model: ConceptModelForMaskedLM, tokenizer: Path, facts: dict[str, Any]) -> None:
    with building(target) as folder:
        save_checkpoint(model, folder)
        # The very files: saving again would write other bytes, and so another identity of the same tokenizer.
        for path in sorted(tokenizer.iterdir()):
            shutil.copyfile(path, folder / path.name)
        write_json(folder / "experiment.json", facts)
        write_manifest(folder)


@torch.no_grad()
def _live_geometry(training: Training) -> dict[str, float]:
    """Ranks and input share of the concepts of a fixed held-out sample, so that collapse is seen while it happens."""
    module, device = training.state.module, training.state.accelerator.device
    module.eval()
    geometry = GeometryStream(module.model.config.num_concepts, module.model.config.hidden_size)
    for batch in training.sample():
        geometry.update(module.model.encoder(**on_device(batch, device)))
    module.train()
    figures = geometry.figures()
    return {name: figures[name] for name in LIVE_FIGURES}


@torch.no_grad()
def _evaluate(training: Training) -> None:
    """Set the loss on held-out text: no concept losses, no label smoothing, no token weights."""
    accelerator, module = training.state.accelerator, training.state.module
    module.eval()
    totals = torch.zeros(2, device=accelerator.device, dtype=torch.float64)
    for number in range(len(training.held_out)):
        batch = on_device(training.held_out[number], accelerator.device)
        with accelerator.autocast():
            losses = module.forward(**batch, num_items_in_batch=1.0, share=1.0)  # not the graph compiled for training
        totals += torch.stack([losses["task"].double(), batch["labels"].total])
    module.train()
    loss, count = accelerator.reduce(totals, reduction="sum")
    training.eval_loss = float(loss / count)
