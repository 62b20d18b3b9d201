"""A full disk at every place that writes: one message with the path, old files as they were, and nothing half.

Every place is driven with as much room as it takes it from its first byte to its end, so that it fails at each write in
turn: on a small file system of its own where this machine lets us mount one, and with a limit on the size of files,
which any POSIX system has.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command import TINY, answer, cogito
from factories import RUN_ID, job_without_inputs, make_pretraining, make_record, put_scored_run
from hub_stand_in import write_small_checkpoint

from models.autoencoder import ConceptModelForMaskedLM
from models.checkpoints import save_checkpoint
from models.configuration import ConceptConfig
from tasks.analysis.loop import run_analysis
from tasks.checkpoints.encoding import EncodeOptions, encode_file
from tasks.checkpoints.publishing import publish_checkpoint
from tasks.data.corpus import load_tokenizer, prepare_corpus, train_tokenizer
from tasks.data.sources import find_dataset
from tasks.data.task_data import PreparedTask, prepare_task
from tasks.errors import StageError
from tasks.finetuning import loop as finetuning_loop
from tasks.finetuning.scoring import score_task
from tasks.jobs import worker
from tasks.jobs.devices import Device
from tasks.jobs.launch import run_job
from tasks.jobs.output import job_log
from tasks.log.experiment_log import export_log, write_row
from tasks.plots import plot_curve
from tasks.pretraining import loop as pretraining_loop
from tasks.pretraining.background import BackgroundWriter
from tasks.pretraining.curve import Curve
from tasks.pretraining.guards import TrainingGuard
from tasks.pretraining.markers import last_complete_state
from tasks.pretraining.state import TrainingState, save_state
from tasks.report.writing import write_report
from tasks.review.sweeps import compare_runs
from tasks.runs.claiming import open_training_run
from tasks.runs.request import Request
from tasks.spec.benchmarks import TASKS
from tasks.spec.evaluation import EvaluationSpec
from tasks.spec.experiment import ExperimentSpec, PublishSpec
from tasks.spec.pretraining import DataSpec, ModelSpec
from tasks.store.files import building, disk_full, write_atomic, write_manifest
from tasks.store.home import Home, RunFolder
from tasks.store.records import AnalysisResult, load_record

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
SIZE = 48 * 2**20
# Of the disk of a whole run, which needs about 3 MB: its first size, and by how much it grows.
START, STEP = 600 * 2**10, 600 * 2**10
DOUBLING = [2**number - 1 for number in range(25)]

# Leaves a file system or a limit with room for so many bytes.
Room = Callable[[int], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small file system of its own."""
    with mounted(tmp_path_factory.mktemp("disk"), SIZE) as place:
        yield place


