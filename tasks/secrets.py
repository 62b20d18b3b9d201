"""What must not be shown: tokens, keys and passwords. One function takes them out of every text that leaves a process.

It stands before logs, messages, records, rows, artifacts, reports and model cards; nothing else looks for secrets.
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

# Variables that hold a secret.
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
_SHORTEST = 8  # a shorter one would be found inside words

# What looks like a key of a service, or is the account in an address.
_KEY = re.compile(
    r"\b(?:hf|gh[opsu]|github_pat|pn[bu]|wandb_v1)_\w{16,}|\bapi_org_\w{16,}|\bAKIA[0-9A-Z]{16}\b|(?<=://)[^/@\s]+(?=@)"
)
# What is called a secret, after its name.
_NAMED = re.compile(
    r"((?:token|secret|password|passwd|(?:api|access|private)[_-]?key|auth_string)[\"']?\s*[=:]\s*[\"']?|bearer\s+"
    r"|authorization[\"']?\s*[=:]\s*[\"']?(?:(?:basic|bearer|token)\s+)?|[?&](?:x-amz-)?(?:sig|signature|credential|auth|key)=)"
    r"[^\s,;&)\"']+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """A text without what looks like a secret, or is one of this process."""
    text = _hide_known_forms(text)
    for value in _own_secrets():
        if value in text:
            text = text.replace(value, HIDDEN)
    return text


def _hide_known_forms(text: str) -> str:
    return _NAMED.sub(rf"\1{HIDDEN}", _KEY.sub(HIDDEN, text))


def environment_without_secrets(*needed: str) -> dict[str, str]:
    """This process's environment for another one, without what is called or looks like a secret.

    Args:
        needed: names that the other process has work for, or patterns of them like `*_PROXY`.
    """

    def hands_on(name: str, value: str) -> bool:
        if any(fnmatch.fnmatchcase(name.upper(), pattern) for pattern in needed):
            return True
        return name not in SECRETS and _hide_known_forms(stated := f"{name}={value}") == stated

    return {name: value for name, value in os.environ.items() if hands_on(name, value)}


def redact_all(value: Any) -> Any:
    """The same for every text inside lists and mappings."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_all(key): redact_all(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(redact_all, value))
    return value


def redact_logs() -> None:
    """Have every line that this process logs, whoever writes it, go through `redact`; may be called again."""
    made = logging.getLogRecordFactory()
    if getattr(made, "redacts", False):
        return

    @functools.wraps(made)
    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = made(*args, **kwargs)
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # logging itself says what is wrong with it
            return record
        if (public := redact(text)) != text:
            record.msg, record.args = public, ()
        if record.exc_info and record.exc_info[1] is not None:
            # Formatters take this text where there is one.
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return record

    make.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make)


def _own_secrets() -> list[str]:
    """The secrets of this process, also in the forms in which they stand in addresses and headers."""
    values = [os.environ.get(name, "") for name in SECRETS]
    hub = sys.modules.get("huggingface_hub")  # `hf auth login` stores one in a file
    if hub is not None:
        values.append(hub.get_token() or "")
    long = [value for value in values if len(value) >= _SHORTEST]
    coded = [quote(value, safe="") for value in long]
    coded += [base64.b64encode(value.encode()).decode().rstrip("=") for value in long]
    return sorted({*long, *coded}, key=len, reverse=True)
