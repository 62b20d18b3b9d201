"""One experiment that is killed by a seeded schedule and started again until it is done.

Every stage has its share of the kills, so that a storm neither spends itself on the first stage nor lets a short one
pass: a stage is disturbed until its share is spent, then it may end. A kill is meant for the kind of process least hit
in its stage, waits until one lives and then for a time that is drawn, in proportion to what the stage lasts in peace;
now and then it hits all processes at once, as when the power fails. In which stage a start is shows on the disk.
"""

import json
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from command import environment

from tasks.processes import lives

# Stage -> its share of the kills.
STAGES: dict[str, float] = {
    "start": 9,
    "tokenizer": 6,
    "corpus": 6,
    "task data": 6,
    "pretraining": 12,
    "pretraining, continued": 11,
    "publishing": 9,
    "analysis": 9,
    "fine-tuning": 16,
    "row": 9,
    "report": 7,
}
# A kill strikes after this part of its stage on average, and never later than the others, of which the last one holds
# until the stage was hit at all: else a short stage passes, and does not come again.
MEAN_PART, LATEST_PART, FIRST_PART = 0.12, 0.35, 0.2
# Kind of process -> what its command line says, and how often it is hit where others live too: a server starts slowly.
KINDS: dict[str, tuple[Callable[[str], bool], float]] = {
    "command": (lambda words: "flows.cli run" in words, 2.0),
    "server": (lambda words: "prefect server" in words or "prefect.server.api.server" in words, 0.5),
    "rank": (lambda words: "tasks.jobs.worker" in words and "/pretraining/" in words, 2.0),
    "W&B": (lambda words: "wandb-core" in words, 2.0),
    "fork server": (lambda words: "tasks.jobs.fork_server" in words, 1.0),
    "analysis job": (lambda words: "tasks.jobs.worker" in words and "/analysis/" in words, 6.0),
    "fine-tuning job": (lambda words: "tasks.jobs.worker" in words and "/finetuning/" in words, 2.0),
}
# What lives in a stage beside command and server.
JOBS = {
    "pretraining": ("rank", "W&B", "fork server"),
    "pretraining, continued": ("rank", "W&B", "fork server"),
    "analysis": ("analysis job", "fine-tuning job", "fork server"),
    "fine-tuning": ("fine-tuning job", "fork server"),
}
POLL_SECONDS = 0.02
# How often a kill is a power cut, and how often that takes the server along.
CUT, CUT_WITH_SERVER = 0.2, 0.3
# Every start comes by the stage "start": its kills are strewn over all of them.
KILLED_AT_START = 0.25
# A start that hangs is a fault too.
START_SECONDS = 1800


def words_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kind_of(process: psutil.Process) -> str | None:
    words = words_of(process)
    return next((name for name, (fits, _) in KINDS.items() if fits(words)), None)


@dataclass(frozen=True)
class Kill:
    """One process that was killed."""

    second: float
    moment: int
    start: int
    stage: str
    kind: str


