"""The Hub: its address, its client, whether it answers, and which of its errors are transient.

huggingface_hub is imported late: the probe does not need it, so a missing network is noticed in seconds.
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
# A request fails after this long without a byte. The Hub itself ends a commit after a minute.
SILENCE_SECONDS = 90.0
# The longest wait that is granted to the Hub, whose rate limits count over five minutes.
LONGEST_WAIT_SECONDS = 300.0

# Exceptions of the HTTP client of huggingface_hub, by name: the client's package has changed before.
_TRANSIENT_NAMES = {"TimeoutException", "NetworkError", "RemoteProtocolError", "ProxyError"}


def hub_endpoint() -> str:
    """The address of the Hub: HF_ENDPOINT, else huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_offline() -> bool:
    """Whether the user has forbidden the Hub by HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE)."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def hub_reachable() -> bool:
    """Whether the Hub, or the proxy on the way to it, accepts a connection within 2 s; probed once per process."""
    return not hub_offline() and _probe(*_first_hop())


def hub_api() -> "HfApi":
    """The client of the Hub, with a timeout for every request."""
    from huggingface_hub import HfApi

    _bound_silence()
    return HfApi(endpoint=hub_endpoint())


@cache
def _bound_silence() -> None:
    """Set the default timeout: without one, the client waits for ever in calls that state none, such as uploads."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def client() -> Any:
        made = default_client_factory()
        made.timeout = type(made.timeout)(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        return made

    set_client_factory(client)


def is_transient(error: BaseException) -> bool:
    """Whether the next try may succeed: no connection, a timeout, 408, 429, 5xx, or a concurrent write (409, 412)."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if "OfflineModeIsEnabled" in names:
        return False
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        # 501 (not implemented) and 507 (no room left) do not pass by waiting.
        return status in (408, 409, 412, 429) or (status >= 500 and status not in (501, 507))
    if isinstance(error, ConnectionError | TimeoutError) or names & _TRANSIENT_NAMES:
        return True
    # A download that lost its connection surfaces as "not in the cache", with the reason as its cause.
    return error.__cause__ is not None and is_transient(error.__cause__)


def asked_wait(error: BaseException) -> float:
    """The seconds that the Hub requests to wait before the next try; 0 if it states none."""
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", {})
    stated = [headers.get("retry-after", "")]
    if getattr(response, "status_code", None) == 429:  # every response states the rate; a 429 says that it is used up
        stated.append(headers.get("ratelimit", "").rpartition("t=")[2])
    return min(max((float(text) for text in stated if text.isdigit()), default=0.0), LONGEST_WAIT_SECONDS)


def gave_up(error: BaseException) -> str:
    """The message about a transient error that outlasted all retries."""
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

    # In a thread: a name lookup has no timeout of its own, and may take half a minute without a network.
    prober = threading.Thread(target=connect, daemon=True)
    prober.start()
    prober.join(PROBE_SECONDS)
    return connected.is_set()
