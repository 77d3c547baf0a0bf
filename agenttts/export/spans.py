"""Traces as spans of OpenTelemetry, by its conventions for generative AI (1.41, in development).

A request of a service is a workflow whose stages are its calls, with the times that they took. A search is a
trace of trials, whose stage calls have the trial's times: those of single examples are not stored. The ids
follow from the run's, so that a second export sends the same spans again, not others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TypeAlias
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from agenttts.export.content import Content
from agenttts.results.loading import stored_spec
from agenttts.results.served import ServedRequest, ServedStage, load_served
from datastore.records import Run, StageResult
from datastore.store import Store
from pipelines.spec.pipeline import PipelineSpec

Attributes: TypeAlias = Mapping[str, str | int | float | None]


@dataclass(frozen=True, kw_only=True)
class Times:
    """When something began and ended, in Unix seconds."""

    began: float
    ended: float


class RunSpans:
    """The spans of one run.

    Args:
        store: The database, open for reading.
        run: The run.
        content: Gives prompts and samples; None leaves them out, and with them the ids of examples, which
            may be a field of theirs.
    """

    def __init__(self, store: Store, run: Run, content: Content | None = None) -> None:
        self._store, self._run, self._content = store, run, content
        self._spec = stored_spec(run)
        self._names = {model.key: model.name for model in store.models()}

    @cached_property
    def name(self) -> str:
        """The name of the pipeline."""
        return self._run.run_id if self._spec is None else self._spec.name

    def search(self, *, stages: bool = True) -> Iterator[ReadableSpan]:
        """Yield the spans of the search.

        Args:
            stages: Whether each stage of each example has a span, beside the trials.
        """
        run = self._run
        trace_id, root = _id(16, run.run_id), _id(8, run.run_id)
        trials = [trial for trial in self._store.trials(run.run_id) if trial.finished_at is not None]
        ended = run.finished_at or max((t.finished_at or 0.0 for t in trials), default=run.started_at)
        attributes: Attributes = {"agenttts.run_id": run.run_id, "agenttts.run.status": run.status}
        times = Times(began=run.started_at, ended=ended)
        failed = run.status if run.status == "failed" else None
        yield _span(f"search {self.name}", trace_id, root, None, times, attributes, error=failed)
        for trial in trials:
            own = _id(8, trial.trial_id)
            times = Times(began=trial.started_at, ended=trial.finished_at or trial.started_at)
            attributes = {
                "agenttts.trial": trial.number,
                "agenttts.purpose": trial.purpose,
                "agenttts.split": trial.split,
                "agenttts.allocation": trial.allocation,
                "agenttts.score": trial.score,
                "agenttts.cost.usd": trial.cost_usd,
                "agenttts.samples.drawn": trial.samples_drawn,
            }
            yield _span(
                f"trial {trial.number}",
                trace_id,
                own,
                root,
                times,
                attributes,
                error=trial.error and "failed",
            )
            for result in self._store.stage_results(trial.trial_id) if stages else ():
                yield self._stage_of_trial(result, trace_id, own, times)

    def served(self) -> Iterator[ReadableSpan]:
        """Yield the spans of the requests that a service answered with the run's choice."""
        for request in load_served(self._store, self._run.run_id):
            yield from self._request(request)

    def _request(self, request: ServedRequest) -> Iterator[ReadableSpan]:
        trace_id = int(request.trace_id, 16)
        own = _id(8, request.trace_id, str(request.began_at))
        parent = None if request.parent_id is None else int(request.parent_id, 16)
        attributes = {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": self.name,
            "agenttts.run_id": self._run.run_id,
            "agenttts.example_id": self._shown(request.example_id),
            "agenttts.cost.units": request.units,
            "agenttts.cost.usd": request.cost_usd,
            "agenttts.rungs": request.n_rungs,
        }
        times = Times(began=request.began_at, ended=request.began_at + request.seconds)
        error = None if request.status == "ok" else "no_output"
        name = f"invoke_workflow {self.name}"
        yield _span(name, trace_id, own, parent, times, attributes, kind=SpanKind.SERVER, error=error)
        began = request.began_at
        for stage in request.stages:
            times = Times(began=began, ended=began + stage.seconds)
            began = times.ended
            span_id = _id(8, request.trace_id, str(request.began_at), stage.stage)
            yield self._call(stage, stage.source, trace_id, span_id, own, times)

    def _stage_of_trial(self, result: StageResult, trace_id: int, parent: int, times: Times) -> ReadableSpan:
        span_id = _id(8, result.trial_id, result.example_id, result.stage)
        further = {"agenttts.example_id": self._shown(result.example_id), "agenttts.score": result.score}
        return self._call(result, result.model_key, trace_id, span_id, parent, times, further)

    def _shown(self, example_id: str) -> str | None:
        return None if self._content is None else example_id

    def _call(
        self,
        stage: ServedStage | StageResult,
        source: str,
        trace_id: int,
        span_id: int,
        parent: int,
        times: Times,
        further: Attributes | None = None,
    ) -> ReadableSpan:
        """The span of a stage: of a model's samples, or of a function's call."""
        own = {
            "agenttts.stage": stage.stage,
            "agenttts.cost.usd": stage.cost_usd,
            "agenttts.cost.flops": stage.flops,
            "agenttts.samples.drawn": stage.samples_drawn,
            **(further or {}),
        }
        error = None if stage.status == "ok" else "no_output"
        function = None if self._spec is None else _function(self._spec, stage.stage)
        if function is not None or source.startswith("python:"):
            name = function or source.removeprefix("python:").partition("@")[0]
            own |= {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": name,
                "gen_ai.tool.type": "function",
            }
            return _span(f"execute_tool {name}", trace_id, span_id, parent, times, own, error=error)
        model = self._names.get(source, source)
        request = {} if self._spec is None else _asked(self._spec, stage.stage, source)
        own |= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai_compatible",
            "gen_ai.request.model": model,
            "gen_ai.request.choice.count": stage.n_samples if stage.n_samples != 1 else None,
            "gen_ai.usage.input_tokens": stage.prompt_tokens,
            "gen_ai.usage.output_tokens": stage.generated_tokens,
            **request,
        }
        if self._content is not None and stage.prompt_key is not None:
            own |= self._content.attributes(stage.prompt_key, stage.n_samples)
        name = f"chat {own['gen_ai.request.model']}"
        return _span(name, trace_id, span_id, parent, times, own, kind=SpanKind.CLIENT, error=error)


