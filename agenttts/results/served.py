"""The requests that a service answered, stored as events of the run whose choice it serves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter

from agenttts.results.events import stored_events
from datastore.records import Event, ResultStatus
from datastore.store import Store

EVENT = "served"


@dataclass(frozen=True, kw_only=True)
class ServedStage:
    """A stage of a request that was answered.

    Attributes:
        stage: Its name.
        source: The model that drew its samples, or the option of its function.
        prompt_key: Of its first prompt in the bank; None where none was rendered.
        n_samples: Samples used.
        prompt_tokens: Tokens read, banked or not.
        generated_tokens: Tokens generated, banked or not.
        flops: Of these; None where active parameters are not known.
        cost_usd: Of these; None without prices.
        samples_drawn: Samples that this request paid for.
        calls: Requests to servers that it paid for.
        status: Whether it has an output.
        seconds: How long it took.
    """

    stage: str
    source: str
    prompt_key: str | None
    n_samples: int
    prompt_tokens: int
    generated_tokens: int
    flops: float | None
    cost_usd: float | None
    samples_drawn: int
    calls: int
    status: ResultStatus
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ServedRequest:
    """A request that a service answered, or could not answer.

    Attributes:
        trace_id: 32 hexadecimal digits, the client's own where it sent some.
        parent_id: The span of the client that sent it, 16 hexadecimal digits; None where it named none.
        example_id: The input's own id, else the trace's.
        began_at: Unix seconds.
        seconds: How long it took.
        status: Whether it has an output.
        reason: Why it has none; None where it has one.
        n_rungs: Rungs of the policy that were run; None for an allocation.
        units: Cost in units; None where it is not known.
        cost_usd: Cost in US dollars, samples of the bank included; None without prices.
        stages: Those of the rung that stands, in order.
    """

    trace_id: str
    parent_id: str | None
    example_id: str
    began_at: float
    seconds: float
    status: ResultStatus
    reason: str | None
    n_rungs: int | None
    units: float | None
    cost_usd: float | None
    stages: tuple[ServedStage, ...]


_SERVED = TypeAdapter(ServedRequest)


async def keep_served(store: Store, run_id: str, request: ServedRequest) -> None:
    """Store a request; return when it is durable.

    Args:
        store: The service's database.
        run_id: The run whose choice answered it.
        request: The request.
    """
    detail = json.dumps(asdict(request))
    event = Event(run_id=run_id, at=request.began_at + request.seconds, kind=EVENT, detail=detail)
    await store.put_events([event])


def load_served(store: Store, run_id: str) -> tuple[ServedRequest, ...]:
    """Return the requests that a service answered with a run's choice, in the order of their ends.

    Args:
        store: The service's database, open for reading.
        run_id: The run.
    """
    return tuple(stored_events(store, run_id, EVENT, _SERVED))
