"""Blocks of code in what models write, also those whose fence is missing at one end.

Fences are read line by line, as CommonMark has them (https://spec.commonmark.org/0.31.2/#fenced-code-blocks),
and beyond it where models are careless: the opening fence may end a line of prose, the closing one may end
the last line of code, and either may be missing.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of code in a text.

    Attributes:
        language: Lower-case name after the opening fence, aliases made one (`py` is `python`); "" for none.
        info: The whole text after the opening fence; a file's name may stand there.
        heading: The last line with text before the opening fence, "" for none.
        code: The lines between the fences, with the indent of the first one, less the indent of the fence.
        closed: Whether the closing fence is there. Without it the text may have been cut.
    """

    language: str
    info: str
    heading: str
    code: str
    closed: bool


_ALIASES = {
    "py": "python", "python3": "python", "py3": "python", "python2": "python", "ipython": "python",
    "js": "javascript", "node": "javascript", "mjs": "javascript", "ts": "typescript", "sh": "bash",
    "shell": "bash", "zsh": "bash", "console": "bash", "c++": "cpp", "cc": "cpp", "cxx": "cpp",
    "golang": "go", "rs": "rust", "rb": "ruby", "cs": "csharp", "c#": "csharp", "kt": "kotlin", "yml": "yaml",
    "postgresql": "sql", "mysql": "sql", "sqlite": "sql", "htm": "html", "md": "markdown",
}  # fmt: skip
_NESTING = frozenset(("markdown", ""))
_OPENING = re.compile(
    r"^(?P<indent>[ \t]*)(?P<prose>(?:[^\n]*?[^\n`~])??)(?P<fence>`{3,}|~{3,})(?P<info>[^`~\n]*)$"
)
_ONE_LINE = re.compile(r"^[ \t]*`{3,}([\w+#-]*)[ \t]+([^`\n]+?)[ \t]*`{3,}[ \t]*$")
_BARE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*$")
_CLOSING = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*$", re.MULTILINE)
_CODE_LINE = re.compile(
    r"""^(?:[ \t]+\S
    | (?:async\ |export\ |public\ |private\ |static\ )*
      (?:def|class|import|from|return|for|while|if|elif|try|with|raise|assert|print|function|const|let|var|fn
        |func|package|use|using|namespace|template|struct|enum|interface
        |select|insert|update|create|SELECT|INSERT|UPDATE|CREATE)\b[^.!?]*$
    | (?:else|finally)\s*:?$ | [@\#}\])] | //
    | [\w.\[\]"']+\s*[-+*/|&]?=[^=] | [\w.]+\(.*\)\s*;?$ | .*[;{}]\s*$ )""",
    re.VERBOSE,
)
_LINE_END = re.compile(r"\r\n?|\n")
_FILE_NAME = re.compile(r"(?<![\w./-])((?:\./)?(?:[\w-]+/)*[\w.-]*\w\.[A-Za-z]{1,5}[0-9]?)(?![\w/])")
_LONGEST_HEADING = 120  # characters; a longer line is prose


def blocks(text: str) -> list[Block]:
    """Find the blocks of code in a text, in order.

    Args:
        text: What the model wrote, without its thinking. Where it only closes a fence, because the prompt
            opened it, what stands before is a block.

    Returns:
        The blocks; [] for a text without fences.
    """
    if "```" not in text and "~~~" not in text:
        return []
    lines = _LINE_END.split(text)
    if not lines[-1]:
        lines.pop()
    all_blocks: list[Block] = []
    position = heading_from = 0
    while position < len(lines):
        line = lines[position]
        if one_line := _ONE_LINE.match(line):
            language, code = one_line.groups()
            heading = _heading(lines[heading_from:position])
            all_blocks.append(_block(language, heading, [code], closed=True))
        elif opening := _OPENING.match(line):
            if not all_blocks and _closes_the_prompts(lines, position):
                all_blocks.append(_block("", "", lines[:position], closed=True))
            else:
                end, rest = _closing(lines, position, opening)
                heading = opening.group("prose").strip() or _heading(lines[heading_from:position])
                inside = _outdented(lines[position + 1 : end], len(opening.group("indent")))
                if rest is not None:
                    inside.append(rest)
                is_closed = end < len(lines)
                all_blocks.append(_block(opening.group("info"), heading, inside, closed=is_closed))
                follows = is_closed and rest is None and not _BARE.match(lines[end])
                position = end - 1 if follows else end
            heading_from = position + 1
        position += 1
    return all_blocks


def _block(info: str, heading: str, lines: Sequence[str], *, closed: bool) -> Block:
    code = "\n".join(lines)
    info = info.strip()
    return Block(
        language=language_name(info),
        info=info,
        heading=heading,
        code=f"{code}\n" if code else "",
        closed=closed,
    )


