"""The Hub as others ask about it: its address, whether it answers, and which of its errors pass by themselves.

The probe needs no huggingface_hub, so a missing network is found in seconds.
"""

import os
import socket
import threading
import urllib.request
from functools import cache
from urllib.parse import urlsplit

from tasks.secrets import redact

PROBE_SECONDS = 2.0

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


def is_transient(error: BaseException) -> bool:
    """Whether an error of the Hub may be gone on the next try: no connection, a timeout, 408, 429 or 5xx."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if "OfflineModeIsEnabled" in names:
        return False
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in (408, 429) or status >= 500
    if isinstance(error, ConnectionError | TimeoutError) or names & _TRANSIENT_NAMES:
        return True
    # A download that lost its connection surfaces as "not in the cache", with the reason as its cause.
    return error.__cause__ is not None and is_transient(error.__cause__)


def plain_text(error: BaseException) -> str:
    """The message of a Hub error on one line, without the token."""
    return redact(" ".join(str(error).split()))


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
