"""Do the findings of the lab's log replicate in miniature? One table, with seeds and intervals.

Run: `python benchmarks/findings.py [--seeds 42,43,44] [--log FILE]` (resumable: what is finished is found finished)
Two sweeps of miniatures through `cogito sweep`, then each finding as the difference of two experiments, seed by
seed. The masked-language-model runs share one schedule here, which those of the
log did not. Results stand in docs/findings.md.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.scores.intervals import mean_interval

ROOT = Path(__file__).resolve().parents[1]
L2, L6, BIXT = "perceiver_mlm_H512L2C128", "perceiver_mlm_H512L6C128", "tsdae_bixt_H512L6C128"
KENDALL, FIXED = f"{L6}_combined_kendall_gal", f"{L6}_combined_fixed0.1"
CROSS, SELF = "diffusion_H512L2C128D2", "diffusion_selfattn_H512L2C128D2"
# experiments, and what is set for all of them
SWEEPS = [
    ([L2, L6, FIXED, KENDALL, BIXT], ["training.schedule=cosine", "evaluation.tasks=[stsb]"]),
    ([CROSS, SELF], ["evaluation.tasks=[stsb]"]),
]
LOSS, RANK, GRADIENT = "held-out loss", "nuclear rank of mean", "peak gradient norm"


@dataclass(frozen=True)
class Finding:
    """`claim` says that `figure` of `second` minus that of `first` has the sign of `direction`."""

    claim: str
    first: str
    second: str
    figure: str
    direction: int


FINDINGS = [
    Finding("combined + kendall_gal raises the rank", L6, KENDALL, RANK, 1),
    Finding("combined + kendall_gal raises the task loss", L6, KENDALL, LOSS, 1),
    Finding("fixed 0.1 lies between: rank above none", L6, FIXED, RANK, 1),
    Finding("fixed 0.1 lies between: rank below kendall_gal", KENDALL, FIXED, RANK, -1),
    Finding("fixed 0.1 lies between: task loss above none", L6, FIXED, LOSS, 1),
    Finding("fixed 0.1 lies between: task loss below kendall_gal", KENDALL, FIXED, LOSS, -1),
    Finding("six layers beat two in loss", L2, L6, LOSS, -1),
    Finding("self-attention in the diffusion decoder is less stable", CROSS, SELF, GRADIENT, 1),
    Finding("tsdae with BiXT has a higher rank than perceiver_mlm", L6, BIXT, RANK, 1),
    Finding("tsdae with BiXT is better on STS-B than perceiver_mlm", L6, BIXT, "stsb", 1),
]


def sweep(experiments: list[str], settings: list[str], seeds: str, log: Path | None) -> list[dict[str, Any]]:
    """The comparison rows of one sweep of miniatures."""
    command = [sys.executable, "-m", "flows.cli", "sweep", *(f"experiments/{name}.yaml" for name in experiments)]
    command += ["--miniature", "--json", "--grid", f"training.seed=[{seeds}]"]
    for setting in settings:
        command += ["--set", setting]
    if log is not None:
        command += ["--log", str(log)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def verdict(finding: Finding, values: list[float]) -> tuple[str, str]:
    """The mean difference over seeds with its interval, and whether the finding replicates."""
    mean, interval = sum(values) / len(values), mean_interval(values)
    if interval is None:
        return f"{mean:+.3f}", "one seed: not decided"
    shown = f"{mean:+.3f} ({interval[0]:+.3f} to {interval[1]:+.3f})"
    if interval[0] <= 0 <= interval[1]:
        return shown, "not decided"
    return shown, "replicates" if mean * finding.direction > 0 else "**the opposite**"


def tables(rows: list[dict[str, Any]]) -> str:
    """All experiments with their figures, then the findings."""
    by_name = {row["name"].removesuffix("_miniature"): row for row in rows}
    names = [LOSS, "unigram entropy", RANK, "effective rank per sample mean", GRADIENT, "stsb"]
    lines = [f"| miniature of | seeds | left the plateau | {' | '.join(names)} |", "|" + "---|" * (len(names) + 3)]
    for name, row in by_name.items():
        cells = []
        for figure in names:
            values = row["figures"][figure]["values"]
            interval = mean_interval(values)
            mean = sum(values) / len(values)
            text = f"{mean:.3f}"
            cells.append(
                text if interval is None or figure == "unigram entropy" else f"{text} ± {interval[1] - mean:.3f}"
            )
        lines.append(f"| {name} | {row['seeds']} | {row['left_plateau']} | {' | '.join(cells)} |")
    lines += [
        "",
        "| finding of the log | difference over seeds (95 % interval) | in miniature | left the plateau |",
        "|---|---|---|---|",
    ]
    for finding in FINDINGS:
        first, second = by_name[finding.first], by_name[finding.second]
        pairs = zip(*(row["figures"][finding.figure]["values"] for row in (first, second)), strict=True)
        shown, outcome = verdict(finding, [b - a for a, b in pairs])
        left = f"{first['left_plateau']} and {second['left_plateau']}"
        lines.append(f"| {finding.claim} | {finding.figure} {shown} | {outcome} | {left} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", default="42,43,44")
    parser.add_argument("--log", type=Path)
    arguments = parser.parse_args()
    rows = [row for names, settings in SWEEPS for row in sweep(names, settings, arguments.seeds, arguments.log)]
    failed = [message for row in rows for message in row["failed"]]
    print(tables(rows))
    if failed:
        sys.exit("; ".join(failed))


if __name__ == "__main__":
    main()
