"""What a few real pieces of an experiment take on this machine: `cogito run --dry-run`.

The stages themselves run, with the model, micro-batch and length of the spec, on a part of its text and its tasks, in a
home of their own that is removed. torch loads slowly, so this module is imported by the command that needs it.
"""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.analysis.stage import analyse_concepts
from tasks.checkpoints.finding import resolve_checkpoint
from tasks.data.builtin import BUILTIN_CORPORA
from tasks.data.corpus import prepare_corpus
from tasks.data.sources import Source
from tasks.data.splits import open_split
from tasks.data.task_data import PreparedTask, load_examples, prepare_task
from tasks.errors import StageError, UserError
from tasks.finetuning.cell import Cell
from tasks.finetuning.stage import finetune
from tasks.forecast.estimate import Machine, speed_of
from tasks.jobs.devices import visible_devices
from tasks.jobs.history import Past, Work
from tasks.jobs.messages import Progress
from tasks.pretraining.cost import flops_per_token
from tasks.pretraining.stage import model_config, pretrain
from tasks.runs.preflight import Inputs
from tasks.spec.benchmarks import TASKS
from tasks.spec.experiment import ExperimentSpec, TrackingSpec
from tasks.spec.pretraining import MADE_TEXT, DataSpec
from tasks.store.home import Home, RunFolder
from tasks.store.records import Checkpoint, CorpusResult, PretrainingResult

# Documents that are tokenised; more where they fill no block.
SAMPLE_DOCUMENTS = (400, 4_000, None)
# Seconds in which documents are counted where no file states their number.
COUNTING_SECONDS = 5.0
# Seconds that the steps of a training, and those of a cell, shall take about.
TRAINING_SECONDS, CELL_SECONDS = 8.0, 6.0
ANALYSED = 64


@dataclass(frozen=True)
class Sample:
    """A part of the text, prepared.

    Attributes:
        share: of all documents; None where they could not be counted.
        stands_in: whether it is made text in place of one that is not on this machine.
    """

    corpus: CorpusResult
    seconds: float
    share: float | None
    stands_in: bool


@dataclass(frozen=True)
class Steps:
    """A short training of the very model.

    Attributes:
        samples: of a micro-batch of one process.
        start: seconds from the launch to the first step, and from the last one to the result.
        step: seconds of a step of one micro-batch for each process.
        evaluation: seconds of an evaluation of one held-out block, over all processes.
        state: seconds that the training waits for a state to be written.
    """

    result: PretrainingResult
    samples: int
    start: float
    step: float
    evaluation: float
    state: float


@dataclass(frozen=True)
class Cells:
    """Two short cells of one task.

    Attributes:
        first: seconds that the first job of a command takes longer than the others.
        start: seconds of a cell before and after its training.
        pace: what their training took, as a past job.
    """

    task: str
    first: float
    start: float
    pace: Past


def sample_corpus(
    data: DataSpec, source: Source, known: CorpusResult | None, scratch: Home, root: Path | None, tokenizer: Path | None
) -> Sample:
    """Prepare a part of the text, or take what is prepared.

    Args:
        known: the corpus that is prepared.
        root: the data root.
        tokenizer: a folder; None: one is trained.
    """
    if known is not None:
        return Sample(known, known.seconds, 1.0, stands_in=False)
    stands_in = source.revision is not None  # on the Hub: a download of unknown size
    if stands_in:
        data = data.model_copy(
            update={"dataset": MADE_TEXT, "config": None, "revision": None, "split": "train", "txt_document": None}
        )
        source = Source(MADE_TEXT, MADE_TEXT, None, BUILTIN_CORPORA[MADE_TEXT].fingerprint())
    total = None if stands_in else _count_documents(data, source, scratch)
    part = data.model_copy(update={"held_out_split": None, "held_out_share": 0.2})
    began = time.monotonic()
    for documents in SAMPLE_DOCUMENTS:
        limit = min(filter(None, (documents, data.max_documents)), default=None)
        try:
            few = part.model_copy(update={"max_documents": limit})
            corpus = prepare_corpus(few, source, scratch, root, tokenizer_folder=tokenizer)
        except UserError:
            if documents is None:
                raise
            began = time.monotonic()
        else:
            break
    read = corpus.train_documents + corpus.held_out_documents
    share = min(1.0, read / total) if total else None
    return Sample(corpus, time.monotonic() - began, share, stands_in)


def _count_documents(data: DataSpec, source: Source, home: Home) -> int | None:
    """The documents that the spec reads; None where that takes too long to find out."""
    if data.is_builtin:
        documents: Any = BUILTIN_CORPORA[data.dataset].documents()
    else:
        rows = open_split(source, data.config, data.split, [data.text_column], home, data.txt_document)
        if (known := rows.count()) is not None:
            return min(known, data.max_documents or known)
        documents = rows
    count, began = 0, time.monotonic()
    for _ in islice(documents, data.max_documents):
        count += 1
        if time.monotonic() - began > COUNTING_SECONDS:
            return None
    return count


