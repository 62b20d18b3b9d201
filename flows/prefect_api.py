"""The requests we make to a Prefect server over HTTP, a local one or Prefect Cloud, and what its errors mean.

Prefect itself is not imported here: that costs 1.5 s, and it reads its settings when it is imported.
"""

import base64
import json
import os
import re
import threading
from importlib.metadata import version
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import ProxyHandler, Request, build_opener

from tasks.errors import UserError
from tasks.libraries import HEARTBEAT_SECONDS, LOOPBACK
from tasks.secrets import redact

FIRST_PORT = 4200

# States of a run whose process should be alive.
ALIVE = ("PENDING", "RUNNING", "CANCELLING")

# Set when a run came to its end without a server to tell it to.
server_lost = threading.Event()

# The tag of all our flow runs, of the command and of deployments.
OUR_TAG = "cogito"
OUR_FLOWS = ["experiment", "evaluation", "sweep"]
SILENT_RUN_AUTOMATION: dict[str, Any] = {
    "name": "Crash silent flow runs",
    "description": "A flow run that gave no sign of life for 90 s has lost its process. Made by cogito.",
    "enabled": True,
    "trigger": {
        "type": "event",
        "posture": "Proactive",
        "match": {"prefect.resource.id": ["prefect.flow-run.*"]},
        # Ours alone: other flows send a heartbeat every 180 s, Prefect's default, and would be marked crashed.
        "match_related": [
            {"prefect.resource.role": "flow", "prefect.resource.name": OUR_FLOWS},
            {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{OUR_TAG}"},
        ],
        "for_each": ["prefect.resource.id"],
        "after": ["prefect.flow-run.heartbeat"],
        # Any state by any name is a sign of life: the last one of a run, of whatever name, ends the watch.
        "expect": ["prefect.flow-run.*"],
        "threshold": 1,
        "within": 3 * HEARTBEAT_SECONDS,
    },
    "actions": [{"type": "change-flow-run-state", "state": "CRASHED", "message": "No heartbeat for 90 s."}],
}


def why_unhealthy(api_url: str, timeout_seconds: float) -> str | None:
    """None for a healthy Prefect API, else what is wrong with it.

    Any web server may answer with 200, even Prefect's own UI for a wrong path; only the API answers `true`.
    """
    try:
        status, body = _request(f"{api_url}/health", timeout_seconds)
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors
        return str(getattr(error, "reason", error))
    if status in (401, 403) or (status == 200 and body.strip() == b"true"):
        return None  # 401 and 403: Prefect Cloud reports its health only with the key, which Prefect itself sends
    return f"it answers, but not as a Prefect API (status {status})"


def ask(url: str, body: Any, method: str = "POST") -> Any:
    """Send something to a Prefect API and return its answer; None where it has none.

    Raises:
        OSError: there is no answer, or its status is not success.
        ValueError: the answer is not JSON.
    """
    status, answer = _request(url, 10, body, method, known=True)
    if status not in (200, 201, 204):
        raise OSError(f"{urlsplit(url).path} answered with status {status}")
    return json.loads(answer) if answer else None


def _request(
    url: str, timeout_seconds: float, body: Any = None, method: str | None = None, *, known: bool = False
) -> tuple[int, bytes]:
    """Ask over HTTP; returns status and answer.

    Args:
        known: a Prefect API has answered there: another host than this one is told no secret before.
    """
    local = urlsplit(url).hostname in (LOOPBACK, "localhost")
    opener = build_opener(ProxyHandler({})) if local else build_opener()
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"}, method=method)
    secret = os.environ.get("PREFECT_API_AUTH_STRING")
    if local:  # ours inherits this setting from the process that starts it
        secret = secret or os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if local or known:  # urllib repeats ordinary headers wherever it is redirected
        if secret:
            request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}")
        elif key := os.environ.get("PREFECT_API_KEY"):
            request.add_unredirected_header("Authorization", f"Bearer {key}")
    try:
        with opener.open(request, timeout=timeout_seconds) as answer:
            return answer.status, answer.read(10_000_000)
    except HTTPError as error:
        with error:
            return error.code, b""


