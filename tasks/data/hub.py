"""The Hub as others ask about it: its address, its client, whether it answers, and which of its errors pass.

The probe needs no huggingface_hub, so a missing network is found in seconds.
"""

import os
import socket
import threading
import urllib.request
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tasks.secrets import redact

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PROBE_SECONDS = 2.0
CONNECT_SECONDS = 10.0
# A Hub that says nothing for so long is given up on. The Hub itself ends a commit after a minute.
SILENCE_SECONDS = 90.0
# The longest wait that the Hub may ask for: its rates are counted over five minutes.
LONGEST_WAIT_SECONDS = 300.0

# Names of the exceptions of the HTTP client that huggingface_hub happens to use (its module has changed already).
_TRANSIENT_NAMES = {"TimeoutException", "NetworkError", "RemoteProtocolError", "ProxyError"}


def hub_endpoint() -> str:
    """The address of the Hub: HF_ENDPOINT, else huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_offline() -> bool:
    """Whether the user has forbidden the Hub by HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE)."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def hub_reachable() -> bool:
    """Whether the Hub, or the proxy on the way to it, takes a connection within 2 s; asked once per process."""
    return not hub_offline() and _probe(*_first_hop())


def hub_api() -> "HfApi":
    """The client of the Hub, with an end to its patience."""
    from huggingface_hub import HfApi

    _bound_silence()
    return HfApi(endpoint=hub_endpoint())


@cache
def _bound_silence() -> None:
    """By itself the client waits for ever where a call states no timeout, as those of an upload do."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def client() -> Any:
        made = default_client_factory()
        made.timeout = type(made.timeout)(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        return made

    set_client_factory(client)


def is_transient(error: BaseException) -> bool:
    """Whether an error of the Hub may be gone on the next try.

    That is: no connection, a timeout, 408, 429, 5xx, or 409 and 412, as somebody else wrote at the same moment.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if "OfflineModeIsEnabled" in names:
        return False
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        # Not implemented, and no room left: waiting changes neither.
        return status in (408, 409, 412, 429) or (status >= 500 and status not in (501, 507))
    if isinstance(error, ConnectionError | TimeoutError) or names & _TRANSIENT_NAMES:
        return True
    # A download that lost its connection surfaces as "not in the cache", with the reason as its cause.
    return error.__cause__ is not None and is_transient(error.__cause__)


def asked_wait(error: BaseException) -> float:
    """The seconds that the Hub asked to wait before the next try, 0 when it did not say."""
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", {})
    stated = [headers.get("retry-after", "")]
    if getattr(response, "status_code", None) == 429:  # every answer tells the rate, only this one that it is used up
        stated.append(headers.get("ratelimit", "").rpartition("t=")[2])
    return min(max((float(text) for text in stated if text.isdigit()), default=0.0), LONGEST_WAIT_SECONDS)


def gave_up(error: BaseException) -> str:
    """The message about an error that may pass and did not, however often it was tried."""
    return (
        f"the Hub does not answer as it should: {plain_text(error)}; "
        "fix: run the same command again later, nothing that is done is done again"
    )


def plain_text(error: BaseException) -> str:
    """The message of a Hub error on one line, without the token."""
    return redact(" ".join(str(error).split()) or type(error).__name__)


def _first_hop() -> tuple[str, int]:
    parts = urlsplit(hub_endpoint())
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts.hostname or "localhost", parts.port or (80 if parts.scheme == "http" else 443)


@cache
def _probe(host: str, port: int) -> bool:
    connected = threading.Event()

    def connect() -> None:
        try:
            with socket.create_connection((host, port), timeout=PROBE_SECONDS):
                connected.set()
        except OSError:
            pass

    # In a thread, because looking up a name has no timeout of its own and may take half a minute without a network.
    prober = threading.Thread(target=connect, daemon=True)
    prober.start()
    prober.join(PROBE_SECONDS)
    return connected.is_set()
