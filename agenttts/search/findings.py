"""What a check finds: one thing that will fail in a search, or that may."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that will fail in a search, or that may.

    Attributes:
        severity: "error" for what will fail, "warning" for what may.
        place: A field of the spec, after its file and line where they are known; empty when there is none.
        message: What is wrong, and the remedy.
    """

    severity: Severity
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.line}"

    @property
    def line(self) -> str:
        """The place and the message, in one line."""
        return f"{self.place}: {self.message}" if self.place else self.message

    def to_dict(self) -> dict[str, str]:
        """Return the finding as JSON-able data."""
        return asdict(self)
