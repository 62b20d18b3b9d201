"""Every way in which the Hub can fail a publishing, over real HTTP with the real client and Prefect's real retries.

Whatever goes wrong: the checkpoint and its record stay whole on disk, a fault that passes is tried again and heals, any
other ends the stage with one message, the run goes on to its row, and the same command later leaves exactly one commit
and one tag.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import ROOT, environment
from factories import make_record
from hub_stand_in import ACCOUNT, TOKEN, Fault, HubStandIn, write_small_checkpoint
from safetensors.numpy import save_file

from tasks import stages
from tasks.data.hub import LONGEST_WAIT_SECONDS, asked_wait, is_transient
from tasks.store.files import check_manifest, write_manifest
from tasks.store.home import Home
from tasks.store.records import RunRecord, load_record

# A flow that publishes as `flows.experiment` does and goes on to the row. One process serves all cases, as starting
# Prefect takes longer than any of them. Only the waiting is shorter than a user's.
PUBLISHER = """
import json, sys, time
from pathlib import Path
import tasks.data.hub
tasks.data.hub.SILENCE_SECONDS = 2.0
from prefect import flow
from prefect.testing.utilities import prefect_test_harness
from flows.bookkeeping import finish_run, note_stage, settle
from tasks import stages
from tasks.store.records import load_record
from tasks.store.home import cogito_home
from tasks.spec.experiment import PublishSpec

publish = stages.publish_model.with_options(retry_delay_seconds=[0.3, 0.6, 1.2])

@flow
def publishing(run_id, log):
    run = cogito_home().run(run_id)
    record = load_record(run)
    started = time.monotonic()
    published, problem = settle(publish.submit(run.pretraining / "model", record, PublishSpec(store="hub")))
    note_stage(record, "publishing", started, published, problem)
    record.publishing = published or record.publishing
    record.save(run)
    return finish_run(record, run, Path(log))

with prefect_test_harness(server_startup_timeout=120):
    print("@ready", flush=True)
    for line in sys.stdin:
        started = time.monotonic()
        state = publishing(*json.loads(line), return_state=True)
        answer = {"done": state.is_completed(), "message": state.message, "seconds": time.monotonic() - started}
        print("@answer " + json.dumps(answer), flush=True)
