"""What every stage of an experiment will take, by a calibration on this machine: `cogito run --dry-run`."""

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.checkpoints.finding import resolve_checkpoint
from tasks.checkpoints.publishing import choose_store
from tasks.data.sources import find_tokenizer
from tasks.data.task_data import PreparedTask
from tasks.finetuning.cell import Cell
from tasks.forecast.calibration import (
    Cells,
    Sample,
    Steps,
    analyse_a_little,
    prepare_tasks,
    sample_corpus,
    train_a_little,
    tune_a_little,
    work_of,
)
from tasks.forecast.estimate import Room, room, size_text, this_machine, time_text
from tasks.forecast.history import known_corpus
from tasks.forecast.lines import DONE, Forecast, Line
from tasks.jobs.devices import visible_devices
from tasks.jobs.history import judge, past_jobs
from tasks.jobs.waiting import last_end
from tasks.libraries import COMPILER, FOLDERS
from tasks.pretraining.cost import StepMemory
from tasks.pretraining.markers import newest_marker
from tasks.pretraining.stage import count_processes, model_config, pretraining_identity
from tasks.runs.claiming import training_run
from tasks.runs.preflight import Inputs
from tasks.runs.request import Request
from tasks.spec.experiment import ExperimentSpec, training_steps
from tasks.store.files import is_complete, read_json
from tasks.store.home import Home, RunFolder
from tasks.store.records import CorpusResult, RunRecord, Start, load_record

# Bytes in a second: of an upload, which nothing here measures, and of a copy with its hashes.
UPLOAD, COPY = 10e6, 200e6
# Seconds of an idle machine that are assumed: of the command with its server; of the scores, the row and the report.
COMMAND, END = 15.0, 15.0
# Blocks of a text that was not counted: no setting asks for more.
ENOUGH = 10**12


@dataclass(frozen=True)
class Found:
    """What of an experiment is finished in the home.

    Attributes:
        corpus: the prepared text.
        run: of the spec.
        steps: of its training that are saved.
        anew: the run was evaluated in another way before: this evaluation is a run of its own, with all its jobs.
    """

    corpus: CorpusResult | None
    run: RunFolder | None
    record: RunRecord | None
    steps: int
    anew: bool = False

    @property
    def trained(self) -> bool:
        """Whether the pretraining is finished."""
        done = self.record.pretraining if self.record else None
        return done is not None and is_complete(done.model)

    def is_all_of(self, spec: ExperimentSpec) -> bool:
        """Whether nothing is left to do."""
        record = self.record
        results = [self.corpus, record and record.publishing]
        return self.analysed and None not in results and all(map(self.has, cells_of(spec)))

    @property
    def analysed(self) -> bool:
        """Whether the concept analysis is finished."""
        return self.trained and not self.anew and self.record is not None and self.record.analysis is not None

    def has(self, cell: Cell) -> bool:
        """Whether a cell is finished under its protocol."""
        if self.run is None or not self.trained or self.anew:
            return False
        folder = self.run.cell(cell.task, cell.seed, cell.start)
        wanted = [cell.protocol.model_dump(mode="json"), cell.head, cell.precision]
        try:
            job = read_json(folder / "job.json")
            is_of_job = job["identity"] == read_json(folder / "result.json")["identity"]
            return is_of_job and [job["protocol"], job["head"], job["precision"]] == wanted
        except (OSError, ValueError, LookupError, TypeError):  # not finished, or of an earlier version
            return False


@dataclass(frozen=True)
class Blocks:
    """The blocks of the whole text; how many tokens they hold."""

    train: int
    held_out: int
    tokens: int


def find_finished(inputs: Inputs, request: Request) -> Found:
    """What of an experiment is finished."""
    corpus = known_corpus(request.home, inputs.spec)
    if corpus and (corpus.source_fingerprint != inputs.corpus.fingerprint or not is_complete(corpus.folder)):
        corpus = None
    identity = pretraining_identity(inputs.spec, inputs.data_identity, inputs.init_from)
    run = None if request.fresh else training_run(identity, request.home, request.repeats)
    if run is None:
        return Found(corpus, None, None, 0)
    saved = newest_marker(run.pretraining / "checkpoints")
    record = load_record(run)
    return Found(corpus, run, record, saved["step"] if saved else 0, is_evaluated_otherwise(record, inputs.spec))


