"""The ledger that enforces the limits on what the whole search may spend.

These limits are not the budget of an allocation (`agenttts.space`), which is compute per query. Every request
reserves the most it can use before it is sent and settles what it did use, so that the limits hold however
many requests are in flight. The search reads `Ledger.reached` to decide when to stop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agenttts.results.cost import call_costs, costs_by_model
from agenttts.settings import SearchLimits
from datastore.store import Store
from pipelines.costs import model_flops, stage_cost_usd
from pipelines.errors import SpendRefused
from pipelines.spec.models import ModelSpec
from pipelines.spec.pipeline import PipelineSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Spending:
    """An amount of tokens, FLOPs and money.

    Attributes:
        tokens: Prompt and generated tokens.
        flops: FLOPs of the models whose active parameters are known.
        usd: US dollars.
    """

    tokens: int = 0
    flops: float = 0.0
    usd: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        return Spending(
            tokens=self.tokens + other.tokens, flops=self.flops + other.flops, usd=self.usd + other.usd
        )

    def __sub__(self, other: Spending) -> Spending:
        return Spending(
            tokens=self.tokens - other.tokens, flops=self.flops - other.flops, usd=self.usd - other.usd
        )

    def within(self, limits: SearchLimits, share: float) -> Spending:
        """Return the amount, but of each limit no more than a share.

        Args:
            limits: The limits.
            share: The share of each.
        """
        tokens, flops, usd = (
            amount if cap is None else min(amount, share * cap)
            for amount, cap in (
                (self.tokens, limits.tokens),
                (self.flops, limits.flops),
                (self.usd, limits.usd),
            )
        )
        return Spending(tokens=int(tokens), flops=flops, usd=usd)

    def over(self, limits: SearchLimits) -> str | None:
        """Return the name of the first limit that this amount exceeds; None when it exceeds none."""
        for name in ("tokens", "flops", "usd"):
            cap = getattr(limits, name)
            if cap is not None and getattr(self, name) > cap * (1 + 1e-12):
                return name
        return None


@dataclass(eq=False, slots=True)
class LedgerEntry:
    """The reservation of one request, until it is settled.

    Attributes:
        ledger: The ledger that the reservation is in.
        model: The name of the model that is called.
        bound: The most that the request can use.
        settled: Whether the reservation was settled.
    """

    ledger: Ledger
    model: str
    bound: Spending
    settled: bool = field(default=False)

    def settle(self, prompt_tokens: int, generated_tokens: int) -> None:
        """Replace the reservation by the tokens that were used. A second call has no effect."""
        self._settle(self.ledger.spending(self.model, prompt_tokens, generated_tokens))

    def settle_cost(self, flops: float, usd: float) -> None:
        """Replace the reservation by what a call of a function cost. A second call has no effect."""
        self._settle(Spending(flops=flops, usd=usd))

    def _settle(self, used: Spending) -> None:
        if not self.settled:
            self.settled = True
            self.ledger._settle(self, used)


class Ledger:
    """Enforces the limits of one search, as the `pipelines.runtime.payments.SpendGate` of its runtime.

    Args:
        limits: The limits of the search.
        models: The models by name, for FLOPs and prices; a model that is missing here (such as the agent's)
            costs tokens only.
        clock: Returns a time in seconds, of which only differences are used.
        spent: What a resumed search has spent before; None: nothing.
        elapsed_s: The seconds that a resumed search has run before.

    Attributes:
        limits: The limits of the search.
        reserve_for_end: The part of them that only the test phase may spend.
        reserve_minutes: The part of the time that only the test phase may take.
        spent: What was spent so far.

    Raises:
        UserError: Money is limited and a model has no price.
    """

    def __init__(
        self,
        limits: SearchLimits,
        models: Mapping[str, ModelSpec],
        *,
        clock: Callable[[], float],
        spent: Spending | None = None,
        elapsed_s: float = 0.0,
    ) -> None:
        limits.require_prices(models)
        self.limits = limits
        self.reserve_for_end = Spending()
        self.reserve_minutes = 0.0
        self.spent = spent or Spending()
        self._models = models
        self._clock = clock
        self._started = clock() - elapsed_s
        self._in_flight: set[LedgerEntry] = set()
        self._reserved = Spending()
        self._waiting: deque[tuple[LedgerEntry, asyncio.Future[None]]] = deque()

    @classmethod
    def resumed(
        cls,
        limits: SearchLimits,
        spec: PipelineSpec,
        *,
        clock: Callable[[], float],
        store: Store,
        run_id: str,
    ) -> Ledger:
        """Build the ledger of a stored run: its payments and the duration of its trials.

        Args:
            limits: The limits of the search.
            spec: The pipeline, for the models' FLOPs and prices.
            clock: Returns a time in seconds, of which only differences are used.
            store: The store of the run.
            run_id: The run.

        Returns:
            The ledger.
        """
        known = Spending()
        for cost in costs_by_model(store, run_id, spec):
            known += Spending(flops=cost.flops or 0.0, usd=cost.usd or 0.0)
        for call in call_costs(store, run_id):
            known += Spending(flops=call.flops, usd=call.usd)
        total = store.run_cost(run_id)
        tokens = total.prompt_tokens + total.generated_tokens
        return cls(
            limits,
            spec.models,
            clock=clock,
            spent=Spending(tokens=tokens, flops=known.flops, usd=known.usd),
            elapsed_s=sum(
                trial.finished_at - trial.started_at
                for trial in store.trials(run_id)
                if trial.finished_at is not None
            ),
        )

    def spending(self, model: str, prompt_tokens: int, generated_tokens: int) -> Spending:
        """Return the cost of tokens.

        Args:
            model: The name of the model.
            prompt_tokens: The number of prompt tokens.
            generated_tokens: The number of generated tokens.

        Returns:
            The cost; tokens alone for a model that the ledger does not know.
        """
        tokens = prompt_tokens + generated_tokens
        spec = self._models.get(model)
        if spec is None:
            return Spending(tokens=tokens)
        return Spending(
            tokens=tokens,
            flops=model_flops(spec, prompt_tokens, generated_tokens) or 0.0,
            usd=stage_cost_usd(spec, prompt_tokens, generated_tokens) or 0.0,
        )

    @property
    def elapsed_minutes(self) -> float:
        """The minutes that the search has run, those before it was resumed included."""
        return (self._clock() - self._started) / 60

    def reached(self, n_trials: float = 0) -> str | None:
        """Return the limit that the search has reached.

        Args:
            n_trials: The number of trials evaluated so far, one on a part of the examples as that part.

        Returns:
            The limit, in words; None while the search may go on.
        """
        limits, spent, reserve = self.limits, self.spent, self.reserve_for_end
        used = {
            "trials": (n_trials, limits.trials, 0),
            "tokens": (spent.tokens, limits.tokens, reserve.tokens),
            "flops": (spent.flops, limits.flops, reserve.flops),
            "usd": (spent.usd, limits.usd, reserve.usd),
            "minutes": (self.elapsed_minutes, limits.minutes, self.reserve_minutes),
        }
        for name, (value, cap, share) in used.items():
            if cap is not None and value + share >= cap:
                return f"limit on {name} reached: {value:.6g} of {cap:.6g}{_reserve_text(share)}"
        return None

    async def reserve(self, model: str, prompt_tokens_bound: int, generated_tokens_bound: int) -> LedgerEntry:
        """Reserve the most that a request can use.

        The call waits while other reservations may still free enough. Every reservation is settled without
        reserving more, so that no call waits for ever.

        Args:
            model: The name of the model that is called.
            prompt_tokens_bound: The largest number of prompt tokens.
            generated_tokens_bound: The largest number of generated tokens.

        Returns:
            The reservation, to be settled after the request.

        Raises:
            SpendRefused: The request would not fit even if all other reservations were freed, or the time is
                over.
        """
        return await self._reserve(model, self.spending(model, prompt_tokens_bound, generated_tokens_bound))

    async def reserve_cost(self, name: str, flops: float, usd: float) -> LedgerEntry:
        """Reserve what a call of a stage's function may cost, as `reserve` does for a request.

        Args:
            name: The name of the stage.
            flops: FLOPs.
            usd: US dollars.

        Returns:
            The reservation, to be settled after the call.

        Raises:
            SpendRefused: The call would not fit, or the time is over.
        """
        return await self._reserve(name, Spending(flops=flops, usd=usd))

    async def _reserve(self, name: str, bound: Spending) -> LedgerEntry:
        entry = LedgerEntry(self, name, bound)
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, admitted))
        self._admit()
        try:
            await admitted
        except asyncio.CancelledError:
            if entry in self._in_flight:
                self._settle(entry, Spending())
            elif admitted.done() and not admitted.cancelled():
                admitted.exception()  # seen: nobody else will
            raise
        return entry

    def _admit(self) -> None:
        """Admit waiting requests in order while they fit, and refuse those that never will."""
        while self._waiting:
            entry, admitted = self._waiting[0]
            refusal = self._refusal(entry)
            if not admitted.done():
                if refusal is not None:
                    admitted.set_exception(SpendRefused(refusal))
                elif self._exceeded(self._reserved + entry.bound) is None:
                    self._in_flight.add(entry)
                    self._reserved += entry.bound
                    admitted.set_result(None)
                else:
                    return
            self._waiting.popleft()

    def _refusal(self, entry: LedgerEntry) -> str | None:
        limits = self.limits
        if limits.minutes is not None and self.elapsed_minutes + self.reserve_minutes >= limits.minutes:
            return f"limit on minutes reached: {limits.minutes:g}{_reserve_text(self.reserve_minutes)}"
        name = self._exceeded(entry.bound)
        if name is None:
            return None
        allowed, spent, bound = getattr(limits, name), getattr(self.spent, name), getattr(entry.bound, name)
        reserved = _reserve_text(getattr(self.reserve_for_end, name))
        return (
            f"limit on {name}: {allowed:.6g} allowed{reserved}, {spent:.6g} spent, and the next request, to "
            f"{entry.model!r}, may take {bound:.6g}"
        )

    def _exceeded(self, more: Spending) -> str | None:
        """Return the limit that would be exceeded if more were spent, beside the reserve for the end."""
        return (self.spent + self.reserve_for_end + more).over(self.limits)

    def _settle(self, entry: LedgerEntry, used: Spending) -> None:
        self._in_flight.discard(entry)
        self._reserved = self._reserved - entry.bound if self._in_flight else Spending()
        self.spent += used
        self._admit()


def _reserve_text(share: float) -> str:
    return f" (the test may take {share:.6g})" if share else ""