def server_version(api_url: str) -> str | None:
    """The version of Prefect that a server runs; None where it does not say."""
    try:
        status, body = _request(f"{api_url}/admin/version", 4)
        version = json.loads(body) if status == 200 else None
    except (OSError, ValueError):
        return None
    return version if isinstance(version, str) else None


def check_given(api_url: str) -> str:
    """The address of PREFECT_API_URL, once it has answered.

    Raises:
        UserError: no Prefect server answers there, or one of another major version.
    """
    reason = why_unhealthy(api_url.rstrip("/"), 4)
    theirs, ours = server_version(api_url.rstrip("/")), version("prefect")
    if reason is None and theirs is not None and theirs.partition(".")[0] != ours.partition(".")[0]:
        reason = f"it runs Prefect {theirs}, and this is Prefect {ours}: their major versions must match"
    if reason is None:
        return api_url
    raise UserError(
        f"PREFECT_API_URL: no Prefect server at {_without_account(api_url)}: {reason}; allowed: the API address of a "
        f"running server, like http://{LOOPBACK}:{FIRST_PORT}/api; fix: start that server, or unset PREFECT_API_URL "
        "to use one of our own"
    )


def crash_flow_run(api_url: str, run: str, message: str) -> None:
    """Mark a flow run crashed, and its tasks, where they have not ended.

    Raises:
        OSError, ValueError: the server did not accept it.
    """
    crashed = {"type": "CRASHED", "name": "Crashed", "message": message}
    whose = {"flow_runs": {"id": {"any_": [run]}}}
    flows, tasks = ({"state": {"type": {"any_": list(states)}}} for states in (ALIVE, (*ALIVE, "SCHEDULED")))
    queries = {"task_runs": whose | {"task_runs": tasks}, "flow_runs": {"flow_runs": flows | whose["flow_runs"]}}
    for kind, query in queries.items():
        for alive in ask(f"{api_url}/{kind}/filter", query):
            ask(f"{api_url}/{kind}/{alive['id']}/set_state", {"state": crashed, "force": True})


def watch_silent_runs(api_url: str) -> None:
    """Have the server mark runs crashed whose heartbeats stop; the automation is made or renewed, once per database.

    Raises:
        OSError, ValueError: the server did not accept it.
    """
    named = {"automations": {"name": {"any_": [SILENT_RUN_AUTOMATION["name"]]}}}
    known, trigger = ask(f"{api_url}/automations/filter", named), SILENT_RUN_AUTOMATION["trigger"]
    if not known:
        ask(f"{api_url}/automations/", SILENT_RUN_AUTOMATION)
    for automation in known:
        if any(
            automation["trigger"][key] != trigger[key] for key in ("expect", "match_related")
        ):  # an earlier version's
            ask(f"{api_url}/automations/{automation['id']}", SILENT_RUN_AUTOMATION, method="PUT")


def lost_server(error: BaseException) -> str | None:
    """What to tell the user when an error of Prefect's client means that its server is away; None for other errors."""
    seen: BaseException | None = error
    while seen is not None:
        try:
            request = seen.request  # type: ignore[attr-defined]
            if "x-prefect-api-version" in request.headers:
                shown = _without_account(str(request.url.copy_with(path="/")))
                reason = redact(" ".join(str(seen).split()) or type(seen).__name__)
                return (
                    f"the Prefect server at {shown} no longer answers as it should: {reason}; "
                    "what is done is saved; fix: run the same command again, which does nothing twice and "
                    "starts a server of our own anew (one that PREFECT_API_URL names is yours to start)"
                )
        except (AttributeError, RuntimeError):  # the error of another library, or one without a request
            pass
        seen = seen.__cause__ or seen.__context__
    return None


def ui_address(api_url: str) -> str:
    """The address of the UI that belongs to an API address, Prefect Cloud included."""
    parts = urlsplit(api_url.rstrip("/"))
    host = parts.netloc.replace("api.prefect.cloud", "app.prefect.cloud")
    path = re.sub("/(account|workspace)s/", r"/\1/", f"{parts.path}/".replace("/api/", "/"))
    return urlunsplit((parts.scheme, host, path.rstrip("/"), "", ""))


def _without_account(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