def train_a_little(
    spec: ExperimentSpec, sample: Sample, machine: Machine, scratch: Home, run: RunFolder, home: Home
) -> Steps:
    """Take a few steps of the training, two evaluations and a state.

    Args:
        home: whose past trainings say how many steps are a few.
    """
    training, processes = spec.training, machine.processes
    vocabulary = spec.data.train_tokenizer_vocab_size or sample.corpus.vocab_size
    corpus = sample.corpus.model_copy(update={"vocab_size": vocabulary})
    flops = flops_per_token(spec, model_config(spec, vocabulary, None, {}))
    speed, _ = speed_of(home, flops, machine, training.precision_on(machine.kind))
    rate = math.sqrt(speed[0] * speed[1]) if speed else 1e13
    each = flops * spec.data.block_tokens / rate
    share = math.ceil(training.global_batch_size / processes)
    per_step = math.ceil(share / training.per_device_batch_size)
    samples = max(1, min(math.ceil(share / per_step), int(TRAINING_SECONDS / 4 / each)))
    half = max(2, min(60, int(TRAINING_SECONDS / (2 * each * samples))))
    blocks = min(training.max_eval_blocks, corpus.held_out_blocks, 2 * samples * processes)
    few: dict[str, Any] = {"epochs": 1e6, "max_steps": 2 * half, "eval_every_steps": half, "max_eval_blocks": blocks}
    few |= {"global_batch_size": samples * processes, "per_device_batch_size": samples, "init_from": None}
    few |= {"checkpoint_every_steps": 2 * half, "learning_rate": 1e-7}  # at which no guard ends it
    short = spec.model_copy(
        update={"training": training.model_copy(update=few), "tracking": TrackingSpec(wandb="disabled")}
    )
    times: dict[int, float] = {}

    def hear(progress: Progress) -> None:
        if "eval_loss" in progress.figures:
            times[progress.step] = progress.step / progress.figures["steps_per_second"]

    began = time.monotonic()
    result = pretrain(short, corpus, run, scratch, processes=processes, on_progress=hear)
    wall = time.monotonic() - began
    if result.diverged is not None:
        raise StageError(f"the calibration diverged: {result.diverged.reason}")
    assert result.timing is not None
    return Steps(
        result,
        samples,
        start=wall - result.seconds,
        step=(times[2 * half] - times[half]) / half,  # the first ones are slower
        evaluation=result.timing.evaluation / 2 / blocks,
        state=result.timing.checkpoints,
    )


def prepare_tasks(spec: ExperimentSpec, inputs: Inputs, tokenizer: Path, scratch: Home) -> dict[str, PreparedTask]:
    """The data of every task that is on this machine."""
    here = {name: source for name, source in inputs.tasks.items() if source.revision is None}
    return {
        name: prepare_task(TASKS[name], spec.evaluation.for_task(name), tokenizer, source, scratch)
        for name, source in here.items()
    }


def work_of(cell: Cell, checkpoint: Checkpoint, data: PreparedTask) -> Work:
    """The work of a cell, its predictions included, each of which costs a third of a step in training."""
    work = cell.work(checkpoint, data)
    epochs = 0.0 if cell.start == "zero_shot" else cell.protocol.epochs
    scored = sum(_tokens(data, f"eval-{split.label}") for split in TASKS[cell.task].eval_splits)
    tokens = data.train_tokens * epochs + (_tokens(data, "selection") * epochs + scored) / 3
    return work.model_copy(update={"tokens": tokens, "kind": "finetuning"})


def _tokens(data: PreparedTask, part: str) -> int:
    return int(load_examples(data.folder, part)["offsets"][-1])


def tune_a_little(
    spec: ExperimentSpec, tasks: dict[str, PreparedTask], steps: Steps, run: RunFolder, scratch: Home
) -> Cells:
    """Fine-tune two short cells of the smallest task at once, as the fan-out does."""
    task = min(tasks, key=lambda name: tasks[name].train_tokens)
    checkpoint = resolve_checkpoint(str(steps.result.model), scratch)
    protocol, kind = spec.evaluation.for_task(task), visible_devices()[0].kind
    per_epoch = math.ceil(tasks[task].train_examples / protocol.global_batch_size)
    # A step of a cell reads shorter texts than a step of pretraining, which bounds it from above; it has no LM head.
    bound = steps.step * protocol.global_batch_size / steps.samples
    count = max(4, min(40, int(CELL_SECONDS / bound), math.ceil(protocol.epochs * per_epoch)))
    parts = [max(1, count // 4), max(1, count // 4), count]
    cells = [
        Cell(task, seed, "checkpoint", spec.head, protocol.model_copy(update={"epochs": part / per_epoch}))
        for seed, part in enumerate(parts)
    ]

    def timed(cell: Cell) -> float:
        began = time.monotonic()
        finetune(cell, checkpoint, tasks[task], run, scratch)
        return time.monotonic() - began

    alone = timed(cells[0])  # starts the process that forks the others
    with ThreadPoolExecutor(max(1, min(2, len(visible_devices())))) as pool:
        short, long = pool.map(timed, cells[1:])
    first, second = (work_of(cell, checkpoint, tasks[task]) for cell in cells[1:])
    # What noise makes of a difference must not become a speed without a limit.
    seconds = max(long - short, 0.2 * long)
    pace = Past(second.model_copy(update={"tokens": second.tokens - first.tokens}), kind, seconds)
    start = max(0.0, long - seconds * second.tokens / pace.work.tokens)
    return Cells(task, max(0.0, alone - short), start, pace)


def analyse_a_little(
    spec: ExperimentSpec, corpus: CorpusResult, blocks: int, steps: Steps, run: RunFolder, scratch: Home
) -> float:
    """Seconds of the analysis of so many blocks, by that of a few and the time of encoding the others."""
    checkpoint = resolve_checkpoint(str(steps.result.model), scratch)
    few = spec.analysis.model_copy(update={"max_samples": min(blocks, ANALYSED)})
    began = time.monotonic()
    done = analyse_concepts(checkpoint, corpus, few, run, scratch)
    wall = time.monotonic() - began
    return wall + steps.evaluation * max(0, blocks - done.samples)
