"""The web application of the service: its routes, from a request to an answer or a problem."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agenttts.service import replies
from agenttts.service.gate import Gate, Limits, Places, body_of
from agenttts.service.problems import Problem, problem_of
from agenttts.service.requests import ChatRequest, Inputs, Trace, chat_request, parsed
from agenttts.service.worker import Answered, Worker
from pipelines.examples import Example
from pipelines.servers.streamed import TextStream
from pipelines.spec.pipeline import PipelineSpec
from pipelines.stages.growing import GrowingOutput

logger = logging.getLogger(__name__)
Handler = Callable[[Request, Trace], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What is served.

    Attributes:
        spec: The pipeline.
        run_id: The run whose choice it is.
        since: Unix seconds at which the service began.
    """

    spec: PipelineSpec
    run_id: str
    since: int

    @property
    def model(self) -> str:
        """The name of the model that clients ask for: the pipeline's."""
        return self.spec.name


class Service:
    """The routes of one pipeline. A request under way is worked on to its end, also when its client is gone:
    what was paid for is kept.

    Where the output turned out another text than what was streamed, as after thinking whose opening tag stood
    in the prompt, nothing is streamed any more.

    Args:
        worker: Runs the pipeline.
        offer: What is served.
        gate: Who may ask.
        limits: How much.
    """

    def __init__(self, worker: Worker, offer: Offer, gate: Gate, limits: Limits) -> None:
        self._worker, self._offer, self._gate, self._limits = worker, offer, gate, limits
        self._inputs = Inputs(offer.spec)
        self._places = Places(limits.requests)
        self._work = set[asyncio.Task[Answered]]()
        self._takes_back = False

    @property
    def app(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                Route("/health", self.health),
                Route("/v1/models", self._guarded(self.models)),
                Route("/v1/models/{model:path}", self._guarded(self.model)),
                Route("/v1/chat/completions", self._guarded(self.chat), methods=["POST"]),
                Route("/run", self._guarded(self.run), methods=["POST"]),
            ],
            exception_handlers={HTTPException: _no_route},
        )

    @property
    def n_under_way(self) -> int:
        """Requests that are worked on, those whose client has left included."""
        return len(self._work)

    async def end(self) -> None:
        """End the work that is still under way."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    async def health(self, request: Request) -> Response:
        """Say that the service runs; nobody needs a key for that."""
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request, trace: Trace) -> Response:
        """List the one model."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request, trace: Trace) -> Response:
        """Describe the one model."""
        self._require_model(request.path_params["model"])
        return JSONResponse(self._model())

    async def run(self, request: Request, trace: Trace) -> Response:
        """Answer an input whose fields are the body; `?stages=true` adds the stages' outputs."""
        fields = parsed(await body_of(request, self._limits))
        example = self._inputs.example(fields, trace.trace_id)
        answered = await asyncio.shield(self._begin(example, trace))
        stages = request.query_params.get("stages", "").lower() in ("1", "true", "yes")
        body = replies.run_reply(answered, trace, stages=stages)
        return JSONResponse(body, headers=replies.cost_headers(answered))

    async def chat(self, request: Request, trace: Trace) -> Response:
        """Answer a chat request, whole or as a stream."""
        chat = chat_request(await body_of(request, self._limits))
        self._require_model(chat.model)
        example = self._inputs.example(self._inputs.of_chat(chat), trace.trace_id)
        reply = replies.ChatReply(trace=trace, model=chat.model, created=int(time.time()))
        if chat.stream:
            return await self._streamed(chat, example, reply)
        answered = await asyncio.shield(self._begin(example, trace))
        return JSONResponse(reply.whole(answered), headers=replies.cost_headers(answered))

    async def _streamed(self, chat: ChatRequest, example: Example, reply: replies.ChatReply) -> Response:
        """Answer once there is a piece, or all of it, so that what fails before has a status of its own."""
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        growing = GrowingOutput()

        def grown(text: str) -> None:
            more = growing.add(text)
            if more:
                pieces.put_nowait(more)

        work = self._begin(example, reply.trace, None if self._takes_back else TextStream(grown))
        work.add_done_callback(lambda _: pieces.put_nowait(None))
        first = await pieces.get()
        if first is None:
            work.result()  # raises what there is instead of an answer
        usage = chat.stream_options is not None and chat.stream_options.include_usage
        headers = {"Cache-Control": "no-store"}
        if first is None:
            headers |= replies.cost_headers(work.result())
        events = self._events(reply, work, first, pieces, growing, usage)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _events(
        self,
        reply: replies.ChatReply,
        work: asyncio.Task[Answered],
        piece: str | None,
        pieces: asyncio.Queue[str | None],
        growing: GrowingOutput,
        usage: bool,
    ) -> AsyncIterator[bytes]:
        yield reply.first()
        while piece is not None:
            yield reply.piece(piece)
            piece = await pieces.get()
        try:
            answered = work.result()
        except asyncio.CancelledError:
            yield replies.problem_event(Problem(503, "stopping", "the service ends", kind="server_error"))
            return
        except Exception as error:
            yield replies.problem_event(_logged(error, reply.trace))
            return
        text = replies.text_of(answered.output)
        rest = growing.rest(text)
        if rest is None:
            self._takes_back = True
            changed = (
                "the output is another text than what was streamed; ask again: from now on it comes whole"
            )
            yield replies.problem_event(Problem(502, "output_changed", changed, kind="upstream_error"))
            return
        if rest:
            yield reply.piece(rest)
        yield reply.last(answered)
        if usage:
            yield reply.usage(answered)
        yield replies.DONE

    def _begin(
        self, example: Example, trace: Trace, stream: TextStream | None = None
    ) -> asyncio.Task[Answered]:
        """Start the work on an input, which has its place until it is done."""
        give_back = self._places.take()
        work = asyncio.create_task(self._worker.answer(example, trace, stream))
        self._work.add(work)

        def done(task: asyncio.Task[Answered]) -> None:
            give_back()
            self._work.discard(task)
            if not task.cancelled():
                task.exception()  # is read, also where its client is gone

        work.add_done_callback(done)
        return work

    def _model(self) -> dict[str, str | int]:
        offer = self._offer
        return {"id": offer.model, "object": "model", "created": offer.since, "owned_by": offer.run_id}

    def _require_model(self, name: str) -> None:
        if name != self._offer.model:
            message = f"there is no model {name!r:.100}; the one that is served is {self._offer.model!r}"
            raise Problem(404, "model_not_found", message, param="model")

    def _guarded(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """A handler behind the gate, whose errors are answers."""

        async def answer(request: Request) -> Response:
            trace = Trace.of(request.headers.get("traceparent"))
            try:
                self._gate.check(request)
                response = await handler(request, trace)
            except Exception as error:
                response = _refused(_logged(error, trace))
            response.headers[replies.TRACE_HEADER] = trace.trace_id
            return response

        return answer


def _logged(error: Exception, trace: Trace) -> Problem:
    """What a request is told of an error; what it is not told, as it is no fault of its own, is logged."""
    problem, cause = problem_of(error), error.__cause__ or error
    if problem.status in (500, 502):
        traced = error if problem.code == "internal_error" else None
        logger.error("trace %s: %s: %s", trace.trace_id, problem.code, cause, exc_info=traced)
    return problem


def _refused(problem: Problem) -> Response:
    return JSONResponse(problem.to_json_dict(), status_code=problem.status, headers=problem.headers)


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    code = "method_not_allowed" if status == 405 else "not_found"
    message = f"there is no {request.method} {request.url.path:.100}"
    return _refused(Problem(status, code, message))