def _function(spec: PipelineSpec, stage: str) -> str | None:
    """The name of the function that a stage runs; None where models answer."""
    own = next((one for one in spec.stages if one.name == stage), None)
    if own is None or own.python is None:
        return None
    return getattr(own.python, "__name__", type(own.python).__name__)


def _asked(spec: PipelineSpec, stage: str, source: str) -> Attributes:
    """What the pipeline asks a model for at a stage; nothing where it is not known by this name."""
    keys = [name for name in spec.models if source in (name, spec.model_key(name))]
    own = next((one for one in spec.stages if one.name == stage), None)
    if not keys or own is None:
        return {}
    model = spec.models[keys[0]]
    sampling, address = model.sampled(own.sampling), urlsplit(model.base_url)
    return {
        "gen_ai.request.model": spec.served_name(keys[0]),
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "server.address": address.hostname,
        "server.port": address.port,
    }


def _span(
    name: str,
    trace_id: int,
    span_id: int,
    parent: int | None,
    times: Times,
    attributes: Attributes,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    error: str | None = None,
) -> ReadableSpan:
    known = {key: value for key, value in attributes.items() if value is not None}
    return ReadableSpan(
        name=name,
        context=_context(trace_id, span_id),
        parent=None if parent is None else _context(trace_id, parent),
        resource=_resource(),
        attributes=known if error is None else {**known, "error.type": error},
        kind=kind,
        status=Status(StatusCode.UNSET if error is None else StatusCode.ERROR),
        start_time=round(times.began * 1e9),
        end_time=round(times.ended * 1e9),
        instrumentation_scope=InstrumentationScope("agenttts", version("agenttts")),
    )


def _resource() -> Resource:
    return Resource({"service.name": "agenttts", "service.version": version("agenttts")})


def _context(trace_id: int, span_id: int) -> SpanContext:
    sampled = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(trace_id=trace_id, span_id=span_id, is_remote=False, trace_flags=sampled)


def _id(n_bytes: int, *parts: str) -> int:
    """An id of so many bytes, the same for the same parts, and never 0."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:n_bytes]) or 1
