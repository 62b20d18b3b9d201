"""`cogito run --dry-run`: what follows from what was measured, what is done already, and that nothing is kept."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import TINY, answer, cogito
from factories import make_analysis, make_corpus, make_pretraining, make_record
from test_estimate import CPU, a_spec

from tasks.data.sources import Source
from tasks.errors import StageError
from tasks.forecast import forecasting
from tasks.forecast.calibration import Sample, Steps
from tasks.forecast.estimate import Room
from tasks.forecast.forecasting import (
    Blocks,
    Found,
    cells_of,
    data_line,
    disk_needed,
    is_evaluated_otherwise,
    pretraining_line,
    whole_text,
)
from tasks.forecast.lines import Forecast, Line
from tasks.libraries import compiler_folder
from tasks.pretraining.cost import StepMemory
from tasks.runs.preflight import Inputs
from tasks.runs.request import Request
from tasks.spec.experiment import ExperimentSpec
from tasks.store.files import write_json, write_manifest
from tasks.store.home import Home, claim_run
from tasks.store.records import PublishResult

NOTHING = Found(None, None, None, 0)
HERE, ON_HUB = Source("made", "made", None, "f"), Source("lab/text", "lab/text", "c0ffee", "hub:lab/text@c0ffee")
MEASURED = Steps(make_pretraining(), samples=4, start=10.0, step=0.5, evaluation=0.01, state=0.2)


def sample(**changes: Any) -> Sample:
    corpus = make_corpus(
        train_blocks=80,
        held_out_blocks=20,
        train_tokens=2560,
        held_out_tokens=640,
        train_documents=40,
        held_out_documents=10,
    )
    return replace(Sample(corpus, seconds=3.0, share=0.1, stands_in=False), **changes)


def inputs(spec: ExperimentSpec, corpus: Source = HERE, task: Source = HERE) -> Inputs:
    return Inputs(spec, corpus, {"mrpc": task}, "identity")


def test_a_part_of_the_text_tells_the_whole() -> None:
    spec = a_spec()
    data = spec.data.model_copy(update={"held_out_share": 0.05})
    spec = spec.model_copy(update={"data": data})
    assert whole_text(spec, NOTHING, sample()) == Blocks(train=950, held_out=50, tokens=32_000)
    assert whole_text(spec, NOTHING, sample(share=None)) is None
    split = spec.model_copy(update={"data": spec.data.model_copy(update={"held_out_split": "validation"})})
    whole = whole_text(split, NOTHING, sample())
    assert whole is not None and whole.train == 1000 and whole.held_out > split.analysis.max_samples  # not counted
    known = make_corpus(train_blocks=7, held_out_blocks=3)
    assert whole_text(spec, replace(NOTHING, corpus=known), sample(corpus=known)).train == 7  # type: ignore[union-attr]


def test_data_is_done_or_follows_from_a_part_or_cannot_be_told() -> None:
    spec = a_spec()
    assert data_line(inputs(spec), NOTHING, sample(), tasks=4.0).seconds == pytest.approx(3.0 / 0.1 + 4.0)
    assert data_line(inputs(spec), replace(NOTHING, corpus=make_corpus()), sample(), 4.0).seconds == 0.0
    absent = data_line(inputs(spec, corpus=ON_HUB), NOTHING, sample(stands_in=True, share=None), 4.0)
    assert absent.seconds is None and "must be downloaded first" in absent.how
    assert "task mrpc must" in data_line(inputs(spec, task=ON_HUB), NOTHING, sample(), 4.0).how
    assert data_line(inputs(spec), NOTHING, sample(share=None), 4.0).seconds is None


def test_pretraining_is_its_start_steps_evaluations_and_states() -> None:
    spec = a_spec(
        max_steps=100, global_batch_size=16, eval_every_steps=30, checkpoint_every_steps=40, max_eval_blocks=25
    )
    blocks = Blocks(950, 50, 32_000)
    line = pretraining_line(spec, NOTHING, MEASURED, blocks, processes=2)
    assert line.seconds == pytest.approx(10 + 100 * 2 * 0.5 + 4 * 25 * 0.01 + 3 * 0.2)
    resumed = pretraining_line(spec, replace(NOTHING, steps=60), MEASURED, blocks, processes=2)
    assert resumed.seconds == pytest.approx(10 + 40 * 2 * 0.5 + 2 * 25 * 0.01 + 2 * 0.2)
    assert "60 are saved" in resumed.how
    by_epochs = a_spec(epochs=2, global_batch_size=16)
    told = pretraining_line(by_epochs, NOTHING, MEASURED, blocks, processes=2)
    assert told.how.startswith("119 steps")  # two epochs of 950 blocks
    assert pretraining_line(by_epochs, NOTHING, MEASURED, None, processes=2).seconds is None


def test_the_cells_are_those_of_the_fan_out() -> None:
    spec = a_spec()
    section = spec.evaluation.model_copy(update={"seeds": 2, "random_start": True, "zero_shot": True})
    cells = cells_of(spec.model_copy(update={"evaluation": section}))
    assert len(cells) == 5 * 2 * 2 + 1  # STS-B alone has a cosine
    assert [(cell.task, cell.seed) for cell in cells if cell.start == "zero_shot"] == [("stsb", 42)]


def test_what_is_finished_takes_no_time(home: Home) -> None:
    spec, run = a_spec(), claim_run(home, "finished")
    cell = next(cell for cell in cells_of(spec) if cell.task == "mrpc")
    model = run.pretraining / "model"
    model.mkdir(parents=True)
    record = make_record(run_id=run.run_id, pretraining=make_pretraining(model=model))
    found = Found(None, run, record, 0)
    assert not found.trained and not found.has(cell)  # a model that is not whole is made again, and then its cells
    (model / "config.json").write_text("{}")
    write_manifest(model)
    assert found.trained and pretraining_line(spec, found, MEASURED, None, 1).seconds == 0.0
    folder = run.cell("mrpc", 42, "checkpoint")
    job = {"identity": "a", "protocol": cell.protocol.model_dump(mode="json"), "head": cell.head, "precision": "fp32"}
    folder.mkdir(parents=True)
    write_json(folder / "job.json", job)
    assert not found.has(cell)  # under way
    write_json(folder / "result.json", {"identity": "a"})
    assert found.has(cell)
    published = PublishResult(store="local", location="x", revision=None, url=None, weights_sha256="a")
    rest = {"analysis": make_analysis(), "publishing": published}
    one = spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update={"tasks": ("mrpc",)})})
    whole = replace(found, corpus=make_corpus(), record=record.model_copy(update=rest))
    assert whole.is_all_of(one) and not whole.is_all_of(spec) and not replace(whole, corpus=None).is_all_of(one)
    assert not replace(whole, anew=True).is_all_of(one) and not replace(found, anew=True).has(cell)
    write_json(folder / "job.json", job | {"head": "another"})
    assert not found.has(cell)


@pytest.mark.parametrize(("section", "change"), [("evaluation", {"seeds": 2}), ("analysis", {"max_samples": 9})])
def test_another_evaluation_of_a_run_is_done_anew(section: str, change: dict[str, Any]) -> None:
    """A run of its own has it, with all cells, also those that the training's run has."""
    spec = a_spec()
    record = make_record(spec=spec.model_dump(mode="json"), head=spec.head, analysis=make_analysis())
    assert not is_evaluated_otherwise(record, spec)
    other = spec.model_copy(update={section: getattr(spec, section).model_copy(update=change)})
    assert is_evaluated_otherwise(record, other)
    fresh = record.model_copy(update={"analysis": None, "scores": []})
    assert not is_evaluated_otherwise(fresh, other)  # never evaluated: the same run has it


