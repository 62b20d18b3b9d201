"""Reports of runs and sweeps: what they say, what they mark, how they cope, and that they keep to themselves."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import find_chromium, inspect_page
from command import cogito
from factories import (
    RUN_ID,
    make_analysis,
    make_checkpoint,
    make_corpus,
    make_environment,
    make_pretraining,
    make_record,
    make_score,
)
from markdown_it import MarkdownIt

from tasks.errors import UserError
from tasks.finetuning.scoring import score_split
from tasks.report.rendering import to_html, to_markdown
from tasks.report.run import run_report
from tasks.report.writing import is_current, write_report
from tasks.review.sides import run_side
from tasks.review.sweeps import compare_runs
from tasks.scores.intervals import paired_difference_interval
from tasks.store.home import Home, RunFolder
from tasks.store.records import CellResult, RunRecord, StageRecord, Start, load_record

SECTIONS = [
    "Summary",
    "Skipped and failed",
    "Scores",
    "Pretraining",
    "Concepts",
    "What was run",
    "Time and cost",
    "Planned and done",
]
PICTURES = {"summary", "loss", "learning_rate", "gradient_norm", "ranks", "singular_values", "similarity"}
DRAWN = {*PICTURES, "summary_narrow"}
RANKS = {"nuclear_rank_of_mean": 15.9, "effective_rank_of_mean": 30.1, "effective_rank_per_sample_mean": 33.3}
STARTS: dict[Start, float] = {"checkpoint": 0.9, "random": 0.6}  # the share of right answers
BASELINE = "tsdae_H512L6C128_20260201_120000"


def curve(steps: int = 40) -> list[dict[str, Any]]:
    """A training curve with an evaluation every ten steps."""
    points: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        point = {"step": step, "epoch": step / 2, "learning_rate": 1e-3 / step, "gradient_norm": 2.0, "task_loss": 8.0}
        if step % 10 == 0:
            point |= {"eval_loss": 7.0, **{name: value / 2 for name, value in RANKS.items()}}
        points.append(point)
    return points


def put_run(home: Home, *, points: list[dict[str, Any]] | None = None, geometry: bool = True, **changes: Any) -> Path:
    """The folder of a run with its record and, unless told otherwise, its curve and its geometry."""
    record = make_record(
        **{
            "stages": {
                name: StageRecord(status="complete", seconds=seconds)
                for name, seconds in (
                    ("data", 10.0),
                    ("pretraining", 60.0),
                    ("publishing", 0.0),
                    ("finetuning", 25.0),
                    ("analysis", 5.0),
                )
            },
            "analysis": make_analysis(figures=dict(RANKS)),
        }
        | changes
    )
    run = home.run(record.run_id)
    run.root.mkdir(parents=True, exist_ok=True)
    record.save(run)
    points = curve() if points is None else points
    if points:
        run.pretraining.mkdir(exist_ok=True)
        lines = "".join(json.dumps(point) + "\n" for point in points)
        (run.pretraining / "curve.jsonl").write_text(lines + '{"step": 41, "tas')  # a kill leaves half a line
    if geometry:
        run.analysis.mkdir(exist_ok=True)
        np.savez(run.analysis / "geometry.npz", singular_values=np.arange(8.0, 0, -1), mean_similarity=np.eye(8))
    return run.root


def written(folder: Path | str, home: Home, **options: Any) -> tuple[str, str]:
    """The Markdown and the page of a report as files."""
    markdown, page = write_report(folder, home, **options)
    assert (markdown.name, page.name, page.parent) == ("report.md", "report.html", markdown.parent)
    return markdown.read_text(encoding="utf-8"), page.read_text(encoding="utf-8")


def report_of(folder: Path, baseline: Path | None = None) -> str:
    """The Markdown of a run's report, without the time that drawing takes."""
    side = run_side(load_record(RunFolder(baseline)), RunFolder(baseline)) if baseline else None
    return to_markdown(run_report(RunFolder(folder), side))


