"""What the libraries under Cogito may write and say: their state lies in COGITO_HOME, and nothing is reported home.

Libraries read these settings when they are imported, so they are set before: by the command for all that it does, and
by `tasks.prefect_entry` for whoever comes without the command. None of them is imported here.
"""

import os
import tempfile
from pathlib import Path

from tasks.store.home import home_root

LOOPBACK = "127.0.0.1"
# A run whose process was killed would stay Running for ever: after three missing heartbeats the server crashes it.
HEARTBEAT_SECONDS = 30

# Settings of every library; a value that the user has set wins.
SETTINGS = {
    "DO_NOT_TRACK": "1",  # Prefect, huggingface_hub and what else heeds it
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_ERROR_REPORTING": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # The second UI asks an analytics host for its settings even with analytics off; it stays one click away.
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    # A run of a deployment with a limit ends when its lease is gone, so leases outlive a restart of the server.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # Without a server the stages run in this process; Prefect must not start a temporary server of its own.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    # Our own lines belong in the run's log too; outside a run there is nowhere to send them.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "cogito",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
# Folders that libraries would put into the user's own, by the name that they have in COGITO_HOME/cache.
FOLDERS = {
    "MPLCONFIGDIR": "matplotlib",
    "WANDB_CACHE_DIR": "wandb",
    "WANDB_DATA_DIR": "wandb",
    "TRITON_CACHE_DIR": "triton",
}
# Where torch keeps what it compiles.
COMPILER = "TORCHINDUCTOR_CACHE_DIR"


def compiler_folder(root: Path | None = None) -> str:
    """Where torch shall keep what it compiles: as the user has set it, else in the home once there is one.

    torch makes this folder when it is imported, which input that is refused does too, so until there is a home it is
    that of temporary files. A job asks again when it starts.
    """
    root, given, temporary = root or home_root(), os.environ.get(COMPILER), tempfile.gettempdir()
    if given and given != temporary:
        return given
    return str(root / "cache" / "torchinductor") if root.exists() else temporary


def configure_libraries(root: Path | None = None) -> None:
    """Set the environment that libraries read; writes no file.

    The user's own settings win, with one exception: PREFECT_HOME is the home's own folder unless PREFECT_API_URL is
    set too, since a local server shares its database with everything else in its PREFECT_HOME.

    Args:
        root: of the home; default that of COGITO_HOME.
    """
    root = root or home_root()
    if os.environ.get("PREFECT_API_URL"):
        os.environ.setdefault("PREFECT_HOME", str(root / "prefect"))
    else:
        os.environ["PREFECT_HOME"] = str(root / "prefect")
    if not os.environ.get("PREFECT_LOGGING_LEVEL"):
        # The terminal shows warnings only; the run's log in the UI keeps everything from INFO on.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
    for name, folder in FOLDERS.items():
        os.environ.setdefault(name, str(root / "cache" / folder))
    os.environ[COMPILER] = compiler_folder(root)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if any(os.environ.get(name) for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")):
        # Prefect's client would ask the proxy even for this machine's own server.
        hosts = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")
        direct = ",".join(dict.fromkeys([*filter(None, hosts), LOOPBACK, "localhost"]))
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = direct
