"""The command line: `agenttts COMMAND`. Each command has a module beside this one.

Exit codes: 0 success, 1 a fault that is not the user's (an outage of a server, a search that lacks a score),
2 an error that a person must correct, 130 and 143 stopped by Ctrl-C and SIGTERM. One line on stderr describes
an error.
"""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from agenttts.cli import (
    bank as banks,
)
from agenttts.cli import (
    check,
    compare,
    demo,
    export,
    improve,
    init,
    plan,
    report,
    run,
    runs,
    schema,
    search,
    serve,
    tune,
    ui,
)
from agenttts.cli.options import complain, on_own_stdout
from agenttts.errors import AgentTTSError, TrialsFailed
from datastore.errors import StoreError
from pipelines.errors import PipelineError, ServerDown

app = typer.Typer(
    name="agenttts",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Find which model, and how many samples, each stage of an LLM pipeline should get under a budget.",
)
app.command()(demo.demo)
app.command()(init.init)
app.command()(check.check)
app.command()(plan.plan)
app.command()(search.search)
app.command()(compare.compare)
app.command()(report.report)
app.command()(runs.runs)
app.command()(ui.ui)
app.command()(improve.improve)
app.command()(run.run)
app.command()(serve.serve)
app.command()(schema.schema)
app.add_typer(banks.app, name="bank")
app.add_typer(export.app, name="export")
app.add_typer(tune.app, name="tune")
for group in (app, banks.app, export.app, tune.app):
    for command in group.registered_commands:
        assert command.callback is not None
        command.callback = on_own_stdout(command.callback)


def _show_version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        typer.echo(f"agenttts {version('agenttts')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Write log messages to stderr.")] = False,
) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.CRITICAL, stream=sys.stderr)
    if verbose:
        from agenttts.terminal import EscapingFormatter

        for handler in logging.getLogger().handlers:
            handler.setFormatter(EscapingFormatter(logging.BASIC_FORMAT))


def main() -> None:
    """Run the command that `sys.argv` names, and exit."""
    signals: list[int] = []

    def terminated(number: int, frame: FrameType | None) -> None:
        """End the command on SIGTERM as on Ctrl-C: in order, without losing results."""
        signals.append(number)
        interrupted = signal.getsignal(signal.SIGINT)
        if not callable(interrupted):  # as in the background of a shell, where Ctrl-C is ignored
            raise KeyboardInterrupt
        interrupted(signal.SIGINT, frame)  # a running event loop's cancels its task

    signal.signal(signal.SIGTERM, terminated)
    try:
        app()
    except (ServerDown, TrialsFailed) as error:
        complain(error)
        sys.exit(1)
    except (AgentTTSError, PipelineError, StoreError) as error:
        complain(error)
        sys.exit(2)
    except SystemExit as end:
        sys.exit(128 + signals[0] if signals else end.code)
