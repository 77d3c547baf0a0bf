"""The control of shuffled names: an LLM sees each model's figures under another model's name and words.

What a name says of a model is then wrong, what trials and prices say of it is right. An agent that does as
well with shuffled names as with true ones does not use what it knows of the models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np

from agenttts.space.space import SearchSpace

_WORDS = ("served_name", "about")


class ShuffledNames:
    """A permutation of the names of the models that answer, and of those that verify.

    Args:
        space: The space whose models are renamed.
        seed: The seed of the permutation; with two models or more, it moves at least one.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        rng = np.random.default_rng([seed, len(space.options)])
        answering = [s for s in space.stages if s.python is None]
        verifying = dict.fromkeys(v for s in space.stages for v in s.verifiers)
        drawing = [m for m in dict.fromkeys(m for s in answering for m in s.models) if m not in verifying]
        self._shown = {**_moved(drawing, rng), **_moved(list(verifying), rng)}
        self._true = {shown: name for name, shown in self._shown.items()}

    def shown(self, data: Mapping[str, object]) -> dict[str, object]:
        """Return data for the LLM with every model under the name, and with the words, of another.

        Args:
            data: JSON-able data with true names.
        """
        renamed = cast("dict[str, object]", _renamed(data, self._shown))
        models = cast("Mapping[str, Mapping[str, object]]", data.get("models", {}))
        renamed["models"] = {
            self._shown.get(name, name): {
                **{key: value for key, value in figures.items() if key not in _WORDS},
                **{key: models[self._shown.get(name, name)].get(key, "") for key in _WORDS},
            }
            for name, figures in models.items()
        }
        return renamed

    def true(self, answer: object) -> object:
        """Return an answer of the LLM with the true names.

        Args:
            answer: The answer, as JSON-able data.
        """
        return _renamed(answer, self._true)


def _moved(names: list[str], rng: np.random.Generator) -> dict[str, str]:
    """Map each name to the next one in a random circle, so that every one moves."""
    circle = [names[i] for i in rng.permutation(len(names))]
    return dict(zip(circle, [*circle[1:], *circle[:1]], strict=True))


def _renamed(value: object, names: Mapping[str, str]) -> object:
    """Replace names where they are whole texts, keys or the beginning of an option's text."""
    if isinstance(value, Mapping):
        return {_option(str(key), names): _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    return _option(value, names) if isinstance(value, str) else value


def _option(text: str, names: Mapping[str, str]) -> str:
    """`small:steps@judge` with other names; any other text as it is."""
    if text in names:
        return names[text]
    drawn, at, verifier = text.rpartition("@")
    if at and verifier in names:
        return f"{_option(drawn, names)}@{names[verifier]}"
    model, colon, prompt = text.partition(":")
    return f"{names[model]}:{prompt}" if colon and model in names else text