def section(text: str, title: str) -> str:
    parts = re.split(r"^## (.*)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[title]


def rows(text: str) -> list[list[str]]:
    """The rows of every table of a text, without header and rule."""
    tables = re.findall(r"(?:^\|.*\n?)+", text, flags=re.M)
    lines = [line for table in tables for line in table.strip().splitlines()[2:]]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_a_report_has_every_section_and_every_picture(home: Home) -> None:
    folder = put_run(home)
    text, page = written(folder, home)
    assert text == report_of(folder)
    assert re.findall(r"^## (.*)$", text, flags=re.M) == SECTIONS
    assert "not measured" not in text.casefold()
    assert set(re.findall(r"\]\(report/(\w+)\.svg\)", text)) == PICTURES
    assert {path.name for path in (folder / "report").iterdir()} == {f"{name}.svg" for name in DRAWN}
    assert page.count('src="data:image/svg+xml;base64,') == len(PICTURES)
    assert page.count("<source") == 1, "the summary picture has a shape for narrow screens"
    assert "prefers-color-scheme: dark" in page


def test_what_was_run_names_what_is_no_default(home: Home) -> None:
    spec = make_record().spec
    spec["training"]["learning_rate"] = 7e-4
    spec["objective"]["concept_losses"] = {"combined": 0.1}
    environment = make_environment(git_dirty=True, gpus=["NVIDIA X1"], versions={"torch": "2.9.1"})
    text = section(report_of(put_run(home, spec=spec, environment=environment)), "What was run")
    keys = dict(rows(text))
    assert keys["training.learning_rate"] == "`0.0007`" and keys["objective.concept_losses.combined"] == "`0.1`"
    assert "training.epochs" not in keys and "training.schedule" not in keys
    assert keys["pretraining"] == f"`{'a' * 16}`" and keys["evaluation of the checkpoint"] == f"`{'b' * 16}`"
    assert keys["git commit"] == "`54ee870c0ffee0123456789abcdef0123456789a`, with uncommitted changes"
    assert (keys["machine"], keys["GPUs"], keys["torch"]) == ("testbench", "NVIDIA X1", "2.9.1")


def test_a_score_is_marked_at_floor_unless_its_interval_lies_above(home: Home) -> None:
    scores = [
        make_score("mrpc", 0.9, 0.8),
        make_score("qqp", 0.6, 0.57),  # the lower end of the interval is the floor itself
        make_score("paws", 0.4, 0.5),
        make_score("stsb", None, 0.0, failed_seeds=[42]),
        make_score("mnli-m", 0.9, 0.3, interval=None),
        make_score("sst2", float("nan"), 0.5),
        # A record that contradicts itself is read against itself.
        make_score("rte", 0.6, 0.58, interval=(0.58, 0.62), above_floor=True),
        make_score("wnli", 0.6, 0.5, interval=(0.58, 0.62), above_floor=False),
    ]
    cells = {row[0]: row for row in rows(section(report_of(put_run(home, scores=scores)), "Scores"))}
    marks = {task: row[4] for task, row in cells.items()}
    assert marks == {
        "mrpc": "above floor",
        "qqp": "**at floor**",
        "paws": "**below floor**",
        "stsb": "**no score**",
        "mnli-m": "**at floor**",
        "sst2": "**at floor**",
        "rte": "**at floor**",
        "wnli": "**at floor**",
    }
    assert cells["stsb"][2] == "failed" and cells["stsb"][8] == "**42: failed**"
    assert cells["sst2"][2] == "undefined (nan to nan)"


def test_a_score_stands_with_all_that_judges_it(home: Home) -> None:
    changes: dict[str, Any] = {"seed_values": {43: 0.81, 42: 0.834}, "sd": 0.017, "overlap_baseline": 0.7}
    scores = [
        make_score(**changes),
        make_score("stsb", 0.4, 0.0),
        make_score(value=0.7, start="random"),
        make_score("stsb", 0.3, 0.0, start="zero_shot"),
        make_score("rte", 0.6, 0.5, start_from="mnli", unreliable=True),
    ]
    text = section(report_of(put_run(home, scores=scores)), "Scores")
    names = (
        "task | metric | checkpoint | floor | mark | random start | difference | zero-shot | word overlap | per seed"
    )
    assert f"| {names} | sd | n |" in text
    mrpc, stsb, rte = rows(text)
    assert mrpc == [
        "mrpc",
        "f1 (primary)",
        "0.822 (0.792 to 0.842)",
        "0.812 (majority)",
        "**at floor**",
        "0.700 (0.670 to 0.720) **below floor**",
        "+0.1220 (+0.0859 to +0.1581, unpaired): better",
        "--",
        "0.700",
        "42: 0.834, 43: 0.810",
        "0.017",
        "408",
    ]
    assert stsb[5:8] == ["--", "--", "0.300 (0.270 to 0.320)"] and stsb[4] == "above floor"
    assert rte[0] == "rte, model fine-tuned on mnli" and rte[4] == "above floor, **interval unreliable**"


def test_the_difference_to_a_random_start_is_paired_over_the_examples(home: Home) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    answers = {name: np.where(rng.random(500) < right, labels, 1 - labels) for name, right in STARTS.items()}
    cells, scores = [], []
    for start, predictions in answers.items():
        path = home.run(RUN_ID).cell("mrpc", 42, start) / "predictions-mrpc.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"label": labels, "prediction": predictions}), path)
        cell = CellResult(task="mrpc", seed=42, start=start, status="complete", predictions={"mrpc": path})
        cells.append(cell)
        scores += score_split("mrpc", [cell], labels, {42: predictions}, {})
    text = report_of(put_run(home, cells=cells, scores=scores))
    f1 = next(row for row in rows(section(text, "Scores")) if row[1].startswith("f1"))
    low, high = paired_difference_interval("f1", labels, [answers["random"]], [answers["checkpoint"]])
    delta = scores[0].value - next(s for s in scores if (s.metric, s.start) == ("f1", "random")).value
    assert f1[6] == f"+{delta:.4f} (+{low:.4f} to +{high:.4f}): better"
    assert "Beside a random start: better on MRPC." in section(text, "Summary")


def test_time_is_shared_out_and_plans_stand_beside_what_came(home: Home) -> None:
    spec = make_record().spec
    spec["training"] |= {"epochs": 2.0, "global_batch_size": 50, "eval_every_steps": 10}
    spec["evaluation"] |= {"tasks": ["mrpc", "stsb"], "seeds": 2, "random_start": True, "zero_shot": True}
    cells = [
        CellResult(task="mrpc", seed=42, start="checkpoint", status="complete", seconds=12.0, best_epoch=3.0),
        CellResult(task="stsb", seed=42, start="checkpoint", status="failed", error="out of memory"),
    ]
    done = make_pretraining(steps=40, processes=2, steps_per_second=2.0, seconds=10.0, forecast=54.0)
    text = report_of(put_run(home, spec=spec, cells=cells, pretraining=done, forecast={"finetuning": 20.0}))
    times = {row[0]: row[1:] for row in rows(section(text, "Time and cost"))}
    assert times["pretraining"] == ["cpu x 2", "60.0", "54.0", "60.0%", "120.0"]
    assert times["finetuning"] == ["CPU", "25.0", "20.0", "25.0%", "12.0"] and times["sum"][1] == "100.0"
    assert times["data"][2] == "--", "nothing was foretold of it"
    assert "pretraining and finetuning took 1 min 25 s, 1 min 14 s forecast" in section(text, "Summary")
    assert "its last 20 of 40 steps" in text, "a resumed training knows the time of its last part alone"
    planned = {row[0]: row[1:] for row in rows(section(text, "Planned and done"))}
    assert planned == {
        "training steps": ["40", "40"],
        "epochs": ["2.0", "2.0"],
        "evaluations on held-out text": ["4", "4"],
        "fine-tuning jobs": ["9", "1 **short**"],  # 2 tasks x 2 seeds x 2 starts, and the cosine on STS-B
        "blocks analysed": ["10", "64"],
    }
    assert "fine-tuning of stsb, seed 42, checkpoint failed**: out of memory" in text


def test_a_diverged_run_shows_what_there_is(home: Home) -> None:
    message = "step 12: the loss (nan) is not finite; fix: lower training.learning_rate\nsecond line"
    stages = {
        "data": StageRecord(status="complete", seconds=3.0),
        "pretraining": StageRecord(status="failed", seconds=9.0, message=message),
        **{name: StageRecord(status="skipped", message="pretraining failed") for name in ("finetuning", "analysis")},
    }
    nothing: dict[str, Any] = {"pretraining": None, "scores": [], "analysis": None}
    folder = put_run(home, status="failed", stages=stages, points=curve(11), geometry=False, **nothing)
    text = report_of(folder)
    assert "**failed**" in section(text, "Summary")
    reason = section(text, "Skipped and failed")
    assert "**pretraining failed**: step 12: the loss (nan) is not finite" in reason and "second line" in reason
    assert "**finetuning skipped**: pretraining failed" in reason
    training = section(text, "Pretraining")
    assert "not measured: pretraining failed (step 12" in training and "report/loss.svg" in training
    assert "Not measured: finetuning skipped (pretraining failed)" in section(text, "Scores")
    assert "Not measured: analysis skipped (pretraining failed)" in section(text, "Concepts")
    planned = {row[0]: row[1:] for row in rows(section(text, "Planned and done"))}
    assert planned["training steps"][1] == "11 **short**"


def test_a_run_that_goes_on_says_what_it_has_not_reached(home: Home) -> None:
    stages = {"pretraining": StageRecord(status="complete", seconds=1.0)}
    soon = "Not reached so far"
    for status, title in (("running", soon), ("paused", soon), ("failed", "Never reached")):
        text = report_of(put_run(home, status=status, stages=stages, scores=[], analysis=None))
        assert f"**{title}**: data, publishing, finetuning, analysis." in section(text, "Skipped and failed")
        assert "Not measured: analysis was not reached" in section(text, "Concepts")


def test_a_loss_at_the_unigram_entropy_is_marked(home: Home) -> None:
    marks = []
    for loss in (7.2, 7.0, float("inf")):  # the unigram entropy is 7.25
        text = report_of(put_run(home, pretraining=make_pretraining(eval_loss=loss)))
        marks.append(dict(rows(section(text, "Pretraining")))["held-out loss (nats per labelled token)"])
        assert ("nothing contextual was learned" in section(text, "Summary")) == (loss == 7.2)
    assert marks == ["7.2000 **at unigram floor**", "7.0000", "inf **not finite**"]


def test_an_evaluation_says_where_its_training_is_told(home: Home) -> None:
    folder = put_run(
        home, kind="evaluation", run_id="eval_1", checkpoint=make_checkpoint(run_id=RUN_ID), pretraining=None, points=[]
    )
    text = report_of(folder)
    assert f"trains none. Its curves stand in the report of `{RUN_ID}`" in section(text, "Pretraining")
    assert "training steps" not in section(text, "Planned and done")


def test_an_old_or_broken_folder_is_told_piece_by_piece(home: Home) -> None:
    folder = put_run(home, points=[], geometry=False, corpus=None, spec={"name": "old", "magic": {"n": 3}})
    text = report_of(folder)
    assert (
        "All keys of the spec; it was written by another version, so its defaults" in text
        and "| magic.n | `3` |" in text
    )
    assert "Loss over steps: not measured: there is no pretraining/curve.jsonl" in text
    assert "Unigram entropy: not measured: the record holds no result of it, though data is complete" in text
    assert "not measured: there is no analysis/geometry.npz" in text
    assert "Not measured: the spec was written by another version" in section(text, "Planned and done")
    (folder / "analysis").mkdir()
    (folder / "analysis" / "geometry.npz").write_bytes(b"PK\x03\x04 nothing")
    (folder / "pretraining").mkdir()
    (folder / "pretraining" / "curve.jsonl").write_text("{}\nnot json\n")
    text = report_of(folder)
    assert "pretraining/curve.jsonl cannot be read" in text and "analysis/geometry.npz cannot be read" in text
    np.savez(folder / "analysis" / "geometry.npz", singular_values=np.array([np.nan, 1.0]))
    text = report_of(folder)
    assert "its values are not finite or all 0" in text and "geometry.npz has no mean_similarity" in text


def test_a_picture_of_an_earlier_report_does_not_stay(home: Home) -> None:
    folder = put_run(home)
    written(folder, home)
    for name in ("mine.png", "loss.png"):  # the pictures of earlier versions were PNG
        (folder / "report" / name).write_bytes(b"")
    (folder / "analysis" / "geometry.npz").unlink()
    written(folder, home)
    assert {path.stem for path in (folder / "report").iterdir()} == DRAWN - {"similarity", "singular_values"} | {"mine"}


EVIL = '<script>alert(1)</script> ![x](https://evil.example/x.png) | "quoted" <img src=//evil.example> &amp; `code`'


def test_no_text_of_a_record_becomes_markup(home: Home) -> None:
    spec = make_record().spec
    spec["data"]["dataset"] = EVIL
    cell = CellResult(task=EVIL, seed=1, start="checkpoint", status="failed", error=f"{EVIL}\n```\n{EVIL}")
    folder = put_run(
        home,
        name=EVIL,
        spec=spec,
        cells=[cell],
        environment=make_environment(machine=EVIL, versions={EVIL: EVIL}),
        scores=[make_score(EVIL, floor_name=EVIL)],
        head=EVIL,
        status="failed",
        corpus=make_corpus(dataset=EVIL),
        pretraining=make_pretraining(device=EVIL, wandb_url="javascript:alert(1)"),
        stages={EVIL: StageRecord(status="failed", seconds=1.0, message=f"# {EVIL}\n- {EVIL}\n```\n{EVIL}")},
    )
    text, page = written(folder, home)
    assert "<script" not in page.casefold() and "javascript:" not in page
    assert page.count("<img") == len(PICTURES), "no picture but our own"
    assert "&lt;script&gt;alert(1)&lt;/script&gt; ![x](https://evil.example/x.png)" in page, "shown letter by letter"
    assert not re.findall(r'(?:src|href|srcset)="(?!data:image/svg\+xml|#)', page)
    # Neither file leans on the other: the Markdown is safe where HTML is allowed, and the page for any Markdown.
    assert "<script" not in MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<script" not in to_html("<script>alert(1)</script>", "<script>", {})
    assert "<img" not in to_html("![x](https://evil.example/x.png)", "x", {})
    assert "Content-Security-Policy" in page and "default-src 'none'" in page
    assert all(len(row) == 11 for row in rows(section(text, "Scores"))), "a pipe is no new cell"


def test_secrets_do_not_reach_a_report(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ["hf_abcdefghijklmnopqrstuv", "user:pass", "0123456789abcdef0123456789abcdef01234567", "s3cret-value"]
    monkeypatch.setenv("WANDB_API_KEY", "plain-wandb-key")
    message = (
        f"401 for {secrets[0]} at https://{secrets[1]}@host/x: WANDB_API_KEY={secrets[2]}, password: {secrets[3]}, "
        '{"api_key": "quoted-value"}, Authorization: Bearer bear.er, key plain-wandb-key\nmore ' + secrets[0]
    )
    folder = put_run(home, status="failed", stages={"publishing": StageRecord(status="failed", message=message)})
    text = "".join(written(folder, home))
    for secret in [*secrets, "plain-wandb-key", "quoted-value", "bear.er"]:
        assert secret not in text
    assert "401 for" in text and "host/x" in text
    assert "0123456789abcdef" in text, "a commit or an identity is no secret"


def test_the_same_records_give_the_same_bytes(home: Home, tmp_path: Path) -> None:
    folder = put_run(home)
    contents = []
    for name in ("one", "two"):
        written(folder, home, output=tmp_path / name)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert contents[0] == contents[1] and len(contents[0]) == 2 + len(DRAWN)
    moved = Home(tmp_path / "elsewhere")
    moved.runs.mkdir(parents=True)
    folder.rename(moved.runs / RUN_ID)
    written(moved.runs / RUN_ID, moved, output=tmp_path / "three")
    assert (tmp_path / "three" / "report.html").read_bytes() == (tmp_path / "one" / "report.html").read_bytes()


# Beside a baseline


def put_baseline(home: Home, **changes: Any) -> Path:
    fields: dict[str, Any] = {"run_id": BASELINE, "scores": [make_score(value=0.8), make_score("stsb", 0.5, 0.0)]}
    return put_run(home, **{**fields, **changes})


def test_like_figures_stand_beside_a_baseline(home: Home) -> None:
    spec = make_record().spec
    spec["training"]["seed"] = 7
    put_baseline(home, spec=spec, environment=make_environment(machine="other"))
    text = section(report_of(put_run(home), home.run(BASELINE).root), f"Against {BASELINE}")
    found = rows(text)
    assert found[0] == [
        "mrpc",
        "f1",
        "checkpoint",
        "0.822 (0.792 to 0.842) **at floor**",
        "0.800 (0.770 to 0.820) **at floor**",
        "+0.0220 (-0.0141 to +0.0581, unpaired, within noise, no predictions of A and B, A and B at floor)",
        "1 and 1",
    ]
    assert ["qqp", "f1", "checkpoint", "A has no such score"] in found
    assert ["held-out loss", "4.010", "4.010", "+0.000 (no interval: one value each)"] in found
    assert [row for row in found if len(row) == 3 and row[1] != row[2]] == [
        ["training.seed", "42", "7"],
        ["machine", "testbench", "other"],
    ]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"scores": [make_score(n=1725)]}, "other examples: n is 1,725 and 408"),
        ({"scores": [make_score(metric="accuracy")]}, "A has no such score"),
        ({"scores": [make_score(start="random")]}, "A has no such score"),
        ({"scores": [make_score(floor=0.7)]}, "other examples: the floor is 0.7000 and 0.8120"),
        ({"scores": []}, "A has no such score"),
    ],
)
def test_unlike_figures_are_not_compared(home: Home, changes: dict[str, Any], reason: str) -> None:
    put_baseline(home, **changes)
    folder = put_run(home, scores=[make_score()])
    text = section(report_of(folder, home.run(BASELINE).root), f"Against {BASELINE}")
    assert "No score of the two runs can be compared" in text
    assert ["mrpc", "f1", "checkpoint", reason] in rows(text) and "+0.0" not in text.split("Losses and ranks")[0]


