"""Allocations: for every stage of a pipeline, an option and the number of samples to draw for each prompt.

An option is a model, or a model with a verifier that picks the best of its samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageOption:
    """A model that a stage may use, with or without a verifier. Its text is `small` or `small@judge`.

    Names of models may contain `@`, so the text alone is ambiguous: read it with `StageSpec.option`.

    Attributes:
        model: Key in the spec's `models` of the model that draws the samples.
        verifier: Key in `models` of the classifier that picks the best sample; None means that the stage's
            aggregator combines the samples.
    """

    model: str
    verifier: str | None = None

    def __str__(self) -> str:
        return self.model if self.verifier is None else f"{self.model}@{self.verifier}"

    def __lt__(self, other: StageOption) -> bool:
        return (self.model, self.verifier or "") < (other.model, other.verifier or "")

    def with_samples(self, n_samples: int) -> StageChoice:
        """Return the choice of this option with a number of samples, at least 1."""
        return StageChoice(self.model, n_samples, self.verifier)


@dataclass(frozen=True, slots=True)
class StageChoice:
    """An option of a stage and a number of samples. Its text is `small×8` or `small@judge×8`.

    Attributes:
        model: Key in the spec's `models` of the model that draws the samples.
        n_samples: Number of samples drawn for each prompt, at least 1.
        verifier: Key in `models` of the classifier that picks the best sample; None means that the stage's
            aggregator combines the samples.

    Raises:
        ValueError: The number of samples is below 1.
    """

    model: str
    n_samples: int
    verifier: str | None = None

    def __post_init__(self) -> None:
        if self.n_samples < 1:
            raise ValueError(f"n_samples must be >= 1, got {self.n_samples}")

    def __str__(self) -> str:
        return f"{self.option}×{self.n_samples}"

    @property
    def option(self) -> StageOption:
        """The option, without the number of samples."""
        return StageOption(self.model, self.verifier)

    def to_dict(self) -> dict[str, str | int]:
        """Return the choice as JSON-able data; without the key `verifier` if it has none."""
        verifier = {} if self.verifier is None else {"verifier": self.verifier}
        return {"model": self.model, "n_samples": self.n_samples, **verifier}


class Allocation(Mapping[str, StageChoice]):
    """An immutable, hashable mapping from stage name to StageChoice, in the order of the stages."""

    __slots__ = ("_choices",)

    def __init__(self, choices: Mapping[str, StageChoice]) -> None:
        self._choices = dict(choices)

    def __getitem__(self, stage: str) -> StageChoice:
        return self._choices[stage]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __hash__(self) -> int:
        return hash(frozenset(self._choices.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Allocation) and self._choices == other._choices

    def __repr__(self) -> str:
        return f"Allocation({self})"

    def __str__(self) -> str:
        return " · ".join(f"{stage} {choice}" for stage, choice in self._choices.items())

    def replace(self, stage: str, choice: StageChoice) -> Allocation:
        """Return the same allocation with the choice of one stage changed.

        Raises:
            KeyError: The allocation has no such stage.
        """
        if stage not in self._choices:
            raise KeyError(stage)
        return Allocation({**self._choices, stage: choice})

    def to_dict(self) -> dict[str, dict[str, str | int]]:
        """Return the allocation as JSON-able data: `StageChoice.to_dict` for each stage."""
        return {stage: choice.to_dict() for stage, choice in self._choices.items()}

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Allocation:
        """Build an allocation from the data that `to_dict` returns.

        `small@judge` is read as the name of a model. `SearchSpace.resolve` splits it into model and verifier
        where the stage has such an option.

        Args:
            data: {stage: {"model": str, "n_samples": int}}; `"verifier": str | None` is optional.

        Raises:
            ValueError: The data has another form, or a number of samples is below 1.
        """
        choices = {}
        for stage, choice in data.items():
            if not isinstance(choice, Mapping) or set(choice) - {"verifier"} != {"model", "n_samples"}:
                raise ValueError(
                    f"stage {stage!r} takes exactly model, n_samples and perhaps verifier, got {choice!r}"
                )
            model, n_samples, verifier = choice["model"], choice["n_samples"], choice.get("verifier")
            if not isinstance(model, str) or not isinstance(n_samples, int) or isinstance(n_samples, bool):
                raise ValueError(f"stage {stage!r}: model is text and n_samples an integer, got {choice!r}")
            if verifier is not None and not isinstance(verifier, str):
                raise ValueError(f"stage {stage!r}: verifier is text or null, got {choice!r}")
            choices[stage] = StageChoice(model, n_samples, verifier)
        return cls(choices)

    @classmethod
    def from_json(cls, text: str) -> Allocation:
        """Build an allocation from the text that `to_json` returns.

        Raises:
            ValueError: The text is not JSON, the data has another form, or a number of samples is below 1.
        """
        return cls.from_dict(json.loads(text))
