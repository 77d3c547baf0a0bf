"""A rehearsal of the search: one real request for each stage and model, of the shape that the search sends.

A request asks for as many samples of the first search example's own prompt as the search may, with the same
fields, so that what a server refuses, cuts or leaves empty is seen before the crowd of requests. The function
of a stage is called once with each of its options. Inputs of a stage are stand-ins. Nothing of it is kept:
the search has no samples from it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from agenttts.proposers.moves import units_left
from agenttts.results.health import SampleHealth
from agenttts.results.meter import SampleCounts
from agenttts.search.check import stand_ins
from agenttts.search.findings import Finding
from agenttts.space.space import SearchSpace
from datastore.keys import canonical_json
from pipelines.allocation import StageOption
from pipelines.content import Content
from pipelines.costs import estimated_tokens, generated_tokens_bound, prompt_tokens_bound, stage_cost_usd
from pipelines.errors import PipelineError, SpecError
from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.runtime.calls import arguments_of, called
from pipelines.runtime.values import VERIFYING
from pipelines.servers.billing import Bill
from pipelines.servers.clients import ModelClients
from pipelines.servers.wire import Draw, PromptRefused
from pipelines.spec.models import SamplingSpec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.variants import Fusion, Refine
from pipelines.stages.prompts import render, render_fusion, verified_text


@dataclass(frozen=True, kw_only=True)
class PlannedRequest:
    """A request that is to be sent.

    Attributes:
        stage: The stage.
        model: The model's key in the spec: one that draws samples, one that fuses them, or a verifier.
        content: The prompt, or the text to classify.
        sampling: How the samples are drawn.
        n: How many samples it asks for.
        prompt: The stage's prompt, by name; None for its own.
    """

    stage: StageSpec
    model: str
    content: Content
    sampling: SamplingSpec
    n: int
    prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedCall:
    """A call of a stage's function that is to be made.

    Attributes:
        stage: The stage.
        option: The option whose arguments it gets.
    """

    stage: StageSpec
    option: StageOption


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """What came of a request, or of a call of a stage's function.

    Attributes:
        stage: The stage.
        model: The model's key in the spec; of a call the name of the option.
        n_asked: Samples asked for.
        prompt: The stage's prompt, by name; None for its own.
        calls: Requests that the server answered.
        prompt_tokens: Tokens of the prompt.
        generated_tokens: Tokens of all answers, those that are no text included.
        cost_usd: US dollars; None when the model has no price.
        logprobs: Whether log-probabilities came.
        health: The shares of empty, cut and unparsed samples; None for a verifier and for a call.
        texts: The samples; of a call what the function returned, as JSON.
        seconds: How long a call took; None for a request.
        missing: A reason for each answer that is no text, such as a refusal or nothing but reasoning.
        too_few: Whether the server answered with fewer than it was asked for, and did not refuse so many.
        failure: Why there is no answer; None when there is one.
        fatal: Whether the failure would end the search, or leave it without samples.
    """

    stage: str
    model: str
    n_asked: int
    prompt: str | None = None
    calls: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cost_usd: float | None = None
    logprobs: bool = False
    health: SampleHealth | None = None
    texts: tuple[str, ...] = ()
    seconds: float | None = None
    missing: tuple[str, ...] = ()
    too_few: bool = False
    failure: str | None = None
    fatal: bool = False

    @property
    def line(self) -> str:
        """What came of the request, in one line."""
        what = f"{self.stage} × {StageOption(self.model, None, self.prompt)}"
        if self.failure is not None:
            return f"{what}: no answer"
        money = "" if self.cost_usd is None else f", ${self.cost_usd:.4g}"
        if self.seconds is not None:
            return f"{what}: returned {len(self.texts[0]):,} characters of JSON{money}"
        tokens = f"{self.prompt_tokens:,} + {self.generated_tokens:,} tokens{money}"
        if self.health is None:
            return f"{what}: one classification, {tokens}"
        n = self.health.n_samples
        empty, cut, unparsed = (
            round(n * share) for share in (self.health.empty, self.health.cut, self.health.unparsed)
        )
        parts = [f"{len(self.texts)} of {self.n_asked} samples, {tokens}", f"{n - empty - unparsed} parse"]
        parts += [f"{count} {what}" for count, what in ((cut, "cut"), (empty, "empty")) if count]
        parts += ["all one text"] if self.health.identical == 1 else []
        parts.append(f"log-probabilities {'come' if self.logprobs else 'do not come'}")
        return f"{what}: {'; '.join(parts)}"

    def findings(self) -> list[Finding]:
        """Return what a search would suffer from."""
        place = f"stages[{self.stage}]"
        problems: list[tuple[bool, str]] = []
        if self.failure is not None:
            problems.append((self.fatal, f"{self.model}: {self.failure}"))
        if self.health is not None and (warning := self.health.warning_of(fewest=1)) is not None:
            problems.append((not self.texts, warning))
        if self.too_few:
            n = len(self.texts) + len(self.missing)
            came = f"one request for {self.n_asked} samples brought {n}"
            problems.append(
                (False, f"{self.model}: {came}; set max_n: {n}, since each request bills its prompt")
            )
        return [
            Finding(severity="error" if fatal else "warning", place=place, message=message)
            for fatal, message in problems
        ]

    def to_json_dict(self) -> dict[str, JSON]:
        """Return it as JSON-able data."""
        health = self.health and self.health.to_json_dict(fewest=1)
        return {**asdict(self), "health": health, "texts": list(self.texts), "missing": list(self.missing)}


def plan_rehearsal(space: SearchSpace, example: Example) -> list[PlannedRequest | PlannedCall]:
    """Plan a request for each stage and model that the budget allows, and a call for each function's option.

    A stage whose prompt can't be rendered with stand-ins for its inputs is left out.

    Args:
        space: The allocations within the budget.
        example: The example whose prompts are sent.
    """
    spec = space.spec
    requests: list[PlannedRequest | PlannedCall] = []
    for stage in spec.stages:
        if stage.python is not None:
            requests += [PlannedCall(stage=stage, option=option) for option in stage.options]
            continue
        left = units_left(space, space.cheapest, stage.name)
        most = dict[tuple[str | None, str], int]()
        for option in stage.options:
            n, drawn = space.max_samples(stage.name, option, left), (option.prompt, option.model)
            most[drawn] = max(most.get(drawn, 0), n)
        for (prompt, name), affordable in most.items():
            prompted = stage.prompted(prompt)
            try:
                content = render(prompted, example, stand_ins(spec, stage, example))
            except SpecError:
                continue  # the stand-ins do not fit, which `check` warns of
            n = min(affordable, spec.models[name].max_n or affordable)
            if n:
                sampling = spec.models[name].sampled(stage.sampling)
                n = 1 if isinstance(stage.aggregator, Refine) else n
                requests.append(
                    PlannedRequest(
                        stage=prompted, model=name, content=content, sampling=sampling, n=n, prompt=prompt
                    )
                )
    return requests


def announcement(
    spec: PipelineSpec, planned: Sequence[PlannedRequest | PlannedCall], example: Example
) -> str:
    """Say what will be sent, and the most that it can cost.

    Args:
        spec: The pipeline.
        planned: The requests and the calls of functions.
        example: The example whose prompts are sent.
    """
    requests = [one for one in planned if isinstance(one, PlannedRequest)]
    calls = [one for one in planned if isinstance(one, PlannedCall)]
    n_samples = sum(request.n for request in requests)
    parts = [f"at most {n_samples:,} samples"]
    generated = [
        r.n * generated_tokens_bound(r.sampling, spec.models[r.model].context_length) for r in requests
    ]
    parts.append(f"{sum(generated):,} generated tokens")
    costs = [
        stage_cost_usd(
            spec.models[r.model],
            prompt_tokens_bound(canonical_json(r.content), spec.models[r.model].context_length),
            tokens,
        )
        for r, tokens in zip(requests, generated, strict=True)
    ]
    costs += [call.stage.cost_of(call.option).usd for call in calls]
    if costs and None not in costs:
        parts.append(f"${sum(cost or 0.0 for cost in costs):.4g}")
    further = any(stage.verifiers or stage.aggregator.own_model for stage in spec.stages)
    beside = ", and one for each model that picks or fuses samples" if further else ""
    by_call = f", and calling functions {len(calls)} times, once for each option" if calls else ""
    return (
        f"sending {len(requests)} real request{'s' * (len(requests) != 1)}, one for each stage and model"
        f"{by_call}, on search example {example.id!r}{beside}: {', '.join(parts)}; "
        "--no-requests leaves them out"
    )


async def rehearse(
    spec: PipelineSpec,
    planned: Sequence[PlannedRequest | PlannedCall],
    example: Example,
    clients: ModelClients,
) -> list[Rehearsed]:
    """Send the requests, all at once, and then one for each model that picks or fuses their samples.

    Args:
        spec: The pipeline.
        planned: The requests, and the calls of functions, which are made beside them.
        example: The example whose prompts are sent.
        clients: The clients of the servers.
    """
    drawn = await asyncio.gather(
        *(
            _sent(spec, one, example, clients)
            if isinstance(one, PlannedRequest)
            else _called(spec, one, example)
            for one in planned
        )
    )
    texts = {one.stage: one.texts for one in reversed(drawn) if one.texts}
    further = [r for stage in spec.stages for r in _aggregation(spec, stage, example, texts)]
    return [*drawn, *await asyncio.gather(*(_sent(spec, request, example, clients) for request in further))]


def _aggregation(
    spec: PipelineSpec, stage: StageSpec, example: Example, texts: Mapping[str, Sequence[str]]
) -> list[PlannedRequest]:
    """The requests of a stage's fuser and verifiers, on samples that came."""
    samples = texts.get(stage.name)
    if not samples or stage.python is not None:
        return []
    outputs = stand_ins(spec, stage, example)
    if isinstance(stage.aggregator, Fusion):
        model = stage.aggregator.model
        content = render_fusion(stage, samples, example, outputs)
        sampling = spec.models[model].sampled(stage.sampling)
        return [PlannedRequest(stage=stage, model=model, content=content, sampling=sampling, n=1)]
    own = stage.aggregator.own_model
    first = stage.prompted(stage.prompt_names[0])
    text: Content = {"classify": verified_text(render(first, example, outputs), samples[0])}
    return [
        PlannedRequest(stage=stage, model=name, content=text, sampling=VERIFYING, n=1)
        for name in dict.fromkeys([*([own] if own else []), *stage.verifiers])
    ]


