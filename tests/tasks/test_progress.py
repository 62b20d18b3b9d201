"""Bars and log lines share a terminal: no line is torn, and without a terminal nothing but lines is written.

A process draws on a pseudo-terminal; what a person sees of it is worked out from the few control codes that rich uses.
"""

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT

if sys.platform == "win32":
    pytest.skip("no pseudo-terminals", allow_module_level=True)
import fcntl
import pty
import termios

WORK = """
import logging, sys, time, warnings
logging.getLogger("cogito").addHandler(logging.StreamHandler())
logging.getLogger("cogito").setLevel("INFO")
logging.getLogger("cogito").propagate = False
{more}
from tasks.progress import DISPLAY
with DISPLAY.on_terminal():
    for step in range(1, 11):
        DISPLAY.update("pretraining", step, 10, "loss 6.307 at 12.30 steps/s, with a long note that is cut")
        DISPLAY.update("finetune mrpc seed 42 (checkpoint)", step, None, "epoch 0.5")
        time.sleep(0.11)
        logging.getLogger("cogito.x").warning("LINE %d of our own", step)
        print("LINE", step, "printed by a job", file=sys.stderr)
        if step == 5:
            warnings.warn("LINE 5 that Python warns of")
            {other}
    DISPLAY.finish("pretraining")
logging.getLogger("cogito.x").warning("LINE 11 after the bars")
"""
PREFECT = ("import tasks.prefect_entry", 'logging.getLogger("prefect.flow_runs").warning("LINE 5 of Prefect")')
CONTROL = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")


def draw(width: int, more: str = "", other: str = "pass", **settings: str) -> str:
    """What the process writes to a terminal of so many columns."""
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM")}
    environment = kept | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | settings
    command = [sys.executable, "-c", WORK.format(more=more, other=other)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(mine, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(mine)
    assert process.wait(60) == 0
    return b"".join(parts).decode()


def seen(text: str, width: int) -> list[str]:
    """The lines that stand on the screen, however far it had to be scrolled."""
    rows, row, column = [""], 0, 0
    place = 0
    while place < len(text):
        if match := CONTROL.match(text, place):
            place, count = match.end(), int(match[1]) if match[1].isdigit() else 1
            if match[2] == "A":
                row = max(0, row - count)
            elif match[2] == "K":
                rows[row] = rows[row][:column] if match[1] in ("", "0") else ""
            else:
                assert match[2] in "mhl", match[0]
            continue
        sign, place = text[place], place + 1
        if sign == "\r":
            column = 0
        elif sign == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        else:
            if column == width:
                row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
            rows[row] = rows[row].ljust(column)[:column] + sign + rows[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in rows]


def assert_whole(lines: list[str], others: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Every line stands alone from column 0 on, in order, and no bar is left."""
    own = [line for line in lines if line.startswith("LINE") and line.endswith("of our own")]
    printed = [line for line in lines if line.endswith("printed by a job")]
    assert own == [f"LINE {step} of our own" for step in range(1, 11)], lines
    assert printed == [f"LINE {step} printed by a job" for step in range(1, 11)], lines
    assert "LINE 5 that Python warns of" in " ".join(lines), lines
    assert "LINE 11 after the bars" in lines
    assert not [line for line in lines if "━" in line or "/10" in line], "a bar was torn"
    assert all(any(other in line for line in lines) for other in others), lines


@pytest.mark.parametrize("width", [40, 80, 200])
def test_bars_are_not_torn_by_lines(width: int) -> None:
    text = draw(width)
    assert_whole(seen(text, width))
    every = re.split(r"[\r\n]+", CONTROL.sub("", text))
    drawn = [line for line in every if "/10" in line]
    assert "/?" not in text and any(re.search("finetune mrpc.* 10 ", f"{line} ") for line in every), "no total is known"
    assert len(drawn) >= 10, "the bars are drawn again after every line"
    assert max(map(len, drawn)) <= width and all("pretraining" in line for line in drawn)


def test_lines_of_prefect_do_not_tear_them_either(tmp_path: Path) -> None:
    assert_whole(seen(draw(80, *PREFECT, COGITO_HOME=str(tmp_path)), 80), {"LINE 5 of Prefect"})


def test_without_colours_they_are_bars_still() -> None:
    text = draw(80, NO_COLOR="1")
    assert_whole(seen(text, 80))
    assert not re.search(r"\x1b\[[\d;]*3\d[;m]", text) and "/10" in text


def test_a_dumb_terminal_gets_lines_alone() -> None:
    text = draw(80, TERM="dumb")
    assert "\x1b" not in text and "/10" not in text
    assert_whole(seen(text, 80))
    assert text.count("pretraining: done") == 1


def test_a_file_gets_a_line_for_each_stage_and_no_control_character() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "FORCE_COLOR"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WORK.format(more="", other="pass")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", done.stderr) and not done.stdout
    assert [line for line in done.stderr.splitlines() if "done" in line] == ["pretraining: done"]
    assert_whole(done.stderr.splitlines())
