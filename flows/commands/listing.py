"""How runs, comparisons and repetitions are printed in a terminal."""

import re
from collections import Counter
from functools import partial
from pathlib import Path

from rich import box
from rich.console import Console, JustifyMethod
from rich.measure import Measurement
from rich.table import Table

from flows.commands.options import UNLIMITED, console, new_table
from tasks.review.comparisons import Comparison
from tasks.review.differences import value_text
from tasks.review.rendering import delta_text, shown
from tasks.review.reproduction import Agreement
from tasks.review.rescoring import Change
from tasks.scores.metrics import UNIGRAM_MARGIN_NATS
from tasks.scores.showing import BELOW_FLOOR_HINT, floor_mark, score_table
from tasks.store.home import RunFolder
from tasks.store.records import RunRecord, Score

# The layouts of the score table, of which the first that fits is taken: what joins the words of a mark below its figure
# (nothing: the mark stands beside it), and the gap between columns.
LAYOUTS = (("", 2), (" ", 2), ("\n", 2), ("\n", 1))
# Where the title of a column is broken, and a mark in brackets.
BREAK, MARK = re.compile(r"(?<=\w)[ -](?=\w)"), re.compile(r" \((.+)\)")


def print_record(record: RunRecord, folder: RunFolder, log_path: Path) -> None:
    """Print the scores of a run beside their floors, and where its record, row and report are."""
    terminal = console()
    made = " (made data: says nothing about the real tasks)" if record.made_data else ""
    print(f"{record.run_id}: {record.status}{made}")
    if record.scores:
        terminal.print(_score_table(record.scores, terminal))
    for score in record.primary_scores():
        if floor_mark(score) == "below floor":
            terminal.print(f"{score.task} {score.metric} below floor: {BELOW_FLOOR_HINT}", style="red", markup=False)
    _print_training(record, terminal)
    _print_analysis(record, terminal)
    for warning in record.warnings:
        terminal.print(f"warning: {warning}", style="yellow", markup=False)
    for name, stage in record.stages.items():
        if stage.status != "complete":
            terminal.print(f"{name} {stage.status}: {stage.message}", style="red", markup=False)
    print(f"record: {folder.record}")
    print(f"row in: {log_path}")
    if (page := folder.root / "report.html").exists():
        print(f"report: {page}")


def _score_table(scores: list[Score], terminal: Console) -> Table:
    titles, rows = score_table(scores)
    for joint, gap in LAYOUTS:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), show_edge=False)
        for name in titles:
            justify: JustifyMethod = "left" if name in ("task", "metric") else "right"
            table.add_column(BREAK.sub("\n", name), justify=justify, no_wrap=gap > 1, overflow="fold")
        for row in rows:
            table.add_row(*(MARK.sub(partial(_below, joint), cell) if joint else cell for cell in row))
        if Measurement.get(terminal, terminal.options.update_width(UNLIMITED), table).maximum <= terminal.width:
            break
    return table


def _below(joint: str, mark: re.Match[str]) -> str:
    return "\n" + mark[1].replace(" ", joint)


def _print_training(record: RunRecord, terminal: Console) -> None:
    if record.pretraining is None or record.corpus is None:
        return
    loss, entropy = record.pretraining.eval_loss, record.corpus.unigram_entropy_nats
    is_near = loss > entropy - UNIGRAM_MARGIN_NATS
    near = f"; within {UNIGRAM_MARGIN_NATS} of it: nothing contextual was learned" if is_near else ""
    terminal.print(f"held-out loss {loss:.3f} nats per masked token; unigram entropy {entropy:.3f}{near}")
    if (diverged := record.pretraining.diverged) is not None:
        kept = f"kept: the weights after step {diverged.kept_step}"
        terminal.print(f"diverged at step {diverged.step}: {diverged.reason}; {kept}", style="red", markup=False)


def _print_analysis(record: RunRecord, terminal: Console) -> None:
    if record.analysis is None:
        return
    figures = record.analysis.figures
    names = {
        "nuclear of mean": "nuclear_rank_of_mean",
        "effective of mean": "effective_rank_of_mean",
        "effective per sample": "effective_rank_per_sample_mean",
    }
    ranks = [f"{title} {figures[name]:.1f}" for title, name in names.items() if name in figures]
    terminal.print(f"concept ranks of {record.analysis.num_concepts}: {', '.join(ranks)}")
    if {"input_variance_share", "centred_effective_rank", "retrieval_top_1", "retrieval_chance"} <= figures.keys():
        terminal.print(
            f"of their variance the text decides {figures['input_variance_share']:.1%}, of effective rank "
            f"{figures['centred_effective_rank']:.1f}; of texts with tokens left out "
            f"{figures['retrieval_top_1']:.1%} are found again, by chance {figures['retrieval_chance']:.1%}"
        )


def print_comparison(comparison: Comparison) -> None:
    """Print what differs between A and B, their figures side by side, and what is unknown or not comparable."""
    terminal = console(markup=False, highlight=False)
    terminal.print(f"A: {comparison.a}\nB: {comparison.b}")
    table = new_table("differs", "A", "B")
    for difference in comparison.differs:
        table.add_row(difference.key, value_text(difference.a), value_text(difference.b))
    terminal.print(table)
    table = new_table("figure", "A", "B", "n", "B - A (95 % interval)")
    for figure in comparison.figures:
        values = shown(figure, figure.a), shown(figure, figure.b)
        table.add_row(figure.name, *values, "--" if figure.n is None else str(figure.n), delta_text(figure))
    terminal.print(table)
    for side, names in comparison.not_known.items():
        if names:
            terminal.print(f"not known for {side.upper()}: {'; '.join(names)}")


def print_verdicts(row: str, again: str, agreements: list[Agreement], log_path: Path) -> None:
    """Print whether each figure of a row agrees with its repetition."""
    terminal = console(markup=False, highlight=False)
    table = new_table("figure", "row", "again", "verdict", title=f"{row}, repeated as {again}")
    for figure in agreements:
        table.add_row(figure.figure, figure.stated, figure.repeated, figure.text)
    terminal.print(table)
    counts = Counter(figure.outcome for figure in agreements)
    print(", ".join(f"{counts[name]} {name}" for name in ("agrees", "differs", "undecided")))
    print(f"row in: {log_path}")


def print_changes(changes: list[Change], folder: RunFolder, log_path: Path) -> None:
    """Print which scores a rescoring changed, and where they were written."""
    for change in changes:
        start = "" if change.start == "checkpoint" else f" ({change.start.replace('_', '-')})"
        print(f"{change.task} {change.metric}{start}: {change.field} {change.before} -> {change.after}")
    print(f"{folder.run_id}: " + (f"{len(changes)} changes" if changes else "every score comes out as it was"))
    print(f"record: {folder.record}")
    print(f"row in: {log_path}")
