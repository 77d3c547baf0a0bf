"""The approval of proposals before they cost anything: at the terminal, or on the pages of `agenttts ui`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from agenttts.cli.options import say
from agenttts.errors import UserError
from agenttts.search.approval import Approve, Decision, Pending
from agenttts.search.progress import SearchProgress
from agenttts.search.waiting import WaitingRoom
from agenttts.space.measure import amount_text
from agenttts.terminal import escaped
from pipelines.allocation import StageChoice

_HELP = "Enter or a: approve · e: edit · r: refuse · all: approve this and all that follow"


def at_terminal(console: Console, progress: SearchProgress, read: Callable[[str], str] = input) -> Approve:
    """Create the function for `search(approve=...)` that asks a person at the terminal.

    Args:
        console: The console to print proposals on.
        progress: The progress bars, which are hidden while a question is open.
        read: Shows a prompt and returns a line of the answer.

    Returns:
        The function.

    Raises:
        UserError: Standard input is not a terminal.
    """
    if read is input and not sys.stdin.isatty():
        raise UserError(
            "--approve asks at the terminal, but standard input is not a terminal; leave the option out, "
            "or run the command in a terminal"
        )
    approve_all = False

    def ask(proposals: list[Pending]) -> list[Decision]:
        nonlocal approve_all
        decisions = []
        with progress.paused():
            for pending in proposals:
                decision = Decision(action="approve") if approve_all else None
                while decision is None:
                    answer = _answer(console, pending, read)
                    approve_all = answer == "all"
                    decision = _decision(answer, pending, console, read)
                decisions.append(decision)
        return decisions

    return ask


def in_ui(db: Path) -> Approve:
    """Create the function for `search(approve=...)` whose proposals wait on the pages of `agenttts ui`.

    Args:
        db: The database of the search.

    Returns:
        The function.
    """
    room = WaitingRoom(db.expanduser().resolve())

    async def ask(proposals: list[Pending]) -> list[Decision]:
        if proposals:
            n = len(proposals)
            waits = "a proposal waits" if n == 1 else f"{n} proposals wait"
            say(f"{waits} for your decision on the page of the run: agenttts ui {db}")
        return await room.ask(proposals)

    return ask


def _answer(console: Console, pending: Pending, read: Callable[[str], str]) -> str:
    planned = amount_text(pending.budget_units, pending.measure)
    console.print(f"\n[bold]{escape(str(pending.allocation))}[/]  ({planned}, {pending.examples_text})")
    console.print(escape(f"{pending.proposer}: {pending.reason}"), style="dim")
    if pending.problem:
        console.print(escape(f"this allocation can't be run: {pending.problem}"), style="red")
    console.print(_HELP, style="dim")
    return _read(read, "? ").strip().lower()


def _decision(answer: str, pending: Pending, console: Console, read: Callable[[str], str]) -> Decision | None:
    if answer in ("", "a", "approve", "y", "yes", "all"):
        return Decision(action="approve")
    if answer in ("r", "refuse", "n", "no"):
        return Decision(action="refuse", note=_read(read, "why (Enter for nothing): ").strip() or None)
    if answer in ("e", "edit"):
        edited = pending.allocation
        for stage, choice in pending.allocation.items():
            text = _read(read, f"{stage} [{choice}]: ").strip()
            if text:
                match = re.fullmatch(r"(.+?)\s*[×x*\s]\s*(\d+)", text)
                if match is None or int(match[2]) < 1:
                    console.print(
                        f"a choice is MODEL×N, such as {choice.option}×4; got {text!r}", style="red"
                    )
                    return None
                edited = edited.replace(stage, StageChoice(match[1], int(match[2])))
        return Decision(action="edit", allocation=edited)
    return None


def _read(read: Callable[[str], str], prompt: str) -> str:
    try:
        return read(escaped(prompt))
    except EOFError:
        raise KeyboardInterrupt from None