def test_made_data_is_never_held_against_real_data(home: Home) -> None:
    spec = make_record().spec
    spec["evaluation"]["data"] = "made"
    put_baseline(home, spec=spec, corpus=make_corpus(corpus_id="another"))
    text = section(report_of(put_run(home), home.run(BASELINE).root), f"Against {BASELINE}")
    assert ["mrpc", "f1", "checkpoint", "A is of made data, which is another task"] in rows(text)
    assert "not comparable: another corpus or tokenizer" in text and "measured on other texts" in text


def test_other_objectives_have_no_common_loss(home: Home) -> None:
    spec = make_record().spec
    spec["objective"]["mask_prob"] = 0.3
    put_baseline(home, spec=spec, analysis=make_analysis(num_concepts=16, figures=dict(RANKS)))
    text = section(report_of(put_run(home), home.run(BASELINE).root), f"Against {BASELINE}")
    assert "not comparable: another mask_prob: 0.3 and 0.15" in text
    assert "not comparable: of 16 concepts and of 128" in text


def test_a_baseline_must_be_another_run(home: Home) -> None:
    folder = put_run(home)
    with pytest.raises(UserError, match="is the run itself"):
        write_report(folder, home, baseline=RUN_ID)
    with pytest.raises(UserError, match="did you mean 'perceiver_mlm_H512L6C128_20260301_120000'"):
        write_report(folder, home, baseline=RUN_ID[:-1] + "1")
    assert not (folder / "report.md").exists()


