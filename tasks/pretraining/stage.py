"""The launch side of pretraining: builds the job of the ranks, or finds its result.

torch loads slowly, so what needs it is imported where it is used.
"""

import logging
from typing import Any

from models.family import OBJECTIVES, VARIANTS
from models.tokenizing import holds_tokenizer
from tasks.data.tokenizers import tokenizer_fingerprint
from tasks.errors import UserError
from tasks.jobs.devices import precision_warnings, visible_devices
from tasks.jobs.launch import claimed_job, run_job
from tasks.jobs.leases import lease_for_training
from tasks.jobs.messages import OnProgress, PretrainingJob, finished_result
from tasks.pretraining.markers import newest_marker
from tasks.spec.experiment import ExperimentSpec, pretraining_part, training_steps, warmup_steps
from tasks.store.files import content_hash, is_complete
from tasks.store.home import Home, RunFolder
from tasks.store.records import Checkpoint, CorpusResult, PretrainingResult

log = logging.getLogger("cogito.pretraining")

# Raise when the same spec would train other weights, and when a default of the spec changes.
CONTRACT_VERSION = 2


def pretraining_identity(spec: ExperimentSpec, data_identity: str, init_from: Checkpoint | None = None) -> str:
    """The identity of a training: data, model, objective, training and start, but neither place nor time."""
    start = init_from.model_hashes if init_from else []
    contract = OBJECTIVES[VARIANTS[spec.model.variant].objective].contract
    version = CONTRACT_VERSION if contract == 1 else f"{CONTRACT_VERSION}.{contract}"
    return content_hash([version, data_identity, pretraining_part(spec), *start])


def model_config(spec: ExperimentSpec, vocab_size: int, run_id: str | None, special: dict[str, int]) -> dict[str, Any]:
    """The arguments of `models.configuration.ConceptConfig` for a spec: the fields of its model section, resolved."""
    variant = VARIANTS[spec.model.variant]
    return {
        **spec.model.model_dump(),
        "num_attention_heads": spec.model.attention_heads,
        "num_decoder_layers": spec.model.decoder_layers,
        "max_sequence_length": spec.max_sequence_length,
        "tie_word_embeddings": spec.model.tied,
        "decoder_type": variant.decoder,
        "head": variant.default_head,
        "vocab_size": vocab_size,
        "run_id": run_id,
        **special,
    }


def pretrain(
    spec: ExperimentSpec,
    corpus: CorpusResult,
    run: RunFolder,
    home: Home,
    *,
    init_from: Checkpoint | None = None,
    processes: int | None = None,
    on_progress: OnProgress | None = None,
) -> PretrainingResult:
    """Train the model of a run to the end, continue it, or find it finished.

    Args:
        init_from: the checkpoint of `training.init_from`; None starts from random weights.
        processes: number of processes; None takes every GPU, or one process on a CPU.
        on_progress: called with the figures of every progress line.

    Raises:
        UserError: there are fewer GPUs, or fewer sequences in a step, than processes.
        StageError: training failed.
        Paused: a pause was requested; the same call continues the training.
    """
    if (init_from is None) != (spec.training.init_from is None):
        raise UserError(f"training.init_from: got {spec.training.init_from}, and no checkpoint; fix: give both or none")
    if init_from is not None:
        _compare_tokenizers(init_from, corpus)
    identity = pretraining_identity(spec, corpus.corpus_id, init_from)
    with claimed_job(run.pretraining, identity, home, PretrainingResult) as done:
        if done is not None and is_complete(done.model):
            return done  # a model that is no longer whole is written again from the last training state
        count = count_processes(spec, processes)
        check_continuation(spec, run, processes, identity)
        _warn_of_settings(spec, corpus.train_blocks)
        job = PretrainingJob(
            identity=identity,
            spec=spec,
            run_id=run.run_id,
            corpus=corpus.folder,
            config=model_config(spec, corpus.vocab_size, run.run_id, corpus.special_token_ids),
            init_from=init_from.folder if init_from else None,
            unigram_entropy=corpus.unigram_entropy_nats,
            processes=count,
            tracking_folder=run.root / "wandb",
        )
        with lease_for_training(home, count) as leased:
            return run_job(run.pretraining, job, leased, on_progress=on_progress)