def test_disk_and_what_does_not_fit() -> None:
    room = Room(replace(CPU, memory=10**8), StepMemory(10**6, 0, 2 * 10**6, 10**6))
    spec = a_spec(keep_checkpoints=2)
    needed = disk_needed(spec, NOTHING, Blocks(950, 50, 32_000), room)
    assert needed == 4 * 32_000 + 3 * 3 * 10**6 + 3 * 10**6
    stages = [Line("data", None, "lab/text must be downloaded first"), Line("pretraining", 5.0, "")]
    told = Forecast(stages, [], room, needed, free=10**6, measured=[], assumed=[], calibration=1.0)
    assert told.seconds == 5.0
    memory, disk, data = told.warnings
    assert "memory: a training step needs" in memory and "disk: 12 MB are needed, 1 MB are free" in disk
    assert data == "data: not in the forecast: lab/text must be downloaded first"


def test_a_dry_run_forecasts_every_stage_and_keeps_nothing(tmp_path: Path) -> None:
    """Real pieces of all stages (20 CPU-seconds): the one test that their measurements fit together."""
    spec, home, log = tmp_path / "tiny.yaml", tmp_path / "home", tmp_path / "log.md"
    spec.write_text(TINY, encoding="utf-8")
    done = cogito("run", spec, "--dry-run", "--json", "--log", log, home=home)
    told = answer(done)
    assert not home.exists() and not log.exists()
    assert [stage["name"] for stage in told["stages"]][1:4] == ["data", "pretraining", "publishing"]
    assert all(line["seconds"] > 0 for line in [*told["stages"], *told["jobs"]])
    assert [job["name"] for job in told["jobs"]] == ["mrpc seed 42", "stsb seed 42", "analysis"]
    assert told["seconds"] == pytest.approx(sum(stage["seconds"] for stage in told["stages"]))
    assert told["warnings"] == [] and told["stages"][2]["how"].startswith("12 steps")
    assert "warning" not in done.stderr and "weights loaded" not in done.stderr