async def _called(spec: PipelineSpec, planned: PlannedCall, example: Example) -> Rehearsed:
    """What a function returns; with stand-ins for inputs a failure may be theirs, and is a warning."""
    stage, option = planned.stage, planned.option
    assert stage.python is not None
    arguments = arguments_of(stage, option, example, stand_ins(spec, stage, example))
    try:
        value, cost = await called(stage.python, arguments, stage.cost_of(option))
    except PipelineError as error:
        fatal = not stage.input_names
        return Rehearsed(stage=stage.name, model=option.model, n_asked=1, failure=str(error), fatal=fatal)
    return Rehearsed(
        stage=stage.name,
        model=option.model,
        n_asked=1,
        cost_usd=cost.usd,
        texts=(json.dumps(value, ensure_ascii=False),),
        seconds=cost.seconds,
    )


async def _sent(
    spec: PipelineSpec, request: PlannedRequest, example: Example, clients: ModelClients
) -> Rehearsed:
    result = Rehearsed(
        stage=request.stage.name, model=request.model, n_asked=request.n, prompt=request.prompt
    )
    model, bill = spec.models[request.model], Bill()
    draw: Draw | None = None
    try:
        draw = await clients.draw(request.model, request.content, request.sampling, request.n, bill=bill)
    except PipelineError as error:
        result = replace(result, failure=str(error), fatal=not isinstance(error, PromptRefused))
    prompt_tokens = bill.prompt_tokens_within(estimated_tokens(canonical_json(request.content)))
    generated_tokens = bill.generated_tokens_within(
        generated_tokens_bound(request.sampling, model.context_length)
    )
    result = replace(
        result,
        calls=bill.calls,
        prompt_tokens=prompt_tokens,
        generated_tokens=generated_tokens,
        cost_usd=stage_cost_usd(model, prompt_tokens, generated_tokens),
    )
    if draw is None:
        return result
    return replace(
        result,
        logprobs=any(sample.mean_logprob is not None for sample in draw.samples),
        health=None if "classify" in request.content else _health(request, example, draw),
        texts=tuple(sample.text for sample in draw.samples),
        missing=draw.missing,
        too_few=draw.most_n is None and 0 < len(draw.samples) + len(draw.missing) < request.n,
    )


def _health(request: PlannedRequest, example: Example, draw: Draw) -> SampleHealth:
    counts = SampleCounts(request.stage, request.model, request.sampling)
    for index, sample in enumerate(draw.samples):
        counts.add("", index, sample.text, sample.finish_reason, example)
    if draw.missing:
        counts.add_textless(len(draw.missing), draw.missing_cut, draw.missing[0])
    return counts.health
