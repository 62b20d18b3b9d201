"""Training is bit-exact: a run that was killed at drawn places has the weights and the curve of one that was not.

The contract over every row of the objectives is proved in this process, where the rank-side loop is broken off by an
exception that nothing catches; kills of real processes prove it through the launcher.
"""

import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState, PartialState
from command import TINY as COMMAND_TINY
from command import cogito, environment
from factories import make_pretraining, make_record

from models.family import VARIANTS
from tasks.analysis.stage import analyse_concepts
from tasks.checkpoints.publishing import publish_checkpoint
from tasks.data.corpus import prepare_corpus
from tasks.data.sources import find_dataset
from tasks.data.task_data import find_task_source, prepare_task
from tasks.errors import StageError, UserError
from tasks.finetuning.cell import Cell
from tasks.finetuning.stage import finetune
from tasks.jobs.devices import Device
from tasks.jobs.messages import JobWarning, PretrainingJob, parse_line, store_result
from tasks.pretraining import loop as pretraining_loop
from tasks.pretraining import state as training_state
from tasks.pretraining import step as pretraining_step
from tasks.pretraining.markers import last_complete_state
from tasks.pretraining.stage import model_config, pretrain, pretraining_identity
from tasks.runs.claiming import open_training_run
from tasks.runs.preflight import find_inputs
from tasks.runs.request import Request
from tasks.spec.benchmarks import TASKS
from tasks.spec.experiment import ExperimentSpec
from tasks.spec.pretraining import TrainingSpec
from tasks.spec.reading import build_spec
from tasks.store.files import file_sha256, read_json, write_json
from tasks.store.home import Home, RunFolder
from tasks.store.records import Checkpoint, CorpusResult, PretrainingResult, Result, load_record

STEPS = 7
TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "dataset": "builtin/python_docs",
        "max_documents": 30,
        "train_tokenizer_vocab_size": 400,
        "block_tokens": 16,
        "held_out_share": 0.1,
    },
    "model": {"hidden_size": 16, "num_layers": 2, "num_concepts": 4, "num_attention_heads": 2, "intermediate_size": 16},
    "training": {
        "max_steps": STEPS,
        "global_batch_size": 7,
        "per_device_batch_size": 4,
        "learning_rate": 3e-3,
        "warmup_steps": 2,
        "eval_every_steps": 3,
        "max_eval_blocks": 4,
        "checkpoint_every_steps": 2,
    },
    "evaluation": {"data": "made", "tasks": ["mrpc"], "max_length": 16},
    "analysis": {"live_samples": 2},
    "tracking": {"wandb": "disabled"},
}
# Every variant as it is, and every other way to make a model or a batch.
ROWS: dict[str, list[str]] = {name: [f"model.variant={name}"] for name in VARIANTS} | {
    "tsdae_bixt": ["model.variant=tsdae", "model.use_bixt=true"],
    "recursive": ["model.recursive=true"],
    "shared_token_kv": ["model.share_token_kv=true"],
    "dimension_inversion": ["model.token_embedding_dim=8"],
    "learned_positions": ["model.concept_position_type=learned"],
    "sinusoidal_positions": ["model.concept_position_type=sinusoidal"],
    "whole_word": ["objective.whole_word=true"],
    "elbo": ["model.variant=diffusion", "objective.elbo=true"],
    "documents": ["data.blocks=document"],
}
WEIGHTINGS = {
    weighting: [f"objective.loss_weighting={weighting}", "objective.concept_losses={vicreg: 0.1, orthogonality: 0.1}"]
    for weighting in ("learnable", "kendall_gal")
}


class Killed(BaseException):
    """What stands for kill -9: no code of ours catches it."""


def a_spec(*changes: str) -> ExperimentSpec:
    return build_spec(json.loads(json.dumps(TINY)), list(changes), "tiny")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the corpora of this module."""
    return Home(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def corpus_of(spec: ExperimentSpec, home: Home) -> CorpusResult:
    return prepare_corpus(spec.data, find_dataset(spec.data.dataset, home, None), home)


def train_here(spec: ExperimentSpec, corpus: CorpusResult, folder: Path) -> dict[str, Any]:
    """The rank side of one training in this process, as a new process would find the world."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    torch.manual_seed(random.getrandbits(32))
    folder.mkdir(exist_ok=True)
    job = PretrainingJob(
        identity="tiny",
        spec=spec,
        run_id="tiny",
        corpus=corpus.folder,
        config=model_config(spec, corpus.vocab_size, "tiny", corpus.special_token_ids),
        init_from=None,
        unigram_entropy=corpus.unigram_entropy_nats,
        processes=1,
        tracking_folder=folder / "wandb",
    )
    result = pretraining_loop.run_pretraining(job, folder)
    assert result is not None
    return {
        name: value
        for name, value in result.model_dump(mode="json", context={"base": folder}).items()
        if "second" not in name and name not in ("timing", "forecast")
    }


