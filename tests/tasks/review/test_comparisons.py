"""Comparing runs: what differs, deltas between like figures only, and what is not known of a row."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import answer, cogito
from conftest import SHARED
from factories import (
    RUN_ID,
    make_analysis,
    make_checkpoint,
    make_corpus,
    make_environment,
    make_pretraining,
    make_record,
    put_scored_run,
)

from tasks.errors import UserError
from tasks.log.experiment_log import write_row
from tasks.review.comparisons import Comparison, Figure, compare, compare_all
from tasks.review.rendering import delta_text, shown, updated_baselines
from tasks.review.sides import find_side
from tasks.scores.intervals import paired_difference_interval
from tasks.store.home import Home

USER_LOG = SHARED / "seeds" / "master_experiment_log.md"
OLD, NEW = "perceiver_mlm_H512L6C128_20260208_211633", "perceiver_decoder_cls"


def make_answers(seed: int, right: float = 0.8, n: int = 408) -> tuple[np.ndarray, np.ndarray]:
    """Labels, the same for every seed, and answers of which a share is right."""
    references = (np.random.default_rng(0).random(n) < 0.6).astype(int)
    generator = np.random.default_rng(seed + 1)
    return references, np.where(generator.random(n) < right, references, 1 - references)


def put(home: Home, run_id: str, seeds: tuple[int, ...] = (42,), right: float = 0.8, **changes: Any) -> None:
    references, _ = make_answers(0)
    offset = 100 * sum(map(ord, run_id))
    answers = {seed: make_answers(seed + offset, right)[1] for seed in seeds}
    put_scored_run(home, run_id, references, answers, **changes)


def beside(home: Home, a: str = "a", b: str = "b") -> Comparison:
    return compare(find_side(a, home), find_side(b, home))


def figure(comparison: Comparison, name: str) -> Figure:
    (found,) = [one for one in comparison.figures if one.name == name]
    return found


def differing(comparison: Comparison) -> dict[str, tuple[Any, Any]]:
    return {one.key: (one.a, one.b) for one in comparison.differs}


# --- deltas ---


def test_a_delta_is_that_of_the_means_over_seeds_with_a_paired_interval(home: Home) -> None:
    put(home, "a", (42, 43), 0.7)
    put(home, "b", (42, 43, 44), 0.85)
    found = figure(beside(home), "MRPC F1")
    one, other = (find_side(name, home).entries["mrpc", "f1", "checkpoint"].sources[0].score for name in "ab")
    assert found.refused is None and found.paired and found.verdict == "better"
    assert found.delta == pytest.approx(np.mean(list(other.seed_values.values())) - one.value)
    references = make_answers(0)[0]
    answers = [
        [make_answers(seed + 100 * ord(name), right)[1] for seed in seeds]
        for name, seeds, right in (("a", (42, 43), 0.7), ("b", (42, 43, 44), 0.85))
    ]
    assert found.interval == paired_difference_interval("f1", references, answers[0], answers[1])
    assert found.interval is not None and found.interval[0] > 0 and not found.inside_noise
    assert found.sd == (one.sd, other.sd) and found.n == 408
    assert "sd over seeds" in delta_text(found) and "within noise" not in delta_text(found)


def test_the_other_way_round_is_the_negative(home: Home) -> None:
    put(home, "a", right=0.7)
    put(home, "b", right=0.75)
    there, back = (figure(beside(home, *pair), "MRPC Acc") for pair in (("a", "b"), ("b", "a")))
    assert there.delta is not None and there.interval is not None and back.interval is not None
    assert back.delta == pytest.approx(-there.delta)
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))


def test_a_delta_whose_interval_holds_zero_is_inside_noise(home: Home) -> None:
    put(home, "a")
    found = figure(beside(home, "a", "a"), "MRPC Acc")
    assert found.delta == 0 and found.interval == (0, 0) and found.inside_noise
    put(home, "b")
    found = figure(beside(home), "MRPC Acc")
    assert found.delta != 0 and found.inside_noise and "within noise" in delta_text(found)
    assert found.sd is None, "one seed has no spread"


def test_several_runs_stand_beside_the_first(home: Home) -> None:
    for name in ("a", "b", "c"):
        put(home, name)
    assert [(one.a, one.b) for one in compare_all(["a", "b", "c"], home)] == [("a", "b"), ("a", "c")]
    with pytest.raises(UserError, match="got 1 run; needs the baseline and at least one other"):
        compare_all(["a"], home)


# --- unlike figures ---


def refusal(home: Home, name: str = "MRPC F1") -> str:
    found = figure(beside(home), name)
    assert found.delta is None and found.interval is None and found.refused is not None
    assert delta_text(found) == f"not comparable: {found.refused}"
    assert found.verdict == "not comparable"
    return found.refused


def test_other_examples_are_refused(home: Home) -> None:
    references, answers = make_answers(1)
    put_scored_run(home, "a", references, {42: answers})
    put_scored_run(home, "b", references[:400], {42: answers[:400]})
    assert refusal(home) == "other examples: n is 408 and 400"
    shutil.rmtree(home.run("b").root)
    put_scored_run(home, "b", references[::-1], {42: answers[::-1]})
    assert refusal(home) == "other examples: their references differ"


def test_another_task_is_refused(home: Home) -> None:
    references, answers = make_answers(1)
    put(home, "a")
    put_scored_run(home, "b", references, {42: answers}, task="qqp")
    assert refusal(home) == "B has no such score" and refusal(home, "QQP F1") == "A has no such score"


def test_made_data_is_another_task(home: Home) -> None:
    put(home, "a")
    spec = make_record().spec
    put(home, "b", spec=spec | {"evaluation": spec["evaluation"] | {"data": "made"}})
    assert refusal(home) == "B is of made data, which is another task"


def test_stale_predictions_are_refused_and_without_any_the_interval_is_unpaired(home: Home) -> None:
    put(home, "a")
    put(home, "b")
    path = home.run("b").cell("mrpc", 42, "checkpoint") / "predictions-mrpc.parquet"
    other = home.run("a").cell("mrpc", 42, "checkpoint") / "predictions-mrpc.parquet"
    shutil.copy(other, path)
    assert "instead of its score; fix: `cogito rescore b`" in refusal(home)
    path.write_bytes(b"PAR1")
    assert refusal(home).startswith("B: its predictions cannot be read")
    path.unlink()
    found = figure(beside(home), "MRPC Acc")
    assert not found.paired and found.interval is not None and found.verdict == "within noise"
    assert "unpaired, within noise, no predictions of B" in delta_text(found)


def test_predictions_are_found_where_the_home_has_moved_to(home: Home, tmp_path: Path) -> None:
    put(home, "a")
    put(home, "b")
    before = beside(home)
    home.root.rename(tmp_path / "moved")
    moved = Home(tmp_path / "moved")
    assert beside(moved) == before
    path = str(moved.run("b").record)
    assert compare(find_side("a", moved), find_side(path, Home(tmp_path / "other"))) == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"corpus": make_corpus(corpus_id="another")}, "another corpus or tokenizer"),
        ({"model.variant": "weighted_mlm"}, None),  # the same objective
        ({"model.variant": "tsdae"}, "another objective: mlm and denoising"),
        ({"objective.mask_prob": 0.3}, "another mask_prob: 0.15 and 0.3"),
        ({"objective.deletion_prob": 0.3}, None),  # masked language modelling reads none
        ({"training.max_eval_blocks": 5}, "another max_eval_blocks: 2000 and 5"),
        ({"pretraining": None}, "B: has no pretraining"),
        ({"pretraining": make_pretraining(eval_loss=float("nan"))}, "B: the loss is nan"),
    ],
)
def test_held_out_losses_are_compared_with_their_like_alone(
    home: Home, changes: dict[str, Any], reason: str | None
) -> None:
    make_record(run_id="a").save(home.run("a"))
    spec = make_record().spec
    for key in [key for key in changes if "." in key]:
        section, name = key.split(".")
        spec[section][name] = changes[key]
    fields = {"pretraining": make_pretraining(eval_loss=3.5)} | {k: v for k, v in changes.items() if "." not in k}
    make_record(run_id="b", spec=spec, **fields).save(home.run("b"))
    found = figure(beside(home), "held-out loss")
    assert found.refused == reason
    assert found.delta == (None if reason else pytest.approx(3.5 - 4.01))


def test_ranks_are_compared_of_as_many_concepts_on_the_same_texts(home: Home) -> None:
    make_record(run_id="a").save(home.run("a"))
    for changes, reason in (
        ({"num_concepts": 64}, "of 128 concepts and of 64"),
        ({"samples": 9}, "measured on other texts"),
        ({}, None),
    ):
        figures = {"nuclear_rank_of_mean": 17.94}
        make_record(run_id="b", analysis=make_analysis(figures=figures, **changes)).save(home.run("b"))
        found = figure(beside(home), "nuclear rank of mean")
        assert found.refused == reason and (reason is not None or found.delta == pytest.approx(2.0))
        assert figure(beside(home), "effective rank per sample mean").refused == "B has no such figure"


# --- what differs ---


def test_what_differs_is_told_by_its_key(home: Home) -> None:
    spec = make_record().spec
    put(home, "a", spec=spec, checkpoint=make_checkpoint(name="a"))
    other = json.loads(json.dumps(spec))
    other["training"] |= {"seed": 7, "learning_rate": 1e-3, "global_batch_size": 64}
    other["objective"]["concept_losses"] = {"combined": 0.1}
    other["evaluation"] |= {"learning_rate": 2e-5, "seeds": 3, "epochs": 20, "head": "via_decoder"}
    other["evaluation"]["per_task"] = {"mrpc": {"learning_rate": 5e-5}}
    put(
        home,
        "b",
        spec=other | {"name": "else"},
        head="weighted_pooling",
        corpus=make_corpus(corpus_id="another"),
        environment=make_environment(git_commit="c0ffee", gpus=["H100"]),
        pretraining=make_pretraining(device="H100", precision="bf16"),
        checkpoint=make_checkpoint(name="b", weights_sha256="1" * 64, revision="abc"),
    )
    found = differing(beside(home))
    rates = dict.fromkeys(("qqp", "mnli", "stsb", "paws"), 2e-5)
    assert found == {
        "training.seed": (42, 7),
        "training.learning_rate": (3e-4, 1e-3),
        "training.global_batch_size": (512, 64),
        "objective.concept_losses": ({}, {"combined": 0.1}),
        "evaluation.seeds": (1, 3),
        "evaluation.learning_rate": (1e-5, {"mrpc": 5e-5} | rates),
        # MRPC and STS-B have 20 epochs anyway
        "evaluation.epochs": ({"qqp": 3, "mnli": 3, "paws": 5}, 20),
        "head": ("via_decoder", "weighted_pooling"),
        "corpus.corpus_id": ("0123456789abcdef", "another"),
        "checkpoint": ("a", "b"),
        "checkpoint.weights": ("0" * 12, "1" * 12),
        "checkpoint.revision": (None, "abc"),
        "git_commit": (make_environment().git_commit, "c0ffee"),
        "gpus": ([], ["H100"]),
        "pretraining.device": ("cpu", "H100"),
        "pretraining.precision": ("fp32", "bf16"),
    }
    assert beside(home).not_known == {"a": [], "b": []}
    assert beside(home).titles == ("`a`", "`b`")
    assert differing(beside(home, "a", "a")) == {}


def test_what_only_one_record_says_is_not_known_of_the_other(home: Home) -> None:
    spec = make_record().spec
    put(home, "a")
    put(home, "b", spec={name: spec[name] for name in ("name", "data", "evaluation")}, corpus=None)
    found = beside(home)
    assert found.not_known["a"] == [] and "training.seed" in found.not_known["b"]
    assert "corpus.corpus_id" in found.not_known["b"] and not any("training" in one.key for one in found.differs)


def test_an_evaluation_has_the_loss_of_its_pretraining(home: Home) -> None:
    make_record(run_id="trained").save(home.run("trained"))
    checkpoint = make_checkpoint(run_id="trained")
    for name, head in (("a", "via_decoder"), ("b", "weighted_pooling")):
        make_record(kind="evaluation", run_id=name, checkpoint=checkpoint, head=head).save(home.run(name))
    found = figure(beside(home), "held-out loss")
    assert (found.a, found.b, found.delta) == (4.01, 4.01, 0.0)
    assert beside(home).titles == ("ViaDecoder", "WeightedPooling"), "two heads of one checkpoint name the columns"


def test_a_shown_delta_is_the_difference_of_its_columns() -> None:
    accuracy = Figure(name="x", metric="accuracy", a=0.78144, b=0.757149, delta=-0.024291)
    assert delta_text(accuracy).startswith("-2.43% (") and shown(accuracy, accuracy.a) == "78.14%"
    rank = Figure(name="nuclear rank of mean", a=3.114, b=2.956, delta=-0.158)
    assert delta_text(rank).startswith("-0.15 (") and (shown(rank, rank.a), shown(rank, rank.b)) == ("3.11", "2.96")


# --- rows of a log ---


@pytest.fixture
def user_log() -> Path:
    if not USER_LOG.is_file():
        pytest.skip("the user's log is not beside this checkout")
    return USER_LOG


def test_the_updated_baselines_of_the_users_log(user_log: Path, home: Home) -> None:
    (found,) = compare_all([f"{user_log}#{OLD}", f"{user_log}#{NEW}"], home)
    mnli, sts, mrpc = (figure(found, name) for name in ("MNLI-m Acc", "STS-B Pearson", "MRPC F1"))
    assert mnli.delta == pytest.approx(0.0065) and mnli.interval is not None and not mnli.paired
    # Twice the variance of one accuracy of 59.4 % over 9,815 examples
    assert mnli.interval[1] - mnli.interval[0] == pytest.approx(2 * 1.96 * (2 * 0.594 * 0.406 / 9815) ** 0.5, rel=0.01)
    assert mnli.inside_noise and sts.inside_noise and sts.delta == pytest.approx(0.023)
    assert mrpc.delta == pytest.approx(0.0143) and mrpc.interval is None and "interval not known" in delta_text(mrpc)
    assert figure(found, "MNLI-mm Acc").refused == "A has no such score"
    loss = figure(found, "held-out loss")
    assert loss.a == 2.537 and loss.refused == "A: does not state whether its loss is of training or held out"
    assert {"head", "fine-tuning epochs", "fine-tuning seeds", "tokenizer"} <= set(found.not_known["a"])
    assert "metric of mrpc, qqp, mnli-m, stsb (taken as the primary one)" in found.not_known["a"]
    assert "head" not in found.not_known["b"], "the row says ViaDecoder"
    assert differing(found) == {"machine": ("Polonez", "Odra")}, "both are of the same checkpoint"
    text = updated_baselines(found)
    assert "| Task | " in text and " (old) | " in text and " (new) | Delta |" in text
    assert "| MNLI-m Acc | 59.10% | 59.75% | +0.65% (-0.73 to +2.02, unpaired, within noise) |" in text
    assert "**Not compared:** held-out loss" in text and "**Not known for A:** head" in text


LOG = """## Training Runs

