"""All benchmarks of speed and memory by one command: rows as JSON, tables and plots for docs/benchmarks.md.

Run: `python -m benchmarks [NAME ...] [--quick] [--output docs]` (`make bench`; Linux)
Writes `benchmarks.json`, the tables between their marks in `benchmarks.md`, and the plots `NAME.png`.

To add one: a line in TABLE, and a module of that name with

    TITLE: str
    def rows(quick: bool) -> list[dict[str, Cell]]   # one for each line of the table, with the same keys; a list or
                                                     # tuple of three numbers is a median with its range
    def plot(rows, path: Path) -> None               # where there is something to draw

What `rows` times or weighs, it calls through `measuring.fresh`: in a process of its own, with one thread and the
allocator of a job on a CPU. `quick` is the size of the tests: seconds. What models learn is measured by commands of
their own: findings, initialisation, collapse_figures, blocks.
"""

import argparse
import importlib
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import ENVIRONMENT

Cell = str | float | None | Sequence[float]
Row = dict[str, Cell]
TABLE = ("step", "loss", "memory", "peers", "scaling", "text", "suite", "processes")
ROOT = Path(__file__).resolve().parents[1]


def shown(cell: Cell) -> str:
    """Three digits; a median with its range."""
    if isinstance(cell, list | tuple):
        middle, low, high = map(shown, cell)
        return f"**{middle}** ({low} to {high})"
    if isinstance(cell, float) and abs(cell) < 1000:
        return f"{cell:.3g}"
    return f"{cell:,.0f}" if isinstance(cell, int | float) else cell or ""


def markdown(rows: Sequence[Row]) -> str:
    """A table with the keys of the rows as its head."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([shown(cell) for cell in row.values()] for row in rows)]
    return "\n".join("|" + "|".join(f" {cell} " if cell != "---" else cell for cell in line) + "|" for line in lines)


def placed(text: str, name: str, title: str, table: str) -> str:
    """The document with a table between its marks; a section at its end where it has none."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if begin not in text:
        return f"{text}\n## {title}\n\n{begin}{table}\n{end}\n"
    before, _, rest = text.partition(begin)
    return f"{before}{begin}{table}\n{rest[rest.index(end) :]}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write what was measured after each benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TABLE)}; all without")
    parser.add_argument("--quick", action="store_true", help="a size for tests; the figures mean nothing")
    parser.add_argument("--output", type=Path, default=ROOT / "docs")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(TABLE):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; allowed: {', '.join(TABLE)}")
    if options.quick and options.output == ROOT / "docs":
        parser.error("--quick measures nothing worth keeping; name another folder with --output")
    results, document = options.output / "benchmarks.json", options.output / "benchmarks.md"
    found = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    os.environ |= ENVIRONMENT
    for name in options.names or TABLE:
        started, module = time.monotonic(), importlib.import_module(f"benchmarks.{name}")
        rows = module.rows(options.quick)
        print(f"{module.TITLE} ({time.monotonic() - started:.0f} s)\n\n{markdown(rows)}\n", flush=True)
        found[name] = {"title": module.TITLE, "commit": commit.stdout.strip(), "rows": rows}
        results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        text = document.read_text(encoding="utf-8") if document.exists() else "# Benchmarks\n"
        document.write_text(placed(text, name, module.TITLE, markdown(rows)), encoding="utf-8")
        if hasattr(module, "plot"):
            module.plot(rows, options.output / f"{name}.png")


if __name__ == "__main__":
    main()
