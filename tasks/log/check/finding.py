"""What a rule finds. A finding is never an edit."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tasks.log.check.figures import Place

Severity = Literal["error", "warning", "note"]
Rule = Literal[
    "at-floor",
    "collapse-claim",
    "contradiction",
    "dates-disagree",
    "identity",
    "impossible-pair",
    "impossible-score",
    "loss-kinds",
    "missing-provenance",
    "mixed-units",
    "noise",
    "open-entry",
    "out-of-range",
    "shared-value",
    "versions-differ",
    "wrong-delta",
    "wrong-link",
    "wrong-percentage",
    "young-tag",
]
RULE_NAMES: tuple[str, ...] = get_args(Rule)


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        line: from 1, in `file`, or in the log where that is None.
        row, column: run id of the row and header of the column, None outside the tables.
        rule: its name in `docs/log.md`; one function can find several.
        confidence: 0 to 1, how sure it is that something is wrong.
        evidence: the text and the figures that it rests on.
    """

    line: int
    row: str | None
    column: str | None
    rule: Rule
    severity: Severity
    confidence: float
    message: str
    evidence: str
    file: str | None = None

    @classmethod
    def at(
        cls,
        place: Place,
        rule: Rule,
        severity: Severity,
        confidence: float,
        message: str,
        evidence: str,
        file: Path | None = None,
    ) -> "Finding":
        return cls(
            place.line,
            place.row,
            place.column,
            rule,
            severity,
            round(confidence, 2),
            message,
            evidence,
            str(file) if file else None,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
