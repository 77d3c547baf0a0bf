"""The web application: its pages, from a database to HTML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args
from urllib.parse import quote

from markupsafe import Markup
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from agenttts.errors import AgentTTSError, UserError
from agenttts.report import figures as plots
from agenttts.report.pages import environment, plot
from agenttts.report.run_lines import paired_lines, run_budget, run_cost, run_score, side_by_side
from agenttts.results.examples import Show
from agenttts.search.waiting import WaitingRoom
from agenttts.space.measure import label_of
from agenttts.ui.access import Access, Guard
from agenttts.ui.forms import form_of
from agenttts.ui.reading import Reading, RunPage
from datastore.errors import StoreError
from pipelines.errors import PipelineError


class _AnyText(Convertor[str]):
    """The rest of a path, line ends included, as an example's id may have them."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any", _AnyText())
_MOST_DIGITS = 9
_COURSES: Mapping[str, plots.Course] = {
    "Loss on the answers learnt, and on those of the evaluation split": "loss",
    "Greedy score on the evaluation split": "score",
}
_SHOWS: tuple[Show, ...] = get_args(Show)


def application(db: Path, access: Access) -> Starlette:
    """Build the application that shows a database.

    Args:
        db: The DuckDB file.
        access: Who may read it.
    """
    pages = Pages(db)
    static = StaticFiles(packages=[("agenttts.ui", "assets"), ("agenttts.report", "assets")])
    return Starlette(
        routes=[
            Route("/", pages.runs),
            Route("/compare", pages.compare),
            Route("/tuned/{key:path}", pages.tuned),
            Route("/runs/{run}", pages.run),
            Route("/runs/{run}/waiting", pages.waiting),
            Route("/runs/{run}/decide", pages.decide, methods=["POST"]),
            Route("/runs/{run}/trials/{number:int}", pages.trial),
            Route("/runs/{run}/trials/{number:int}/examples/{example:any}", pages.example),
            Mount("/static", static),
        ],
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={
            StoreError: pages.missing,
            AgentTTSError: pages.missing,
            PipelineError: pages.missing,
            404: pages.missing,
        },
    )


class Pages:
    """The pages of one database. Each is read in a thread of the server's pool.

    Args:
        db: The DuckDB file.
    """

    def __init__(self, db: Path) -> None:
        self._reading = Reading(db)
        self._room = WaitingRoom(db)
        self._environment = environment("agenttts.ui")
        self._environment.globals |= {"db": db.name, "label_of": label_of, "shows": _SHOWS}
        self._environment.filters |= {"budget": run_budget, "paid": run_cost, "result": run_score}

    def runs(self, request: Request) -> Response:
        """All runs and tuned models, the newest first, and a form that compares two runs."""
        return self._page("runs.html.j2", runs=self._reading.runs(), tuned=self._reading.tuned())

    def tuned(self, request: Request) -> Response:
        """How a model was tuned: the course of its loss and score."""
        row = self._reading.tuned_model(request.path_params["key"])
        courses = plots.training_courses([row])
        figures = {name: plot(courses[what], name) for name, what in _COURSES.items() if what in courses}
        return self._page("tuned.html.j2", row=row, figures=figures)

    def compare(self, request: Request) -> Response:
        """Two runs side by side, with the paired difference."""
        first, second = (request.query_params.get(name, "latest") for name in ("first", "second"))
        comparison = self._reading.comparison(first, second)
        return self._page(
            "compare.html.j2",
            comparison=comparison,
            rows=list(side_by_side(comparison)),
            lines=list(paired_lines(comparison)),
        )

    def run(self, request: Request) -> Response:
        """One run. What asks for `state` gets no content while that is the state, or none can be read."""
        seen = request.query_params.get("state")
        if seen is not None and seen == self._reading.state:
            return Response(status_code=204)
        try:
            page = self._reading.run(request.path_params["run"])
        except StoreError:
            if seen is None:
                raise
            return Response(status_code=204)
        template = "run.html.j2" if seen is None else "live.html.j2"
        waiting = self._reading.waiting(page.data.run_id) if page.pace and seen is None else None
        return self._page(template, page=page, data=page.data, figures=_figures(page), waiting=waiting)

    def waiting(self, request: Request) -> Response:
        """The proposals that wait for a decision; no content where what was seen is what there is."""
        page = self._reading.waiting(request.path_params["run"])
        if request.query_params.get("seen") == ("" if page.approval is None else page.approval.question_id):
            return Response(status_code=204)
        return self._page("waiting.html.j2", waiting=page)

    async def decide(self, request: Request) -> Response:
        """Hand the decisions on the proposals to the search."""
        form, run = await form_of(request), request.path_params["run"]
        page = await run_in_threadpool(self._reading.waiting, run)
        if page.approval is None or form.get("question") != page.approval.question_id:
            raise UserError("these proposals wait no longer; look at the run again")
        decisions = page.approval.decisions(form)
        await run_in_threadpool(self._room.answer, page.approval.question_id, decisions)
        return RedirectResponse(f"/runs/{quote(run)}", status_code=303)

    def trial(self, request: Request) -> Response:
        """The examples of a trial, by what became of them."""
        query = request.query_params
        show: Show = next((name for name in _SHOWS if name == query.get("show")), "all")
        page = self._reading.trial(
            request.path_params["run"],
            request.path_params["number"],
            show,
            _number(query.get("against", "")),
            _number(query.get("page", "")) or 1,
        )
        return self._page("trial.html.j2", page=page, data=page.data, no_samples=_no_samples(page.is_live))

    def example(self, request: Request) -> Response:
        """One example of a trial: what every stage read, drew and voted."""
        path = request.path_params
        page = self._reading.example(path["run"], path["number"], path["example"])
        return self._page(
            "example_page.html.j2", page=page, data=page.data, no_samples=_no_samples(page.is_live)
        )

    def missing(self, request: Request, error: Exception) -> Response:
        """Say what is not there, or can't be read."""
        reason = (
            str(error) if isinstance(error, StoreError | AgentTTSError | PipelineError) else "no such page"
        )
        return self._page("missing.html.j2", status=404, reason=reason)

    def _page(self, template: str, *, status: int = 200, **values: object) -> Response:
        return HTMLResponse(self._environment.get_template(template).render(**values), status_code=status)


def _number(text: str) -> int | None:
    """The whole number of a query; None for what is none, or has more digits than any trial or page."""
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None


def _figures(page: RunPage) -> dict[str, Markup]:
    data, figures = page.data, dict[str, Markup]()
    if data.steps:
        by_flops = all(step.flops is not None for step in data.steps)
        axis = "flops" if by_flops else "trials"
        figures["best"] = plot(plots.best_so_far(data, axis), "Best score so far")
        figures["budget"] = plot(plots.quality_against_budget(data), "Score against budget")
    for stage in dict.fromkeys(curve.stage for curve in data.curves if len(curve.points) > 1):
        figures[stage] = plot(plots.score_against_samples(data, stage), f"Score against samples at {stage}")
    return figures


def _no_samples(is_live: bool) -> str:
    if is_live:
        return "Prompts and samples can be read when the search has ended or is stopped."
    return "The samples are not stored here: they are those of a bank that is gone."
