"""Allocations: for every stage of a pipeline, an option and the number of samples to draw for each prompt.

An option is a model, with one of the stage's prompts where it has several, and perhaps with a verifier that
picks the best of its samples. Of a stage that runs a function it is one of the stage's named options.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageOption:
    """What a stage may use. Its text is `small`, `small:steps` with a prompt, `small@judge` with a verifier.

    Names of models may contain `@` and `:`, so the text alone is ambiguous: read it with `StageSpec.option`.

    Attributes:
        model: Key in the spec's `models` of the model that draws the samples; of a stage that runs a
            function, the name of the option.
        verifier: Key in `models` of the classifier that picks the best sample; None means that the stage's
            aggregator combines the samples.
        prompt: Key in the stage's `prompts`; None means its own prompt.
    """

    model: str
    verifier: str | None = None
    prompt: str | None = None

    def __str__(self) -> str:
        return self.drawn + ("" if self.verifier is None else f"@{self.verifier}")

    def __lt__(self, other: StageOption) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[str, str, str]:
        return self.model, self.prompt or "", self.verifier or ""

    @property
    def drawn(self) -> str:
        """What the samples depend on, as text: the option without its verifier."""
        return self.model if self.prompt is None else f"{self.model}:{self.prompt}"

    def with_samples(self, n_samples: int) -> StageChoice:
        """Return the choice of this option with a number of samples, at least 1."""
        return StageChoice(self.model, n_samples, self.verifier, self.prompt)


@dataclass(frozen=True, slots=True)
class StageChoice:
    """An option of a stage and a number of samples. Its text is `small×8` or `small@judge×8`.

    Attributes:
        model: Key in the spec's `models` of the model that draws the samples; of a stage that runs a
            function, the name of the option.
        n_samples: Number of samples drawn for each prompt, at least 1.
        verifier: Key in `models` of the classifier that picks the best sample; None means that the stage's
            aggregator combines the samples.
        prompt: Key in the stage's `prompts`; None means its own prompt.

    Raises:
        ValueError: The number of samples is below 1.
    """

    model: str
    n_samples: int
    verifier: str | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        if self.n_samples < 1:
            raise ValueError(f"n_samples must be >= 1, got {self.n_samples}")

    def __str__(self) -> str:
        return f"{self.option}×{self.n_samples}"

    @property
    def option(self) -> StageOption:
        """The option, without the number of samples."""
        return StageOption(self.model, self.verifier, self.prompt)

    def to_dict(self) -> dict[str, str | int]:
        """Return the choice as JSON-able data; without the keys `verifier` and `prompt` where it has none."""
        further = {"verifier": self.verifier, "prompt": self.prompt}
        parts = {name: value for name, value in further.items() if value is not None}
        return {"model": self.model, "n_samples": self.n_samples, **parts}


class Allocation(Mapping[str, StageChoice]):
    """An immutable, hashable mapping from stage name to StageChoice, in the order of the stages."""

    __slots__ = ("_choices", "_hash")

    def __init__(self, choices: Mapping[str, StageChoice]) -> None:
        self._choices = dict(choices)
        self._hash = hash(frozenset(self._choices.items()))

    def __getitem__(self, stage: str) -> StageChoice:
        return self._choices[stage]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type[Allocation], tuple[dict[str, StageChoice]]]:
        return Allocation, (self._choices,)  # hashes of texts differ between processes

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

        `small@judge` is read as the name of a model. `SearchSpace.resolve` splits it into model, prompt and
        verifier where the stage has such an option.

        Args:
            data: {stage: {"model": str, "n_samples": int}}; `"verifier": str | None` and
                `"prompt": str | None` are optional.

        Raises:
            ValueError: The data has another form, or a number of samples is below 1.
        """
        choices = {}
        for stage, choice in data.items():
            needed = {"model", "n_samples"}
            if not isinstance(choice, Mapping) or set(choice) - {"verifier", "prompt"} != needed:
                raise ValueError(
                    f"stage {stage!r} takes exactly model, n_samples and perhaps verifier and prompt, "
                    f"got {choice!r}"
                )
            model, n_samples = choice["model"], choice["n_samples"]
            if not isinstance(model, str) or not isinstance(n_samples, int) or isinstance(n_samples, bool):
                raise ValueError(f"stage {stage!r}: model is text and n_samples an integer, got {choice!r}")
            verifier, prompt = choice.get("verifier"), choice.get("prompt")
            if not all(part is None or isinstance(part, str) for part in (verifier, prompt)):
                raise ValueError(f"stage {stage!r}: verifier and prompt are text or null, got {choice!r}")
            choices[stage] = StageChoice(model, n_samples, verifier, prompt)
        return cls(choices)

    @classmethod
    def from_json(cls, text: str) -> Allocation:
        """Build an allocation from the text that `to_json` returns.

        Raises:
            ValueError: The text is not JSON, the data has another form, or a number of samples is below 1.
        """
        return cls.from_dict(json.loads(text))