class Storm:
    """Breaks the loop off at drawn places: before or after a call of a function, the n-th since the last start."""

    PLACES = (
        (pretraining_step, "forward_backward"),
        (pretraining_loop, "_evaluate"),
        (pretraining_loop, "save_state"),
        (pretraining_loop, "save_best"),
        (training_state, "write_json"),
        (training_state, "file_sha256"),
        (pretraining_loop, "_write_model"),
    )

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seed: str, kills: int) -> None:
        chance = random.Random(seed)
        self.calls: dict[str, int] = {}
        # In turn from all places, so that every kind of place is hit by some row.
        self.plan = [
            (chance.choice(self.PLACES)[1], chance.randint(1, 2), chance.choice(("before", "after")))
            for _ in range(kills - 1)
        ]
        self.plan.insert(0, ("forward_backward", chance.randint(2, 6), "after"))
        self.kills = 0
        for module, name in self.PLACES:
            monkeypatch.setattr(module, name, self._around(name, getattr(module, name)))

    def _around(self, name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] = self.calls.get(name, 0) + 1
            self._strike(name, "before")
            result = function(*args, **kwargs)
            self._strike(name, "after")
            return result

        return call

    def _strike(self, name: str, when: str) -> None:
        if self.plan and self.plan[0] == (name, self.calls[name], when):
            self.plan.pop(0)
            self.kills += 1
            raise Killed

    def through(self, spec: ExperimentSpec, corpus: CorpusResult, folder: Path) -> dict[str, Any]:
        """Train to the end, from the last state after every kill."""
        while True:
            self.calls.clear()
            try:
                return train_here(spec, corpus, folder)
            except Killed:
                with (folder / "curve.jsonl").open("a") as curve:
                    curve.write('{"step": 3, "half a li')


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("row", ROWS)
def test_a_broken_off_training_is_the_whole_one(
    row: str, weighting: str, texts: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    spec = a_spec(*ROWS[row], *WEIGHTINGS[weighting])
    assert spec.model.hidden_dropout_prob > 0 and spec.model.attention_probs_dropout_prob > 0
    corpus = corpus_of(spec, texts)
    calm = train_here(spec, corpus, tmp_path / "calm")
    storm = Storm(monkeypatch, row + weighting, 4)
    assert storm.through(spec, corpus, tmp_path / "stormy") == calm
    assert storm.kills >= 1
    assert_same_training(tmp_path / "calm", tmp_path / "stormy", STEPS)


def assert_same_training(one: Path, other: Path, steps: int) -> None:
    weights = [file_sha256(folder / "model" / "model.safetensors") for folder in (one, other)]
    curves = [(folder / "curve.jsonl").read_bytes() for folder in (one, other)]
    assert len(set(weights)) == 1
    assert len(set(curves)) == 1 and curves[0].count(b"\n") == steps


def test_dropout_and_loss_weights_are_at_work(texts: Home, tmp_path: Path, one_thread: None) -> None:
    """What the contract above would not see if it were off: dropout changes the weights, learned factors move."""
    spec = a_spec(*WEIGHTINGS["learnable"])
    corpus = corpus_of(spec, texts)
    train_here(spec, corpus, tmp_path / "on")
    off = a_spec(*WEIGHTINGS["learnable"], "model.hidden_dropout_prob=0", "model.attention_probs_dropout_prob=0")
    train_here(off, corpus, tmp_path / "off")
    points = [json.loads(line) for line in (tmp_path / "on" / "curve.jsonl").read_text().splitlines()]
    assert points[0]["task_loss"] != json.loads((tmp_path / "off/curve.jsonl").read_text().splitlines()[0])["task_loss"]
    assert len({point["vicreg_weight"] for point in points}) == STEPS


# --- states ---


def test_a_broken_state_is_skipped_with_a_warning(
    texts: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], one_thread: None
) -> None:
    spec = a_spec("training.keep_checkpoints=3")
    corpus, calm = corpus_of(spec, texts), tmp_path / "calm"
    train_here(spec, corpus, calm)
    storm = Storm(monkeypatch, "", 1)
    storm.plan = [("save_state", 3, "after")]
    with pytest.raises(Killed):
        train_here(spec, corpus, tmp_path / "killed")
    states = tmp_path / "killed" / "checkpoints"
    assert sorted(path.name[-1] for path in states.glob("step-*")) == ["2", "4", "6"]

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-9])

    def unlist(path: Path) -> None:
        facts = read_json(path)
        write_json(path, {**facts, "files": {}})

    faults = {
        "flip": (flip, "optimizer.pt", "SHA-256 of optimizer.pt"),
        "cut": (cut, "module.pt", "module.pt has"),
        "gone": (Path.unlink, "random-0.pt", "incomplete"),
        "no marker": (Path.unlink, "complete.json", "incomplete"),
        "half a marker": (cut, "complete.json", "unreadable"),
        "empty marker": (unlist, "complete.json", "does not list module.pt, optimizer.pt, random-0.pt, scheduler.pt"),
    }
    newest = states / f"step-{6:08d}"
    for name, (fault, file, said) in faults.items():
        again = tmp_path / name
        shutil.copytree(tmp_path / "killed", again)
        fault(again / "checkpoints" / newest.name / file)
        capfd.readouterr()
        storm.calls.clear()
        train_here(spec, corpus, again)
        heard = map(parse_line, capfd.readouterr().out.splitlines())
        (warning,) = [message.message for message in heard if isinstance(message, JobWarning)]
        assert warning.startswith(f"training state {again / 'checkpoints' / newest.name} is skipped: ")
        assert said in warning
        assert_same_training(calm, again, STEPS)


