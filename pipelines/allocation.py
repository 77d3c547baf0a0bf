"""An Allocation: for every stage, a model and a number of samples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, order=True, slots=True)
class StageChoice:
    """Which option serves a stage (a model, or `model@verifier`), and how many samples it draws a prompt."""

    model: str
    n_samples: int

    def __post_init__(self) -> None:
        if self.n_samples < 1:
            raise ValueError(f"n_samples must be >= 1, got {self.n_samples}")


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
        return " · ".join(f"{stage} {c.model}×{c.n_samples}" for stage, c in self._choices.items())

    def replace(self, stage: str, choice: StageChoice) -> Allocation:
        """The same allocation with one stage's choice changed."""
        if stage not in self._choices:
            raise KeyError(stage)
        return Allocation({**self._choices, stage: choice})

    def to_dict(self) -> dict[str, dict[str, str | int]]:
        return {s: {"model": c.model, "n_samples": c.n_samples} for s, c in self._choices.items()}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, object]]) -> Allocation:
        """Build from {stage: {"model": str, "n_samples": int}}; ValueError when the shape is another."""
        choices = {}
        for stage, choice in data.items():
            if not isinstance(choice, Mapping) or set(choice) != {"model", "n_samples"}:
                raise ValueError(f"stage {stage!r} needs exactly model and n_samples, got {choice!r}")
            model, n_samples = choice["model"], choice["n_samples"]
            if not isinstance(model, str) or not isinstance(n_samples, int) or isinstance(n_samples, bool):
                raise ValueError(f"stage {stage!r}: model is text and n_samples an integer, got {choice!r}")
            choices[stage] = StageChoice(model, n_samples)
        return cls(choices)

    @classmethod
    def from_json(cls, text: str) -> Allocation:
        return cls.from_dict(json.loads(text))
