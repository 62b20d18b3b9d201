"""The report of a run or of a sweep: what was run, its results beside their floors, what it cost, what failed.

A report is made from records alone (`record.json`, `pretraining/curve.jsonl`, `analysis/geometry.npz`,
`comparison.json`), so it can be made again at any time, and the same records give the same bytes. It names what they
lack as not measured.
Example: `cogito report RUN --baseline OTHER`
"""

from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from tasks.errors import UserError
from tasks.report.explanations import PLOTS
from tasks.report.rendering import NARROW, PICTURES, Report, to_html, to_markdown
from tasks.report.run import run_report
from tasks.report.sweep import read_sweep, sweep_report
from tasks.review.sides import run_side
from tasks.store.files import write_atomic
from tasks.store.home import Home, RunFolder
from tasks.store.records import load_record
from tasks.store.run_names import run_called

# Every picture that a report may have.
DRAWN = (*PLOTS, "summary", "summary" + NARROW, "swept" + NARROW)


def write_report(
    name: str | Path, home: Home, *, baseline: str | Path | None = None, output: Path | None = None
) -> list[Path]:
    """Write `report.md`, `report.html` and the pictures of a run or a sweep; of a sweep those of its runs as well.

    Args:
        name: id or folder of a run or of a sweep.
        baseline: id or folder of a run to compare with.
        output: folder; default the run's or the sweep's own.

    Returns:
        The two files.

    Raises:
        UserError: there is no such run, its record cannot be read, or the folder cannot be written.
    """
    folder, home = _find(name, home)
    against = None
    if baseline is not None:
        against_folder, _ = _find(baseline, home)
        if not (against_folder / "record.json").exists():
            raise UserError(f"--baseline {baseline}: is a sweep; allowed: the id or folder of one run")
        if against_folder.samefile(folder):
            raise UserError(f"--baseline {baseline}: is the run itself; fix: name another run")
        against = run_side(load_record(RunFolder(against_folder)), RunFolder(against_folder))
    target = output or folder
    if (folder / "record.json").exists():
        return _write(run_report(RunFolder(folder), against), target)
    rows, runs = read_sweep(folder, home)
    for run in runs:
        if run.record is not None:
            other = against if against is None or against.name != run.run_id else None
            _write(run_report(home.run(run.run_id), other), target / "runs" / run.run_id)
    return _write(sweep_report(folder, rows, runs, against), target)


def is_current(folder: Path) -> bool:
    """Whether the report of a run is whole and younger than its record and this code, so that it would be the same."""
    files = [folder / name for name in ("report.md", "report.html", f"{PICTURES}/summary.svg")]
    code = Path(__file__).parent
    sources = [folder / "record.json", *code.glob("*.py"), *code.glob("templates/*")]
    try:
        return min(file.stat().st_mtime_ns for file in files) > max(file.stat().st_mtime_ns for file in sources)
    except FileNotFoundError:
        return False


def _find(name: str | Path, home: Home) -> tuple[Path, Home]:
    """The folder of a run or a sweep by its id or path, and the home that it lies in."""
    runs, sweeps = home.root / "runs", home.root / "sweeps"
    with suppress(OSError):  # a name that no folder can have
        for folder in (runs / name, sweeps / name, Path(name).resolve()):
            if (folder / "record.json").is_file():
                return folder, home
            if (folder / "comparison.json").is_file():
                return folder, Home(folder.parent.parent) if folder.parent.name == "sweeps" else home
    if run := run_called(str(name), home):
        return run.root, home
    known = {path.parent.name for path in (*runs.glob("*/record.json"), *sweeps.glob("*/comparison.json"))}
    near = get_close_matches(Path(name).name, sorted(known), n=1, cutoff=0.5)
    raise UserError(
        f"no run or sweep {str(name)!r}: {f'did you mean {near[0]!r}? ' if near else ''}allowed: the id or folder of "
        f"one of the {len(known)} runs and sweeps under {home.root}; fix: `cogito runs` lists them, "
        "COGITO_HOME names where they lie"
    )


def _write(report: Report, folder: Path) -> list[Path]:
    pictures = {}
    try:
        for plot in report.plots:
            if plot.draw is not None:
                path = folder / PICTURES / f"{plot.name}.svg"
                plot.draw(path=path)
                pictures[plot.name] = path.read_bytes()
        for name in DRAWN:  # left by an earlier report, whose pictures were PNG; other files stay
            (folder / PICTURES / f"{name}.png").unlink(missing_ok=True)
            if name not in pictures:
                (folder / PICTURES / f"{name}.svg").unlink(missing_ok=True)
        markdown = to_markdown(report)
        write_atomic(folder / "report.md", markdown)
        write_atomic(folder / "report.html", to_html(markdown, report.title, pictures))
    except OSError as error:
        raise UserError(
            f"{folder}: the report cannot be written ({error.strerror or error}); fix: --output with a folder of yours"
        ) from None
    return [folder / "report.md", folder / "report.html"]
