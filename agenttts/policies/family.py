"""The family of policies that a choice is made from: small, and the same for every data set.

Fixed allocations with the stages' own votes, the same with weighted votes, allocations that stop early, and
cascades of two rungs. The first rung of a cascade draws moderately, the second more; a third rung was within
noise on recorded samples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

from agenttts.policies.cascades import Sketch
from agenttts.space.measure import Measure
from pipelines.allocation import Allocation, StageOption
from pipelines.policy import Policy, Rung, StagePlan, Stop, Vote
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.stages.counts import Count

COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of samples of fixed allocations, up to each stage's largest."""
WEIGHTED_THRESHOLD = 0.8
"""The share of the weight that an item of a list needs, as a part of the stage's own threshold."""
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Confidences below which the next rung runs."""
MAX_RUNGS, MAX_PAIRS = 1000, 500
"""Rungs of each kind, and pairs of rungs; beyond them fewer numbers of samples are considered."""

DECIDED_BY_MASS = Stop(kind="confidence", level=1.0)
"""Weighted votes on values stop when no text that is still unseen can win."""
MARGIN_BY_MASS = Stop(kind="confidence", level=0.25)
"""Weighted votes on lists stop when a quarter of what is unseen cannot move an item across the threshold."""
LIKELY_BY_VOTES = (Stop(kind="confidence", level=0.8), Stop(kind="confidence", level=0.95))
"""Votes that can't be weighed stop at these probabilities that the best stays the best."""
KINDS = ("fixed", "weighted", "stopping", "cascade")
"""From the simplest on."""


class Family:
    """The policies to choose from, from the simplest kind on. Each kind is chosen only where it pays.

    Args:
        of: The sketches of each kind: fixed, with the stages' own votes; weighted, fixed allocations with
            weighted votes; stopping, allocations that stop early; cascade, of two rungs.

    Attributes:
        kinds: The kinds that have sketches, from the simplest on.
        sketches: The sketches of all kinds, in that order.
    """

    def __init__(self, of: Mapping[str, Sequence[Sketch]]) -> None:
        self.kinds = tuple(kind for kind in KINDS if of.get(kind))
        self.sketches = tuple(sketch for kind in self.kinds for sketch in of[kind])
        self._ends = np.cumsum([len(of[kind]) for kind in self.kinds])

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """All rungs, without doubles."""
        return tuple(dict.fromkeys(rung for sketch in self.sketches for rung in sketch.rungs))

    def among(self, rungs: Collection[Rung]) -> Family:
        """Return the sketches that use these rungs only."""
        known = set(rungs)
        parts = np.split(np.arange(len(self.sketches)), self._ends[:-1]) if self.kinds else []
        return Family(
            {
                kind: [self.sketches[i] for i in part if known.issuperset(self.sketches[i].rungs)]
                for kind, part in zip(self.kinds, parts, strict=True)
            }
        )

    def up_to(self, kind: str) -> npt.NDArray[np.bool_]:
        """Return which sketches are of a kind or of a simpler one, of shape [sketch]."""
        return np.asarray(np.arange(len(self.sketches)) < self._ends[self.kinds.index(kind)])

    def kind_of(self, number: int) -> str:
        """Return the kind of a sketch."""
        return self.kinds[int(np.searchsorted(self._ends, number, side="right"))]


@dataclass(frozen=True, kw_only=True)
class StagePlans:
    """What a stage may do, for each role in the family: lists of plans for each of its options.

    Attributes:
        fixed: With the stage's own vote, on the grid of numbers of samples.
        weighted: The same with a weighted vote; as `fixed` where votes can't be weighed.
        stopping: Plans that stop early.
        first: Moderate plans, for the first rung of a cascade.
        second: Plans for the rung after it.
    """

    fixed: Sequence[Sequence[StagePlan]]
    weighted: Sequence[Sequence[StagePlan]]
    stopping: Sequence[Sequence[StagePlan]]
    first: Sequence[Sequence[StagePlan]]
    second: Sequence[Sequence[StagePlan]]


def fixed_rungs(spec: PipelineSpec, further: Collection[Allocation] = ()) -> tuple[Rung, ...]:
    """Return the fixed allocations with the stages' own votes.

    Args:
        spec: The pipeline.
        further: Fixed allocations that are considered too.
    """
    others = (Policy.fixed(allocation).rungs[0] for allocation in further)
    return tuple(dict.fromkeys((*_rungs(spec, [plans.fixed for plans in _plans(spec, ())]), *others)))


