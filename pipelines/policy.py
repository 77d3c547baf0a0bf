"""Policies: how many samples a query gets depends on what its first samples say.

A policy is a cascade of rungs. A rung names, for every stage, a choice, the vote that combines its samples
and the rule by which drawing stops early. Where the calibrated confidence in the outcome is below a
threshold, the next rung runs too, and the surer outcome stands. Cascades of models by a score of the answer
are those of FrugalGPT (arXiv 2305.05176); here a rung may also be the same models with more samples, which
go on from those drawn, and outcomes that agree make each other surer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal, TypeAlias

from pipelines.allocation import Allocation, StageChoice

VoteKind: TypeAlias = Literal["plain", "weighted", "length_weighted"]
StopKind: TypeAlias = Literal["fixed", "decided", "confidence"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """How the samples of a stage become one output. Its text is `weighted 0.2`; empty for the stage's own.

    Attributes:
        kind: plain: the stage's own aggregator. weighted, length_weighted: as the aggregators of these names.
        threshold: Of stages whose values are voted on item by item, the share of the weight that an item
            needs; None means the stage's own.
        t0: Of length_weighted, the number of tokens over which the weight of a sample falls to 1/e.

    Raises:
        ValueError: The threshold is outside (0, 1], or t0 is missing, not above 0, or of another kind.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}

    kind: VoteKind = "plain"
    threshold: float | None = None
    t0: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be > 0 and <= 1, got {self.threshold}")
        if (self.t0 is not None) != (self.kind == "length_weighted"):
            raise ValueError(f"t0 belongs to length_weighted and to no other vote, got {self.t0}")
        if self.t0 is not None and not self.t0 > 0:
            raise ValueError(f"t0 must be > 0, got {self.t0}")

    def __str__(self) -> str:
        if self == Vote():
            return ""
        threshold = "" if self.threshold is None else f" {self.threshold:g}"
        return self.kind + threshold + ("" if self.t0 is None else f" t0 {self.t0:g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """When a stage stops drawing before its last sample. Its text is `stop decided`; empty for fixed.

    After `first` samples, and then each time their number has grown by the factor `growth`, it is asked
    whether to stop. So the number of requests that follow each other grows with the logarithm of the
    samples, each request draws several samples, as servers that decode in batches like it, and at most
    `growth` times the samples needed are drawn. Where it is known how many more are needed at least before
    the rule can hold, so many are drawn at once (see `Ballots.next_check`).

    Attributes:
        kind: fixed: never. decided: nothing that can still come changes the output. confidence: it is
            improbable that what comes changes the output (see `Ballots.confident`).
        level: Of confidence, in (0, 1]; the higher, the later.
        first: Samples drawn before the first question.
        growth: Factor from question to question, above 1.

    Raises:
        ValueError: A field is outside its range, or level is missing or of another kind.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}

    kind: StopKind = "fixed"
    level: float | None = None
    first: int = 2
    growth: float = 1.5

    def __post_init__(self) -> None:
        if (self.level is not None) != (self.kind == "confidence"):
            raise ValueError(f"level belongs to confidence and to no other stop, got {self.level}")
        if self.level is not None and not 0 < self.level <= 1:
            raise ValueError(f"level must be > 0 and <= 1, got {self.level}")
        if self.first < 1 or not self.growth > 1:
            raise ValueError(f"first must be >= 1 and growth > 1, got {self.first} and {self.growth}")

    def following(self, n_samples: int) -> int:
        """Return after how many samples in all it is asked next, when so many are there."""
        return max(self.first, n_samples + 1, math.ceil(n_samples * self.growth))

    def __str__(self) -> str:
        if self.kind == "fixed":
            return ""
        return "stop decided" if self.level is None else f"stop confidence {self.level:g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """What a rung does at a stage. Its text is `medium×8 weighted, stop decided`.

    Attributes:
        choice: The option, and the largest number of samples.
        vote: How the samples become one output.
        stop: When drawing stops before that number.
    """

    choice: StageChoice
    vote: Vote = field(default_factory=Vote)
    stop: Stop = field(default_factory=Stop)

    def __str__(self) -> str:
        counted = " ".join(filter(None, (str(self.choice), str(self.vote))))
        return ", ".join(filter(None, (counted, str(self.stop))))

    def to_dict(self) -> dict[str, object]:
        """Return the plan as JSON-able data, without what is at its default."""
        parts = {"vote": _given(self.vote, Vote()), "stop": _given(self.stop, Stop())}
        return {**self.choice.to_dict(), **{name: part for name, part in parts.items() if part}}


class Rung(Mapping[str, StagePlan]):
    """An immutable, hashable mapping from stage name to StagePlan, in the order of the stages."""

    __slots__ = ("_plans",)

    def __init__(self, plans: Mapping[str, StagePlan]) -> None:
        self._plans = dict(plans)

    def __getitem__(self, stage: str) -> StagePlan:
        return self._plans[stage]

    def __iter__(self) -> Iterator[str]:
        return iter(self._plans)

    def __len__(self) -> int:
        return len(self._plans)

    def __hash__(self) -> int:
        return hash(frozenset(self._plans.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rung) and self._plans == other._plans

    def __repr__(self) -> str:
        return f"Rung({self})"

    def __str__(self) -> str:
        return " · ".join(f"{stage} {plan}" for stage, plan in self._plans.items())

    @property
    def allocation(self) -> Allocation:
        """The choices of the stages: the most that the rung can draw."""
        return Allocation({stage: plan.choice for stage, plan in self._plans.items()})


@dataclass(frozen=True, kw_only=True, slots=True)
class Confidence:
    """How sure an outcome is, from 0 to 1: a logistic model of standardised features.

    Attributes:
        features: The names of the features, `stage.feature`, in the order of the other fields.
        means: What is taken off each feature.
        scales: What each is then divided by, above 0.
        weights: The weight of each standardised feature.
        intercept: What is added to their weighted sum.

    Raises:
        ValueError: The lengths differ, or a scale is not above 0.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}

    features: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float

    def __post_init__(self) -> None:
        lengths = {len(part) for part in (self.features, self.means, self.scales, self.weights)}
        if len(lengths) > 1 or not all(scale > 0 for scale in self.scales):
            raise ValueError("features, means, scales and weights have one length, and scales are > 0")

    def of(self, features: Sequence[float]) -> float:
        """Return the confidence at the values of the features.

        Args:
            features: The values, in the order of `features`.

        Raises:
            ValueError: There are more or fewer of them.
        """
        parts = zip(features, self.means, self.scales, self.weights, strict=True)
        z = math.fsum((self.intercept, *((x - mean) / scale * w for x, mean, scale, w in parts)))
        return 1 / (1 + math.exp(-z)) if z >= 0 else 1 - 1 / (1 + math.exp(z))


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """A cascade of rungs. Its text has a rung as an allocation has it, and ` → (<0.8) ` before the next.

    Attributes:
        rungs: At least one.
        thresholds: One fewer: rung k+1 runs where the confidence in what stands after rung k is below
            threshold k.
        confidences: One for each rung; empty where there is one rung, whose outcome stands however sure.

    Raises:
        ValueError: The numbers of rungs, thresholds and confidences do not fit, or the rungs have other
            stages.
    """

    rungs: tuple[Rung, ...]
    thresholds: tuple[float, ...] = ()
    confidences: tuple[Confidence, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.rungs)
        if n < 1 or len(self.thresholds) != n - 1 or len(self.confidences) not in ({0, 1} if n == 1 else {n}):
            raise ValueError(
                "a policy has at least one rung, one threshold fewer, and a confidence for each rung of "
                f"several, got {n}, {len(self.thresholds)} and {len(self.confidences)}"
            )
        if len({frozenset(rung) for rung in self.rungs}) > 1:
            raise ValueError(
                f"the rungs must name the same stages, got {[list(rung) for rung in self.rungs]}"
            )

    def __str__(self) -> str:
        first, *others = self.rungs
        further = (f" → (<{t:g}) {rung}" for t, rung in zip(self.thresholds, others, strict=True))
        return "".join((str(first), *further))

    @classmethod
    def fixed(cls, allocation: Allocation) -> Policy:
        """Return the policy that draws an allocation's samples for every query."""
        return cls(rungs=(Rung({stage: StagePlan(choice=choice) for stage, choice in allocation.items()}),))

    @property
    def is_fixed(self) -> bool:
        """Whether every query gets the same numbers of samples."""
        return len(self.rungs) == 1 and all(plan.stop.kind == "fixed" for plan in self.rungs[0].values())

    def to_dict(self) -> dict[str, object]:
        """Return the policy as JSON-able data, which `pipelines.spec.policyfile.read_policy` reads."""
        return {
            "rungs": [{stage: plan.to_dict() for stage, plan in rung.items()} for rung in self.rungs],
            **({"thresholds": list(self.thresholds)} if self.thresholds else {}),
            **({"confidences": [_given(c, None) for c in self.confidences]} if self.confidences else {}),
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict())


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Which outcome of a cascade stands.

    Attributes:
        rung: The first rung that gave it, from 0.
        confidence: How sure it is, from 0 to 1.
    """

    rung: int
    confidence: float


def standing(answers: Sequence[str | None], confidences: Sequence[float]) -> Standing:
    """Return which of the rungs' outcomes stands: the surest, of equals that of the earliest rung.

    Outcomes that agree combine as independent evidence (noisy-or): 1 − Π(1 − confidence).

    Args:
        answers: The `vote_key` of each rung's output so far; None, which agrees with nothing and is never
            sure, for an output of nothing.
        confidences: The confidence of each rung's outcome by itself.
    """
    doubts = dict[str, float]()
    first = dict[str, int]()
    for rung, (answer, confidence) in enumerate(zip(answers, confidences, strict=True)):
        if answer is not None:
            first.setdefault(answer, rung)
            doubts[answer] = doubts.get(answer, 1.0) * (1.0 - confidence)
    if not doubts:
        return Standing(rung=0, confidence=0.0)
    surest = min(doubts, key=lambda answer: doubts[answer])
    return Standing(rung=first[surest], confidence=1.0 - doubts[surest])


def _given(part: Vote | Stop | Confidence, default: Vote | Stop | None) -> dict[str, object]:
    """The fields that are not at their default, with tuples as lists."""
    values = {one.name: getattr(part, one.name) for one in fields(part)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if default is None or value != getattr(default, name)
    }
