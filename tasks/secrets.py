"""Removal of secrets: tokens, keys and passwords never leave a process in a text.

Logs, messages, records, rows, artifacts, reports and model cards all pass through `redact`; nothing else looks for
secrets.
"""

import base64
import fnmatch
import functools
import logging
import os
import re
import sys
from typing import Any
from urllib.parse import quote

# Environment variables that hold a secret.
SECRETS = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_HUB_TOKEN",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
    "WANDB_API_KEY",
)
HIDDEN = "***"
_SHORTEST = 8  # a shorter secret would match inside ordinary words

# Keys in the formats of known services, and the account in a URL.
_KEY = re.compile(
    r"\b(?:hf|gh[opsu]|github_pat|pn[bu]|wandb_v1)_\w{16,}|\bapi_org_\w{16,}|\bAKIA[0-9A-Z]{16}\b|(?<=://)[^/@\s]+(?=@)"
)
# A value that follows a name such as `token=` or `password:`, but no hint: "unknown key 'token': did you mean".
_NAMED = re.compile(
    r"((?:token|secret|password|passwd|(?:api|access|private)[_-]?key|auth_string)[\"']?\s*[=:]\s*[\"']?|bearer\s+"
    r"|authorization[\"']?\s*[=:]\s*[\"']?(?:(?:basic|bearer|token)\s+)?|[?&](?:x-amz-)?(?:sig|signature|credential|auth|key)=)"
    r"(?!did you mean |allowed: )[^\s,;&)\"']+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """The text with every secret of this process, and whatever looks like a secret, replaced by `***`."""
    return _redact(text, _own_secrets())


def _redact(text: str, secrets: list[str]) -> str:
    text = _hide_known_forms(text)
    for value in secrets:
        if value in text:
            text = text.replace(value, HIDDEN)
    return text


def _hide_known_forms(text: str) -> str:
    return _NAMED.sub(rf"\1{HIDDEN}", _KEY.sub(HIDDEN, text))


def environment_without_secrets(*needed: str) -> dict[str, str]:
    """The environment for another process: this one's, without variables whose name or value suggests a secret.

    Args:
        needed: names that the other process needs all the same, or patterns such as `*_PROXY`.
    """

    def passes(name: str, value: str) -> bool:
        if any(fnmatch.fnmatchcase(name.upper(), pattern) for pattern in needed):
            return True
        return name not in SECRETS and _hide_known_forms(stated := f"{name}={value}") == stated

    return {name: value for name, value in os.environ.items() if passes(name, value)}


def redact_all(value: Any) -> Any:
    """The value with `redact` applied to every text in its lists and mappings, keys included."""
    secrets = _own_secrets()  # once: the Hub's token is read from a file

    def public(value: Any) -> Any:
        if isinstance(value, str):
            return _redact(value, secrets)
        if isinstance(value, dict):
            return {public(key): public(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(public, value))
        return value

    return public(value)


def redact_logs() -> None:
    """Apply `redact` to every line that this process logs, from any library; calling it again changes nothing."""
    made = logging.getLogRecordFactory()
    if getattr(made, "redacts", False):
        return

    @functools.wraps(made)
    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = made(*args, **kwargs)
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # logging itself reports the mistake
            return record
        if (public := redact(text)) != text:
            record.msg, record.args = public, ()
        if record.exc_info and record.exc_info[1] is not None:
            # Formatters use this text if it is set.
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return record

    make.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make)


def _own_secrets() -> list[str]:
    """The secrets of this process, as they are and as they appear in URLs and headers."""
    values = [os.environ.get(name, "") for name in SECRETS]
    hub = sys.modules.get("huggingface_hub")  # `hf auth login` stores a token in a file
    if hub is not None:
        values.append(hub.get_token() or "")
    long = [value for value in values if len(value) >= _SHORTEST]
    coded = [quote(value, safe="") for value in long]
    coded += [base64.b64encode(value.encode()).decode().rstrip("=") for value in long]
    return sorted({*long, *coded}, key=len, reverse=True)
