"""`cogito show` measures how sound the start of a spec is."""

import json
from pathlib import Path

import pytest

from flows.commands.spec import show
from tasks.errors import UserError

WIDE = "name: wide\ndata: {}\nmodel: {variant: tsdae, use_bixt: true, num_layers: 5}\n"


def test_show_warns_of_a_chaotic_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.forecast.estimate.estimates", lambda *_: [])  # takes seconds
    spec = tmp_path / "wide.yaml"
    spec.write_text(WIDE, encoding="utf-8")
    show(spec, as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out)["rounding_error"] > 1e-4
    assert f"{spec}: warning: the start is chaotic" in err

    show(spec, ["model.initializer_range=0.02"])
    out, err = capsys.readouterr()
    assert "# start: rounding to 32 bits moves the concepts by " in out and "warning" not in err

    show(spec, ["training.init_from=lab/some_checkpoint"], as_json=True)  # no new weights, nothing to measure
    out, err = capsys.readouterr()
    assert json.loads(out)["rounding_error"] is None and "chaotic" not in err


def test_a_spec_is_shown_where_gpus_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("GPUs of this machine cannot be used by torch")

    monkeypatch.setattr("tasks.forecast.estimate.visible_devices", refuse)
    spec = tmp_path / "small.yaml"
    spec.write_text("name: small\ndata: {}\nmodel: {hidden_size: 32, num_layers: 1, num_attention_heads: 2}\n")
    show(spec, as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out)["estimates"] == [] and f"{spec}: warning: GPUs of this machine cannot be used" in err
