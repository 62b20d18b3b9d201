"""What the runs of a home say of those to come: how fast its devices were, and how much text there is."""

from collections.abc import Iterator

from tasks.errors import UserError
from tasks.spec.experiment import ExperimentSpec
from tasks.store.home import Home
from tasks.store.records import CorpusResult, RunRecord, load_record

# Trainings that cost at most so many times as much for a token, or as little, use a device about as well.
LIKE = 2.0


def past_runs(home: Home) -> Iterator[RunRecord]:
    """The records of a home that can be read, the newest first."""
    for path in sorted(home.runs.glob("*/record.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            yield load_record(home.run(path.parent.name))
        except UserError:  # `cogito runs` names it
            continue


def achieved_flops(home: Home, machine: str, device: str, precision: str, flops_per_token: float) -> list[float]:
    """FLOP/s that a device reached in each past training of a like cost, in steps alone.

    Args:
        machine: whose trainings count where the device is a CPU.
        device: as `PretrainingResult` names it.
    """
    found = []
    for record in past_runs(home):
        done = record.pretraining
        if record.kind == "training" and done and done.flops_per_token and done.tokens_per_second:
            here = done.device == device and done.precision == precision
            here = here and (device != "CPU" or record.environment.machine == machine)
            if here and 1 / LIKE <= done.flops_per_token / flops_per_token <= LIKE:
                found.append(done.flops_per_token * done.tokens_per_second / done.processes)
    return found


def known_corpus(home: Home, spec: ExperimentSpec) -> CorpusResult | None:
    """The corpus that the data section of a spec led to in a past run; None without one."""
    data = spec.data.model_dump(mode="json")
    return next(
        (record.corpus for record in past_runs(home) if record.corpus and record.spec.get("data") == data), None
    )
