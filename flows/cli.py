"""The command. `cogito --help` lists what it can do; `python -m flows.cli` is the same.

Exit codes: 0 done, 1 a stage failed, 2 bad input. With --json standard output carries JSON alone.
"""

import ast
import logging
import os
import sys
import traceback
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from flows import LOG_LEVEL
from tasks.errors import StageError, UserError, unknown_name
from tasks.libraries import configure_libraries
from tasks.secrets import redact

# Every command, or group of commands, by its place, in the order of the help.
COMMANDS = {
    "run": "flows.commands.run:run",
    "sweep": "flows.commands.run:sweep",
    "evaluate": "flows.commands.run:evaluate",
    "reproduce": "flows.commands.run:reproduce",
    "runs": "flows.commands.runs:runs",
    "compare": "flows.commands.result:compare",
    "rescore": "flows.commands.result:rescore",
    "report": "flows.commands.result:report",
    "analyse": "flows.commands.checkpoint:analyse",
    "encode": "flows.commands.checkpoint:encode",
    "check": "flows.commands.spec:check",
    "show": "flows.commands.spec:show",
    "explain": "flows.commands.spec:explain",
    "ls": "flows.commands.spec:list_kind",
    "ui": "flows.commands.upkeep:ui",
    "doctor": "flows.commands.upkeep:doctor",
    "clean": "flows.commands.upkeep:clean",
    "log": "flows.commands.log:app",
    "checkpoint": "flows.commands.checkpoint:app",
}


@cache
def _syntax(module: str) -> ast.Module:
    source = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    return ast.parse(source.read_text(encoding="utf-8"))


class DeferredCommand(TyperCommand):
    """A command whose file is imported when it runs, so that no command waits for the libraries of another."""

    def __init__(self, name: str, place: str) -> None:
        super().__init__(name)
        self.module, _, self.attribute = place.partition(":")

    def load(self) -> TyperCommand | TyperGroup:
        """The command itself: a function with its options, or a group of commands."""
        configure_libraries()  # before any of them is imported
        target = getattr(import_module(self.module), self.attribute)
        if isinstance(target, typer.Typer):
            return typer.main.get_command(target)  # type: ignore[return-value]
        alone = typer.Typer(add_completion=False)
        alone.command(self.name)(target)
        return typer.main.get_command(alone)  # type: ignore[return-value]

    def summary(self) -> str:
        """The docstring of the function, of a group that of its file, read without importing it."""
        tree = _syntax(self.module)
        named = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == self.attribute)
        return ast.get_docstring(next(named, tree)) or ""

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first line of the summary, which a shell shows beside the name."""
        return self.summary().split("\n", 1)[0]

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        """Parse the command's own arguments."""
        return self.load().make_context(*arguments, **settings)


class Cogito(TyperGroup):
    """The command with its table of commands."""

    def format_help(self, *arguments: Any) -> None:
        """Print the help, with the first sentence of every command."""
        for command in self.commands.values():
            command.help = command.summary() if isinstance(command, DeferredCommand) else command.help
        super().format_help(*arguments)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"cogito {version('cogito')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pretrain, evaluate and log concept encoders."""


def _command() -> Cogito:
    """Typer's own group, with its options for the completion of a shell, around the deferred commands."""
    root = typer.Typer(name="cogito", cls=Cogito, no_args_is_help=True)
    root.callback()(_options)
    group = typer.main.get_command(root)
    assert isinstance(group, Cogito)
    group.commands = {name: DeferredCommand(name, place) for name, place in COMMANDS.items()}
    return group


app = _command()


def _fail(error: Exception, code: int) -> NoReturn:
    print("\n".join(f"cogito: {line}" for line in str(error).split("\n")), file=sys.stderr)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End; at once if Prefect's server is gone, which it would try to reach for minutes, and say so."""
    if (prefect_api := sys.modules.get("flows.prefect_api")) and prefect_api.server_lost.is_set():
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


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
        _leave(app.main(prog_name="cogito", standalone_mode=False) or 0)
    except UserError as error:
        _fail(error, 2)
    except StageError as error:
        _fail(error, 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's, of a wrong word on the command line
            _fail_usage(error)
        from flows.prefect_api import lost_server, server_lost
        from tasks.data.hub import gave_up, is_transient
        from tasks.store.files import disk_full

        if message := lost_server(error):
            server_lost.set()
            print(file=sys.stderr)  # its threads may be in the middle of a line
            _fail(StageError(message), 1)
        if disk_full(error):
            _fail(StageError(f"no space left on device: {error}; fix: make room, then run it again"), 1)
        if not is_transient(error):
            print(redact(traceback.format_exc()), file=sys.stderr)  # a fault of ours
            sys.exit(1)
        _fail(StageError(gave_up(error)), 1)


if __name__ == "__main__":
    main()