def family(spec: PipelineSpec, weighable: Collection[str], further: Collection[Allocation] = ()) -> Family:
    """Build the family for a pipeline.

    Args:
        spec: The pipeline.
        further: Fixed allocations that are considered too.
        weighable: The stages whose samples have log-probabilities and repeat (`Tables.weighable`).
    """
    plans = _plans(spec, weighable)
    if not votes(spec):
        return Family({"fixed": _singles(fixed_rungs(spec, further))})
    fixed = _singles(fixed_rungs(spec, further))
    weighted = _singles(_rungs(spec, [p.weighted for p in plans])) if weighable else ()
    stopping = _singles(_rungs(spec, [p.stopping for p in plans]))
    first, second = _rungs(spec, [p.first for p in plans]), _rungs(spec, [p.second for p in plans])
    pairs = [(a, b) for a in first for b in second if _draws_more(spec, a, b)]
    pairs = pairs[:: -(-len(pairs) // MAX_PAIRS) or 1]
    cascades = (Sketch(rungs=pair, thresholds=(t,)) for pair in pairs for t in THRESHOLDS)
    return Family({"fixed": fixed, "weighted": weighted, "stopping": stopping, "cascade": tuple(cascades)})


def votes(spec: PipelineSpec) -> bool:
    """Return whether any stage votes: without votes nothing tells when to stop or to escalate."""
    return any(Count.of(s.aggregator_for(option)) is not None for s in spec.stages for option in s.options)


def _singles(rungs: Iterable[Rung]) -> tuple[Sketch, ...]:
    return tuple(Sketch(rungs=(rung,)) for rung in rungs)


def _plans(spec: PipelineSpec, weighable: Collection[str]) -> list[StagePlans]:
    measure = Measure.of(spec)
    return [_stage_plans(stage, measure, stage.name in weighable) for stage in spec.stages]


def _stage_plans(stage: StageSpec, measure: Measure, weighable: bool) -> StagePlans:
    options = sorted(stage.options, key=lambda o: (measure.planned_stage(stage, o.with_samples(1)), o))
    fixed = [[StagePlan(choice=o.with_samples(n)) for n in _capped(stage, COUNTS)] for o in options]
    own = None if stage.python is not None else Count.of(stage.aggregator)
    lists = own is not None and own.threshold is not None
    weighable = weighable and own is not None and own.kind != "length_weighted" and not own.union

    def plans(of: Sequence[StageOption], counts: Sequence[int], *stops: Stop) -> list[list[StagePlan]]:
        return [
            [
                StagePlan(choice=option.with_samples(n), vote=vote, stop=stop)
                for n in _capped(stage, counts)
                for stop in stops
            ]
            if (vote := _vote(stage, option, weighable)) is not None
            else [StagePlan(choice=option.with_samples(n)) for n in _capped(stage, counts)]
            for option in of
        ]

    larger = options if stage.python is not None else options[1:] or options
    weighted = plans(options, COUNTS, Stop())
    if lists:
        stop = (MARGIN_BY_MASS,) if weighable else LIKELY_BY_VOTES
        more = [*plans(options[:1], (32,), Stop()), *plans(options[1:], (16, 32), Stop())]
        first, second = plans(options, (8, 16, 32), Stop()), more
        stopping = plans(options, (8, 16, 32), *stop)
    elif weighable:
        first = stopping = plans(options, (8,), DECIDED_BY_MASS)
        second = plans(larger, (16,), DECIDED_BY_MASS)
    else:
        stopping = plans(options, (4, 8, 16, 32, 64), Stop(kind="decided"), *LIKELY_BY_VOTES)
        first = [a + b for a, b in zip(
            plans(options, (2, 4, 8), Stop()), plans(options, (16,), *LIKELY_BY_VOTES), strict=True
        )]  # fmt: skip
        second = [a + b for a, b in zip(
            plans(larger, (2, 4, 8), Stop()), plans(larger, (32,), *LIKELY_BY_VOTES), strict=True
        )]  # fmt: skip
    return StagePlans(fixed=fixed, weighted=weighted, stopping=stopping, first=first, second=second)


def _vote(stage: StageSpec, option: StageOption, weighable: bool) -> Vote | None:
    """The vote of an option outside fixed allocations; None where its samples are not voted on."""
    own = Count.of(stage.aggregator_for(option))
    if own is None or not weighable or own.kind == "weighted":
        return None if own is None else Vote()
    threshold = None if own.threshold is None else round(own.threshold * WEIGHTED_THRESHOLD, 6)
    return Vote(kind="weighted", threshold=threshold)


def _capped(stage: StageSpec, counts: Sequence[int]) -> list[int]:
    return list(dict.fromkeys(min(n, stage.max_samples) for n in counts))


def _rungs(spec: PipelineSpec, plans: Sequence[Sequence[Sequence[StagePlan]]]) -> tuple[Rung, ...]:
    """Combine the stages' plans; too many are thinned, the most samples of every option last."""
    by_option = [[list(of_option) for of_option in stage] for stage in plans]
    while prod(sum(map(len, stage)) for stage in by_option) > MAX_RUNGS:
        longest = max((one for stage in by_option for one in stage), key=len)
        if len(longest) == 1:
            break
        longest[:] = longest[len(longest) % 2 == 0 :: 2]
    every = [[plan for of_option in stage for plan in of_option] for stage in by_option]
    names = [stage.name for stage in spec.stages]
    rungs = [Rung(dict(zip(names, combination, strict=True))) for combination in product(*every)]
    return tuple(rungs[:: -(-len(rungs) // MAX_RUNGS)])


def _draws_more(spec: PipelineSpec, first: Rung, second: Rung) -> bool:
    """Whether a rung can bring what another did not: more samples, or another option."""
    return any(
        second[stage.name].choice.option != first[stage.name].choice.option
        or second[stage.name].choice.n_samples > first[stage.name].choice.n_samples
        for stage in spec.stages
    )