def is_evaluated_otherwise(record: RunRecord, spec: ExperimentSpec) -> bool:
    """Whether a run was evaluated before, by other settings than those of a spec."""
    wanted = spec.model_dump(mode="json", include={"evaluation", "analysis"})
    told = {name: record.spec.get(name) for name in wanted}
    return bool(record.scores or record.analysis) and (told != wanted or record.head != spec.head)


def forecast(inputs: Inputs, request: Request) -> Forecast:
    """Calibrate on this machine and forecast every stage; nothing is left on disk, and nothing is uploaded.

    Raises:
        UserError: the text or a task cannot be prepared.
        StageError: the calibration failed, as the experiment would.
    """
    with tempfile.TemporaryDirectory(prefix="cogito-dry-run-", ignore_cleanup_errors=True) as folder:
        scratch = Home(Path(folder) / "home")
        scratch.create()
        run = scratch.run("dry_run")
        run.root.mkdir()
        with _libraries_in(scratch.root):
            return _forecast(inputs, request, scratch, run)


@contextmanager
def _libraries_in(root: Path) -> Iterator[None]:
    """Have this process and its jobs keep the caches of their libraries under another home."""
    before = dict(os.environ)
    os.environ |= {name: str(root / "cache" / own) for name, own in FOLDERS.items()}
    os.environ |= {"COGITO_HOME": str(root), COMPILER: str(root / "cache" / "torchinductor")}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Leave out what stages say of their short versions, whose settings are not those of the spec."""
    log = logging.getLogger("cogito")
    before, log.level = log.level, logging.ERROR
    try:
        yield
    finally:
        log.level = before


def _forecast(inputs: Inputs, request: Request, scratch: Home, run: RunFolder) -> Forecast:
    spec, began, found = inputs.spec, time.monotonic(), find_finished(inputs, request)
    if found.is_all_of(spec):
        return _all_done(request)
    machine = replace(this_machine(), processes=count_processes(spec, request.processes))
    tokenizer = None
    if spec.data.train_tokenizer_vocab_size is None:  # as it was found for the run: a new home has no downloads
        tokenizer = find_tokenizer(spec.data.tokenizer_name, request.home, request.data_root)
    sample = sample_corpus(spec.data, inputs.corpus, found.corpus, scratch, request.data_root, tokenizer)
    before = time.monotonic(), time.process_time()
    tasks = prepare_tasks(spec, inputs, sample.corpus.tokenizer, scratch)
    waited, worked = time.monotonic() - before[0], time.process_time() - before[1]
    data, busy = data_line(inputs, found, sample, waited), busyness(waited, worked)
    blocks, cells = whole_text(spec, found, sample), cells_of(spec)
    with _without_remarks():
        steps = train_a_little(spec, sample, machine, scratch, run, request.home)
        todo = [cell for cell in cells if cell.task in tasks and not found.has(cell)]
        tuned = tune_a_little(spec, tasks, steps, run, scratch) if todo else None
        jobs = [_cell_line(cell, found, tasks, tuned, steps, request.home, scratch) for cell in cells]
        jobs.append(_analysis_line(spec, found, sample, blocks, steps, run, scratch))
    devices = len(visible_devices())
    fan_out = last_end([line.seconds or 0.0 for line in jobs], devices) + (tuned.first if tuned else 0.0)
    stages = [
        Line("command", COMMAND * busy, f"assumed, with its server: {COMMAND:g} s x {busy:.1f}, as others work here"),
        data,
        pretraining_line(spec, found, steps, blocks, machine.processes),
        publishing_line(spec, found, steps),
        Line("fine-tuning and analysis", fan_out, f"{len(jobs)} jobs on {devices} devices"),
        Line("scores, row, report", END * busy, f"assumed: {END:g} s x {busy:.1f}"),
    ]
    config = model_config(spec, spec.data.train_tokenizer_vocab_size or sample.corpus.vocab_size, None, {})
    memory = room(spec, config, machine)
    measured = measured_by(spec, found, sample, steps, tuned)
    assumed = [f"{size_text(UPLOAD)} in a second for an upload, {size_text(COPY)} for a copy"]
    needed = disk_needed(spec, found, blocks, memory)
    return Forecast(stages, jobs, memory, needed, _free(request.home.root), measured, assumed, time.monotonic() - began)


def busyness(waited: float, worked: float) -> float:
    """How many times as long as alone work takes here, by seconds of wall time and of the CPU; 1 where too few tell."""
    return max(1.0, waited / worked) if worked > 0.1 else 1.0


def _all_done(request: Request) -> Forecast:
    """The forecast of an experiment that is finished."""
    stages = [Line(name, 0.0, DONE) for name in ("data", "pretraining", "publishing", "fine-tuning and analysis")]
    nothing = Room(this_machine(), StepMemory(0, 0, 0, 0))
    return Forecast(stages, [], nothing, 0, _free(request.home.root), [], [], 0.0)


def _free(root: Path) -> int:
    """Bytes that are free where a home lies or would lie."""
    return shutil.disk_usage(next(path for path in (root, *root.parents) if path.exists())).free


def measured_by(spec: ExperimentSpec, found: Found, sample: Sample, steps: Steps, tuned: Cells | None) -> list[str]:
    """What the calibration measured, in words."""
    result, lines = steps.result, []
    if found.corpus is None:
        corpus = sample.corpus
        what = "made text, as the data set is not on this machine" if sample.stands_in else spec.data.dataset
        lines.append(f"{corpus.train_documents + corpus.held_out_documents:,} documents of {what}")
    size = f"{steps.samples * result.processes} x {spec.data.block_tokens} tokens"
    lines.append(f"{result.steps} steps of {size} on {result.device} in {result.precision}, {steps.step:.3g} s each")
    lines += [f"{size_text(result.peak_memory)} of GPU memory in them"] if result.peak_memory else []
    return lines + ([f"3 short cells of {tuned.task}"] if tuned else [])


def data_line(inputs: Inputs, found: Found, sample: Sample, tasks: float) -> Line:
    """What preparing text and tasks takes; the tasks were prepared, in so many seconds."""
    texts = {inputs.spec.data.dataset: inputs.corpus, **{f"task {name}": one for name, one in inputs.tasks.items()}}
    absent = [name for name, source in texts.items() if source.revision is not None]
    if found.corpus is not None:
        return Line("data", 0.0, DONE)
    if absent:
        return Line("data", None, f"{', '.join(absent)} must be downloaded first")
    if sample.share is None:
        return Line("data", None, "its documents could not be counted in time")
    return Line("data", sample.seconds / sample.share + tasks, f"by {sample.share:.0%} of the text, and all tasks")


def whole_text(spec: ExperimentSpec, found: Found, sample: Sample) -> Blocks | None:
    """The blocks of the whole text, by those of a part of it; None where it was not counted."""
    corpus, data = sample.corpus, spec.data
    if found.corpus is not None:
        return Blocks(corpus.train_blocks, corpus.held_out_blocks, corpus.train_tokens + corpus.held_out_tokens)
    if sample.share is None:
        return None
    blocks = (corpus.train_blocks + corpus.held_out_blocks) / sample.share
    tokens = round((corpus.train_tokens + corpus.held_out_tokens) / sample.share)
    if data.held_out_split is not None:
        return Blocks(max(1, round(blocks)), ENOUGH, tokens)
    held_out = blocks * data.held_out_share
    return Blocks(max(1, round(blocks - held_out)), max(1, round(held_out)), tokens)


def pretraining_line(spec: ExperimentSpec, found: Found, steps: Steps, blocks: Blocks | None, processes: int) -> Line:
    """Start, steps, evaluations and states of what is left of a training."""
    training = spec.training
    if found.trained:
        return Line("pretraining", 0.0, DONE)
    if blocks is None and training.max_steps is None:
        return Line("pretraining", None, f"{steps.step:.3g} s a step, but how many blocks there are is not known")
    count = training_steps(spec, blocks.train if blocks else ENOUGH)
    left = max(0, count - found.steps)
    parts = math.ceil(training.global_batch_size / (steps.samples * processes))
    read = min(training.max_eval_blocks, blocks.held_out if blocks else ENOUGH)
    seconds = {
        "start": steps.start,
        "steps": left * parts * steps.step,
        "evaluations": math.ceil(left / training.eval_every_steps) * read * steps.evaluation,
        "states": (left // training.checkpoint_every_steps + 1) * steps.state,
    }
    saved = f" ({found.steps:,} are saved)" if found.steps else ""
    shown = ", ".join(f"{name} {time_text(value)}" for name, value in seconds.items())
    return Line("pretraining", sum(seconds.values()), f"{count:,} steps{saved}: {shown}")


def publishing_line(spec: ExperimentSpec, found: Found, steps: Steps) -> Line:
    """What publishing the model takes."""
    if found.trained and found.record and found.record.publishing:
        return Line("publishing", 0.0, DONE)
    size = sum(path.stat().st_size for path in steps.result.model.rglob("*") if path.is_file())
    if choose_store(spec.publish) == "hub":
        return Line("publishing", 2 * size / UPLOAD, f"{size_text(size)} to the Hub, and as many to read back")
    return Line("publishing", size / COPY, f"{size_text(size)} to a folder")


def cells_of(spec: ExperimentSpec) -> list[Cell]:
    """Every cell of the fan-out."""
    section, cells = spec.evaluation, []
    for name in section.tasks:
        protocol = section.for_task(name)
        starts: tuple[Start, ...] = ("checkpoint", "random") if section.random_start else ("checkpoint",)
        cells += [Cell(name, seed, start, spec.head, protocol) for start in starts for seed in protocol.seeds]
        if section.zero_shot and name in section.zero_shot_tasks:
            cells.append(Cell(name, protocol.seeds[0], "zero_shot", "sentence_pair", protocol))
    return cells


def _cell_line(
    cell: Cell,
    found: Found,
    tasks: Mapping[str, PreparedTask],
    tuned: Cells | None,
    steps: Steps,
    home: Home,
    scratch: Home,
) -> Line:
    """What a cell takes, by like ones of the home if there are any, else by the short ones."""
    if found.has(cell):
        return Line(cell.title, 0.0, DONE)
    if cell.task not in tasks or tuned is None:
        return Line(cell.title, None, "its data must be downloaded first")
    device, data = visible_devices()[0].kind, tasks[cell.task]
    checkpoint = resolve_checkpoint(str(steps.result.model), scratch)
    known = judge(cell.work(checkpoint, data), device, past_jobs(home))
    if known.measured:
        return Line(cell.title, known.seconds, "as past cells of this home")
    seconds = tuned.start + judge(work_of(cell, checkpoint, data), device, [tuned.pace]).seconds
    return Line(cell.title, seconds, f"{data.train_examples:,} examples x {cell.protocol.epochs:g} epochs")


def _analysis_line(
    spec: ExperimentSpec,
    found: Found,
    sample: Sample,
    blocks: Blocks | None,
    steps: Steps,
    run: RunFolder,
    scratch: Home,
) -> Line:
    if found.analysed:
        return Line("analysis", 0.0, DONE)
    count = min(spec.analysis.max_samples, blocks.held_out if blocks else ENOUGH)
    return Line("analysis", analyse_a_little(spec, sample.corpus, count, steps, run, scratch), f"{count:,} blocks")


def disk_needed(spec: ExperimentSpec, found: Found, blocks: Blocks | None, memory: Room) -> int:
    """Bytes of the text, the training states, and the copies of the model that an experiment leaves."""
    tensors, kept = memory.tensors, sum(cell.protocol.keep_model for cell in cells_of(spec))
    text = blocks.tokens * 4 if blocks and found.corpus is None else 0
    states = (spec.training.keep_checkpoints + 1) * (tensors.weights + tensors.optimizer)
    training = 0 if found.trained else states + 3 * tensors.weights  # best weights, model, published model
    return text + training + kept * tensors.weights