def test_the_tokenizer_is_the_one_that_was_found_for_the_run(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home of a dry run has no downloads, so without the Hub it would find none."""
    asked: list[Any] = []

    def find(name: str, where: Home, root: Path | None) -> Path:
        asked.append((name, where))
        return Path("found")

    def sample_text(*arguments: Any) -> Sample:
        asked.append(arguments[-1])
        raise StageError("far enough")

    monkeypatch.setattr(forecasting, "find_tokenizer", find)
    monkeypatch.setattr(forecasting, "sample_corpus", sample_text)
    request = Request(home, None, Path("log.md"))
    trained = a_spec().data.model_copy(update={"tokenizer": None, "train_tokenizer_vocab_size": 300})
    for data in (trained, trained.model_copy(update={"tokenizer": "lab/words", "train_tokenizer_vocab_size": None})):
        with pytest.raises(StageError, match="far enough"):
            forecasting.forecast(inputs(a_spec().model_copy(update={"data": data})), request)
    assert asked == [None, ("lab/words", home), Path("found")]


def test_how_busy_others_are_is_told_by_work_that_took_time() -> None:
    assert forecasting.busyness(waited=6.0, worked=2.0) == 3.0
    assert forecasting.busyness(waited=2.0, worked=6.0) == 1.0  # several threads
    assert forecasting.busyness(waited=1e-4, worked=0.0) == 1.0  # every task is on the Hub


def test_the_environment_is_as_before_a_forecast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", "mine")
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "home/cache/torchinductor")
    with forecasting._libraries_in(tmp_path):
        assert compiler_folder() == str(tmp_path / "cache" / "torchinductor")
        assert os.environ["MPLCONFIGDIR"] == str(tmp_path / "cache" / "matplotlib")
    assert os.environ["MPLCONFIGDIR"] == "mine" and "WANDB_DATA_DIR" not in os.environ
