"""How a model server is doing, as far as its client knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ServerHealth:
    """How one server is doing.

    Attributes:
        address: Of the server, without credentials.
        models: Keys in the spec of the models that it serves.
        n_answered: Requests that it has answered since the search was begun or resumed.
        n_faults: Requests that failed as in an outage or an overload.
        in_flight: Requests under way.
        most_in_flight: How many may be under way now: half after each sign of overload.
        down_s: Seconds for which it has been down; None where it is not.
        reason: Why it counts as down; None where it does not.
    """

    address: str
    models: tuple[str, ...]
    n_answered: int
    n_faults: int
    in_flight: int
    most_in_flight: int
    down_s: float | None
    reason: str | None