def test_a_broken_state_does_not_push_out_whole_ones(
    texts: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    spec = a_spec("training.keep_checkpoints=1", "training.checkpoint_every_steps=1")
    corpus, folder = corpus_of(spec, texts), tmp_path / "run"
    broken = folder / "checkpoints" / f"step-{6:08d}"
    broken.mkdir(parents=True)
    storm = Storm(monkeypatch, "", 1)
    storm.plan = [("save_state", 2, "after")]
    with pytest.raises(Killed):
        train_here(spec, corpus, folder)
    state = last_complete_state(folder / "checkpoints", "tiny")
    assert state is not None and state.name == f"step-{2:08d}" and not broken.exists()


# --- another number of processes, or another precision ---


def unfinished_run(home: Home, spec: ExperimentSpec, processes: int, **more: Any) -> RunFolder:
    """A run that this many processes have trained up to step 40."""
    request = Request(home, None, home.root / "log.md")
    inputs = find_inputs(spec, request)
    identity = pretraining_identity(spec, inputs.data_identity)
    with open_training_run(spec, identity, "asked", request) as (run, _):
        pass
    corpus = prepare_corpus(spec.data, inputs.corpus, home)
    training = pretraining_identity(spec, corpus.corpus_id)
    facts = {"identity": training, "step": 40, "processes": processes, "guard": {}, "files": {}, **more}
    write_json(run.pretraining / "checkpoints" / f"step-{40:08d}" / "complete.json", facts)
    return run


def everything_in(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("words", "got"), [(["--processes", "1"], "--processes 1"), ([], "processes: got 1, what this machine has,")]
)
def test_another_number_of_processes_is_refused_before_any_work(home: Home, words: list[str], got: str) -> None:
    run = unfinished_run(home, a_spec(), 2)
    (home.root.parent / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    before = everything_in(home.root)
    done = cogito("run", "tiny.yaml", *words, "--log", "log.md", home=home.root, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr == (
        f"cogito: {got} for {run.run_id}, which 2 trained up to step 40: another number trains other weights; "
        "allowed: 2; fix: --processes 2, or --fresh for a new run\n"
    )
    assert everything_in(home.root) == before and not (home.root.parent / "log.md").exists()


def test_the_same_number_a_fresh_run_or_a_finished_one_may_go_on(home: Home) -> None:
    spec = a_spec()
    run, request = unfinished_run(home, spec, 2), partial(Request, home, None, home.root / "log.md")
    identity = read_json(next(run.pretraining.glob("checkpoints/*/complete.json")))["identity"]
    with pytest.raises(UserError, match="allowed: 2"):
        find_inputs(spec, request(processes=3))
    find_inputs(spec, request(processes=2))
    find_inputs(spec, request(processes=1, fresh=True))
    find_inputs(a_spec("training.seed=7"), request(processes=1))
    with pytest.raises(UserError, match="allowed: 2"):  # where there was no preflight
        pretrain(spec, prepare_corpus(spec.data, find_dataset(spec.data.dataset, home, None), home), run, home)
    store_result(run.pretraining, identity, make_pretraining())
    find_inputs(spec, request(processes=1))


def on(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    """As on a machine with one device of this kind."""
    monkeypatch.setattr("tasks.pretraining.stage.visible_devices", lambda: (Device(kind, "0", 1),))


@pytest.mark.parametrize(
    ("trained", "kind", "now", "fix"),
    [("fp32", "cuda", "bf16", "--device cpu"), ("bf16", "cpu", "fp32", "a machine with a GPU")],
)
def test_a_home_that_was_moved_to_another_kind_of_device_goes_on_in_no_other_precision(
    home: Home, monkeypatch: pytest.MonkeyPatch, trained: str, kind: Any, now: str, fix: str
) -> None:
    """`auto` is another precision there, under the same identity."""
    spec = a_spec()
    run, request = unfinished_run(home, spec, 1, precision=trained), Request(home, None, home.root / "log.md")
    before = everything_in(home.root)
    on(monkeypatch, kind)
    with pytest.raises(UserError) as refused:
        find_inputs(spec, request)
    assert str(refused.value) == (
        f"training.mixed_precision auto: is {now} on this machine's {kind}; {run.run_id} was trained in {trained} up "
        f"to step 40: another precision trains other weights; allowed: {trained}; fix: {fix}, or --fresh for "
        "a new run"
    )
    corpus = prepare_corpus(spec.data, find_dataset(spec.data.dataset, home, None), home)
    with pytest.raises(UserError, match="another precision trains other weights"):  # where there was no preflight
        pretrain(spec, corpus, run, home)
    assert everything_in(run.root) == {path: time for path, time in before.items() if path in everything_in(run.root)}
    find_inputs(spec, replace(request, fresh=True))
    on(monkeypatch, "cuda" if trained == "bf16" else "cpu")
    find_inputs(spec, request)
    on(monkeypatch, kind)
    identity = read_json(next(run.pretraining.glob("checkpoints/*/complete.json")))["identity"]
    store_result(run.pretraining, identity, make_pretraining())
    find_inputs(spec, request)  # a finished one is used on any machine


@pytest.mark.parametrize(("trained", "kind"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_training_goes_on_on_no_other_kind_of_device(
    home: Home, monkeypatch: pytest.MonkeyPatch, trained: str, kind: Any
) -> None:
    """Nor where the precision is stated: a GPU adds in another order."""
    spec, request = a_spec("training.mixed_precision=fp32"), Request(home, None, home.root / "log.md")
    unfinished_run(home, spec, 1, precision="fp32", device=trained)
    on(monkeypatch, kind)
    with pytest.raises(
        UserError, match=f"device: got {kind}; .* was trained on {trained} .*fix: --device {trained}, or"
    ):
        find_inputs(spec, request)
    find_inputs(spec, replace(request, fresh=True))
    on(monkeypatch, trained)
    find_inputs(spec, request)


def test_a_state_says_its_conditions_and_is_loaded_in_no_others(
    texts: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    spec, folder = a_spec(), tmp_path / "training"
    corpus, storm = corpus_of(spec, texts), Storm(monkeypatch, "", 1)
    storm.plan = [("save_state", 1, "after")]
    with pytest.raises(Killed):
        train_here(spec, corpus, folder)
    marker = max(folder.glob("checkpoints/step-*/complete.json"))
    facts = read_json(marker)
    conditions = {name: facts.pop(name) for name in ("precision", "device", "graph")}
    assert conditions == {"precision": "fp32", "device": "cpu", "graph": "eager"}
    for name, other, cause in (
        ("precision", "bf16", "device"),
        ("device", "cuda", "device"),
        ("graph", "compiled", "compiler"),
    ):
        write_json(marker, facts | conditions | {name: other})
        said = f"its {name} is {other} and cannot become {conditions[name]}, .*; fix: a {cause} as before"
        with pytest.raises(StageError, match=said):
            train_here(spec, corpus, folder)
    write_json(marker, facts)
    storm.plan = []
    train_here(spec, corpus, folder)  # as earlier versions wrote it


@pytest.mark.parametrize(
    ("stated", "expected"), [("auto", ("fp32", "bf16")), ("fp32", ("fp32", "fp32")), ("bf16", ("bf16", "bf16"))]
)
def test_the_precision_of_a_device(stated: Any, expected: tuple[str, str]) -> None:
    training = TrainingSpec(mixed_precision=stated)
    assert (training.precision_on("cpu"), training.precision_on("cuda")) == expected


# --- a home that was moved ---


@pytest.mark.end_to_end
def test_a_moved_home_has_everything_that_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real jobs, the folder renamed, the same calls: all is found done, and record and results name the new place."""
    spec = a_spec("evaluation.max_train_examples=50", "evaluation.epochs=0.5")
    protocol = spec.evaluation.for_task("mrpc").model_copy(update={"keep_model": True})

    def everything(home: Home) -> list[Result]:
        monkeypatch.setenv("COGITO_HOME", str(home.root))
        corpus, run = corpus_of(spec, home), home.run("run_20260301_120000")
        trained = pretrain(spec, corpus, run, home, processes=1)
        checkpoint = Checkpoint(
            name="run",
            folder=trained.model,
            origin="run",
            variant="perceiver_mlm",
            weights_sha256=file_sha256(trained.model / "model.safetensors"),
        )
        source = find_task_source(TASKS["mrpc"], "made", home, None)
        data = prepare_task(TASKS["mrpc"], protocol, corpus.tokenizer, source, home)
        cell = finetune(Cell("mrpc", 42, "checkpoint", "via_decoder", protocol), checkpoint, data, run, home)
        found = [trained, cell, analyse_concepts(checkpoint, corpus, spec.analysis, run, home)]
        record = load_record(run) if run.record.exists() else make_record(run_id=run.run_id)
        published = publish_checkpoint(trained.model, record, spec.publish, home)
        assert record.publishing in (published, None)
        record.pretraining, record.cells, record.analysis = trained, [cell], found[-1]
        record.publishing, record.corpus, record.checkpoint = published, corpus, checkpoint
        record.save(run)
        return found

    assert not any(result.reused for result in everything(Home(tmp_path / "one")))
    written = (tmp_path / "one/runs/run_20260301_120000/record.json").read_bytes()
    (tmp_path / "one").rename(tmp_path / "two")
    again = everything(Home(tmp_path / "two"))
    assert all(result.reused for result in again)
    assert str(tmp_path / "one") not in "".join(map(str, again)) and not (tmp_path / "one").exists()
    record = tmp_path / "two/runs/run_20260301_120000/record.json"
    assert record.read_bytes() == written and str(tmp_path).encode() not in written
    for path in (tmp_path / "two/runs").rglob("result.json"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8")
    stored = load_record(home_run := RunFolder(record.parent))
    assert stored.pretraining is not None and stored.pretraining.curve == home_run.pretraining / "curve.jsonl"
    assert stored.publishing is not None and Path(stored.publishing.location).is_dir()
    assert all(path.is_file() for cell in stored.cells for path in cell.predictions.values())


@pytest.mark.end_to_end
@pytest.mark.prefect
def test_the_command_goes_on_in_a_moved_home(tmp_path: Path) -> None:
    """kill -9 while it fine-tunes, rename; the same command ends it; rename again; the same command does nothing."""
    (tmp_path / "tiny.yaml").write_text(COMMAND_TINY, encoding="utf-8")
    words = ("run", "tiny.yaml", "--log", "log.md", "--json")
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *words],
            env=environment(first),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 400
        while not list(first.glob("runs/*/finetuning/*/job.json")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.wait()
        time.sleep(4)  # its jobs notice within two seconds that their owner is gone
        first.rename(second)  # its server still runs, and would go on writing to the old place
        (trained,) = second.glob("runs/*/pretraining/result.json")
        before = trained.stat().st_mtime_ns
        done = cogito(*words, home=second, timeout=600)
        assert done.returncode == 0, done.stderr
        assert trained.stat().st_mtime_ns == before, "it was trained again"
        log = (tmp_path / "log.md").read_bytes()
        assert cogito("ui", "--stop", home=second).stdout == "stopped\n"
        second.rename(third)
        results = {path: path.stat().st_mtime_ns for path in third.rglob("result.json")}
        again = cogito(*words, home=third, timeout=600)
        assert again.returncode == 0, again.stderr
        assert (tmp_path / "log.md").read_bytes() == log
        assert {path: path.stat().st_mtime_ns for path in third.rglob("result.json")} == results
        assert json.loads(again.stdout)["scores"] == json.loads(done.stdout)["scores"]
        assert not first.exists() and not second.exists()
        (record,) = third.glob("runs/*/record.json")
        assert str(tmp_path) not in record.read_text(encoding="utf-8")
    finally:
        for home in (second, third):
            if home.exists():
                cogito("ui", "--stop", home=home)


# --- real processes ---


def stop_at(folder: Path, step: int, rank: int) -> None:
    """kill -9 one rank once the training has come so far."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        with suppress(OSError):
            if (folder / "curve.jsonl").read_bytes().count(b"\n") >= step:
                break
        time.sleep(0.01)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())  # that of a forked job is one word
            ours = "tasks.jobs.worker" in words and "accelerate.commands.launch" not in words
            if ours and str(folder / "job.json") in words and process.environ().get("RANK", "0") == str(rank):
                process.kill()
                return


def train_through_kills(
    spec: ExperimentSpec, corpus: CorpusResult, home: Home, processes: int, kills: list[tuple[int, int]]
) -> tuple[PretrainingResult, list[str]]:
    """Train in processes, killing (step, rank) in turn; the result and what every failed start said."""
    said, run = [], home.run("stormy" if kills else "calm")
    for step, rank in kills:
        killer = threading.Thread(target=stop_at, args=(run.pretraining, step, rank))
        killer.start()
        with pytest.raises(StageError) as failure:
            pretrain(spec, corpus, run, home, processes=processes)
        killer.join()
        said.append(str(failure.value))
    return pretrain(spec, corpus, run, home, processes=processes), said


LONGER = ("training.max_steps=150", "training.epochs=100", "training.checkpoint_every_steps=10")


def processes_of(folder: Path) -> list[psutil.Process]:
    """Launcher and ranks that work in a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(folder / "job.json") in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.mark.end_to_end
def test_a_killed_command_and_a_killed_rank_end_the_others_and_lose_nothing(tmp_path: Path) -> None:
    spec, home = a_spec(*LONGER, *WEIGHTINGS["kendall_gal"]), Home(tmp_path)
    corpus, folder = corpus_of(spec, home), home.run("stormy").pretraining
    train_through_kills(spec, corpus, home, 2, [])
    words = (spec, corpus, home.run("stormy"), home)
    command = multiprocessing.get_context("spawn").Process(target=pretrain, args=words, kwargs={"processes": 2})
    command.start()
    deadline = time.monotonic() + 240
    while not ((folder / "curve.jsonl").exists() and (folder / "curve.jsonl").read_bytes().count(b"\n") >= 15):
        assert command.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    assert len(processes_of(folder)) >= 3
    command.kill()
    command.join()
    deadline = time.monotonic() + 60
    while processes_of(folder):
        assert time.monotonic() < deadline, "the ranks do not notice that their command is gone"
        time.sleep(0.2)
    _, said = train_through_kills(spec, corpus, home, 2, [(60, 1)])
    for message in said:
        assert "was killed (SIGKILL)" in message and "fix: run the same command again" in message
    assert_same_training(home.run("calm").pretraining, home.run("stormy").pretraining, 150)
    left = [child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    assert not any("tasks.jobs.worker" in " ".join(child.cmdline()) for child in left)


@pytest.mark.long
@pytest.mark.end_to_end
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("row", ROWS)
def test_kills_of_real_processes_change_no_weights(row: str, processes: int, tmp_path: Path) -> None:
    weighting = WEIGHTINGS["learnable" if processes == 1 else "kendall_gal"]
    spec, home = a_spec(*LONGER, *ROWS[row], *weighting), Home(tmp_path)
    corpus = corpus_of(spec, home)
    train_through_kills(spec, corpus, home, processes, [])
    chance = random.Random(row)
    kills = [(step, chance.randrange(processes)) for step in sorted(chance.sample(range(5, 100), 2))]
    train_through_kills(spec, corpus, home, processes, kills)
    assert_same_training(home.run("calm").pretraining, home.run("stormy").pretraining, 150)