@contextmanager
def mounted(place: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes at a folder; the test is skipped where none can be mounted."""
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], capture_output=True, text=True
        )
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def room_on(disk: Path) -> Room:
    @contextmanager
    def leave(size: int) -> Iterator[None]:
        ballast = disk / "ballast"
        with ballast.open("wb") as file:
            status = os.statvfs(disk)
            if (much := status.f_bavail * status.f_frsize - size) > 0:
                os.posix_fallocate(file.fileno(), 0, much)
        try:
            yield
        finally:
            ballast.unlink()

    return leave


@contextmanager
def limited(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size`."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(params=["a full disk", "a limit on files"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Room]:
    """An empty COGITO_HOME, and how to leave little room for it."""
    if request.param == "a full disk":
        disk: Path = request.getfixturevalue("disk")
        folder, room = disk / tmp_path.name, room_on(disk)
        folder.mkdir()
    else:
        if sys.platform == "win32":
            pytest.skip("Windows has no limit on the size of files")
        folder, room = tmp_path, limited
    monkeypatch.setenv("COGITO_HOME", str(folder))
    return folder, room


# --- what writes ---


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    train_tokenizer(iter(["the small river runs past an old mill", "under a bridge of grey stone"] * 20), 400, folder)
    return folder


@pytest.fixture(scope="module")
def model(tokenizer: Path) -> ConceptModelForMaskedLM:
    config = ConceptConfig(
        vocab_size=len(load_tokenizer(tokenizer)),
        hidden_size=16,
        num_concepts=4,
        num_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_sequence_length=32,
    )
    return ConceptModelForMaskedLM(config)


@pytest.fixture(scope="module")
def checkpoint(model: ConceptModelForMaskedLM, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place") / "checkpoint"
    pretraining_loop._write_model(folder, model, tokenizer, {})
    return folder


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror with one data set of 200 texts."""
    root = tmp_path_factory.mktemp("mirror")
    (root / "lab/texts").mkdir(parents=True)
    texts = [f"the small river runs past mill number {number} " * 5 for number in range(200)]
    pq.write_table(pa.table({"text": texts}), root / "lab/texts/train.parquet")
    return root


@dataclass(frozen=True)
class Things:
    """What the writers below write of."""

    tokenizer: Path
    model: ConceptModelForMaskedLM
    checkpoint: Path
    mirror: Path


@pytest.fixture
def things(tokenizer: Path, model: ConceptModelForMaskedLM, checkpoint: Path, mirror: Path) -> Things:
    return Things(tokenizer, model, checkpoint, mirror)


@dataclass(frozen=True)
class Writer:
    """One place that writes.

    Attributes:
        write: called with the home's folder, what there is to write of, and 1 or 2: the second writes over the first.
        reads_back: says whether what was written is whole.
        twice: False where the second write would find the first and do nothing.
        appends: names of files to which lines are added, so that the last may be half.
    """

    write: Callable[[Path, Things, int], object]
    reads_back: Callable[[Path, int], object]
    twice: bool = True
    appends: str | None = None


def run_of(home: Path) -> RunFolder:
    return Home(home).run(RUN_ID)


def only_process() -> Any:
    one = {"is_main_process": True, "process_index": 0, "num_processes": 1, "mixed_precision": "no"}
    return SimpleNamespace(wait_for_everyone=lambda: None, device=torch.device("cpu"), **one)


def state(home: Path, things: Things, version: int) -> None:
    optimizer = torch.optim.AdamW(things.model.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    folder = home / "checkpoints"
    state = TrainingState("id", things.model, optimizer, scheduler, only_process(), TrainingGuard(1.0))
    writer = BackgroundWriter()
    try:
        save_state(folder, state, version, 2, writer)
        writer.wait()
    finally:
        writer.close()


def curve(home: Path, things: Things, version: int) -> None:
    lines = Curve(home / "curve.jsonl", done=300 * (version - 1))
    for step in range(300 * (version - 1), 300 * version):
        lines.add({"step": step + 1, "task_loss": 1.0 / version})


def corpus(home: Path, things: Things, version: int) -> Any:
    spec = DataSpec(dataset="lab/texts", train_tokenizer_vocab_size=300, block_tokens=16, held_out_share=0.2)
    return prepare_corpus(spec, find_dataset("lab/texts", Home(home), things.mirror), Home(home), things.mirror)


def analysis(home: Path, things: Things, version: int) -> None:
    folder = home / "analysis"
    folder.mkdir(exist_ok=True)
    job = job_without_inputs("analysis", home).model_copy(
        update={
            "checkpoint": things.checkpoint,
            "corpus": things.checkpoint.parent / "corpus",
            "max_samples": 4 * version,
            "batch_size": 4,
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.analysis.loop.report_progress", lambda *_: None)  # its output is a file of pytest's
        run_analysis(job, folder)


def task_data(home: Path, things: Things, version: int) -> PreparedTask:
    source = SimpleNamespace(name="made mrpc", location="made", revision=None, fingerprint=str(version))
    protocol = EvaluationSpec(data="made", tasks=["mrpc"], max_length=24).for_task("mrpc")
    return prepare_task(TASKS["mrpc"], protocol, things.tokenizer, source, Home(home))  # type: ignore[arg-type]


def scores(home: Path, things: Things, version: int) -> None:
    data = things.checkpoint.parent / "tasks"
    labels = np.load(data / "eval-mrpc.npz")["labels"]
    record = load_record(run_of(home))
    score_task(record.cells, PreparedTask("mrpc", str(version), data, len(labels), 30 * len(labels)), run_of(home))


def fine_tuned(home: Path, things: Things, version: int) -> None:
    labels = np.arange(500) % 2
    logits = np.random.default_rng(version).standard_normal((500, 2))
    finetuning_loop._write_predictions(home / "predictions-mrpc.parquet", labels, logits, regression=False)
    with building(home / "model") as part:
        save_checkpoint(things.model, part)
        write_manifest(part)


def published(home: Path, things: Things, version: int) -> None:
    source = things.checkpoint.parent / f"published-{version}"
    publish_checkpoint(source, make_record(publishing=None), PublishSpec(store="local"), Home(home))


def encoded(suffix: str) -> Callable[[Path, Things, int], object]:
    def write(home: Path, things: Things, version: int) -> object:
        texts = things.checkpoint.parent / "texts.txt"
        options = EncodeOptions(overwrite=True)
        return encode_file(str(things.checkpoint), texts, home / f"vectors{suffix}", Home(home), options=options)

    return write


def opened(home: Path, things: Things, version: int) -> None:
    spec = ExperimentSpec(name=f"number-{version}", data=DataSpec(), model=ModelSpec())
    with open_training_run(spec, "a" * 16, "b" * 16, Request(Home(home), None, home / "log.md")):
        pass


def one_run(home: Path, version: int) -> bool:
    runs = [path.name for path in (home / "runs").iterdir()]
    index = json.loads((home / "index" / f"training-{'a' * 16}.json").read_text())
    return [index["run_id"]] == runs


def whole(name: str) -> Callable[[Path, int], bool]:
    """Whether every folder of a kind agrees with its manifest."""
    from tasks.store.files import check_manifest

    def check(home: Path, version: int) -> bool:
        found = [path.parent for path in home.glob(f"{name}/manifest.json")]
        for folder in found:
            check_manifest(folder)
        return bool(found)

    return check


def large_result(version: int) -> AnalysisResult:
    plots = {"x" * 9000: Path("plot.png")}
    return AnalysisResult(figures={}, samples=version, num_concepts=1, plots=plots, seconds=0.0)


def result(home: Path, things: Things, version: int) -> None:
    """A job of a process of its own, whose result has no room: its error must reach the caller all the same."""
    (home / "job").mkdir(exist_ok=True)
    for stale in (home / "job").glob("error-*.json"):  # as `run_job` does
        stale.unlink()
    (home / "job" / "job.json").unlink(missing_ok=True)
    (home / "job" / "job.json").symlink_to(things.checkpoint.parent / "job.json")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pkgutil.resolve_name", lambda loop: lambda job, folder: large_result(version))
        patch.setattr("builtins.print", lambda *words, **_: None)
        patch.setattr(worker, "send", lambda message: said.append(message.message))
        patch.setattr("traceback.print_exc", lambda: None)
        code = worker.main(str(home / "job" / "job.json"))
    if code != 0:
        told = [json.loads(path.read_text())["message"] for path in (home / "job").glob("error-*.json")]
        (message,) = told or said
        for path in (home / "job").glob("error-*.json"):
            path.unlink()
        raise StageError(message)


WRITERS: dict[str, Writer] = {
    "record.json": Writer(
        lambda home, things, version: make_record(name=f"number {version}").save(run_of(home)),
        lambda home, version: load_record(run_of(home)).name == f"number {version}",
    ),
    "result.json": Writer(
        result, lambda home, version: json.loads((home / "job/result.json").read_text())["samples"] == version
    ),
    "job.json": Writer(
        lambda home, things, version: _start_nothing(home / "job", version),
        lambda home, version: json.loads((home / "job/job.json").read_text())["identity"] == f"number {version}",
    ),
    "training state": Writer(
        state,
        lambda home, version: last_complete_state(home / "checkpoints", "id").name == f"step-{version:08d}",  # type: ignore[union-attr]
    ),
    "model folder": Writer(
        lambda home, things, version: pretraining_loop._write_model(
            home / "model", things.model, things.tokenizer, {"number": version}
        ),
        whole("model"),
    ),
    "curve.jsonl": Writer(
        curve,
        lambda home, version: len((home / "curve.jsonl").read_text().splitlines()) == 300 * version,
        appends="curve.jsonl",
    ),
    "corpus and its tokenizer": Writer(corpus, whole("corpora/*"), twice=False),
    "task data": Writer(task_data, whole("cache/tasks/*")),
    "predictions and a fine-tuned model": Writer(
        fine_tuned, lambda home, version: len(pq.read_table(home / "predictions-mrpc.parquet")) == 500
    ),
    "plots": Writer(
        lambda home, things, version: plot_curve(
            [{"step": step, "task_loss": version / step} for step in range(1, 50)], 3.0, home / "plots/loss.png"
        ),
        lambda home, version: (home / "plots/loss.png").read_bytes().endswith(b"IEND\xaeB`\x82"),
    ),
    "analysis": Writer(
        analysis, lambda home, version: np.load(home / "analysis/geometry.npz")["mean_similarity"].any()
    ),
    "scores": Writer(
        scores, lambda home, version: json.loads(next(run_of(home).root.rglob("scores-*.json")).read_text())["scores"]
    ),
    "published folder": Writer(published, whole("published/*")),
    "row of the log": Writer(
        lambda home, things, version: write_row(
            home / "log.md", make_record(pretraining=make_pretraining(eval_loss=float(version)))
        ),
        lambda home, version: (home / "log.md").read_text().count(RUN_ID) == 1,
    ),
    "exported log": Writer(
        lambda home, things, version: export_log(things.checkpoint.parent / "log.md", home / "rows.json"),
        lambda home, version: json.loads((home / "rows.json").read_text()),
    ),
    "report": Writer(
        lambda home, things, version: write_report(RUN_ID, Home(home)),
        lambda home, version: "</html>" in (run_of(home).root / "report.html").read_text(),
        twice=False,
    ),
    "run and index": Writer(opened, one_run, twice=False),
    "comparison of a sweep": Writer(
        lambda home, things, version: compare_runs([(f"one {version}", None, "failed")], Home(home), home / "sweep"),
        lambda home, version: f"one {version}" in (home / "sweep/comparison.md").read_text(),
    ),
    "vectors as Parquet": Writer(
        encoded(".parquet"), lambda home, version: len(pq.read_table(home / "vectors.parquet")) == 400
    ),
    "vectors as safetensors": Writer(
        encoded(".safetensors"), lambda home, version: (home / "vectors.safetensors").stat().st_size > 400 * 16 * 4
    ),
}


def _start_nothing(folder: Path, version: int) -> None:
    """Start a job up to the process that would do it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", _refuse)
        with suppress(InterruptedError):
            job = job_without_inputs("analysis", folder / ("x" * 9000)).model_copy(
                update={"identity": f"number {version}"}
            )
            run_job(folder, job, [CPU])


def _refuse(*_: object, **__: object) -> None:
    raise InterruptedError


CPU = Device("cpu", "0", 1)


@pytest.fixture(scope="module", autouse=True)
def _inputs(checkpoint: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What some writers read, made while there is room."""
    place, home = checkpoint.parent, Home(tmp_path_factory.mktemp("inputs"))
    texts = place / "lab"
    texts.mkdir()
    words = [f"the mill of {number} stones" * 9 for number in range(80)]
    pq.write_table(pa.table({"text": words}), texts / "a.parquet")
    spec = DataSpec(dataset=str(texts), block_tokens=16, held_out_share=0.4)
    made = prepare_corpus(spec, find_dataset(str(texts), home, None), home, tokenizer_folder=tokenizer)
    made.folder.rename(place / "corpus")
    things = SimpleNamespace(tokenizer=tokenizer)
    task_data(home.root, things, 1).folder.rename(place / "tasks")  # type: ignore[arg-type]
    write_row(place / "log.md", make_record())
    for version in (1, 2):
        write_small_checkpoint(place / f"published-{version}", weight=version, run_id=RUN_ID)
    (place / "texts.txt").write_text("\n".join(["the old mill"] * 400))
    (place / "job.json").write_text(job_without_inputs("analysis", place).model_dump_json())


# --- the proof ---


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file by its place, but for locks."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.suffix != ".lock":
            found[name] = path.read_bytes()
    return found


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(place: tuple[Path, Room], things: Things, name: str) -> None:
    (home, room), writer = place, WRITERS[name]
    if name == "scores":
        labels = np.load(things.checkpoint.parent / "tasks/eval-mrpc.npz")["labels"]
        put_scored_run(Home(home), RUN_ID, labels, {1: labels})
    if name == "report":
        make_record().save(run_of(home))
    version = 1
    if writer.twice:
        writer.write(home, things, 1)
        assert writer.reads_back(home, 1)
        version = 2
    before, seen, failures = files_in(home), {}, 0
    # Every page of the first few, then in growing steps.
    for size in sorted({int(1.3**number - 1) * PAGE for number in range(40)} if room is not limited else DOUBLING):
        try:
            with room(size):
                writer.write(home, things, version)
        except StageError as error:
            failures += 1
            message = str(error)
        else:
            break
        assert "no space left on device" in message and "\n" not in message, message
        assert str(home) in message and message.count("fix:") == 1, message
        now = files_in(home)
        assert not [path for path in now if path.endswith(".part") or ".part/" in path], now.keys()
        assert not before.keys() - now.keys(), "an old file is gone"
        seen |= {path: content for path, content in now.items() if content != before.get(path)}
    assert failures, "it never failed, so nothing is proven"
    assert writer.reads_back(home, version)
    after = files_in(home)
    for path, content in seen.items():
        if writer.appends == path:
            assert content.startswith(before[path])
            assert all(json.loads(line) for line in content.decode().split("\n")[:-1])
        else:
            assert after[path] == content, f"{path} was there under its name before it was whole"


def test_a_log_without_room_ends_no_job(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = disk / "log.txt"
    with caplog.at_level(logging.WARNING, "cogito.launch"), job_log(path) as keep:
        keep("first\n")
        with room_on(disk)(0):
            for _ in range(2000):
                keep("a line of a job that goes on\n")
        keep("last\n")
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: loses lines, the job goes on: No space left on device"
    ]
    assert path.read_text().startswith("first\n") and path.read_text().endswith("last\n")
    path.unlink()


def test_every_other_error_stays_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        write_atomic(tmp_path / "file" / "inner", "text")
    with pytest.raises(ValueError, match="bad"), building(tmp_path / "target"):
        raise ValueError("bad")
    assert not disk_full(PermissionError(13, "no")) and not disk_full(ValueError("100 requested"))


@pytest.mark.parametrize("arguments", [("report", RUN_ID), ("log", "export", "--log", "log.md", "rows.json")])
def test_the_command_says_it_in_one_line(disk: Path, arguments: tuple[str, ...]) -> None:
    home = disk / arguments[0]
    make_record().save(Home(home).run(RUN_ID))
    write_row(disk / "log.md", make_record())
    with room_on(disk)(0):
        done = cogito(*arguments, home=home)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "no space left on device" in done.stderr and ("rows.json" in arguments or RUN_ID in done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    done = cogito(*arguments, home=home)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
@pytest.mark.end_to_end
@pytest.mark.prefect
def test_a_whole_run_goes_on_whenever_there_is_more_room(tmp_path: Path) -> None:
    """The disk of a run is full again and again; each time it grows a little, and the same command goes on."""
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    words = ["run", tmp_path / "tiny.yaml", "--set", "tracking.wandb=disabled", "--set", "evaluation.tasks=[mrpc]"]
    words.append("--json")
    calm = cogito(*words, "--log", tmp_path / "calm.md", home=tmp_path / "calm")
    cogito("ui", "--stop", home=tmp_path / "calm")
    assert calm.returncode == 0, calm.stderr
    outside = tmp_path / "outside"
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk", START) as place:
        home, log = place / "home", place / "log.md"
        home.mkdir()
        for name in ("prefect", "logs"):  # the server and its database are Prefect's to look after
            (outside / name).mkdir(parents=True)
            (home / name).symlink_to(outside / name)
        full: list[str] = []
        try:
            while (done := cogito(*words, "--log", log, home=home)).returncode != 0:
                said = [line for line in done.stderr.splitlines() if line.startswith("cogito: ")]
                assert done.returncode == 1 and len(said) == 1 and "Traceback" not in done.stderr, done.stderr
                assert "no space left on device" in said[0] and str(place) in said[0], done.stderr
                assert not [path for path in place.rglob("*.part") if "datasets" not in path.parts]
                assert not log.exists() or all(
                    log.read_text(encoding="utf-8").count(f"`{path.name}`") <= 1 for path in (home / "runs").iterdir()
                )
                full.append(said[0])
                size = START + len(full) * STEP
                assert size < SIZE, full
                subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)
        finally:
            cogito("ui", "--stop", home=home)
        print("\n".join(full))
        stages = {
            kind for kind in ("corpora", "pretraining", "runs", "published") for line in full if f"/{kind}/" in line
        }
        assert len(full) >= 3 and {"corpora", "pretraining"} <= stages, full
        (run,) = (home / "runs").iterdir()
        assert answer(done)["run_id"] == run.name and answer(done)["status"] == "complete"
        assert log.read_text(encoding="utf-8").count(f"`{run.name}`") == 1
        expected, got = Home(tmp_path / "calm"), Home(home)
        weights = [
            json.loads((one.published / name / "manifest.json").read_text())["files"]["model.safetensors"]
            for one, name in ((expected, answer(calm)["run_id"]), (got, run.name))
        ]
        assert weights[0] == weights[1]
        assert answer(calm)["scores"] == answer(done)["scores"]