| Date | Run ID / Model Type | Architecture | Task Loss | Eff. Rank | Key GLUE Scores | Conclusion |
|---|---|---|---|---|---|---|
| 2026-01-17 | `old_run` | H512 L6 C128 | MLM eval 4.1 | **5 / 128** | {scores} | x |
"""


def row_beside_run(home: Home, scores: str) -> Comparison:
    log = home.root / "log.md"
    log.parent.mkdir(exist_ok=True)
    log.write_text(LOG.format(scores=scores), encoding="utf-8")
    return compare(find_side(f"{log}#old_run", home), find_side("b", home))


def test_a_row_beside_a_run(home: Home) -> None:
    put(home, "b", right=0.8)
    found = row_beside_run(home, "**MRPC F1:** 79.0% <br> **MRPC Acc:** 75.0% <br> **QQP:** 61.0%")
    accuracy, f1 = figure(found, "MRPC Acc"), figure(found, "MRPC F1")
    assert accuracy.refused is None and accuracy.interval is not None and not accuracy.paired and accuracy.n == 408
    own = find_side("b", home).entries["mrpc", "accuracy", "checkpoint"].interval
    assert own is not None and accuracy.interval[1] - accuracy.interval[0] > own[1] - own[0], (
        "two are less sure than one"
    )
    assert f1.refused is None and f1.interval is None and not f1.inside_noise
    assert figure(found, "QQP F1").refused == "B has no such score"
    assert figure(found, "held-out loss").refused == "A: states neither tokenizer nor held-out text of its loss"
    assert figure(found, "nuclear rank of mean").delta == pytest.approx(15.94 - 5)
    assert "architecture" in differing(found) or found.not_known["a"], "the made run has other sizes or none"


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ("**MRPC Acc:** 175.0%", "A: 1.75 cannot be a figure of accuracy"),
        ("**MRPC Acc:** 75.0", "A: 75 cannot be a figure of accuracy"),
        ("**MRPC Acc:** 75.0% <br> *made data*", "A is of made data, which is another task"),
        ("Not evaluated", "A has no such score"),
    ],
)
def test_what_a_row_cannot_mean_is_refused(home: Home, scores: str, reason: str) -> None:
    put(home, "b")
    assert figure(row_beside_run(home, scores), "MRPC Acc").refused == reason


def test_our_own_row_is_a_side_too(home: Home, tmp_path: Path) -> None:
    put(home, RUN_ID)
    log = tmp_path / "log.md"
    write_row(log, find_side(RUN_ID, home).record)  # type: ignore[arg-type]
    (found,) = compare_all([f"{log}#{RUN_ID}", RUN_ID], home)
    assert found.differs == [] and abs(figure(found, "MRPC F1").delta or 0) < 0.001
    assert figure(found, "nuclear rank of mean").delta == pytest.approx(0.04)


# --- the command ---


@pytest.fixture
def two_runs(home: Home) -> Home:
    put(home, "run_a", (42, 43), 0.7)
    put(home, "run_b", (42, 43), 0.8)
    return home


def test_the_command_in_its_three_forms(two_runs: Home) -> None:
    words = ("compare", "run_a", "run_b")
    (found,) = answer(cogito(*words, "--json", home=two_runs.root))
    assert all(one["inside_noise"] is False for one in found["figures"] if one["metric"] == "accuracy")
    assert found == json.loads(beside(two_runs, "run_a", "run_b").model_dump_json())
    table = cogito(*words, "--markdown", home=two_runs.root).stdout
    assert table == updated_baselines(beside(two_runs, "run_a", "run_b")) + "\n"
    text = cogito(*words, home=two_runs.root).stdout
    assert "MRPC F1" in text and "B - A (95 % interval)" in text and "A: run_a" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run_a", "run_c"], ["unknown run 'run_c'", "did you mean", "run_b", "LOG.md#RUN_ID"]),
        (["run_a", "../run_b"], ["unknown run '../run_b'"]),
        (["run_a", "none/record.json"], ["none/record.json: cannot be read"]),
        (["run_a", "none.md#run_b"], ["none.md: there is no such log", "fix"]),
        (["run_a", "log.md#run_b"], ["unknown row 'run_b'", "allowed: old_run"]),
        (["run_a", "broken.json"], ["broken.json: is not a readable record"]),
        (["run_a", "run_b", "--json", "--markdown"], ["got --markdown and --json"]),
    ],
)
def test_a_bad_reference_is_one_clear_message(two_runs: Home, words: list[str], expected: list[str]) -> None:
    (two_runs.root.parent / "log.md").write_text(LOG.format(scores=""), encoding="utf-8")
    (two_runs.root.parent / "broken.json").write_text("{", encoding="utf-8")
    done = cogito("compare", *words, home=two_runs.root)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    for text in expected:
        assert text in done.stderr
