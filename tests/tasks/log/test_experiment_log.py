"""The log: what is read from it, what a row says, and that nothing else of the file changes."""

import difflib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import ROOT
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
from hypothesis import given, settings
from hypothesis import strategies as st
from typed_log import USER_LOG, needs_user_log

from flows.commands.listing import print_record
from tasks.errors import UserError
from tasks.log.experiment_log import (
    _with_row,
    add_record,
    export_log,
    find_tables,
    read_log,
    render_row,
    show_log,
    write_row,
)
from tasks.log.markdown import split_cells
from tasks.log.rows import EVALUATION_COLUMNS, TRAINING_COLUMNS, is_generated
from tasks.store.home import RunFolder
from tasks.store.records import CellResult, RunRecord, StageRecord

HAND_MADE = """# Log

Some prose | with a pipe.

## Training Runs

|Date|Run ID / Model Type|MLM Loss| Eff. Rank |Key GLUE Scores|Notes|Conclusion / Takeaway|
|:--|---|:-:|---|---|---|---|
|2026-01-17| `old_run` |4.089|TBD|**MRPC:** 82.2% <br> **STS-B:** -0.01|`a\\|b`|  **Best.**  |

```
| Date | Run ID | Conclusion |
|---|---|---|
| 2020-01-01 | `in_code` | no |
```

Tail without a newline at its end: żółć 😀\u2028 end"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COGITO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs" / "log.md"


def write_text(path: Path, text: str) -> bytes:
    path.write_bytes(text.encode("utf-8"))
    return path.read_bytes()


def line_changes(before: bytes, after: bytes) -> tuple[list[str], list[str]]:
    old, new = (raw.decode().split("\n") for raw in (before, after))
    removed: list[str] = []
    added: list[str] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            removed += old[a:b]
            added += new[c:d]
    return removed, added


# Reading


@needs_user_log
def test_the_users_log_is_read_with_its_figures() -> None:
    frames = read_log(USER_LOG)
    training, evaluation = frames["training"].set_index("run_id"), frames["evaluation"]
    assert (len(training), len(evaluation)) == (10, 1)
    row = training.loc["perceiver_mlm_H512L6C128_20260208_211633"]
    assert row["scores"] == {"mrpc": 0.813, "qqp": 0.725, "mnli-m": 0.591, "stsb": 0.627}
    assert (row["eff_rank"], row["epochs"], row["loss"]) == (5, 40, 2.537)
    assert row["date"].isoformat() == "2026-02-08T00:00:00"
    assert training["eff_rank"].dropna().tolist() == [5, 122, 15.9]
    assert training.loc["diffusion_H512L2C128D2_20260221_195554"]["loss"] == 0.009
    assert training["speed_steps_s"].dropna().tolist() == [2.14, 0.81, 0.515]
    assert training["epochs"].tolist() == [20, 20, 20, 40, 40, 40, 20, 20, 20, 20]
    only = evaluation.iloc[0]
    assert (only["run_id"], only["checkpoint"]) == ("perceiver_decoder_cls", "perceiver_mlm_H512L6C128_20260208_211633")
    assert only["scores"] == {"mrpc": 0.8273, "stsb": 0.65, "qqp": 0.7335, "mnli-m": 0.5975, "mnli-mm": 0.609}
    lines = USER_LOG.read_text(encoding="utf-8").split("\n")
    assert all(f"`{run}`" in lines[line - 1] for run, line in training["line"].items())


@needs_user_log
def test_rows_shown_are_json_with_none_for_what_is_missing() -> None:
    rows = show_log(USER_LOG)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [row["table"] for row in rows] == ["training"] * 10 + ["evaluation"]
    first = rows[0]
    assert (first["date"], first["eff_rank"], first["git_tag"], first["wandb_link"][:6]) == (
        "2026-01-17",
        None,
        None,
        "[Link]",
    )
    assert rows[-2]["scores"] == {} and rows[-2]["key_glue_scores"] is None


def test_the_older_header_and_code_fences(log: Path) -> None:
    write_text(log, HAND_MADE)
    rows = show_log(log)
    assert [row["run_id"] for row in rows] == ["old_run"]
    assert rows[0]["loss"] == 4.089 and rows[0]["mlm_loss"] == "4.089"
    assert rows[0]["scores"] == {"mrpc": 0.822, "stsb": -0.01}
    assert rows[0]["notes"] == "`a|b`"
    assert rows[0]["eff_rank"] is None and rows[0]["checkpoint"] == "old_run"
    frames = read_log(log)
    assert frames["training"]["loss"].tolist() == [4.089]
    assert frames["evaluation"].empty and "scores" in frames["evaluation"]


def test_a_log_that_cannot_be_read_is_said_so(log: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_log(log)
    with pytest.raises(UserError, match="is a folder"):
        write_row(log.parent, make_record())
    log.write_bytes(b"# Log \xff\n")
    with pytest.raises(UserError, match="byte 6"):
        write_row(log, make_record())
    assert log.read_bytes() == b"# Log \xff\n"


def markdown_cells(line: str, columns: int) -> list[str]:
    from markdown_it import MarkdownIt

    text = "|" + "h|" * columns + "\n|" + "-|" * columns + "\n" + line
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return [token.content for token in tokens if token.type == "inline"][columns:]


@given(st.text(alphabet="a`|\\ *é", min_size=1, max_size=30))
def test_cells_are_split_as_markdown_splits_them(body: str) -> None:
    line = f"|{body}|"
    cells = [line[a:b].strip().replace(r"\|", "|") for a, b in split_cells(line)]
    assert cells[:40] + [""] * (40 - len(cells)) == markdown_cells(line, 40)


# Rendering


def test_a_training_row_in_the_users_style() -> None:
    record = make_record(
        environment=make_environment(git_dirty=True),
        pretraining=make_pretraining(wandb_url="https://wandb.ai/lab/runs/x"),
    )
    row = render_row(record)
    conclusion = row.pop("Conclusion / Takeaway")
    assert row == {
        "Date": "2026-03-01",
        "Run ID / Model Type": f"`{RUN_ID}`",
        "Architecture": "H512 L6 C128",
        "Pretraining Data": "minipile",
        "Machine": "testbench",
        "Epochs": "20",
        "Concept Losses": "None",
        "Task Loss": "MLM eval **4.010** (unigram 7.25, 1.38 bits/byte) <br> train 3.900",
        "Eff. Rank": "**15.9 / 128** (12.4%) <br> per-sample effective rank 33.3",
        "Key GLUE Scores": "**MRPC:** 82.2% (79.2 to 84.2, **at floor 81.2**, n 408) <br> "
        "**QQP:** 61.5% (58.5 to 63.5, floor 52.8, n 408) <br> **STS-B:** 0.627 (0.597 to 0.647, floor 0.000, n 408)",
        "Speed (Steps/s)": "2.14",
        "WandB Link": "[Link](https://wandb.ai/lab/runs/x)",
        "Git Tag": "`54ee870-dirty`",
    }
    assert conclusion.partition(") ")[2] == "complete. ViaDecoder: 2 of 3 scores above their floor."
    assert is_generated(conclusion) and not is_generated(conclusion + " Good.")


def test_the_rank_cell_says_what_the_text_decides(log: Path) -> None:
    old = make_analysis()
    new = make_analysis(figures={**old.figures, "input_variance_share": 0.4149, "retrieval_top_1": 0.926})
    cell = render_row(make_record(analysis=new))["Eff. Rank"]
    before = render_row(make_record(analysis=old))["Eff. Rank"]
    assert cell == before + " <br> input share 0.41, retrieval 93%"
    row = render_row(make_record(kind="evaluation", analysis=new))
    assert "per-sample effective rank 33.3, input share 0.41, retrieval 93%." in row["Conclusion"]
    write_row(log, make_record(analysis=new))
    assert show_log(log)[0]["eff_rank"] == 15.9, "the figures beside it are not read as the rank"


def test_the_terminal_shows_records_with_and_without_the_figures_of_collapse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks = {**make_analysis().figures, "effective_rank_of_mean": 20.0}
    collapse = {
        "input_variance_share": 0.41,
        "centred_effective_rank": 9.3,
        "retrieval_top_1": 0.93,
        "retrieval_chance": 1 / 64,
    }
    for figures in (ranks, ranks | collapse):
        print_record(make_record(analysis=make_analysis(figures=figures)), RunFolder(tmp_path), tmp_path / "log.md")
        shown = " ".join(capsys.readouterr().out.split())
        assert "nuclear of mean 15.9" in shown
        assert ("the text decides 41.0%, of effective rank 9.3" in shown) == (figures is not ranks)
        assert ("93.0% are found again, by chance 1.6%" in shown) == (figures is not ranks)


def test_an_evaluation_row_in_the_users_style() -> None:
    hub = make_checkpoint(name="lab/model", origin="hub", revision="0123456789abcdef0123")
    row = render_row(make_record(kind="evaluation", checkpoint=hub))
    assert tuple(row) == EVALUATION_COLUMNS
    assert row["Eval Type"] == "`eval_perceiver_mlm_20260301_120000` (ViaDecoder)"
    assert row["Source Checkpoint"] == "`lab/model` (from HF Hub@0123456789ab)"
    assert row["Tasks"] == "mrpc, qqp, mnli-m, mnli-mm, stsb, paws"
    assert row["WandB"] == "--"
    assert "Eff. rank **15.9 / 128** (12.4%), per-sample effective rank 33.3." in row["Conclusion"]


@pytest.mark.parametrize(
    ("loss", "cell"),
    [
        (7.04, "MLM eval **7.040** (unigram 7.25, 2.42 bits/byte) <br> train 3.900"),
        (7.06, "MLM eval **7.060** (**at unigram floor** 7.25, 2.43 bits/byte) <br> train 3.900"),
        (9.0, "MLM eval **9.000** (**at unigram floor** 7.25, 3.09 bits/byte) <br> train 3.900"),
        (float("nan"), "MLM eval **nan**"),
    ],
)
def test_a_loss_stands_beside_its_floor(loss: float, cell: str) -> None:
    assert render_row(make_record(pretraining=make_pretraining(eval_loss=loss)))["Task Loss"] == cell


def test_failures_made_data_and_random_start_are_said() -> None:
    failed = [CellResult(task="mnli", seed=42, start="checkpoint", status="failed", error="killed")]
    record = make_record(
        status="failed",
        made_data=True,
        stages={"finetuning": StageRecord(status="failed", message="1 cell failed\nsecond line | x")},
        cells=failed,
        scores=[
            make_score("paws", None),
            make_score("qqp", 0.615, 0.528, failed_seeds=[43], seed_values={42: 0.615}),
            make_score("mrpc", 0.701, start="random"),
            make_score("stsb", -0.00001, start="random"),
        ],
    )
    row = render_row(record)
    assert row["Key GLUE Scores"] == (
        "**QQP:** 61.5% (58.5 to 63.5, floor 52.8, n 408, 1 of 2 seeds failed) <br> **MNLI-m:** failed <br> "
        "**MNLI-mm:** failed <br> **PAWS:** failed <br> *made data*"
    )
    conclusion = row["Conclusion / Takeaway"]
    assert "failed: finetuning failed (1 cell failed); failed cells mnli seed 42." in conclusion
    assert "1 of 2 scores above their floor. random start: MRPC 70.1, STS-B 0.000. Made data." in conclusion


def test_a_run_that_got_nowhere_has_a_row() -> None:
    stages = {"pretraining": StageRecord(status="failed", message="loss is nan at step 12")}
    record = make_record(status="failed", stages=stages, pretraining=None, scores=[], analysis=None, head="")
    row = render_row(record)
    assert [row[name] for name in ("Epochs", "Task Loss", "Eff. Rank", "Key GLUE Scores", "Speed (Steps/s)")] == [
        "--",
        "failed",
        "--",
        "Not evaluated",
        "--",
    ]
    assert "pretraining failed (loss is nan at step 12)" in row["Conclusion / Takeaway"]


def test_concept_losses_data_and_tag() -> None:
    spec = make_record().spec
    spec["objective"] |= {"concept_losses": {"combined": 0.1, "variance": 0.5}}
    spec["data"] |= {"dataset": "wikimedia/wikipedia", "max_documents": 20_000}
    row = render_row(make_record(spec=spec, environment=make_environment(git_tag="v1")))
    assert row["Concept Losses"] == "`combined` + `variance` + `fixed=0.1,0.5`"
    assert row["Pretraining Data"] == "wikipedia (20,000 documents)"
    assert row["Git Tag"] == "`v1`"
    spec["objective"] |= {"concept_losses": {"combined": 0.1}, "loss_weighting": "kendall_gal"}
    assert render_row(make_record(spec=spec))["Concept Losses"] == "`combined` + `kendall_gal`"


# Writing


def test_a_new_log_has_both_tables_and_the_row_reads_back(log: Path) -> None:
    assert write_row(log, make_record()) is True
    assert write_row(log, make_record(kind="evaluation")) is True
    text = log.read_text(encoding="utf-8")
    assert text.startswith("# Master Experiment Log\n") and text.count("\n## ") == 2
    training, evaluation = show_log(log)
    assert training["run_id"] == RUN_ID and training["loss"] == 4.01 and training["eff_rank"] == 15.9
    assert training["scores"] == evaluation["scores"] == {"mrpc": 0.822, "qqp": 0.615, "stsb": 0.627}
    assert evaluation["checkpoint"] == RUN_ID
    # No half file beside it, and the lock is hidden.
    assert sorted(path.name for path in log.parent.iterdir()) == [".log.md.lock", "log.md"]


def test_the_same_record_does_not_touch_the_file(log: Path) -> None:
    write_row(log, make_record())
    os.utime(log, (1, 1))
    before = log.read_bytes()
    assert write_row(log, make_record()) is False
    assert log.read_bytes() == before and log.stat().st_mtime == 1


@needs_user_log
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_a_row_added_to_the_users_log_is_one_new_line(log: Path, kind: str) -> None:
    before = USER_LOG.read_bytes()
    log.write_bytes(before)
    assert write_row(log, make_record(kind=kind)) is True
    removed, added = line_changes(before, log.read_bytes())
    assert removed == [] and len(added) == 1 and added[0].startswith("| 2026-03-01 | `")
    table = find_tables(log.read_text(encoding="utf-8"))[kind]
    assert table.run_id(table.rows[-1]) == make_record(kind=kind).run_id
    assert len(split_cells(added[0])) == len(table.header)
    assert write_row(log, make_record(kind=kind)) is False


@needs_user_log
def test_updating_a_users_row_keeps_the_conclusion(log: Path) -> None:
    before = USER_LOG.read_bytes()
    log.write_bytes(before)
    run_id = "perceiver_mlm_H512L6C128_20260208_211633"
    old = next(row for row in show_log(log) if row["run_id"] == run_id)
    assert write_row(log, make_record(run_id=run_id)) is True
    removed, added = line_changes(before, log.read_bytes())
    assert len(removed) == len(added) == 1
    new = next(row for row in show_log(log) if row["run_id"] == run_id)
    assert new["conclusion_takeaway"] == old["conclusion_takeaway"] and new["loss"] == 4.01


def test_line_endings_mark_and_missing_final_newline_stay(log: Path) -> None:
    before = write_text(log, "\ufeff" + HAND_MADE.replace("\n", "\r\n"))
    assert write_row(log, make_record()) is True
    after = log.read_bytes()
    row = [line for line in after.split(b"\r\n") if RUN_ID.encode() in line]
    assert len(row) == 1 and after.replace(row[0] + b"\r\n", b"", 1) == before
    assert row[0].endswith(b" |") and row[0].split(b" | ")[5] == b""  # the column Notes is not the machine's
    assert write_row(log, make_record(kind="evaluation")) is True
    assert log.read_bytes().startswith(after) and b"\n" not in log.read_bytes().replace(b"\r\n", b"")


def test_a_table_at_the_very_end_of_the_file(log: Path) -> None:
    write_text(log, "| Run ID | Conclusion |\n|---|---|")
    write_row(log, make_record())
    write_row(log, make_record(run_id="second"))
    lines = log.read_text(encoding="utf-8").split("\n")
    assert len(lines) == 4 and lines[-1].startswith("| `second` | (auto ")


def test_prose_under_a_table_is_not_a_row(log: Path) -> None:
    write_text(log, "| Run ID | Conclusion |\n|---|---|\n| `one` | x |\nProse right below.\n")
    write_row(log, make_record())
    lines = log.read_text(encoding="utf-8").split("\n")
    assert RUN_ID in lines[3] and lines[4] == "Prose right below."
    assert [row["run_id"] for row in show_log(log)] == ["one", RUN_ID]


def test_an_update_rewrites_only_cells_that_change(log: Path) -> None:
    write_row(log, make_record())
    text = log.read_text(encoding="utf-8")
    spaced = text.replace("| testbench |", "|   testbench\t|").replace("| H512 L6 C128 |", "|H512 L6 C128|")
    write_text(log, spaced)
    assert write_row(log, make_record()) is False
    faster = make_record(pretraining=make_pretraining(steps_per_second=9.0))
    assert write_row(log, faster) is True
    assert log.read_text(encoding="utf-8") == spaced.replace("| 2.14 |", "| 9.00 |")


@pytest.mark.parametrize("edit", ["Collapse fixed, a real gain.", "(auto) complete.", ""])
def test_a_persons_conclusion_survives_and_the_machines_own_is_renewed(log: Path, edit: str) -> None:
    write_row(log, make_record(status="running"))
    write_row(log, make_record())
    row = show_log(log)[0]
    assert "complete." in row["conclusion_takeaway"] and "running" not in row["conclusion_takeaway"]
    text = log.read_text(encoding="utf-8").replace(row["conclusion_takeaway"], edit)
    write_text(log, text)
    assert write_row(log, make_record(status="failed")) is False
    assert log.read_text(encoding="utf-8") == text


def test_a_word_added_to_the_machines_conclusion_makes_it_a_persons(log: Path) -> None:
    write_row(log, make_record())
    text = log.read_text(encoding="utf-8").replace("above their floor.", "above their floor. Seed 42 was lucky.")
    write_text(log, text)
    write_row(log, make_record(status="failed", scores=[]))
    assert "Seed 42 was lucky." in log.read_text(encoding="utf-8")


def test_short_rows_and_rows_with_more_cells_than_columns(log: Path) -> None:
    head = "Run ID | Machine | Mine | Date\n---|---|---|---\n"
    write_text(log, head + f"`{RUN_ID}` | odd\n")
    write_row(log, make_record())
    assert log.read_text(encoding="utf-8") == head + f"`{RUN_ID}` | testbench |  | 2026-03-01 |\n"
    write_text(log, head + f"  | `{RUN_ID}` | odd | kept \\| too | 2020-01-01 | extra | `more` |\n")
    write_row(log, make_record())
    expected = head + f"  | `{RUN_ID}` | testbench | kept \\| too | 2026-03-01 | extra | `more` |\n"
    assert log.read_text(encoding="utf-8") == expected


def test_of_two_like_tables_the_first_is_used(log: Path) -> None:
    table = "| Run ID | Conclusion |\n|---|---|\n| `one` | x |\n\n"
    write_text(log, table + table)
    write_row(log, make_record())
    assert log.read_text(encoding="utf-8").endswith("|\n\n" + table)


def test_a_quoted_table_is_left_alone(log: Path) -> None:
    quoted = "> | Run ID | Conclusion |\n> |---|---|\n> | `one` | x |\n"
    write_text(log, quoted)
    assert show_log(log) == []
    write_row(log, make_record())
    assert log.read_text(encoding="utf-8").startswith(quoted + "\n## Training Runs\n")


def test_an_open_code_fence_takes_no_row(log: Path) -> None:
    before = write_text(log, "# Log\n\n```\nnever closed\n")
    with pytest.raises(UserError, match="open code fence"):
        write_row(log, make_record())
    assert log.read_bytes() == before


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=25), st.text(max_size=25), st.text(max_size=40))
def test_no_text_breaks_the_table(machine: str, checkpoint: str, message: str) -> None:
    changes: dict[str, Any] = {
        "kind": "evaluation",
        "environment": make_environment(machine=machine),
        "checkpoint": make_checkpoint(name=f"n{checkpoint}", origin="local"),
        "stages": {"analysis": StageRecord(status="failed", message=message)},
    }
    record = make_record(**changes)
    text = _with_row(HAND_MADE, record, Path("log.md"))
    table = find_tables(text)["evaluation"]
    assert len(table.rows) == 1 and table.run_id(table.rows[0]) == record.run_id
    assert len(table.rows[0].cells) == len(EVALUATION_COLUMNS)
    assert _with_row(text, record, Path("log.md")) == text
    assert text.startswith(HAND_MADE)


PIECES = st.sampled_from(
    [
        "prose\n",
        "\n",
        "| a | b |\n",
        "|---|---|\n",
        "| Run ID | Conclusion |\n|---|---|\n",
        "| `x` | y |\n",
        "- item\n",
        "| Source Checkpoint | Eval Type |\n|-|-|\n",
        "> quote\n",
        "    code | x\n",
        "```\n",
        "\r",
        "żółć\u2028\x0b\x85",
        "<!--\n",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join), st.sampled_from(["training", "evaluation"]))
def test_whatever_the_file_holds_a_row_is_added_and_nothing_else_changes(text: str, kind: Any) -> None:
    record = make_record(kind=kind)
    try:
        new = _with_row(text or "\n", record, Path("log.md"))
    except UserError:
        assert "```" in text or "<!--" in text  # an open fence or comment swallows what is appended
        return
    had_table = kind in find_tables(text)
    if had_table:
        table = find_tables(new)[kind]
        row = next(row.line for row in table.rows if table.run_id(row) == record.run_id)
        rest = new.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        del rest[row]
        assert "\n".join(rest).rstrip("\n") == text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    else:
        assert new.startswith(text)
    assert _with_row(new, record, Path("log.md")) == new


ADD_ROWS = """
import sys
from pathlib import Path
from tasks.log.experiment_log import write_row
from factories import make_record
for number in range(int(sys.argv[2]), 200, 12):
    write_row(Path(sys.argv[1]), make_record(run_id=f"run_{number}"))
