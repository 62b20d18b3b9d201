"""The errors that a user sees: one message states what is wrong, what was given, what is allowed and how to fix it."""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from tasks.secrets import redact

# Names of the states in which a stage, or a flow, ends.
BAD_INPUT = "Bad input"
PAUSED = "Paused"

Key = TypeVar("Key")
Result = TypeVar("Result")


class PublicError(Exception):
    """An error whose message is shown, stored and logged; secrets are removed from it."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class UserError(PublicError):
    """Bad input. The command prints the message alone and exits with code 2."""


class StageError(PublicError):
    """A stage failed. The command continues with whatever does not depend on it and exits with code 1."""


class Paused(Exception):
    """Work has paused and saved its state; the same command continues it. Exit code 0."""


class RunPaused(Paused):
    """A run was paused; the message begins with its id."""

    def __init__(self, message: str, run_id: str | None = None) -> None:
        super().__init__(message)
        self.run_id = run_id


class RunFailed(StageError):
    """A run came to its end with stages that failed; the message begins with its id."""

    def __init__(self, message: str, run_id: str | None = None) -> None:
        super().__init__(message)
        self.run_id = run_id


def try_all(attempts: Mapping[Key, Callable[[], Result]], what: str = "") -> dict[Key, Result]:
    """The result of every attempt by its key; `what` stands before each line of a message, with the key for its `{}`.

    Raises:
        UserError: some attempts found bad input; with every line of their messages once.
    """
    results: dict[Key, Result] = {}
    lines: list[str] = []
    for key, attempt in attempts.items():
        try:
            results[key] = attempt()
        except UserError as error:
            lines += [f"{what.format(key)}{line}" for line in str(error).split("\n")]
    if lines:
        raise UserError("\n".join(dict.fromkeys(lines)))
    return results


def unknown_name(kind: str, got: object, allowed: Iterable[str]) -> str:
    """The message for a name that is not in a table, with the nearest name and all allowed ones."""
    names = sorted(allowed)
    text = str(got)[:200]  # no name is longer
    near = get_close_matches(text, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {text!r}: {hint}allowed: {', '.join(names)}"
