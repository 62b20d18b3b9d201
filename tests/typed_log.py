"""Logs as a hand types them, with nothing wrong in them, and what the check finds there."""

from pathlib import Path
from typing import Any

import pytest
from command import ROOT

from tasks.log.check import Finding, check_log

USER_LOG = ROOT.parent / "shared" / "seeds" / "master_experiment_log.md"
needs_user_log = pytest.mark.skipif(not USER_LOG.is_file(), reason="the user's log is not beside this checkout")

TRAINING = """# Log

## Training Runs

| Date | Run ID / Model Type | Architecture | Epochs | Task Loss | Eff. Rank | Key GLUE Scores | Speed (Steps/s) \
| WandB Link | Git Tag | Conclusion / Takeaway |
|---|---|---|---|---|---|---|---|---|---|---|
"""
EVALUATION = """
## Evaluation Experiments

| Date | Eval Type | Source Checkpoint | Machine | Tasks | Key Scores | WandB | Conclusion |
|---|---|---|---|---|---|---|---|
"""
RUN, OTHER = "perceiver_mlm_H512L6C128_20260208_211633", "weighted_mlm_H512L2C128_20260117_153544"


def training_row(run: str = RUN, **cells: str) -> str:
    """A row with nothing wrong in it."""
    name, digits, _ = run.rsplit("_", 2)
    sizes = name.rsplit("_", 1)[1]
    texts = {
        "date": f"{digits[:4]}-{digits[4:6]}-{digits[6:]}",
        "run": f"`{run}`",
        "architecture": f"{sizes[:4]} {sizes[4:6]} {sizes[6:]}",
        "epochs": "20",
        "loss": "MLM 2.537",
        "rank": "64 / 128 (50%)",
        "scores": "**QQP F1:** 72.5% <br> **MNLI-m:** 59.1%",
        "speed": "2.14",
        "link": f"[Link](https://wandb.ai/lab/concepts/runs/{run})",
        "tag": "`54ee870`",
        "conclusion": "Fine.",
    }
    if run == OTHER:
        texts |= {"loss": "MLM 3.1", "rank": "31 / 128 (24.2%)"}
        texts["scores"] = "**QQP F1:** 61.4% <br> **MNLI-m:** 49.7%"
    return "| " + " | ".join((texts | cells).values()) + " |\n"


def evaluation_row(**cells: str) -> str:
    texts = {
        "date": "2026-02-22",
        "type": "`head_sweep` (ViaDecoder)",
        "checkpoint": f"`{RUN}`",
        "machine": "testbench",
        "tasks": "qqp",
        "scores": "**QQP F1:** 75.0%",
        "link": f"[Link](https://wandb.ai/lab/concepts/runs/{RUN})",
        "conclusion": "Measured.",
    } | cells
    return "| " + " | ".join(texts.values()) + " |\n"


def found(tmp_path: Path, text: str, **options: Any) -> list[Finding]:
    (tmp_path / "log.md").write_bytes(text.encode())
    return check_log(tmp_path / "log.md", **options)


def serious(findings: list[Finding]) -> list[Finding]:
    return [one for one in findings if one.severity != "note"]


def of(findings: list[Finding], rule: str) -> list[Finding]:
    return [one for one in findings if one.rule == rule]
