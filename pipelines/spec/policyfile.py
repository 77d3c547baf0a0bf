"""Policies as files: YAML or JSON, as `Policy.to_dict` gives them.

A file has `rungs`, a list of mappings from stage to its plan (`model`, `n_samples`, and perhaps `verifier`,
`vote` and `stop`), and for several rungs `thresholds` and `confidences`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from pipelines.allocation import StageChoice
from pipelines.errors import SpecError
from pipelines.jsonvalues import read_json
from pipelines.policy import Confidence, Policy, Rung, StagePlan, Stop, Vote
from pipelines.spec.configfile import ConfigFile, validated
from pipelines.spec.strict import Number, Strict


class _PlanFile(Strict):
    model: str
    n_samples: Annotated[PositiveInt, Number]
    verifier: str | None = None
    prompt: str | None = None
    vote: Vote = Vote()
    stop: Stop = Stop()

    def plan(self) -> StagePlan:
        choice = StageChoice(self.model, self.n_samples, self.verifier, self.prompt)
        return StagePlan(choice=choice, vote=self.vote, stop=self.stop)


class _PolicyFile(Strict):
    rungs: tuple[dict[str, _PlanFile], ...] = Field(min_length=1)
    thresholds: tuple[Annotated[float, Number, Field(ge=0, le=1)], ...] = ()
    confidences: tuple[Confidence, ...] = ()

    def policy(self) -> Policy:
        rungs = tuple(Rung({stage: plan.plan() for stage, plan in rung.items()}) for rung in self.rungs)
        return Policy(rungs=rungs, thresholds=self.thresholds, confidences=self.confidences)


def read_policy(data: Mapping[str, object]) -> Policy:
    """Build a policy from the data that `Policy.to_dict` returns.

    Raises:
        SpecError: The data has another form. One error for all problems.
    """
    return _policy(validated(_PolicyFile, data, Path()))


def policy_from_json(text: str) -> Policy:
    """Build a policy from the text that `Policy.to_json` returns.

    Raises:
        SpecError: The text is not JSON, or the data has another form.
    """
    try:
        data = read_json(text)
    except ValueError as error:
        raise SpecError(f"must be JSON: {error}") from None
    if not isinstance(data, dict):
        raise SpecError(f"must be a mapping of keys, got {type(data).__name__}")
    return read_policy(data)


def load_policy(path: Path | str) -> Policy:
    """Read a policy from a YAML or JSON file.

    Raises:
        SpecError: The file can't be read, or is no policy: `file:line: field: rule, got value; remedy`, one
            error for all problems.
    """
    source = ConfigFile.read(Path(path))
    return _policy(source.validated(_PolicyFile, source.file.parent), source.file)


def _policy(read: _PolicyFile, file: Path | None = None) -> Policy:
    try:
        return read.policy()
    except ValueError as error:
        raise SpecError(str(error), file=file) from None
