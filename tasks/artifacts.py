"""Prefect artifacts: the tables, pictures and progress that a stage shows in the UI while it works.

They are for watching: a server that is away must neither fail a stage nor hold it up.
"""

import base64
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks.jobs.messages import OnProgress, Progress
from tasks.prefect_entry import (
    PREFECT_API_URL,
    ArtifactUpdate,
    FlowRunContext,
    TaskRunContext,
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    get_client,
    update_progress_artifact,
)
from tasks.progress import DISPLAY
from tasks.secrets import redact_all

log = logging.getLogger("cogito.stages")

DEFAULT_PORTS = {"http": 80, "https": 443}
# Seconds between two updates of a progress artifact; each costs the server and its client some 20 ms of the CPU.
UPDATE_SECONDS = 5.0
# Set while artifacts fail: Prefect's client retries for a minute, in which nothing would listen to the job.
_unseen = threading.Event()


def show(create: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Create an artifact without secrets; None outside a flow run, and, with a warning, where the server fails."""
    outside = FlowRunContext.get() is None and TaskRunContext.get() is None
    if outside or (_unseen.is_set() and not _server_listens()):
        return None
    try:
        made = create(*map(redact_all, args), **redact_all(kwargs))
        _unseen.clear()
        return made
    except Exception as error:
        _unseen.set()
        log.warning("an artifact could not be shown, the work goes on: %s", error)
        return None


def show_image(path: Path, key: str, description: str, earlier: Any = None) -> Any:
    """Show a PNG file as an artifact, or as the new content of one.

    A second artifact of the same key would be one more node in the graph of the flow run, whose bars make room for it.

    Args:
        earlier: what the call returned that showed an earlier state of the picture.

    Returns:
        The artifact; None where it could not be shown.
    """
    address = _address(path.read_bytes())
    if earlier is None:
        return show(create_image_artifact, address, key=key, description=description)
    show(_replace, earlier, address)
    return earlier


def _replace(artifact: Any, data: str) -> None:
    with get_client(sync_client=True) as client:
        client.update_artifact(artifact, ArtifactUpdate(data=data))


def show_summary(report: Path, picture: bytes, key: str) -> None:
    """Show the first screen of a run's `report.md` as an artifact, its summary picture inside it.

    Args:
        picture: the summary picture as PNG.
    """
    first_screen = report.read_text(encoding="utf-8").partition("\nContents: ")[0]
    text = first_screen.replace("](report/summary.svg)", f"]({_address(picture)})")
    show(create_markdown_artifact, text, key=key, description="What came out")


def _address(png: bytes) -> str:
    """A picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def artifact_key(*parts: str) -> str:
    """An artifact key from free names: lower-case letters, digits and dashes."""
    return "-".join(parts).lower().replace("_", "-").replace(".", "-")


def show_progress(title: str, note: Callable[[dict[str, float]], str]) -> OnProgress:
    """A listener that shows a job's progress in the terminal and, every few seconds, as an artifact.

    Args:
        title: what is under way.
        note: a few words about the latest figures.
    """
    artifact: Any = None
    last = 0.0

    def report(progress: Progress) -> None:
        nonlocal artifact, last
        done, total = progress.step, progress.steps or 0
        text = note(progress.figures)
        DISPLAY.update(title, done, total or None, text)
        now = time.monotonic()
        if TaskRunContext.get() is None or (now - last < UPDATE_SECONDS and done != total):
            return
        last = now
        shown = {"progress": 100.0 * done / total if total else 0.0, "description": f"{title} {text}"}
        if artifact is None:
            artifact = show(create_progress_artifact, **shown)
        else:
            show(update_progress_artifact, artifact_id=artifact, **shown)

    return report


def _server_listens() -> bool:
    """Whether the Prefect server accepts a connection, found out within a second."""
    parts = urlsplit(PREFECT_API_URL.value() or "")
    try:
        with socket.create_connection((parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]), timeout=1):
            return True
    except (OSError, KeyError):
        return False
