"""A probe of servers' speed: a burst of requests for each stage and model, of the stage's own prompts.

One kind of request follows the other, so that no two share a server. Inputs of a stage are stand-ins. Nothing
of it is kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from agenttts.errors import UserError
from agenttts.search.check import stand_ins
from agenttts.search.throughput import Throughput
from pipelines.examples import Example
from pipelines.servers.clients import ModelClients
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.stages.prompts import render

N_PROBES = 32
"""Requests for each stage and model: as many as a client begins with at once."""
_SAMPLES_PER_PROBE = 4


async def probed_throughput(
    spec: PipelineSpec,
    examples: Sequence[Example],
    clients: ModelClients,
    clock: Callable[[], float] = time.perf_counter,
) -> Throughput:
    """Send a burst of requests for each stage and model, and return the samples per second of each.

    Args:
        spec: The pipeline.
        examples: Search examples, whose prompts are sent; the inputs of a stage are stand-ins.
        clients: The clients of the servers.
        clock: Seconds.

    Raises:
        PipelineError: A server does not answer, or refuses a request.
    """
    rates: dict[tuple[str, str], float] = {}
    n_drawn, begun = 0, clock()
    for stage in spec.stages:
        for prompt, model in _kinds(stage):
            n, seconds = await _burst(spec, stage.prompted(prompt), model, examples, clients, clock)
            if not n:
                raise UserError(f"the probe of {stage.name} × {model} brought no sample; run agenttts check")
            n_drawn += n
            rates[stage.name, model if prompt is None else f"{model}:{prompt}"] = n / seconds
    return Throughput(source=f"by a probe of {n_drawn:,} samples in {clock() - begun:,.1f} s", rates=rates)


def n_probe_requests(spec: PipelineSpec) -> int:
    """Return how many requests a probe sends.

    Args:
        spec: The pipeline.
    """
    return N_PROBES * sum(len(_kinds(stage)) for stage in spec.stages)


def _kinds(stage: StageSpec) -> list[tuple[str | None, str]]:
    """What a stage's samples may be drawn by: each prompt with each model."""
    if stage.python is not None:
        return []
    return list(dict.fromkeys((option.prompt, option.model) for option in stage.options))


async def _burst(
    spec: PipelineSpec,
    stage: StageSpec,
    model: str,
    examples: Sequence[Example],
    clients: ModelClients,
    clock: Callable[[], float],
) -> tuple[int, float]:
    """The samples that a burst brought, and its seconds."""
    chosen = [examples[i % len(examples)] for i in range(N_PROBES)]
    contents = [render(stage, example, stand_ins(spec, stage, example)) for example in chosen]
    sampling = spec.models[model].sampled(stage.sampling)
    n = min(_SAMPLES_PER_PROBE, stage.max_samples, spec.models[model].max_n or _SAMPLES_PER_PROBE)
    begun = clock()
    draws = await asyncio.gather(*(clients.draw(model, content, sampling, n) for content in contents))
    return sum(len(draw.samples) for draw in draws), clock() - begun
