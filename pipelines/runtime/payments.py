"""What a draw costs: set aside before it, settled after it, and entered together with its samples."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from datastore.keys import well_formed
from datastore.records import Payment, Prompt, Sample
from pipelines.servers.billing import Bill
from pipelines.servers.wire import Draw, DrawnSample


class SampleBank(Protocol):
    """What is asked of `datastore.store.Store` while drawing."""

    async def get_samples(self, prompt_keys: Sequence[str]) -> dict[str, list[Sample]]: ...

    async def get_prompt(self, key: str) -> Prompt | None: ...

    async def put_samples(
        self, prompt: Prompt, samples: Sequence[Sample], payment: Payment | None = None
    ) -> None: ...

    async def put_payment(self, payment: Payment) -> None: ...


class Reservation(Protocol):
    """Tokens set aside for one request."""

    def settle(self, prompt_tokens: int, generated_tokens: int) -> None:
        """Replace what was set aside by what was used; called once."""

    def settle_cost(self, flops: float, usd: float) -> None:
        """Replace what was set aside for a call of a function by what it cost; called once."""


class SpendGate(Protocol):
    """Decides whether a request may be paid for."""

    async def reserve(self, model: str, prompt_tokens_bound: int, generated_tokens_bound: int) -> Reservation:
        """Set aside as many tokens as the request can use; SpendRefused when a limit leaves no room."""

    async def reserve_cost(self, name: str, flops: float, usd: float) -> Reservation:
        """Set aside what a call of a stage's function may cost; SpendRefused when a limit leaves no room."""


@asynccontextmanager
async def reserved(
    gate: SpendGate | None, model: str, bounds: tuple[int, int], n: int, bill: Bill
) -> AsyncIterator[None]:
    """Reserve the tokens of a request before it and settle them by its bill after it, whatever came of it.

    Args:
        gate: Limits what is spent; None limits nothing.
        model: What the gate knows the model by.
        bounds: The most tokens of the prompt, and of one sample.
        n: How many samples the request asks for.
        bill: The bill of the request.

    Raises:
        SpendRefused: A limit leaves no room.
    """
    reservation = None if gate is None else await gate.reserve(model, bounds[0], n * bounds[1])
    try:
        yield
    finally:
        if reservation is not None:
            reservation.settle(*_paid(bill, bounds))


def sample_of(prompt_key: str, index: int, drawn: DrawnSample, draw: Draw, run_id: str | None) -> Sample:
    """Return what the bank keeps of a sample that was drawn.

    Args:
        prompt_key: The key of its prompt.
        index: Its number among the samples of the prompt.
        drawn: The sample as the server gave it.
        draw: The draw that it is from.
        run_id: The run that drew it; None where no run did.
    """
    return Sample(
        prompt_key=prompt_key,
        index=index,
        text=well_formed(drawn.text),
        generated_tokens=drawn.generated_tokens,
        mean_logprob=drawn.mean_logprob,
        finish_reason=drawn.finish_reason,
        run_id=run_id,
        request_id=draw.request_id,
    )


async def enter(
    bank: SampleBank,
    run_id: str | None,
    prompt: Prompt,
    drawn: Sequence[Sample],
    bill: Bill,
    bounds: tuple[int, int],
) -> None:
    """Enter a draw's bill in a run's ledger, together with the samples that it brought.

    Args:
        bank: Where both go.
        run_id: The run that pays; None where no run does.
        prompt: The prompt of the samples.
        drawn: The samples.
        bill: The bill of the draw.
        bounds: The most tokens of the prompt, and of one sample, for what nobody counted.
    """
    payment = None
    if run_id is not None and bill.calls:
        prompt_tokens, generated_tokens = _paid(bill, bounds)
        payment = Payment(
            run_id=run_id,
            model_key=prompt.model_key,
            prompt_key=prompt.key,
            calls=bill.calls,
            samples_drawn=len(drawn),
            prompt_tokens=prompt_tokens,
            generated_tokens=generated_tokens,
        )
    if drawn:
        await bank.put_samples(prompt, drawn, payment)
    elif payment is not None:
        await bank.put_payment(payment)


def _paid(bill: Bill, bounds: tuple[int, int]) -> tuple[int, int]:
    """The tokens of prompts and of answers that a bill comes to."""
    return bill.prompt_tokens_within(bounds[0]), bill.generated_tokens_within(bounds[1])