def language_name(info: str) -> str:
    """Name the language that the text after an opening fence tells.

    Args:
        info: Such as `py`, `{.python}`, `python:main.py`, `python title="x"` or `main.py`.

    Returns:
        The name in lower case, aliases made one; "" for none.
    """
    name = re.split(r"[\s:,{}(]", info.strip().lstrip("{.# "), maxsplit=1)[0].rstrip("}").lower()
    if "." in name:
        name = name.rsplit(".", 1)[1]
    return _ALIASES.get(name, name)


def _heading(lines: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _closing(lines: Sequence[str], start: int, opening: re.Match[str]) -> tuple[int, str | None]:
    """Find the line that closes a block, and the code before the fence where it stands at a line's end."""
    fence, indent = opening.group("fence"), len(opening.group("indent").expandtabs(4))
    language = language_name(opening.group("info"))
    depth, deep_bare = 0, None
    for position in range(start + 1, len(lines)):
        line = lines[position]
        if fence[:3] not in line:
            continue
        if bare := _BARE.match(line):
            if len(bare.group("fence")) < len(fence) or bare.group("fence")[0] != fence[0]:
                continue
            if len(bare.group("indent").expandtabs(4)) > indent + 3:
                deep_bare = position  # in a docstring, unless nothing else closes
            elif depth:
                depth -= 1
            else:
                return position, None
        elif (inner := _OPENING.match(line)) and inner.group("fence").startswith(fence):
            if inner.group("prose") and not inner.group("info").strip():
                if not depth and not inner.group("prose").lstrip().startswith((">>>", "#", '"')):
                    return position, line[: line.rindex(inner.group("fence"))]
            elif language in _NESTING and inner.group("info").strip() and not inner.group("prose"):
                depth += 1
            elif len(inner.group("indent").expandtabs(4)) <= indent and not inner.group("prose"):
                return position, None  # the closing fence was left out
    return (deep_bare, None) if deep_bare is not None else (len(lines), None)


def _outdented(lines: Sequence[str], indent: int) -> list[str]:
    """Take the fence's own indent off, as CommonMark does."""
    return [line[min(indent, len(line) - len(line.lstrip())) :] for line in lines] if indent else list(lines)


def _closes_the_prompts(lines: Sequence[str], position: int) -> bool:
    """Whether the first fence of a text closes one that the prompt opened."""
    if not _BARE.match(lines[position]):
        return False
    before = [line for line in lines[:position] if line.strip()]
    if not before:
        return False
    inside = [line for line in lines[position + 1 : _next_fence(lines, position + 1)] if line.strip()]
    above, below = _code_share(before), _code_share(inside)
    unpaired = sum(bool(_BARE.match(line)) for line in lines) % 2 == 1
    return above >= 0.5 and (above > below or (unpaired and above == below))


def _next_fence(lines: Sequence[str], start: int) -> int:
    return next((i for i in range(start, len(lines)) if _BARE.match(lines[i])), len(lines))


def _code_share(lines: Sequence[str]) -> float:
    """Share of lines that look like code."""
    return sum(bool(_CODE_LINE.match(line)) for line in lines) / len(lines) if lines else 0.0


def closed_fences(
    text: str, opening: re.Pattern[str], start: int = 0, *, shorter: bool = False
) -> Iterator[tuple[int, int]]:
    """Find the spans from an opening fence to the next line that holds the same fence alone.

    Unlike `blocks` it guesses nothing: an opening that no line closes is passed over. However many there
    are, the text is gone through once.

    Args:
        text: The text, searched from the position `start` on.
        opening: Matches a line that opens a block, its end included; the first group is the fence.
        start: Where the search begins.
        shorter: Whether, where no fence of the same length follows, a shorter one closes the block.

    Yields:
        Start of the opening line and end of the closing one, without its line end; spans do not overlap.
    """
    closings = defaultdict[tuple[str, int], list[tuple[int, int]]](list)
    for closing in _CLOSING.finditer(text, start):
        closings[closing[1][0], len(closing[1])].append(closing.span())
    position = start
    for opened in opening.finditer(text, start):
        if opened.start() < position:
            continue
        longest = len(opened[1])
        for length in range(longest, 2 if shorter else longest - 1, -1):
            spans = closings.get((opened[1][0], length), [])
            following = bisect_left(spans, (opened.end(), 0))
            if following < len(spans):
                position = spans[following][1]
                yield opened.start(), position
                break


def file_name(block: Block) -> str | None:
    """Name the file that a block is the content of.

    Args:
        block: A block of a text that writes several files.

    Returns:
        The path that the line before the block, the text after its opening fence or a comment on its first
        line names; None where none does. A path never leaves its folder.
    """
    first_line = block.code.partition("\n")[0].strip()
    comment = first_line if first_line[:1] in ("#", "/", "<", "-", ";") else ""
    for line in (block.heading if len(block.heading) <= _LONGEST_HEADING else "", block.info, comment):
        if names := _FILE_NAME.findall(line):
            return str(names[-1]).removeprefix("./")
    return None
