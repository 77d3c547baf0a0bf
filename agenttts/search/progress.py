"""The progress of a search on a terminal: the current trial, two bars, the cost so far, the time left.

It is fed with the events of a search, by the commands and by `search(progress=...)`. Without a terminal, it
prints lines only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from agenttts.report.sentences import count_text, usd_text
from agenttts.results.health import health_text
from agenttts.results.ranking import SEARCHING
from agenttts.results.trials import TrialResult
from agenttts.search.events import (
    InsightLearnt,
    Note,
    OnEvent,
    PhaseStarted,
    RunStarted,
    RunStopped,
    SamplesWarned,
    SearchEvent,
    TermsFound,
    TrialFinished,
    TrialProgress,
    TrialStarted,
)
from agenttts.space.measure import MeasureName, amount_text
from agenttts.terminal import EscapingConsole


@contextmanager
def shown(progress: bool | None, on_event: OnEvent | None) -> Iterator[OnEvent]:
    """Show the progress of a search on stderr within the block.

    Args:
        progress: Whether to show it; None: where stderr is a terminal, unless events are handled already.
        on_event: The caller's own handler of events; None without one.

    Yields:
        The handler to give the events to.
    """
    console = EscapingConsole(stderr=True, highlight=False)
    if progress is None:
        progress = console.is_terminal and on_event is None
    if not progress:
        yield on_event or (lambda event: None)
        return
    with SearchProgress(console) as bars:

        def handle(event: SearchEvent) -> None:
            bars(event)
            if on_event is not None:
                on_event(event)

        yield handle


class SearchProgress:
    """A handler of search events that shows progress bars.

    Use it as `with SearchProgress(console) as progress: search(..., on_event=progress)`.

    Args:
        console: The console to print on.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._trials = self._bars.add_task("evaluations", total=None, figures="", visible=False)
        self._examples = self._bars.add_task("examples", total=None, figures="", visible=False)
        self._best = float("-inf")
        self._n_cells = 0
        self._n_before = 0
        self._n_examples = 1
        self._measure: MeasureName = "units"
        self._is_counted = self._is_confirming = False

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, event: SearchEvent) -> None:
        match event:
            case RunStarted():
                self._run_started(event)
            case PhaseStarted(phase="confirm"):
                self._is_confirming = True
                self._bars.update(self._trials, description="confirming")
            case PhaseStarted(phase="adapt"):
                self._bars.update(self._trials, description="choosing a policy")
            case InsightLearnt():
                self._print(f"     learnt: {event.insight.text}", style="green")
            case SamplesWarned():
                self._print(f"     {event.message}", style="yellow")
            case TermsFound():
                self._print(f"     {event.negotiated}", style="yellow" if event.negotiated.warning else "dim")
            case Note():
                self._print(f"     {event.message}", style="yellow")
            case TrialStarted():
                self._trial_started(event)
            case TrialProgress():
                self._trial_progress(event)
            case TrialFinished():
                self._trial_finished(event)
            case RunStopped():
                self._print(f"{event.status}: {event.message}", style="yellow")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bars within the block, so that a person can be asked a question."""
        self._bars.stop()
        try:
            yield
        finally:
            self._bars.start()

    def _run_started(self, event: RunStarted) -> None:
        self._measure = event.settings.measure
        verb = "resuming" if event.resumed else "run"
        budget = amount_text(event.settings.budget_units, self._measure, 6)
        self._print(
            f"{verb} {event.run_id}: {event.allocations:,} allocations within "
            f"{budget}, {event.n_examples} search example{'s' * (event.n_examples != 1)}, "
            f"proposer {event.settings.proposer}, {event.db}{_recorded(event)}",
            style="dim",
        )
        self._n_examples = event.n_examples
        limit = event.settings.limits.trials
        total = None if limit is None else limit * event.n_examples
        self._bars.update(self._trials, total=total, visible=True)

    def _trial_started(self, event: TrialStarted) -> None:
        self._bars.reset(self._examples, total=None, visible=True, figures="")
        name = "test split" if event.purpose == "test" else f"trial {event.number}"
        self._bars.update(self._examples, description=name)
        reason = f"{event.proposer}: {event.reason}"
        self._is_counted = event.purpose in SEARCHING and not self._is_confirming
        self._n_before = event.n_before
        planned = amount_text(event.budget_units, self._measure)
        if event.n_before:
            planned = f"{planned}, grows from {event.n_before} to {event.n_examples} examples"
        elif self._is_counted and event.n_examples < self._n_examples:
            planned = f"{planned}, on {event.n_examples} of {self._n_examples} examples"
        self._print(f"{event.number:>4} {event.policy or event.allocation}  ({planned})", style="bold")
        self._print(f"     {reason}", style="dim")

    def _trial_progress(self, event: TrialProgress) -> None:
        missing = f", {event.n_missing} missing" if event.n_missing else ""
        cost = f", {usd_text(event.cost_usd)}" if event.cost_usd else ""
        figures = f"{_samples(event)}{missing}{cost}{_health(event)}"
        self._bars.update(self._examples, total=event.n_examples, completed=event.n_done, figures=figures)
        if self._is_counted:
            self._bars.update(self._trials, completed=self._n_cells + event.n_done - self._n_before)

    def _trial_finished(self, event: TrialFinished) -> None:
        trial = event.trial
        if self._is_counted and trial.status != "failed":
            self._n_cells += trial.n_run - self._n_before
        spent = event.spent
        self._bars.update(self._trials, completed=self._n_cells)
        self._bars.update(self._examples, visible=False)
        missing = f", {trial.n_missing} missing" if trial.n_missing else ""
        figures = f"{_samples(trial)}{missing}{_health(event)}"
        if trial.split == "test":
            self._print(f"     scored once on the sealed test split; {figures}")
        elif trial.score is None:
            self._print(f"     no score: {trial.error}", style="red")
        elif trial.status == "partial":
            self._print(f"     {trial.score:.3f} on {trial.n_run} of {self._n_examples} examples; {figures}")
        else:
            best = trial.split == "search" and trial.score > self._best
            self._best = trial.score if best else self._best
            style = "bold cyan" if best else ""
            self._print(f"     {trial.score:.3f}{' best so far' if best else ''}; {figures}", style=style)
        usd = f" · {usd_text(spent.usd)}" if spent.usd else ""
        totals = f"paid {count_text(spent.tokens)} tokens{usd} · best {max(self._best, 0.0):.3f}"
        self._bars.update(self._trials, figures=totals)

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(escape(text), style=style or None, soft_wrap=not self._console.is_terminal)


def _recorded(event: RunStarted) -> str:
    if event.settings.replay:
        return "; replayed: recorded samples answer everything, no server is called"
    if not event.settings.banks:
        return ""
    names = " and ".join(bank.name for bank in event.settings.banks)
    return f"; what {names} holds is not drawn again (--no-bank draws afresh)"


def _health(event: TrialProgress | TrialFinished) -> str:
    text = health_text(event.health)
    return f"; {text}" if text else ""


def _samples(trial: TrialProgress | TrialResult) -> str:
    return f"{count_text(trial.samples_drawn)} drawn, {count_text(trial.samples_reused)} reused"
