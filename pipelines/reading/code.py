"""The code that a text gives as its answer."""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
import warnings
from collections.abc import Sequence

from pipelines.reading.fences import Block, blocks, language_name
from pipelines.reading.noanswer import NoAnswer

_NO_LANGUAGE = frozenset(("", "code"))
_PLAIN = frozenset(("text", "txt", "plaintext", "plain", "output"))  # code only where no block is
_TOP_LEVEL = re.compile(r"^(?:def|class|import|from|async def|@)\b|^@", re.MULTILINE)


def code(text: str, language: str = "python", *, defining: str | None = None) -> str | NoAnswer:
    """Take the code that a text gives as its answer.

    Of the blocks in the language, else of those that name none, the last closed one counts, else the last
    that is open; a text without fences is code as a whole. In Python, earlier blocks that define what the
    block uses are put before it, and prose around code without fences is left out.

    Args:
        text: What the model wrote, without its thinking.
        language: Name of the language wanted.
        defining: A name that the answer defines; blocks that do so are preferred. None prefers none.

    Returns:
        The code, with the indent of its first line; NoAnswer where there is none.
    """
    name = language_name(language)
    fenced = [block for block in _flat(blocks(text)) if block.code.strip()]
    if not fenced:
        if not text.strip() or "```" in text or "~~~" in text:
            return NoAnswer("no code")
        return _without_prose(text) if name == "python" else text
    in_language = [block for block in fenced if block.language == name]
    without_language = [block for block in fenced if block.language in _NO_LANGUAGE]
    if all(block.language in _PLAIN for block in fenced):
        without_language = fenced
    if not in_language and not without_language:
        return NoAnswer(f"no code in {language}, only in {', '.join(sorted({b.language for b in fenced}))}")
    candidates, usable = next(
        (group, usable)
        for name in (defining, None)
        for group in (in_language, without_language)
        if (usable := [b for b in group if not name or defines(b.code, name)])
    )
    chosen = ([b for b in usable if b.closed] or usable)[-1]
    earlier = [b.code for b in fenced[: fenced.index(chosen)] if b.closed and b in candidates]
    return _with_helpers(chosen.code, earlier) if name == "python" else chosen.code


def defines(program: str, name: str) -> bool:
    """Whether a program defines a name, as most languages do so.

    Args:
        program: The program, or a part of one.
        name: Of a function or a class; a variable of that name, a local one too, counts as its definition.
    """
    return _definition(name).search(program) is not None


def completed(prompt: str, body: str) -> str:
    """Put the body of a Python function under the signature that the prompt ends with.

    Servers and models strip the first line's indent of a completion, or all of it; the indent that makes it
    Python is given back.

    Args:
        prompt: Code that ends with a signature or its docstring.
        body: The model's continuation.

    Returns:
        The program. Where no indent makes it Python, the body stands as it is.
    """
    lines = body.strip("\n").splitlines()
    indent = _body_indent(prompt)
    deeper = textwrap.indent(textwrap.dedent("\n".join(lines)), indent)
    first_deeper = "\n".join([indent + lines[0].lstrip(), *lines[1:]]) if lines else ""
    forms = ["\n".join(lines), deeper, first_deeper, "\n".join(_indented_lines(lines))]
    if lines and not lines[0][0].isspace():
        forms = [deeper, first_deeper, *forms]
    programs = [f"{prompt.rstrip()}\n{form}\n" for form in forms if form.strip()] or [prompt]
    return next((program for program in programs if _is_python(program)), programs[0])


def _body_indent(prompt: str) -> str:
    """Indent of the body that continues a signature or its docstring."""
    last = prompt.rstrip().rpartition("\n")[2]
    indent = last[: len(last) - len(last.lstrip())]
    return indent + "    " if last.endswith(":") or not indent else indent


def _indented_lines(lines: Sequence[str]) -> list[str]:
    """Lines from the first indented one to the last before one that is not: a body without prose around."""
    start = next((i for i, line in enumerate(lines) if line[:1].isspace() and line.strip()), 0)
    ends = (i for i in range(start, len(lines)) if lines[i].strip() and not lines[i][0].isspace())
    return list(lines[start : next(ends, len(lines))])


def _definition(name: str) -> re.Pattern[str]:
    """Match the definition of a name in most languages."""
    n = re.escape(name)
    words = rf"\b(?:def|class|function|func|fn)\s+{n}\b|^\s*(?:(?:const|let|var)\s+)?{n}\s*=[^=]"
    return re.compile(rf"{words}|^[\w<>\[\]*&: ]+\s[*&]?{n}\s*\([^;\n]*\)\s*{{", re.MULTILINE)


def _flat(all_blocks: Sequence[Block]) -> list[Block]:
    """Put the blocks inside a block of markdown in its place."""
    flat: list[Block] = []
    for block in all_blocks:
        inner = blocks(block.code) if block.language == "markdown" else []
        flat += inner or [block]
    return flat


def python_problem(program: str) -> str | None:
    """Say why a text is not Python.

    Args:
        program: The text; it is compiled and not run.

    Returns:
        The compiler's words; None where the text is Python.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(program, "<written>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return str(error)
    return None


def _is_python(code: str) -> bool:
    return python_problem(code) is None


def _without_prose(text: str) -> str:
    """Leave out prose before and after Python that stands without fences."""
    if _is_python(text) or not (first := _TOP_LEVEL.search(text)):
        return text
    lines = text[first.start() :].splitlines()
    ends = [i for i, line in enumerate(lines) if i and line.strip() and not line[0].isspace()]
    for end in [len(lines), *reversed(ends[:50])]:
        program = "\n".join(lines[:end]).rstrip() + "\n"
        if _is_python(program):
            return program
    return text


def _with_helpers(chosen: str, earlier: Sequence[str]) -> str:
    """Put those earlier blocks before a Python block that define names which it uses and does not define."""
    if not earlier or not _is_python(chosen):
        return chosen
    program, missing = chosen, _used(chosen) - _defined(chosen)
    for block in reversed(earlier):
        if _is_python(block) and (helped := missing & _defined(block)):
            program = f"{block.rstrip()}\n\n\n{program}"
            missing = (missing - helped) | (_used(block) - _defined(block))
    return program


def _defined(code: str) -> set[str]:
    """Names that a Python program binds anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return names


def _used(code: str) -> set[str]:
    """Names that a Python program reads, without the built-in ones."""
    nodes = ast.walk(ast.parse(code))
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)} - set(
        dir(builtins)
    )
