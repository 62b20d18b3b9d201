"""What the user is told when something is wrong: one message with what, got, allowed and fix."""

from collections.abc import Iterable
from difflib import get_close_matches

from tasks.secrets import redact


class PublicError(Exception):
    """An error whose message is shown, stored and logged, so it never holds a secret."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class UserError(PublicError):
    """Bad input. The command prints the message alone and exits with code 2."""


class StageError(PublicError):
    """A stage did its work and failed. The command goes on with what can run and exits with code 1."""


class Paused(Exception):
    """Work was told to pause and has saved where it is; the same command goes on. Exit code 0."""


class RunPaused(Paused):
    """A run was told to pause; the message begins with its id."""


def unknown_name(kind: str, got: object, allowed: Iterable[str]) -> str:
    """The sentence for a name that a table does not hold, with the nearest one and the whole list."""
    names = sorted(allowed)
    text = str(got)[:200]  # who types more meant no name
    near = get_close_matches(text, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {text!r}: {hint}allowed: {', '.join(names)}"