# Sweeps


@pytest.fixture
def sweep(home: Home) -> Path:
    """A sweep of two runs, one of them failed, and an experiment that never became a run."""
    put_run(home, run_id="first_1", scores=[make_score(), make_score("stsb", 0.5, 0.0)])
    stages = {
        "pretraining": StageRecord(status="complete", seconds=5.0),
        "finetuning": StageRecord(status="failed", seconds=1.0, message="failed: mrpc seed 42 <script>"),
    }
    put_run(home, run_id="second_2", status="failed", scores=[make_score(n=99)], stages=stages)
    for run_id in ("first_1", "second_2"):
        run = home.run(run_id)
        record = RunRecord.model_validate_json(run.record.read_text())
        done = make_pretraining(curve=run.pretraining / "whole.jsonl")
        (run.pretraining / "whole.jsonl").write_text("".join(json.dumps(point) + "\n" for point in curve()))
        record.model_copy(update={"pretraining": done}).save(run)
    folder = home.root / "sweeps" / "0123456789abcdef"
    compare_runs(
        [("first", "first_1", ""), ("second", "second_2", ""), ("third", None, "data: no such data")], home, folder
    )
    return folder


def test_a_sweep_has_a_line_and_a_page_per_run(home: Home, sweep: Path) -> None:
    text, page = written(sweep, home)
    first, second = rows(section(text, "Runs"))
    assert first[0] == "[first_1](runs/first_1/report.md)" and first[1] == "complete" and second[1] == "**failed**"
    for run_id in ("first_1", "second_2"):
        assert f'href="runs/{run_id}/report.html"' in page and (sweep / "runs" / run_id / "report.html").is_file()
    assert page.count("<img") == 1 and "report/losses.svg" in text
    assert written(sweep, home, output=sweep / "again") == (text, page)
    scores = section(text, "Scores")
    assert "mrpc f1, n 408, floor 0.812 | stsb pearson, n 408, floor 0.000 | mrpc f1, n 99, floor 0.812" in scores
    assert rows(scores)[0][1:] == ["0.822 (0.792 to 0.842) **at floor**", "0.500 (0.470 to 0.520)", "--"]
    failed = section(text, "Skipped and failed")
    assert "data: no such data" in failed and "failed: mrpc seed 42" in failed and "<script" not in page
    together = rows(section(text, "Seeds together"))
    assert [row[0] for row in together] == ["first", "second", "third", "second", "second"]
    assert ["second", "first", "MRPC F1", "not comparable: other examples: n is 408 and 99"] in together


