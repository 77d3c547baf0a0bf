"""The ledger that keeps the limits on what the search itself may spend.

This is not the budget of an allocation (`budget`): that is compute per query, these are for the whole search.
Every request reserves the most it can use before it is sent and settles what it did use, so that the caps
hold however many requests are in flight. When to stop a search for its limits is left to the search.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from agenttts.settings import SearchLimits
from agenttts.space.units import flops
from datastore.store import Store
from pipelines.costs import stage_cost_usd
from pipelines.errors import SpendRefused
from pipelines.spec.pipeline import ModelSpec, PipelineSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Spending:
    """What has been paid for, or may be."""

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

    def over(self, limits: SearchLimits) -> str | None:
        """The first limit that this exceeds; None when it keeps them all."""
        for name in ("tokens", "flops", "usd"):
            cap = getattr(limits, name)
            if cap is not None and getattr(self, name) > cap * (1 + 1e-12):
                return name
        return None


def lessened(limits: SearchLimits, reserve: Spending) -> SearchLimits:
    """The limits without what is kept back for later; every cap stays above 0."""
    return replace(
        limits,
        tokens=None if limits.tokens is None else max(1, limits.tokens - reserve.tokens),
        flops=None if limits.flops is None else max(1.0, limits.flops - reserve.flops),
        usd=None if limits.usd is None else max(1e-12, limits.usd - reserve.usd),
    )


@dataclass(eq=False, slots=True)
class LedgerEntry:
    """Tokens set aside for one request, until it settles."""

    ledger: Ledger
    model: str
    bound: Spending
    settled: bool = field(default=False)

    def settle(self, prompt_tokens: int, generated_tokens: int) -> None:
        """Replace what was set aside by what was used. Settling twice is harmless."""
        if not self.settled:
            self.settled = True
            self.ledger._settle(self, self.ledger.spending(self.model, prompt_tokens, generated_tokens))


class Ledger:
    """Keeps the limits of one search; the `pipelines.runtime.sampler.SpendGate` of its runtime.

    models: what each model's tokens cost; a model that is not there (the agent's, say) costs tokens only.
    clock: seconds, monotonic. spent, elapsed_s: what went before, in a search that is resumed.
    UserError when money is limited and a model has no price.
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
        """The ledger of a run as the store has it: samples that it paid for, duration of its trials."""
        ledger = cls(limits, spec.models, clock=clock)
        known = Spending()
        for key, name in {spec.model_key(name): name for name in spec.models}.items():
            cost = store.run_cost(run_id, models=[key])
            known += ledger.spending(name, cost.prompt_tokens, cost.generated_tokens)
        total = store.run_cost(run_id)
        tokens = total.prompt_tokens + total.generated_tokens
        ledger.spent = Spending(tokens=tokens, flops=known.flops, usd=known.usd)
        ended = [(t.started_at, t.finished_at) for t in store.trials(run_id) if t.finished_at is not None]
        ledger._started -= sum(finished_at - started_at for started_at, finished_at in ended)
        return ledger

    def spending(self, model: str, prompt_tokens: int, generated_tokens: int) -> Spending:
        """What these tokens of this model cost."""
        tokens = prompt_tokens + generated_tokens
        spec = self._models.get(model)
        if spec is None:
            return Spending(tokens=tokens)
        return Spending(
            tokens=tokens,
            flops=flops(spec.active_params, prompt_tokens, generated_tokens, 1),
            usd=stage_cost_usd(spec, prompt_tokens, generated_tokens) or 0.0,
        )

    @property
    def elapsed_minutes(self) -> float:
        return (self._clock() - self._started) / 60

    def reached(self, n_trials: int = 0) -> str | None:
        """Why the search may not go on, in words; None while it may. n_trials: evaluated so far."""
        limits, spent = self.limits, self.spent
        used = {
            "trials": (n_trials, limits.trials),
            "tokens": (spent.tokens, limits.tokens),
            "flops": (spent.flops, limits.flops),
            "usd": (spent.usd, limits.usd),
            "minutes": (self.elapsed_minutes, limits.minutes),
        }
        for name, (value, cap) in used.items():
            if cap is not None and value >= cap:
                return f"limit on {name} reached: {value:.6g} of {cap:.6g}"
        return None

    async def reserve(self, model: str, prompt_tokens_bound: int, generated_tokens_bound: int) -> LedgerEntry:
        """Set aside the most that a request can use.

        Waits in line while what others have set aside may come free; SpendRefused when it would not fit even
        if all of that did, or when the time is over. Whoever holds a reservation settles it without reserving
        more, so nobody waits for ever.
        """
        entry = LedgerEntry(self, model, self.spending(model, prompt_tokens_bound, generated_tokens_bound))
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
        """Let in, first come first served, whoever fits; turn away whoever never will."""
        while self._waiting:
            entry, admitted = self._waiting[0]
            refusal = self._refusal(entry)
            if not admitted.done():
                if refusal is not None:
                    admitted.set_exception(SpendRefused(refusal))
                elif (self.spent + self._reserved + entry.bound).over(self.limits) is None:
                    self._in_flight.add(entry)
                    self._reserved += entry.bound
                    admitted.set_result(None)
                else:
                    return
            self._waiting.popleft()

    def _refusal(self, entry: LedgerEntry) -> str | None:
        limits = self.limits
        if limits.minutes is not None and self.elapsed_minutes >= limits.minutes:
            return f"limit on minutes reached: {limits.minutes:g}"
        name = (self.spent + entry.bound).over(limits)
        if name is None:
            return None
        allowed, spent, wanted = getattr(limits, name), getattr(self.spent, name), getattr(entry.bound, name)
        return (
            f"limit on {name}: {allowed:.6g} allowed, {spent:.6g} spent, and the next request, to "
            f"{entry.model!r}, may take {wanted:.6g}"
        )

    def _settle(self, entry: LedgerEntry, used: Spending) -> None:
        self._in_flight.discard(entry)
        self._reserved = self._reserved - entry.bound if self._in_flight else Spending()
        self.spent += used
        self._admit()
