"""The pages on which a person says which of two texts is more of their label: a pair, by buttons or keys."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from agenttts.errors import AgentTTSError, UserError
from agenttts.p2c.judging import Judging
from agenttts.report.pages import environment
from agenttts.ui.access import Access, Guard
from agenttts.ui.forms import form_of
from datastore.errors import StoreError

_ANSWERS = {"first": 1.0, "second": 0.0, "none": 0.5}


def judging_pages(judging: Judging, collection: str, access: Access) -> Starlette:
    """Build the application on which one person judges.

    Args:
        judging: The pairs, and where the answers go.
        collection: The name of the collection, for the title.
        access: Who may use it.
    """
    pages = _Pages(judging, collection)
    static = StaticFiles(packages=[("agenttts.ui", "assets"), ("agenttts.report", "assets")])
    return Starlette(
        routes=[
            Route("/", pages.pair),
            Route("/answer", pages.answer, methods=["POST"]),
            Route("/undo", pages.undo, methods=["POST"]),
            Mount("/static", static),
        ],
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={AgentTTSError: pages.failed, StoreError: pages.failed, 404: pages.failed},
    )


class _Pages:
    def __init__(self, judging: Judging, collection: str) -> None:
        self._judging = judging
        self._environment = environment("agenttts.ui")
        self._environment.globals["db"] = collection

    def pair(self, request: Request) -> Response:
        """The next pair, or that all are done."""
        return self._page("judge.html.j2", state=self._judging.state())

    async def answer(self, request: Request) -> Response:
        """Store an answer, and go on."""
        form = await form_of(request)
        number, preferred = form.get("number", ""), _ANSWERS.get(form.get("preferred", ""))
        if preferred is None or not number.isdecimal() or len(number) > 9:
            raise UserError("an answer names a pair, and first, second or none")
        try:
            await run_in_threadpool(self._judging.answer, int(number), preferred)
        except ValueError as error:
            raise UserError(str(error)) from None
        return RedirectResponse("/", status_code=303)

    async def undo(self, request: Request) -> Response:
        """Take the last answer back."""
        await run_in_threadpool(self._judging.undo)
        return RedirectResponse("/", status_code=303)

    def failed(self, request: Request, error: Exception) -> Response:
        """Say what is wrong."""
        reason = str(error) if isinstance(error, AgentTTSError | StoreError) else "no such page"
        return self._page("missing.html.j2", status=404, reason=reason)

    def _page(self, template: str, *, status: int = 200, **values: object) -> Response:
        return HTMLResponse(self._environment.get_template(template).render(**values), status_code=status)
