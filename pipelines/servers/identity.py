"""Whether a server is what it was. A change is reported once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.servers.wire import Negotiated


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
