"""Whether a server is what it was, and whether its samples are samples. Each is reported once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.servers.wire import Negotiated

_FEWEST_PROMPTS = 10


class SameServer:
    """Notices that a server begins to answer as another model, or with other weights or settings."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._seen: tuple[Any, Any] | None = None
        self._reported = False

    def add(self, answer: Mapping[str, Any]) -> Negotiated | None:
        """Look at an answer; what to report, the first time that it differs from those before."""
        seen = (answer.get("model"), answer.get("system_fingerprint"))
        before = self._seen
        self._seen = seen
        if before is None or before == seen or self._reported:
            return None
        changed = [
            (field, old, new)
            for field, old, new in zip(("model", "system_fingerprint"), before, seen, strict=True)
            if old is not None and new is not None and old != new
        ]
        if not changed:
            return None
        self._reported = True
        field, old, new = changed[0]
        return Negotiated(
            model=self._model,
            field=field,
            action="changed",
            consequence=f"{str(old)[:80]!r} became {str(new)[:80]!r} while samples were drawn",
            warning=True,
        )


class EqualTexts:
    """Counts prompts whose samples are all one text although they were drawn at a temperature over 0.

    Most prompts being so means that the server ignores the temperature, fixes a seed or keeps answers.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self.n_prompts = 0
        self.n_equal = 0
        self._reported = False

    def add(self, texts: Sequence[str], temperature: float | None) -> Negotiated | None:
        """Look at the samples of a prompt; what to report, once most of at least ten prompts are so."""
        if len(texts) < 2 or not temperature:
            return None
        self.n_prompts += 1
        self.n_equal += len(set(texts)) == 1
        if self._reported or self.n_prompts < _FEWEST_PROMPTS or 2 * self.n_equal <= self.n_prompts:
            return None
        self._reported = True
        return Negotiated(
            model=self._model,
            field="texts",
            action="equal",
            consequence=f"all samples are one text for {self.n_equal} of {self.n_prompts} prompts at "
            f"temperature {temperature:g}; the server may ignore it, fix a seed or keep answers",
            warning=True,
        )
