"""The options that commands share, and the functions that print for them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec, TextIO, TypeVar

import typer

import pipelines
from agenttts.defaults import DEFAULT_DB
from pipelines.servers.patience import Patience

if TYPE_CHECKING:
    from rich.console import Console

_P = ParamSpec("_P")
_T = TypeVar("_T")

Spec = Annotated[Path, typer.Argument(help="The pipeline file (YAML).", show_default=False)]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget",
        help="Budget per query, in units or US dollars as the pipeline file's; its own where not given.",
        show_default=False,
    ),
]
BudgetUsd = Annotated[
    float | None,
    typer.Option(
        "--budget-usd",
        help="Budget per query in US dollars, whatever the file's is in; needs prices.",
        show_default=False,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Local file that takes the place of the dataset's pool.", show_default=False),
]
NSearch = Annotated[
    int | None, typer.Option("--n-search", min=1, help="Rows of the pool for search.", show_default=False)
]
NTest = Annotated[
    int | None, typer.Option("--n-test", min=1, help="Rows of the pool for the test.", show_default=False)
]
Banks = Annotated[
    list[Path] | None,
    typer.Option("--bank", help="Recorded samples to read; the spec's own where not given."),
]


def in_a_directory(path: Path | None) -> Path | None:
    """Return the path of a page to write; UserError before any work is done when its directory is missing."""
    if path is not None:
        from agenttts.report.html import require_place

        require_place(path)
    return path


Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Db = Annotated[Path, typer.Option("--db", help="The DuckDB file that keeps everything.")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, help="The same seed and the same bank give the same run.")
]
Timeout = Annotated[
    float,
    typer.Option("--timeout", help="Seconds for an answer, beside 0.05 for each token that it may have."),
]
RetryFor = Annotated[
    float,
    typer.Option(
        "--retry-for", help="Seconds for which a request that fails is tried again while others are answered."
    ),
]
LongestOutage = Annotated[
    float,
    typer.Option(
        "--longest-outage",
        help="Seconds for which a server that is down is waited for; 0: stop at once. The same command goes "
        "on later.",
    ),
]
PATIENCE = Patience()
"""The defaults of these three."""
Config = Annotated[Path, typer.Argument(help="The configuration (YAML).", show_default=False)]
LlmBaseUrl = Annotated[
    str | None, typer.Option("--llm-base-url", help="The LLM's endpoint; else AGENTTTS_AGENT_BASE_URL.")
]
LlmModel = Annotated[
    str | None, typer.Option("--llm-model", help="The LLM's model; else AGENTTTS_AGENT_MODEL.")
]

AgentBaseUrl = Annotated[
    str | None,
    typer.Option("--agent-base-url", help="The agent's endpoint; else AGENTTTS_AGENT_BASE_URL."),
]
AgentModel = Annotated[
    str | None, typer.Option("--agent-model", help="The agent's model; else AGENTTTS_AGENT_MODEL.")
]
AgentKeyEnv = Annotated[
    str | None,
    typer.Option(
        "--agent-key-env",
        help="The variable that holds the endpoint's key; else AGENTTTS_AGENT_KEY_ENV, or "
        "AGENTTTS_AGENT_API_KEY.",
    ),
]
AgentTimeout = Annotated[
    float | None,
    typer.Option(
        "--agent-timeout",
        help="Seconds for an answer, beside 0.05 for each of its tokens: 120; else AGENTTTS_AGENT_TIMEOUT.",
    ),
]
AgentMaxTokens = Annotated[
    int | None,
    typer.Option(
        "--agent-max-tokens", help="Tokens of an answer at most, 4096; else AGENTTTS_AGENT_MAX_TOKENS."
    ),
]
AgentShare = Annotated[
    float | None,
    typer.Option(
        "--agent-share", help="Share of the trials that the agent proposes, 1/3; else AGENTTTS_AGENT_SHARE."
    ),
]
AgentTemperature = Annotated[
    float | None,
    typer.Option(
        "--agent-temperature",
        help="Temperature of the agent's answers; else AGENTTTS_AGENT_TEMPERATURE, or the server's own.",
    ),
]

__all__ = [
    "DEFAULT_DB",
    "PATIENCE",
    "AgentBaseUrl",
    "AgentKeyEnv",
    "AgentMaxTokens",
    "AgentModel",
    "AgentShare",
    "AgentTemperature",
    "AgentTimeout",
    "Banks",
    "Budget",
    "BudgetUsd",
    "Config",
    "Data",
    "Db",
    "Json",
    "LlmBaseUrl",
    "LlmModel",
]
__all__ += ["LongestOutage", "NSearch", "NTest", "RetryFor", "Seed", "Spec", "Timeout"]
__all__ += ["complain", "out", "print_json", "read_spec", "say", "status_line", "stdout", "talk"]


def read_spec(
    spec: Path, data: Path | None, n_search: int | None, n_test: int | None
) -> pipelines.PipelineSpec:
    """Load a pipeline file, with another dataset or other sizes of its splits where the options ask for that.

    Args:
        spec: The pipeline file.
        data: A file that replaces the dataset's pool; None for the file's own.
        n_search: Rows of the pool for search; None for the file's own.
        n_test: Rows of the pool for the test; None for the file's own.

    Raises:
        SpecError: The file is missing or breaks a rule. This is raised before duckdb is imported.
    """
    loaded = pipelines.load_spec(spec)
    from pipelines.dataset import with_data

    return with_data(loaded, data, n_search, n_test)


_results: list[TextIO] = []  # stdout, while what others print goes to stderr


def stdout() -> TextIO:
    """Return the stream for results, which nothing but the command writes to."""
    return _results[-1] if _results else sys.stdout


def on_own_stdout(command: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let a command alone write to stdout: what functions of a pipeline print meanwhile goes to stderr.

    Args:
        command: The command, which prints by `out`, `print_json` or to `stdout`.
    """

    @wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        _results.append(sys.stdout)
        try:
            with redirect_stdout(sys.stderr):
                return command(*args, **kwargs)
        finally:
            _results.pop()

    return run


def out() -> Console:
    """Return the console for results. Without a terminal, tables are 160 columns wide."""
    from agenttts.terminal import EscapingConsole

    width = None if stdout().isatty() else 160
    return EscapingConsole(file=stdout(), highlight=False, width=width)


def talk() -> Console:
    """Return the console for everything that is not the result: progress, notes, questions."""
    from agenttts.terminal import EscapingConsole

    return EscapingConsole(stderr=True, highlight=False)


def say(text: str, style: str | None = None) -> None:
    """Print a message that is not the result on stderr, without wrapping lines.

    Args:
        text: The message.
        style: A style of rich, such as `dim`.
    """
    talk().print(text, style=style, soft_wrap=True, markup=False)


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Show a status line within the block.

    Yields:
        A function that sets the text of the line.
    """
    from rich.text import Text

    with talk().status("starting") as status:
        yield lambda text: status.update(Text(text))


def print_json(value: object) -> None:
    """Print a value on stdout as indented JSON.

    Args:
        value: The value, JSON-able.
    """
    stdout().write(json.dumps(value, indent=2, allow_nan=False) + "\n")
    stdout().flush()


def complain(error: Exception | str) -> None:
    """Print an error on stderr, each of its lines as `error: ...`.

    Args:
        error: The error.
    """
    from agenttts.terminal import escaped

    for line in str(error).splitlines():
        sys.stderr.write(f"error: {escaped(line)}\n")
