"""The settings of a search, as the run keeps them, and the limits on what it may spend."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from agenttts.errors import UserError
from agenttts.space.measure import MeasureName
from agenttts.space.objective import Goal, Objective
from pipelines.servers.patience import Patience
from pipelines.spec.models import ModelSpec

MAX_ERROR_RATE = 0.2
MARGIN = 0.01
"""By how much a recommended allocation may be worse than the best one: a point."""
PolicyKind: TypeAlias = Literal["adaptive", "fixed"]
_NOT_STORED = ("max_in_flight", "clients", "preflight", "banks")


@dataclass(frozen=True, kw_only=True)
class SearchLimits:
    """The most that a whole search may spend. None means no cap.

    Attributes:
        trials: Trials, each an allocation on all search examples; one on a part of them counts as that part.
            The confirmation at the end is not counted.
        tokens: Prompt and generated tokens paid for, the agent's included.
        flops: FLOPs of the pipeline's models.
        usd: US dollars; every model needs a price.
        minutes: Running time; the time between a stop and a resume does not count.

    Raises:
        UserError: A cap is not above 0.
    """

    trials: int | None = None
    tokens: int | None = None
    flops: float | None = None
    usd: float | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        for cap in fields(self):
            value = getattr(self, cap.name)
            if value is not None and not value > 0:
                raise UserError(f"a limit on {cap.name} is > 0, got {value}; leave it out for no limit")

    def require_prices(self, models: Mapping[str, ModelSpec]) -> None:
        """Check that every model has a price where US dollars are limited, and parameters where FLOPs are.

        Args:
            models: The models of the pipeline, by name.

        Raises:
            UserError: US dollars are limited and a model has no price, or FLOPs and it has no parameters.
        """
        unsized = [name for name, model in models.items() if model.active_params is None]
        if self.flops is not None and unsized:
            raise UserError(
                f"a limit in FLOPs needs the active parameters of every model, and {', '.join(unsized)} has "
                "none; add active_params or limit tokens or US dollars instead"
            )
        unpriced = [name for name, model in models.items() if model.price is None]
        if self.usd is not None and unpriced:
            raise UserError(
                f"a limit in US dollars needs a price for every model, and {', '.join(unpriced)} has none; "
                "add a price or limit tokens instead"
            )


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """The settings of a search, as plain values.

    Two settings are equal when a search makes the same decisions under both. What may change when a run is
    resumed (approval, limits, patience, error rate, requests in flight, clients, preflight, banks) is not
    compared.

    Attributes:
        budget_units: The budget of an allocation per query, in its measure.
        measure: The measure of the budget: "units" or "usd".
        seed: The seed of every random stream.
        proposer: The name of the proposer.
        agent_model: The model of the LLM agent; None when another proposer decides.
        replay: Whether every call that recorded samples can't answer is forbidden.
        frontier: Whether the search looks for the best score at every cost up to the budget, not at the
            budget alone.
        objective: What is sought: quality, or the least cost or latency at a score of `min_quality`.
        min_quality: The score to reach, above 0 and at most 1; None for the objective quality.
        policy: "adaptive" when a policy is chosen at the end, which spends more on the queries that need it;
            "fixed" when every query gets the same numbers of samples.
        max_units_per_query: The most that a policy may spend on any one query, in the budget's measure; None
            for no such limit.
        fresh: The share of the search examples that is kept out of the search's trials, 0 to 0.5, for scoring
            the best trials on at the end; None: a quarter, and none of a small split.
        margin: By how much a cheaper allocation that is recommended may be worse than the best, 0 to 1.
        approve: Whether a person decides on each proposal before it costs anything.
        limits: The limits on what the whole search may spend.
        patience: How long servers are waited for.
        max_error_rate: The largest share of missing examples with which a trial still has a score.
        max_in_flight: The most requests in flight at each server.
        clients: In how many processes samples are drawn; 1: in the search's own.
        preflight: Whether servers, prompts and data are checked first.
        banks: Files of recorded samples to attach.

    Raises:
        UserError: The seed is negative, the limit on a query is not above 0 and finite or there is no policy
            to hold to it, the margin is not a difference of scores, or the objective, the least quality and
            the frontier do not go together.
    """

    budget_units: float
    measure: MeasureName = "units"
    seed: int = 0
    proposer: str
    agent_model: str | None = None
    replay: bool = False
    frontier: bool = False
    objective: Objective = "quality"
    min_quality: float | None = None
    policy: PolicyKind = "adaptive"
    max_units_per_query: float | None = None
    fresh: float | None = None
    margin: float = MARGIN
    approve: bool = field(default=False, compare=False)
    limits: SearchLimits = field(default_factory=SearchLimits, compare=False)
    patience: Patience = field(default_factory=Patience, compare=False)
    max_error_rate: float = field(default=MAX_ERROR_RATE, compare=False)
    max_in_flight: int = field(default=64, compare=False)
    clients: int = field(default=1, compare=False)
    preflight: bool = field(default=True, compare=False)
    banks: tuple[Path, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.clients < 1:
            raise UserError(f"clients (--clients) is 1 or more processes, got {self.clients}")
        if self.seed < 0:
            raise UserError(f"a seed is 0 or more, got {self.seed}")
        if self.policy not in get_args(PolicyKind):
            raise UserError(f"a policy is {' or '.join(get_args(PolicyKind))}, got {self.policy!r}")
        dearest = self.max_units_per_query
        if dearest is not None and not 0 < dearest < math.inf:
            raise UserError(
                f"max_units_per_query is a finite number above 0, got {dearest}; leave it out for no limit"
            )
        if dearest is not None and not self.seeks_policy:
            raise UserError(
                "max_units_per_query limits a policy's dearest query, and no policy is chosen with "
                f"policy={self.policy!r} and objective={self.objective!r}; leave it out, or seek quality by "
                "an adaptive policy"
            )
        if not 0 <= self.margin <= 1:
            raise UserError(f"margin (--margin), a difference of scores, is 0 to 1, got {self.margin:g}")
        if self.goal.min_quality is not None and self.frontier:
            raise UserError("a least quality is not sought together with the frontier; leave one out")

    @cached_property
    def goal(self) -> Goal:
        """The objective together with the score to reach."""
        return Goal(self.objective, self.min_quality)

    @property
    def seeks_policy(self) -> bool:
        """Whether a policy is chosen at the end. Only the best score within the budget is sought by one."""
        return self.policy == "adaptive" and self.objective == "quality"

    def to_json_dict(self) -> dict[str, object]:
        """Return the settings as a run stores them, without keys, addresses and local paths."""
        stored = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NOT_STORED}
        return {**stored, "limits": asdict(self.limits), "patience": asdict(self.patience)}

    @classmethod
    def from_json_dict(cls, data: Mapping[str, Any]) -> SearchSettings:
        """Load the settings of a stored run.

        Args:
            data: What `to_json_dict` returned. A setting that is missing has its default; an unknown one is
                ignored.
        """
        names = {f.name for f in fields(cls)}.difference(_NOT_STORED)
        known = {name: value for name, value in data.items() if name in names}
        limits, patience = SearchLimits(**data.get("limits", {})), Patience(**data.get("patience", {}))
        return cls(**{**known, "limits": limits, "patience": patience})

    def differences(self, earlier: SearchSettings) -> list[str]:
        """Describe what differs from earlier settings, of what decides the course of a search.

        Args:
            earlier: The settings of the stored run.

        Returns:
            A phrase for each difference; an empty list when the settings are equal.
        """
        return [
            f"{f.name} was {getattr(earlier, f.name)}, now {getattr(self, f.name)}"
            for f in fields(self)
            if f.compare and getattr(self, f.name) != getattr(earlier, f.name)
        ]
