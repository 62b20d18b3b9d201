"""What a rule reports: findings, and the rows of which its module makes them. A finding is never an edit."""

from dataclasses import asdict, dataclass, replace
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
        line: counted from 1, in `file`, or in the log where that is None.
        row, column: run id of the row and header of the column, None outside the tables.
        rule: its name in `docs/log.md`; one function can report several.
        confidence: 0 to 1, how sure it is that something is wrong.
        evidence: the text and the figures that the finding rests on.
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

    def as_json(self) -> dict[str, Any]:
        """The finding as `--json` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class Kind:
    """One row of a table of findings: what a rule reports, how grave and how sure it is, and its words.

    Attributes:
        message: a format string; `at` fills in the facts.
    """

    rule: Rule
    severity: Severity
    confidence: float
    message: str

    def at(self, place: Place, evidence: str, **facts: Any) -> Finding:
        """The finding at a place."""
        sure, message = round(self.confidence, 2), self.message.format(**facts)
        return Finding(place.line, place.row, place.column, self.rule, self.severity, sure, message, evidence)

    def with_confidence(self, confidence: float) -> "Kind":
        """The same kind where the facts decide how sure it is."""
        return replace(self, confidence=confidence)
