"""The code blocks of README, the pages of docs/ and the READMEs of the ready-made pipelines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "pipelines").glob("*/README.md")),
)
_BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^\w*\$\s+(.*)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: The file that it stands in, from the root.
        line: The number of its first line.
        language: What its fence names; empty where it names none.
        text: What it holds.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def comment(self) -> str:
        """Its first line where that is a comment, without its sign."""
        first = self.text.partition("\n")[0]
        return first.removeprefix("#").strip() if first.startswith("#") else ""

    @property
    def commands(self) -> tuple[str, ...]:
        """The lines that a person types, without prompt and comment."""
        lines = self.text.splitlines()
        if self.language == "console":
            lines = [match[1] for line in lines if (match := _PROMPT.match(line))]
        return tuple(re.split(r"\s+#\s", line)[0].strip() for line in lines if line)


def blocks(page: str = "", language: str = "") -> tuple[Block, ...]:
    """The blocks of a page (its path from the root; empty: of all), in a language (empty: in any)."""
    return tuple(
        block
        for file in FILES
        if page in ("", str(file.relative_to(ROOT)))
        for block in _blocks(file)
        if language in ("", block.language)
    )


def block(page: str, comment: str) -> str:
    """The text of the one block of a page whose first comment begins so."""
    (only,) = (block.text for block in blocks(page) if block.comment.startswith(comment))
    return only


def _blocks(file: Path) -> list[Block]:
    text = file.read_text(encoding="utf-8")
    return [
        Block(
            page=str(file.relative_to(ROOT)),
            line=text.count("\n", 0, match.start()) + 2,
            language=match[1],
            text=match[2],
        )
        for match in _BLOCK.finditer(text)
        if not match[1].startswith("{")  # a directive of the site
    ]