"""


def test_sixteen_processes_of_two_homes_lose_no_row_and_double_none(log: Path, tmp_path: Path) -> None:
    """Twelve shares of 200 rows, four of them written by two processes each, and half of all under another name."""
    root = ROOT
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    other = tmp_path / "other"
    other.mkdir()
    (other / "linked.md").symlink_to(log)
    places = [(tmp_path / "home", log), (other / "home", other / "linked.md")]
    adders = [
        subprocess.Popen(
            [sys.executable, "-c", ADD_ROWS, str(name), str(number % 12)],
            cwd=root,
            env=environment | {"COGITO_HOME": str(home)},
        )
        for number in range(16)
        for home, name in [places[number % 3 % 2]]
    ]
    assert [adder.wait(timeout=300) for adder in adders] == [0] * 16
    wanted = {f"run_{number}" for number in range(200)}
    found = [row["run_id"] for row in show_log(log)]
    assert len(found) == 200 and set(found) == wanted


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_said_so(log: Path) -> None:
    log.parent.chmod(0o500)
    try:
        with pytest.raises(UserError, match="cannot be written"):
            write_row(log, make_record())
    finally:
        log.parent.chmod(0o700)


def test_a_record_file_is_added(tmp_path: Path, log: Path) -> None:
    path = tmp_path / "record.json"
    with pytest.raises(UserError, match="cannot be read"):
        add_record(path, log)
    path.write_text('{"schema_version": 99, "later": true}', encoding="utf-8")
    with pytest.raises(UserError, match="schema version 99, known are up to 1; fix: update"):
        add_record(path, log)
    path.write_text('{"kind": "training"}', encoding="utf-8")
    with pytest.raises(UserError, match="not a readable record"):
        add_record(path, log)
    assert not log.exists()
    record: RunRecord = make_record(corpus=make_corpus(), analysis=make_analysis())
    path.write_text(record.model_dump_json(), encoding="utf-8")
    assert add_record(path, log) is True
    assert add_record(path, log) is False
    assert tuple(find_tables(log.read_text(encoding="utf-8"))["training"].header) == TRAINING_COLUMNS


def test_a_figure_beyond_every_number_is_text_alone(tmp_path: Path) -> None:
    log = tmp_path / "log.md"
    log.write_text(
        "## Training Runs\n\n| Run ID | Task Loss | Eff. Rank | Key GLUE Scores |\n|---|---|---|---|\n"
        "| `x` | 1e400 | 3e999 / 128 | **MRPC:** 82.2% |\n",
        encoding="utf-8",
    )
    row = read_log(log)["training"].iloc[0]
    assert math.isnan(row["loss"]) and math.isnan(row["eff_rank"]) and row["task_loss"] == "1e400"
    export_log(log, tmp_path / "out.json")
    assert "1e400" in (tmp_path / "out.json").read_text(encoding="utf-8")