def _compare_tokenizers(init_from: Checkpoint, corpus: CorpusResult) -> None:
    known = holds_tokenizer(init_from.folder)
    if known and tokenizer_fingerprint(init_from.folder) != tokenizer_fingerprint(corpus.tokenizer):
        log.warning(
            "training.init_from: the tokenizer files of %s are others than those of %s: "
            "its token embeddings may mean nothing here",
            init_from.name,
            corpus.tokenizer_name,
        )


def count_processes(spec: ExperimentSpec, asked: int | None) -> int:
    """Number of training processes: as requested, else one per GPU, or one on a CPU.

    Raises:
        UserError: there are fewer GPUs, or fewer sequences in a step.
    """
    devices = visible_devices()
    on_gpu = devices[0].kind == "cuda"
    count = asked or (len(devices) if on_gpu else 1)
    if on_gpu and count > len(devices):
        raise UserError(f"--processes {count}: this machine has {len(devices)} GPUs; fix: fewer processes")
    if count > spec.training.global_batch_size:
        raise UserError(
            f"--processes {count}: more than training.global_batch_size {spec.training.global_batch_size}; "
            "fix: fewer processes"
        )
    return count


def check_continuation(spec: ExperimentSpec, run: RunFolder, asked: int | None, identity: str | None = None) -> None:
    """Refuse to go on with an unfinished training otherwise than it was begun: processes, precision, kind of device.

    The order of the data would be the same, but each process has dropout and a mean of the concept losses of its own.
    `mixed_precision: auto` is fp32 on a CPU and bf16 on a GPU: a home that was moved to another machine would go on in
    the other one. A finished training is reused on any machine, as its record says what it was trained in.

    Args:
        asked: requested number of processes; None takes what this machine has.
        identity: of the training to continue; None, where its corpus is not prepared yet, takes that of the last state.

    Raises:
        UserError: the run was trained otherwise so far.
    """
    saved = newest_marker(run.pretraining / "checkpoints", identity)
    count, kind = count_processes(spec, asked), visible_devices()[0].kind
    if saved is None:
        return
    precision, known = spec.training.precision_on(kind), saved["precision"]
    other, moved = known not in (None, precision), saved["device"] not in (None, kind)
    if not other and not moved and saved["processes"] == count:
        return
    if identity is None and finished_result(run.pretraining, saved["identity"], PretrainingResult) is not None:
        return
    if other:
        fix = "--device cpu" if kind == "cuda" else "a machine with a GPU"
        raise UserError(
            f"training.mixed_precision {spec.training.mixed_precision}: is {precision} on this machine's {kind}; "
            f"{run.run_id} was trained in {known} up to step {saved['step']}: another precision trains other weights; "
            f"allowed: {known}; fix: {fix}, or --fresh for a new run"
        )
    if moved:
        before = saved["device"]
        raise UserError(
            f"device: got {kind}; {run.run_id} was trained on {before} up to step {saved['step']}: another device "
            f"trains other weights; allowed: {before}; fix: --device {before}, or --fresh for a new run"
        )
    got = f"--processes {count}" if asked else f"processes: got {count}, what this machine has,"
    raise UserError(
        f"{got} for {run.run_id}, which {saved['processes']} trained up to step {saved['step']}: another number trains "
        f"other weights; allowed: {saved['processes']}; fix: --processes {saved['processes']}, or --fresh for a new run"
    )


def _warn_of_settings(spec: ExperimentSpec, train_blocks: int) -> None:
    for warning in [*spec.warnings, *precision_warnings(spec.training.mixed_precision)]:
        log.warning("%s", warning)
    steps = training_steps(spec, train_blocks)
    if (warmup := warmup_steps(spec, steps)) < spec.training.warmup_steps:
        message = "training.warmup_steps %d exceeds half of the %d steps: warming up for %d"
        log.warning(message, spec.training.warmup_steps, steps, warmup)
