"""The summary picture of a run: an image from any record, which shows what its words state."""

import io
from typing import Any

import numpy as np
import pytest
from factories import make_analysis, make_checkpoint, make_pretraining, make_record, make_score
from matplotlib.image import imread

from tasks.picture import picture_text, summary_picture
from tasks.plots import COLORS
from tasks.store.records import CellResult, Divergence, RunRecord

CURVE = [{"step": step, "task_loss": 8.0 - step / 50} for step in range(1, 41)]
RANKS = {"nuclear_rank_of_mean": 4.0, "effective_rank_per_sample_mean": 9.5, "centred_effective_rank": 7.0}
NOTHING: dict[str, Any] = {"pretraining": None, "scores": [], "analysis": None}
DIVERGED = Divergence(reason="the loss is nan", step=12, kept_step=10, loss=7.0, gradient_norm=1e9, learning_rate=1e-3)
RECORDS = {
    "complete": make_record(),
    "one task": make_record(scores=[make_score()]),
    "no task": make_record(scores=[]),
    "diverged": make_record(status="diverged", pretraining=make_pretraining(diverged=DIVERGED), scores=[]),
    "not finite": make_record(pretraining=make_pretraining(eval_loss=float("nan")), scores=[make_score(value=None)]),
    "failed": make_record(status="failed", **NOTHING),
    "failed cell": make_record(
        scores=[], cells=[CellResult(task="mnli", seed=1, start="checkpoint", status="failed", error="no memory")]
    ),
    "evaluation": make_record(kind="evaluation", analysis=make_analysis(figures=RANKS)),
    "analysis alone": make_record(kind="evaluation", scores=[], analysis=make_analysis(figures=RANKS)),
    "plain encoder": make_record(kind="evaluation", checkpoint=make_checkpoint(family="plain"), analysis=None),
    "old": make_record(corpus=None, spec={"name": "old"}, analysis=make_analysis(figures={"effective_rank": 4.0})),
    "names with $": make_record(scores=[make_score("a$b$c_{"), make_score("x" * 40)]),
}


def pixels(record: RunRecord, **options: Any) -> np.ndarray:
    return np.asarray(imread(io.BytesIO(summary_picture(record, **options)), format="png"))[..., :3]


def holds(image: np.ndarray, color: str) -> bool:
    """Whether a colour fills some place of a picture."""
    wanted = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return int((np.abs(image - wanted).max(-1) < 0.01).sum()) > 20


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS.keys())
def test_every_record_gives_a_picture(record: RunRecord, narrow: bool) -> None:
    others = {"perceiver_posonly_mlm_H512L6C128_20260201_120000": make_record()}
    image = pixels(record, points=CURVE, narrow=narrow, others=others)
    assert image.shape[1] == (462 if narrow else 1100) and image.std() > 0.01
    edges = image[:, [0, 1, -2, -1]], image[[0, 1, -2, -1]]
    assert all((edge > 0.99).all() for edge in edges), "nothing is cut"
    svg = summary_picture(record, points=CURVE, narrow=narrow, form="svg")
    assert svg.startswith(b"<svg") and b"prefers-color-scheme:dark" in svg and b"currentColor" in svg
    assert svg == summary_picture(record, points=CURVE, narrow=narrow, form="svg"), "the same bytes every time"


def test_marks_are_seen_by_their_colours() -> None:
    colors = {"above": COLORS[2], "at": COLORS[1], "below": COLORS[6]}
    for name, value in (("above", 0.9), ("at", 0.81), ("below", 0.36)):
        image = pixels(make_record(**{**NOTHING, "scores": [make_score(value=value)]}))
        assert {key for key, color in colors.items() if holds(image, color)} == {name}


def test_the_words_state_what_the_picture_shows() -> None:
    record = make_record(scores=[make_score(value=0.36), make_score("stsb", 0.6, 0.0), make_score("qqp", None, 0.5)])
    text = picture_text(record)
    assert "held-out loss 4.01, unigram entropy 7.25" in text and "effective rank per sample 33.3 of 128" in text
    assert "MRPC F1 0.360, below floor 0.812; STS-B pearson 0.600, above floor 0.000; QQP F1 failed" in text
    assert picture_text(make_record(**NOTHING)) == "Summary picture: nothing measured so far"
