"""`cogito run --dry-run`: what an experiment will take, printed."""

import sys

from flows.commands.options import console, new_table, print_json
from tasks.runs.preflight import Inputs
from tasks.runs.request import Request


def print_forecast(inputs: Inputs, request: Request, as_json: bool) -> None:
    """Calibrate, and print what every stage will take."""
    from tasks.forecast.estimate import size_text, time_text  # torch
    from tasks.forecast.forecasting import forecast

    print("calibrating on this machine; nothing is kept", file=sys.stderr)
    expected = forecast(inputs, request)
    if as_json:
        print_json(expected.as_json())
        return
    for title, lines in filter(lambda part: part[1], (("stage", expected.stages), ("job", expected.jobs))):
        table = new_table(title, "forecast", "by")
        for line in lines:
            table.add_row(line.name, "unknown" if line.seconds is None else time_text(line.seconds), line.how)
        console().print(table)
    print(f"in all: {time_text(expected.seconds)}")
    if not expected.measured:  # nothing is left to do
        return
    memory = expected.room.machine.memory
    of = f" of {size_text(memory)}" if memory else ""
    print(f"memory: {size_text(expected.room.needed)}{of} for a training process")
    print(f"disk: {size_text(expected.needed)}, {size_text(expected.free)} are free")
    print(f"measured in {time_text(expected.calibration)}: {'; '.join(expected.measured)}")
    print(f"assumed: {'; '.join(expected.assumed)}")
    for warning in expected.warnings:
        print(f"warning: {warning}", file=sys.stderr)