"""

pytestmark = pytest.mark.prefect


class Publisher:
    """The process that publishes: one line asks, one line answers; everything else that it says is kept."""

    def __init__(self, hub: HubStandIn, folder: Path) -> None:
        self.home, self.log, self.said = Home(folder / "home"), folder / "log.md", ""
        changes = hub.environment(folder) | {"COGITO_HOME": str(self.home.root)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER],
            env=environment(self.home.root, **changes),
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=1,
        )
        self._hear("@ready")

    def publish(self, run_id: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([run_id, str(self.log)]) + "\n")
        self.process.stdin.flush()
        return json.loads(self._hear("@answer "))

    def _hear(self, mark: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(mark):
                return line.removeprefix(mark)
            self.said += line
        raise AssertionError(self.said)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as server:
        yield server


@pytest.fixture(scope="module")
def publisher(hub: HubStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    started = Publisher(hub, tmp_path_factory.mktemp("publisher"))
    yield started
    assert started.process.stdin is not None
    started.process.stdin.close()
    started.process.wait(60)


@dataclass(frozen=True)
class Case:
    """A fault, and what comes of it: `heals` within the command, or a message that says all of `says`."""

    fault: Fault
    heals: bool = True
    says: tuple[str, ...] = ()


def status(code: int, part: str, left: int = 1, **headers: str) -> Fault:
    return Fault(part, status=code, left=left, headers={name.replace("_", "-"): text for name, text in headers.items()})


FOR_EVER = 10_000
CASES = {
    "429 with Retry-After": Case(status(429, "/commit/main", Retry_After="3")),
    "429 without": Case(status(429, "/commit/main")),
    "429 of the upload": Case(status(429, "/large/")),
    "500 once": Case(status(500, "/api/repos/create")),
    "502 and 503 for a while": Case(status(502, "/refs", 2)),
    "503 at the tag": Case(status(503, "/tag/")),
    "429 as often as it is tried again": Case(status(429, "/commit/main", 3, Retry_After="1")),
    "429 for ever": Case(
        status(429, "/refs", FOR_EVER, Retry_After="1"), False, ("does not answer", "429", "run the same command")
    ),
    "500 for ever": Case(status(500, "/refs", FOR_EVER), False, ("does not answer", "500", "run the same command")),
    "reset in mid-upload": Case(Fault("/large/", "reset", method="PUT")),
    "reset at the commit": Case(Fault("/commit/main", "reset")),
    "commit done, answer lost": Case(Fault("/commit/main", "lost")),
    "tag done, answer lost": Case(Fault("/tag/", "lost")),
    "server hangs at the commit": Case(Fault("/commit/main", "hang")),
    "server hangs for ever": Case(Fault("/refs", "hang", left=FOR_EVER), False, ("does not answer", "timed out")),
    "half an upload, then a restart": Case(Fault("/large/", "restart", method="PUT")),
    "token that is not valid": Case(status(401, "/preupload/", FOR_EVER), False, ("refused", "401", "HF_TOKEN")),
    "a bill to pay": Case(status(402, "/preupload/", FOR_EVER), False, ("refused", "402", "storage plan")),
    "no rights": Case(status(403, "/preupload/", FOR_EVER), False, ("refused", "403", "write permission")),
    "repository gone": Case(status(404, "/preupload/", FOR_EVER), False, ("refused", "404", "publish.repo")),
    "overtaken by a commit of somebody else": Case(Fault("/commit/main", "overtaken")),
    "409 once": Case(status(409, "/commit/main")),
    "conflict for ever": Case(
        Fault("/commit/main", "overtaken", left=FOR_EVER), False, ("does not answer", "412", "run the same command")
    ),
    "download cut in its middle": Case(Fault("/model.safetensors", "cut", method="GET")),
    "redirect without end": Case(Fault("/refs", "loop", left=FOR_EVER), False, ("TooManyRedirects", "HF_ENDPOINT")),
    "answer that is no JSON": Case(Fault("/refs", "garbage", left=FOR_EVER), False, ("JSON", "HF_ENDPOINT")),
    "storage full": Case(status(507, "/commit/main", FOR_EVER), False, ("refused", "507", "storage")),
}


def make_run(publisher: Publisher, run_id: str) -> RunRecord:
    """A run whose pretraining is done: its record and its model, whose weights are large enough to be sent in parts."""
    run = publisher.home.run(run_id)
    model = write_small_checkpoint(run.pretraining / "model", run_id=run_id)
    weights = np.random.default_rng(len(run_id)).standard_normal((512, 1024)).astype(np.float32)
    save_file({run_id: weights}, model / "model.safetensors")
    write_manifest(model)
    record = make_record(run_id=run_id, name=run_id, publishing=None)
    record.save(run)
    return record


def assert_nothing_lost(publisher: Publisher, record: RunRecord) -> RunRecord:
    run = publisher.home.run(record.run_id)
    check_manifest(run.pretraining / "model")
    now = load_record(run)
    here = {"base": publisher.home.root}
    before, after = (
        one.model_dump(mode="json", include={"pretraining", "scores"}, context=here) for one in (record, now)
    )
    assert before == after
    assert not (publisher.home.cache / "publishing" / record.run_id).exists(), "no copy is left behind"
    return now


def assert_published_once(hub: HubStandIn, publisher: Publisher, run_id: str) -> None:
    repo = hub.repos[f"{ACCOUNT}/{run_id}"]
    assert len(repo.pushes) == 1
    assert repo.tags == {run_id: repo.pushes[0]}
    (published,) = [files for oid, files in repo.commits if oid == repo.pushes[0]]
    weights = publisher.home.run(run_id).pretraining / "model" / "model.safetensors"
    assert published["model.safetensors"] == weights.read_bytes()


def assert_one_message(message: str, says: tuple[str, ...], publisher: Publisher) -> None:
    assert "\n" not in message and "Traceback" not in message and "exception" not in message.split(": ")[0]
    assert message.count("fix:") == 1 and all(part in message for part in says), message
    assert TOKEN not in message + publisher.said


@pytest.mark.parametrize("name", CASES)
def test_a_fault_of_the_hub(hub: HubStandIn, publisher: Publisher, name: str) -> None:
    case, run_id = CASES[name], f"run_{list(CASES).index(name):02d}"
    record = make_run(publisher, run_id)
    hub.heal()
    hub.fault(Fault(**vars(case.fault)))
    first = publisher.publish(run_id)
    assert first["done"] == case.heals, publisher.said[-4000:]
    now = assert_nothing_lost(publisher, record)
    if not case.heals:
        stage = now.stages["publishing"]
        assert (now.status, stage.status, now.publishing) == ("failed", "failed", None)
        assert_one_message(stage.message, case.says, publisher)
        row = next(line for line in publisher.log.read_text().splitlines() if run_id in line)
        assert "publishing failed" in row and TOKEN not in row, row
        hub.heal()
        assert publisher.publish(run_id)["done"], publisher.said[-4000:]
        now = assert_nothing_lost(publisher, record)
    assert (now.status, now.stages["publishing"].status) == ("complete", "complete")
    assert_published_once(hub, publisher, run_id)

    asked = len(hub.requests)
    assert publisher.publish(run_id)["done"]
    assert_published_once(hub, publisher, run_id)
    assert not [
        path for method, path in hub.requests[asked:] if method == "PUT" or "/commit/" in path or "/tag/" in path
    ]
    assert TOKEN not in publisher.said


def gaps(hub: HubStandIn, part: str, since: int) -> list[float]:
    """Seconds between the requests whose path holds `part`."""
    made = zip(hub.times[since:], hub.requests[since:], strict=True)
    return [later - earlier for earlier, later in pairwise(when for when, (_, path) in made if part in path)]


def test_every_wait_that_the_hub_asks_for_is_kept(hub: HubStandIn, publisher: Publisher) -> None:
    make_run(publisher, "run_wait")
    hub.heal()
    asked_for = (3, 1, 2)
    for seconds in asked_for:
        hub.fault(status(429, "/commit/main", Retry_After=str(seconds)))
    asked = len(hub.requests)
    assert publisher.publish("run_wait")["done"]
    waited = gaps(hub, "/commit/main", asked)
    # Prefect's own wait comes on top.
    assert len(waited) == stages.RETRIES and all(gap >= wait for gap, wait in zip(waited, asked_for, strict=True))
    assert_published_once(hub, publisher, "run_wait")


def test_a_hub_that_asks_to_wait_for_ever_is_given_up_on(hub: HubStandIn, publisher: Publisher) -> None:
    record = make_run(publisher, "run_waits")
    hub.heal()
    hub.fault(status(429, "/commit/main", FOR_EVER, Retry_After="2"))
    asked = len(hub.requests)
    failed = publisher.publish("run_waits")
    assert not failed["done"]
    waited = gaps(hub, "/commit/main", asked)
    assert len(waited) == stages.RETRIES and min(waited) >= 2, waited
    message = assert_nothing_lost(publisher, record).stages["publishing"].message
    assert_one_message(message, ("does not answer", "429", "run the same command"), publisher)
    hub.heal()
    assert publisher.publish("run_waits")["done"]
    assert_published_once(hub, publisher, "run_waits")


def test_a_hub_that_is_away_and_comes_back(hub: HubStandIn, publisher: Publisher) -> None:
    record = make_run(publisher, "run_away")
    hub.heal()
    hub.stop()
    back = threading.Timer(0.5, hub.start)
    back.start()
    try:
        assert publisher.publish("run_away")["done"], publisher.said[-4000:]
    finally:
        back.join()
    assert_nothing_lost(publisher, record)
    assert_published_once(hub, publisher, "run_away")


def test_a_hub_that_stays_away(hub: HubStandIn, publisher: Publisher) -> None:
    record = make_run(publisher, "run_gone")
    hub.heal()
    hub.stop()
    try:
        assert not publisher.publish("run_gone")["done"]
        message = assert_nothing_lost(publisher, record).stages["publishing"].message
        assert_one_message(message, ("does not answer", "refused", "run the same command"), publisher)
    finally:
        hub.start()
    assert publisher.publish("run_gone")["done"], publisher.said[-4000:]
    assert_published_once(hub, publisher, "run_gone")


def test_what_reads_back_changed_is_not_called_published(hub: HubStandIn, publisher: Publisher) -> None:
    record = make_run(publisher, "run_garbled")
    hub.heal()
    hub.garble_next("model.safetensors")
    assert not publisher.publish("run_garbled")["done"]
    message = assert_nothing_lost(publisher, record).stages["publishing"].message
    assert_one_message(message, ("does not read back whole", "model.safetensors"), publisher)
    assert hub.repos[f"{ACCOUNT}/run_garbled"].tags == {}
    assert publisher.publish("run_garbled")["done"]
    assert_published_once(hub, publisher, "run_garbled")


def test_the_stage_waits_longer_from_try_to_try_and_never_in_step_with_others() -> None:
    delays = stages.publish_model.retry_delay_seconds
    assert delays == sorted(set(delays)) and len(delays) == stages.RETRIES >= 3
    assert stages.publish_model.retry_jitter_factor > 0


def refused(code: int, **headers: str) -> Exception:
    import httpx

    error = OSError("refused")
    error.response = httpx.Response(code, headers=headers)  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (refused(429, **{"Retry-After": "7"}), 7),
        (refused(503, **{"Retry-After": "7"}), 7),
        (refused(429, ratelimit='"api";r=0;t=55'), 55),
        (refused(500, ratelimit='"api";r=400;t=55'), 0),
        (refused(429, **{"Retry-After": "86400"}), LONGEST_WAIT_SECONDS),
        (refused(429, **{"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), 0),
        (refused(500), 0),
        (ConnectionResetError(), 0),
    ],
)
def test_how_long_the_hub_asks_to_wait(error: Exception, seconds: float) -> None:
    assert asked_wait(error) == seconds


def test_no_room_is_no_reason_to_wait() -> None:
    assert [is_transient(refused(code)) for code in (409, 412, 501, 507)] == [True, True, False, False]
