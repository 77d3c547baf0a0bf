"""Text on the terminal: what servers, models, files and data say is shown, never obeyed.

Control characters (among them ESC, which begins colours, titles, links and reports of a terminal), characters
that turn the direction of a text, and halves of characters are written as escapes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_ABOVE_ASCII = "\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff"
_HOSTILE = re.compile(f"[\\x00-\\x08\\x0b-\\x1f{_ABOVE_ASCII}]")
_IN_JSON = re.compile(f"[{_ABOVE_ASCII}]")


def escaped(text: str) -> str:
    """Return a text in which control and direction characters other than line ends and tabs are escaped."""
    return _HOSTILE.sub(lambda match: _escape(match[0]), text)


def escaped_json(text: str) -> str:
    """Return the same JSON with these characters escaped as JSON does it, so that it reads as the same value.

    Args:
        text: JSON, in which everything below U+0020 is escaped already.
    """
    return _IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(character: str) -> str:
    return f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}"


class EscapingConsole(Console):
    """A console of rich that escapes what it prints and writes no links."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render an object, with the texts of its segments escaped; controls of rich's own pass."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                style = (
                    segment.style.update_link(None) if segment.style and segment.style.link else segment.style
                )
                yield Segment(escaped(segment.text), style)


class EscapingFormatter(logging.Formatter):
    """A formatter of log messages that escapes them."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record, traceback included, and escape the text."""
        return escaped(super().format(record))