def test_a_sweep_stands_beside_a_baseline(home: Home, sweep: Path, tmp_path: Path) -> None:
    text, _ = written(sweep.name, home, baseline="first_1", output=tmp_path / "out")
    against = section(text, "Against first_1")
    assert rows(against)[0][0] == "`first_1` (baseline)"
    assert ["[second_2](runs/second_2/report.md)", "mrpc", "f1", "other examples: n is 408 and 99"] in rows(against)
    assert "Against first_1" in (tmp_path / "out" / "runs" / "second_2" / "report.md").read_text()
    assert "Against first_1" not in (tmp_path / "out" / "runs" / "first_1" / "report.md").read_text()
    with pytest.raises(UserError, match="is a sweep; allowed: the id or folder of one run"):
        write_report("first_1", home, baseline=sweep)


def test_a_run_of_a_sweep_may_be_gone(home: Home, sweep: Path) -> None:
    (home.run("second_2").record).unlink()
    text, _ = written(sweep, home)
    assert rows(section(text, "Runs"))[1][:2] == ["`second_2`", "**no record**"]
    assert "`second_2`: its record is gone or cannot be read" in text
    (sweep / "comparison.json").write_text('[{"name": "x", "runs": ["../../etc"]}]')
    with pytest.raises(UserError, match="is no comparison of a sweep"):
        write_report(sweep, home)


