"""Optuna's samplers as proposers: the classical controls that every claim of the search is compared with.

The parameters of a stage are a categorical option, by its text, and an integer n on a logarithmic scale.
Allocations over the budget are reported to the sampler as infeasible, and it samples again; after several of
them the last one is projected into the budget. The study is rebuilt from the view at every step, so that a
resumed search decides as an undisturbed one.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from agenttts.errors import UserError
from agenttts.proposers.base import SearchView, Suggestion, Turn
from agenttts.proposers.registry import OWN
from agenttts.proposers.rules import InsightsProposer
from agenttts.space.space import SearchSpace
from pipelines.allocation import Allocation
from pipelines.extras import library

SAMPLERS = {
    "random": "RandomSampler",
    "tpe": "TPESampler",
    "gp": "GPSampler",
    "nsga2": "NSGAIISampler",
    "brute": "BruteForceSampler",
}
_SETTINGS: dict[str, dict[str, bool | int]] = {"TPESampler": {"multivariate": True, "group": True}}
_ASKS = 12
_ASKS_OF_GP = 2  # each takes about a second
_OVER = "units over budget"

optuna.logging.set_verbosity(optuna.logging.ERROR)
logging.getLogger("optuna").setLevel(logging.ERROR)


def sampler_class(name: str) -> type[BaseSampler]:
    """Return the class of a sampler.

    Args:
        name: A short name of SAMPLERS, or the name of a class of `optuna.samplers`.

    Returns:
        The class.

    Raises:
        UserError: There is no such sampler, or a library that it needs is not installed.
    """
    class_name = SAMPLERS.get(name, name)
    sampler: object = getattr(optuna.samplers, class_name, None)
    if not (inspect.isclass(sampler) and issubclass(sampler, BaseSampler)):
        raise UserError(
            f"a proposer without an LLM is one of default, {', '.join((*OWN, *SAMPLERS))}, or a sampler's "
            f"class in optuna.samplers; got {name!r}"
        )
    if class_name == "GPSampler":
        library("torch", "the proposer gp")
    return sampler


class ClassicalProposer:
    """Proposes with a sampler of Optuna; random samplers are seeded by the view.

    Args:
        name: A short name of SAMPLERS, or the name of a class of `optuna.samplers`.
    """

    batch = 1

    def __init__(self, name: str) -> None:
        self.name = name
        self._class = sampler_class(name)
        self._asks = _ASKS_OF_GP if self._class.__name__ == "GPSampler" else _ASKS

    async def propose(self, view: SearchView, count: int) -> Turn:
        """Suggest one allocation.

        Args:
            view: What the proposer may know.
            count: Ignored; there is one suggestion.

        Returns:
            The turn; `finished` when every allocation of the space was tried.
        """
        return self.decide(view)

    def decide(self, view: SearchView) -> Turn:
        """Suggest one allocation, as `propose`, for code that is not asynchronous."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            allocation = self._sampled(view)
        if allocation is None:
            stand_in = InsightsProposer().fallback(view)
            if stand_in is None:
                return Turn(finished="every allocation of the space was tried")
            allocation = stand_in.allocation
        return Turn((Suggestion(allocation, f"Optuna's {self._class.__name__} samples it."),))

    def _sampled(self, view: SearchView) -> Allocation | None:
        """Return the first sampled allocation that is in the space and untried; None after too many that were
        not.
        """
        space = view.space
        study = _study(view, self._sampler(view))
        tried, last = view.tried, None
        for _ in range(self._asks):
            trial = study.ask(_distributions(space))
            sampled = _allocation(space, trial.params)
            over = max(0.0, space.units(sampled) - space.budget_units)
            trial.set_constraint(_OVER, over)
            if over == 0.0 and sampled not in tried and sampled in space:
                return sampled
            study.tell(trial, 0.0 if over else _known_score(view, sampled))
            last = sampled if over else last
        repaired = None if last is None else space.project(last)
        return repaired if repaired is not None and repaired not in tried else None

    def _sampler(self, view: SearchView) -> BaseSampler:
        takes = inspect.signature(self._class).parameters
        settings = dict(_SETTINGS.get(self._class.__name__, {}))
        if "seed" in takes:
            settings["seed"] = (view.seed * 1_000_003 + len(view.trials)) % 2**32
        make: Callable[..., BaseSampler] = self._class
        try:
            return make(**settings)
        except TypeError as error:
            raise UserError(f"the sampler {self.name} can't be created without arguments: {error}") from None


def _study(view: SearchView, sampler: BaseSampler) -> optuna.Study:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = view.space
    distributions = _distributions(space)
    for trial in view.trials:
        study.add_trial(
            optuna.create_trial(
                params=_params(space, trial.allocation),
                distributions=distributions,
                value=trial.score,
                constraints={_OVER: 0.0},
                state=TrialState.FAIL if trial.score is None else TrialState.COMPLETE,
            )
        )
    return study


def _distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    distributions: dict[str, BaseDistribution] = {}
    for stage in space.stages:
        options = [str(option) for option in space.options[stage.name]]
        distributions[f"{stage.name}.model"] = CategoricalDistribution(options)
        distributions[f"{stage.name}.n"] = IntDistribution(1, stage.max_samples, log=stage.max_samples > 1)
    return distributions


def _params(space: SearchSpace, allocation: Allocation) -> dict[str, str | int]:
    params: dict[str, str | int] = {}
    for stage in space.options:
        choice = allocation[stage]
        params |= {f"{stage}.model": str(choice.option), f"{stage}.n": choice.n_samples}
    return params


def _allocation(space: SearchSpace, params: dict[str, Any]) -> Allocation:
    """Return the allocation of a trial's parameters; Optuna returns the values of `_distributions`."""
    return Allocation(
        {
            s.name: s.option(params[f"{s.name}.model"]).with_samples(params[f"{s.name}.n"])
            for s in space.stages
        }
    )


def _known_score(view: SearchView, allocation: Allocation) -> float:
    """Return the score of an allocation that was tried; 0 for one that was refused or failed."""
    return next((t.score for t in view.trials if t.allocation == allocation and t.score is not None), 0.0)
