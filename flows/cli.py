"""The command. `cogito --help` lists what it can do; `python -m flows.cli` is the same.

Exit codes: 0 done, 1 a stage failed, 2 bad input. With --json standard output carries JSON alone.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from flows import LOG_LEVEL
from flows.commands.checkpoint import analyse, encode
from flows.commands.checkpoint import app as checkpoint_app
from flows.commands.log import app as log_app
from flows.commands.result import compare, report, rescore
from flows.commands.run import evaluate, reproduce, run, sweep
from flows.commands.spec import check, list_kind, show
from flows.commands.upkeep import clean, doctor, ui
from tasks.errors import StageError, UserError, unknown_name
from tasks.secrets import redact

app = typer.Typer(
    name="cogito",
    help="Pretrain, evaluate and log concept encoders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "sweep": sweep,
    "evaluate": evaluate,
    "reproduce": reproduce,
    "compare": compare,
    "rescore": rescore,
    "report": report,
    "analyse": analyse,
    "encode": encode,
    "check": check,
    "show": show,
    "ls": list_kind,
    "ui": ui,
    "doctor": doctor,
    "clean": clean,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(log_app, name="log")
app.add_typer(checkpoint_app, name="checkpoint")


def _fail(error: Exception, code: int) -> NoReturn:
    print(f"cogito: {error}", file=sys.stderr)
    sys.exit(code)


def _leave_at_once(message: str) -> NoReturn:
    """End without what Prefect does at exit: it would try for minutes to reach a server that is gone, and say so."""
    print(f"\ncogito: {message}", file=sys.stderr)  # its threads may be in the middle of a line
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)


def _fail_usage(error: Any) -> NoReturn:
    """Typer's own message in the form of all others."""
    words = error.ctx.command_path if getattr(error, "ctx", None) else "cogito"
    text = " ".join(error.format_message().split())
    if not text:  # no command at all: Typer has printed the help
        sys.exit(2)
    _fail(UserError(f"{text}; fix: `{words} --help` lists what is allowed"), 2)


def main() -> None:
    """The entry point: one clear message and an exit code instead of a traceback."""
    # Our own lines only: the root logger would repeat what Prefect logs.
    logger = logging.getLogger("cogito")
    logger.addHandler(logging.StreamHandler())
    logger.propagate = False  # else Prefect's console handler, which sits on the root, says warnings a second time
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        if LOG_LEVEL not in logging.getLevelNamesMapping():
            raise UserError(unknown_name("COGITO_LOG_LEVEL", LOG_LEVEL, logging.getLevelNamesMapping()))
        sys.exit(app(standalone_mode=False) or 0)
    except UserError as error:
        _fail(error, 2)
    except StageError as error:
        _fail(error, 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's, of a wrong word on the command line
            _fail_usage(error)
        from flows.prefect_api import lost_server
        from tasks.data.hub import gave_up, is_transient
        from tasks.store.files import disk_full

        if message := lost_server(error):
            _leave_at_once(message)
        if disk_full(error):
            _fail(StageError(f"no space left on device: {error}; fix: make room, then run it again"), 1)
        if not is_transient(error):
            print(redact(traceback.format_exc()), file=sys.stderr)  # a fault of ours
            sys.exit(1)
        _fail(StageError(gave_up(error)), 1)


if __name__ == "__main__":
    main()
