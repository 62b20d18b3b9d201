"""`cogito log check`: what a log states that is impossible, contradicts itself or means too little.

Reads generated and hand-typed logs and changes nothing. A new rule is one function (document -> findings), a row of
RULES, and a row of Kind for each kind of finding it reports. Example:
`cogito log check master_experiment_log.md --reports docs --git . --json`
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from tasks.errors import UserError
from tasks.log.check.consistency import (
    contradictions,
    open_entries,
    shared_values,
    stated_deltas,
    versions_differ,
    wrong_deltas,
)
from tasks.log.check.document import Document
from tasks.log.check.finding import Finding
from tasks.log.check.meaning import at_floor, collapse_claims, loss_kinds, noise
from tasks.log.check.possibility import impossible_scores, mixed_units, out_of_range, wrong_percentages
from tasks.log.check.provenance import dates_disagree, identity_disagrees, missing_provenance, wrong_links, young_tags
from tasks.store.home import StrPath, user_path

# Rules that need nothing but the log, a line for each module.
RULES: tuple[Callable[[Document], Iterator[Finding]], ...] = (
    *(impossible_scores, out_of_range, wrong_percentages, mixed_units),
    *(wrong_links, dates_disagree, identity_disagrees, missing_provenance),
    *(wrong_deltas, stated_deltas, shared_values, open_entries),
    *(at_floor, noise, loss_kinds, collapse_claims),
)
# Rules that hold for any Markdown file that states figures.
REPORT_RULES = (impossible_scores, out_of_range, wrong_percentages, wrong_deltas, stated_deltas)
_ORDER = {"error": 0, "warning": 1, "note": 2}


def check_log(
    path: StrPath, *, against: StrPath | None = None, reports: StrPath | None = None, repository: StrPath | None = None
) -> list[Finding]:
    """Every finding of a log in the order of its lines, the gravest first within a line.

    Args:
        against: another version of the same log.
        reports: a folder of Markdown files that state figures of the same runs.
        repository: a Git checkout that holds the tags and commits of the log.

    Raises:
        UserError: a file or folder cannot be read.
    """
    log, other = user_path(path), None if against is None else user_path(against)
    document = Document.read(log)
    findings = [finding for rule in RULES for finding in rule(document)]
    findings += young_tags(document, None if repository is None else user_path(repository))
    files = [] if reports is None else _reports(user_path(reports), log, other)
    read = [Document.read(file, tuple(document.runs)) for file in files]
    findings += contradictions(document, read)
    if other is not None:
        findings += versions_differ(document, Document.read(other))
    for report in read:
        for rule in REPORT_RULES:
            findings += [replace(finding, file=str(report.path)) for finding in rule(report)]
    unique = dict.fromkeys(findings)
    return sorted(unique, key=lambda found: (found.file or "", found.line, _ORDER[found.severity], found.rule))


def _reports(folder: Path, *logs: Path | None) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"--reports {folder}: is not a folder; fix: name a folder of Markdown files")
    own = {path.resolve() for path in logs if path is not None}
    return sorted(path for path in folder.rglob("*.md") if path.is_file() and path.resolve() not in own)