# The flows and the command


class Settled:
    """A Prefect future that has settled."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def wait(self) -> None: ...

    def result(self) -> Any:
        return self.state.data


@pytest.mark.parametrize("broken", ["raises", "fails", "is refused"])
def test_a_report_that_fails_is_a_warning_and_nothing_else(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: str
) -> None:
    from prefect.states import Completed, Failed

    from flows import bookkeeping
    from tasks.log.experiment_log import show_log, write_row

    class Row:
        @staticmethod
        def submit(log: Path, record: RunRecord) -> Settled:
            return Settled(Completed(data=write_row(log, record)))

    class Broken:
        @staticmethod
        def submit(folder: Path) -> Settled:
            if broken == "raises":
                raise RuntimeError("no server")
            return Settled(Failed(message="disk full", name="Bad input" if broken == "is refused" else "Failed"))

    monkeypatch.setattr(bookkeeping.stages, "write_log_row", Row)
    monkeypatch.setattr(bookkeeping.stages, "make_report", Broken)
    heard: list[str] = []
    monkeypatch.setattr(bookkeeping.log, "warning", lambda text, *values: heard.append(text % values))
    run = RunFolder(put_run(home))
    record = make_record(finished=datetime(2026, 3, 1, 13, tzinfo=UTC))
    state = bookkeeping.finish_run(record, run, tmp_path / "log.md")
    assert state.is_completed() and record.status == "complete"
    assert RunRecord.model_validate_json(run.record.read_text()) == record
    assert [row["run_id"] for row in show_log(tmp_path / "log.md")] == [RUN_ID]
    assert len(heard) == 1 and f"NO REPORT of {RUN_ID}" in heard[0] and f"cogito report {RUN_ID}" in heard[0]


def test_the_stage_writes_the_report_of_a_folder(home: Home) -> None:
    from tasks import stages

    folder = put_run(home)
    before = (folder / "record.json").read_bytes()
    assert stages.make_report.fn(folder) == [folder / "report.md", folder / "report.html"]
    assert (folder / "record.json").read_bytes() == before
    assert stages.make_report.fn(folder.parent / "gone").name == stages.BAD_INPUT


@pytest.mark.parametrize("name", ["report.md", "report.html", "report/summary.svg"])
def test_a_report_stays_while_the_record_says_the_same(home: Home, name: str) -> None:
    folder = put_run(home)
    record, run = load_record(RunFolder(folder)), RunFolder(folder)
    record.save(run)
    assert not is_current(folder)
    write_report(folder, home)
    written = run.record.stat().st_mtime_ns
    record.save(run)
    assert run.record.stat().st_mtime_ns == written and is_current(folder)
    (folder / name).unlink()
    assert not is_current(folder)
    write_report(folder, home)
    record.model_copy(update={"name": "another"}).save(run)
    assert load_record(run).name == "another" and not is_current(folder)


@pytest.mark.end_to_end
def test_the_command_writes_and_refuses(home: Home, tmp_path: Path) -> None:
    put_run(home)
    done = cogito("report", RUN_ID, "--output", tmp_path / "out", home=home.root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "out" / "report.md"), str(tmp_path / "out" / "report.html")]
    (tmp_path / "file").write_text("")
    for arguments, expected in (
        (["perceiver_mlm_H512L6C128_20260301_120001"], f"did you mean {RUN_ID!r}"),
        ([RUN_ID, "--baseline", "nothing"], "no run or sweep 'nothing'"),
        ([RUN_ID, "--output", str(tmp_path / "file")], "the report cannot be written"),
    ):
        done = cogito("report", *arguments, home=home.root)
        assert done.returncode == 2, done.stderr
        assert expected in done.stderr and "Traceback" not in done.stderr and done.stdout == ""


@pytest.mark.chromium
def test_the_page_opens_from_disk_without_a_network(home: Home, sweep: Path, tmp_path: Path) -> None:
    if not find_chromium():
        pytest.skip("no Chromium with chromedriver on this machine")
    put_run(home, name=EVIL, status="failed", stages={"data": StageRecord(status="failed", message=EVIL)})
    put_baseline(home)
    pages = [write_report(RUN_ID, home, baseline=BASELINE, output=tmp_path / "run")[1], write_report(sweep, home)[1]]
    for page, pictures, (width, dark) in zip(pages, (len(PICTURES), 1), ((400, True), (1400, False)), strict=True):
        seen = inspect_page(page.as_uri(), width=width, dark=dark)
        assert seen.requests == [page.as_uri()], "nothing but the page itself is asked for"
        assert len(seen.image_widths) == pictures and min(seen.image_widths) > 0
        assert (seen.errors, seen.overflow) == ([], 0)
        assert seen.ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