@dataclass
class Storm:
    """One experiment that is killed and started again until it is done.

    Attributes:
        lasts: seconds of every stage in peace, as `measured` by a storm without kills; kills need them.
    """

    place: Path
    spec: Path
    seed: int = 0
    kills: int = 0
    lasts: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    killed: list[Kill] = field(default_factory=list)
    starts: int = 0
    seconds: float = 0.0

    @property
    def home(self) -> Path:
        return self.place / "home"

    def run(self) -> None:
        """Start it until it ends well and all kills are spent."""
        chance = random.Random(self.seed)
        shares = self._shares(chance)
        began = time.monotonic()
        while True:
            self.starts += 1
            assert self.starts <= 3 * self.kills + 2, f"no end after {self.table()}"
            before = len(self.killed)
            with (self.place / "output.txt").open("ab") as output:
                output.write(f"\n== start {self.starts}, {before} kills so far\n".encode())
                output.flush()
                began_start = time.time()
                command = subprocess.Popen(
                    [sys.executable, "-m", "flows.cli", "run", str(self.spec), "--log", "log.md"],
                    cwd=self.place,
                    env=environment(self.home),
                    stdout=output,
                    stderr=output,
                )
            try:
                if self.kills:
                    self._disturb(command, began_start, chance, shares, began)
                else:
                    self._measure(command, began_start)
                code = command.wait(timeout=START_SECONDS)
            finally:
                command.kill()
            self.seconds = time.monotonic() - began
            if len(self.killed) == before:
                assert code == 0, f"start {self.starts} failed with nothing killed: {self.place / 'output.txt'}"
            if code == 0 and len(self.killed) >= self.kills:
                return

    def _shares(self, chance: random.Random) -> Counter[str]:
        """How many kills each stage gets: by its share, and the rest by lot."""
        exact = {stage: self.kills * share / sum(STAGES.values()) for stage, share in STAGES.items()}
        shares = Counter({stage: int(value) for stage, value in exact.items()})
        for stage in sorted(exact, key=lambda stage: -(chance.random() ** (1 / (exact[stage] % 1 + 1e-9)))):
            if shares.total() < self.kills:
                shares[stage] += 1
        return shares

    def _measure(self, command: subprocess.Popen[bytes], began_start: float) -> None:
        seen, stage = time.monotonic(), "start"
        while command.poll() is None:
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            self.measured[stage] += now - seen
            seen, stage = now, self.stage(command.pid, began_start)

    def _disturb(
        self,
        command: subprocess.Popen[bytes],
        began_start: float,
        chance: random.Random,
        shares: Counter[str],
        began: float,
    ) -> None:
        deadline = time.monotonic() + START_SECONDS
        begins_well = chance.random() > KILLED_AT_START
        while command.poll() is None and len(self.killed) < self.kills:
            assert time.monotonic() < deadline, f"start {self.starts} hangs in {self.stage(command.pid, began_start)}"
            stage = self.stage(command.pid, began_start)
            done = Counter(kill.stage for kill in self.killed)
            # What a stage that passed too soon did not get is spent at the end.
            late = stage == "report" and done[stage] >= shares[stage]
            if (done[stage] >= shares[stage] and not late) or (stage == "start" and begins_well):
                time.sleep(POLL_SECONDS)
                continue
            aim = self._aim(stage, chance)
            while (reached := self._reached(command, began_start, stage, aim)) is False and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            if reached is None:
                continue
            part = min(chance.expovariate(1 / MEAN_PART), LATEST_PART if done[stage] else FIRST_PART)
            strike = time.monotonic() + part * self.lasts[stage]
            # Given up when another stage comes, as the analysis does among the fine-tunings: its own kill is sooner.
            while (here := self.stage(command.pid, began_start)) == stage and time.monotonic() < strike:
                time.sleep(min(POLL_SECONDS, max(0.0, strike - time.monotonic())))
                if command.poll() is not None:
                    break
            if here == stage:
                hits = self._strike(command, aim, chance)
                self._note(hits, stage, time.monotonic() - began)
                if "command" in hits:
                    return

    def _aim(self, stage: str, chance: random.Random) -> str:
        """The kind of process that was least hit in a stage, of those that live in it."""
        kinds = ["command", *JOBS.get(stage, ()), *(["server"] if self.server() else [])]
        before = Counter(kill.kind for kill in self.killed if kill.stage == stage)
        burden = {kind: before[kind] / KINDS[kind][1] for kind in kinds}
        return chance.choice([kind for kind in kinds if burden[kind] == min(burden.values())])

    def _reached(self, command: subprocess.Popen[bytes], began_start: float, stage: str, aim: str) -> bool | None:
        """Whether a process of a kind lives; None when the stage is over."""
        if command.poll() is not None or self.stage(command.pid, began_start) != stage:
            return None
        return aim in self._alive(command) or (None if aim == "server" else False)

    def _note(self, hits: list[str], stage: str, second: float) -> None:
        moment = self.killed[-1].moment + 1 if self.killed else 1
        new = [Kill(round(second, 1), moment, self.starts, stage, kind) for kind in hits]
        self.killed += new
        with (self.place / "kills.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(kill)) + "\n" for kill in new)

    def _strike(self, command: subprocess.Popen[bytes], aim: str, chance: random.Random) -> list[str]:
        """Kill a process of a kind, or all processes; the kinds of those that were killed."""
        alive = self._alive(command)
        if aim not in alive:
            return []
        aims = [(aim, chance.choice(sorted(alive[aim], key=lambda process: process.pid)))]
        if chance.random() < CUT:
            spared = "server" if chance.random() > CUT_WITH_SERVER else ""
            all_aims = [(name, process) for name in alive if name != spared for process in alive[name]]
            aims = all_aims if len(all_aims) <= self.kills - len(self.killed) else aims
        hits = []
        for name, process in aims:
            try:
                process.kill()
                hits.append(name)
            except psutil.NoSuchProcess:
                continue
        return hits

    def _alive(self, command: subprocess.Popen[bytes]) -> dict[str, list[psutil.Process]]:
        try:
            whole = psutil.Process(command.pid)
            processes = [whole, *whole.children(recursive=True)]
        except psutil.NoSuchProcess:
            return {}
        server = self.server()
        if server and server not in processes:
            processes.append(server)
        found: dict[str, list[psutil.Process]] = {}
        for process in processes:
            kind = kind_of(process)
            if kind is not None:
                found.setdefault(kind, []).append(process)
        return found

    def server(self) -> psutil.Process | None:
        try:
            facts = json.loads((self.home / "prefect" / "server.json").read_text(encoding="utf-8"))
            return psutil.Process(facts["pid"]) if lives(facts["pid"], facts["born"]) else None
        except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
            return None

    def stage(self, command: int, began_start: float) -> str:
        """Where this start of the experiment is, by what lies on the disk."""
        if not any((self.home / "locks").glob(f"active-process-{command}-*.lock")):
            return "start"
        paths = list((self.home / "runs").glob("*/record.json"))
        if not paths:
            whole = {name: any((self.home / name).glob("[!.]*/manifest.json")) for name in ("tokenizers", "corpora")}
            return "tokenizer" if not whole["tokenizers"] else "corpus" if not whole["corpora"] else "task data"
        run = paths[0].parent
        trained = (run / "pretraining" / "result.json").exists()
        try:
            record = json.loads(paths[0].read_text(encoding="utf-8"))
        except OSError:
            record = {}
        fresh = self._is_newer(paths[0], began_start)
        asked = self._is_newer(run / "pretraining" / "job.json", began_start)
        if trained and not record.get("publishing"):
            return "publishing"
        if not trained or (asked and record.get("pretraining") is None):
            if not asked:
                return "start"
            states = any((run / "pretraining" / "checkpoints").glob("step-*"))
            return "pretraining, continued" if states else "pretraining"
        if not fresh or record["pretraining"] is None:
            return "start"
        # It begins when a device is free, before, after or between the fine-tunings; killed, it fails, and they go on.
        struck = any(kill.kind == "analysis job" and kill.start == self.starts for kill in self.killed)
        analysed = (run / "analysis" / "result.json").exists()
        if not analysed and not struck and self._is_newer(run / "analysis" / "job.json", began_start):
            return "analysis"
        unfinished = not record["cells"] or any(cell["status"] != "complete" for cell in record["cells"])
        if unfinished or not (analysed or struck):
            return "fine-tuning"
        log = self.place / "log.md"
        done = record["status"] == "complete" and record["finished"] is not None and log.exists()
        if not done or log.stat().st_mtime < datetime.fromisoformat(record["finished"]).timestamp():
            return "row"
        return "report"

    @staticmethod
    def _is_newer(path: Path, moment: float) -> bool:
        try:
            return path.stat().st_mtime > moment
        except OSError:
            return False

    def leftovers(self) -> list[str]:
        """Processes of this home that still live, its one server aside."""
        server, ours = self.server(), []
        for process in psutil.process_iter():
            try:
                home = process.environ().get("COGITO_HOME")
                if home == str(self.home) and server not in (process, *process.parents()):
                    ours.append(words_of(process))
            except psutil.Error:
                continue
        return [words for words in ours if words]

    def by_stage(self) -> dict[str, Counter[str]]:
        found: dict[str, Counter[str]] = {stage: Counter() for stage in STAGES}
        for kill in self.killed:
            found[kill.stage][kill.kind] += 1
        return found

    def table(self) -> str:
        """Kills by stage and kind as Markdown."""
        rows = [f"| stage | {' | '.join(KINDS)} | all |", "|---" * (len(KINDS) + 2) + "|"]
        found = self.by_stage()
        found["all"] = sum(found.values(), Counter())
        for stage, kinds in found.items():
            cells: list[Any] = [stage, *(kinds[kind] or "" for kind in KINDS), kinds.total()]
            rows.append(f"| {' | '.join(map(str, cells))} |")
        return "\n".join(rows)
