"""Code is found between fences, half open ones too, and by its language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.reading.readers import NoAnswer, blocks, code, completed, file_name

TWICE = "def twice(n):\n    return 2 * n\n"
PROMPT = 'def total(xs):\n    """Sum."""\n'


def runs(program: str | NoAnswer, call: str) -> object:
    """The value of a call after a program."""
    assert isinstance(program, str)
    scope: dict[str, object] = {}
    exec(program, scope)
    return eval(call, scope)


@pytest.mark.parametrize(
    "text",
    [
        TWICE,
        f"{TWICE}```",
        f"{TWICE}```\n",
        f"import math\n\n{TWICE}```\nThis doubles n.",
        f"{TWICE}```\nFor example:\n```\ntwice(2)  # 4\n```",
        f"```python\n{TWICE}```",
        f"```python\n{TWICE}",
        f"```\n{TWICE}",
        f"Here:\n```\n{TWICE}",
        f"```py\n{TWICE.rstrip()}```",
        f"``` python\n{TWICE}```",
        f'```python title="twice.py"\n{TWICE}```',
        f"```{{.python}}\n{TWICE}```",
        f"```twice.py\n{TWICE}```",
        f"~~~python\n{TWICE}~~~",
        f"Sure: ```Python\n{TWICE}```",
        f"```python\n{TWICE}```".replace("\n", "\r\n"),
        "1. So:\n\n   ```python\n   def twice(n):\n       return 2 * n\n   ```\n",
        f"````markdown\n# Twice\n```python\n{TWICE}```\n````",
        f"Here is the function.\n\n{TWICE}\nIt doubles its argument.",
        f"```bash\npip install twice\n```\n```python\n{TWICE}```\n```text\n4\n```",
        f"```python\n{TWICE}```json\n{{}}\n```",
        f"```python\ndef twice(n):\n    return 0\n```\nBetter:\n```python\n{TWICE}```",
        f"```python\n{TWICE}```\nOr:\n```python\ndef twice(n):\n    return 2 *",
        f"```python\n{TWICE}```\nUse:\n```python\nprint(thrice(2))\n```",
        'So:\n```python\ndef twice(n):\n    """Twice.\n\n    ```\n    >>> twice(2)\n    ```\n    """\n'
        "    return 2 * n\n```\nDone.",
    ],
)
def test_the_answers_code_is_found(text: str) -> None:
    """Whole and half open fences, tags as models write them, prose, drafts and examples around."""
    assert runs(code(text, "python", defining="twice"), "twice(3)") == 6


def test_output_is_no_code_beside_other_blocks() -> None:
    """A block of output or text stands for code only where no block is anything else."""
    shown = "```output\n4\n```\n"
    assert code(f"```\n{TWICE}```\n{shown}") == TWICE
    assert isinstance(code(f"```json\n{{}}\n```\n{shown}"), NoAnswer)
    assert code(f"```text\n{TWICE}```\n") == TWICE


def test_without_a_name_the_last_closed_block_of_the_language_counts() -> None:
    """Then blocks that name no language, then open ones; other languages never."""
    two = "```sql\nSELECT 1\n```\n```python\nx = 1\n```\n```sql\nSELECT 2\n```\n```sql\nSELECT"
    assert code(two, "SQL") == "SELECT 2\n" and code(two, "py") == "x = 1\n"
    assert code("```\nSELECT 3\n```\n```python\nx = 1\n```", "sql") == "SELECT 3\n"
    assert code("```java\nclass A {}\n```", "python") == NoAnswer("no code in python, only in java")
    assert code("```java\nclass A {}\n```", "java") == "class A {}\n"
    for empty in ("", " \n", "```", "```python\n```"):
        assert code(empty) == NoAnswer("no code")


def test_helpers_in_earlier_blocks_come_along() -> None:
    """Only those that the answer uses and does not define; a failed draft stays out."""
    text = (
        "```python\nimport math\n```\n```python\ndef half(n):\n    return math.floor(n / 2)\n```\n"
        "```python\nraise SystemExit\n```\n```python\ndef quarter(n):\n    return half(half(n))\n```"
    )
    assert runs(code(text, defining="quarter"), "quarter(9)") == 2


def test_the_first_lines_indent_is_kept() -> None:
    """A completion is a body: with its fence, without one, closed by it."""
    for text in (
        "    return 1\n",
        "```python\n    return 1\n```",
        "    return 1\n```",
        "```\n    return 1\n",
    ):
        assert code(text) == "    return 1\n"


@pytest.mark.parametrize(
    "body",
    [
        "    return sum(xs)\n",
        "\n    return sum(xs)",
        "return sum(xs)",
        "n = 0\n    for x in xs:\n        n += x\n    return n",
        "n = 0\nfor x in xs:\n    n += x\nreturn n",
        "    n = sum(xs)\n    return n\n\nThis adds them up.",
        "The body:\n\n    return sum(xs)",
        "\treturn sum(xs)",
    ],
)
def test_bodies_are_put_under_their_signature(body: str) -> None:
    """Whatever became of their indent, and of prose around."""
    assert runs(completed(PROMPT, body), "total([1, 2])") == 3


@given(st.lists(st.text("abc `~\n#", max_size=12), max_size=12).map("\n".join))
def test_blocks_never_lose_their_text(text: str) -> None:
    """Every line of a block stands in the text."""
    for block in blocks(text):
        assert all(line in text for line in block.code.split("\n"))


def test_files_are_named_where_models_name_them() -> None:
    """In the line before, after the fence, or in a first comment; never outside the folder."""
    names = {
        "main.py\n```python\nx\n```": "main.py",
        "**`src/app.py`**:\n```python\nx\n```": "src/app.py",
        "### File 2: game_state.py\n\n```python\nx\n```": "game_state.py",
        "```python:util/io.py\nx\n```": "util/io.py",
        "```python\n# ./main.py\nx = 1\n```": "main.py",
        "../../evil.py\n```python\nx\n```": None,
        "/etc/evil.py\n```python\nx\n```": None,
        "Here:\n```python\nx = 1.5\n```": None,
    }
    for text, name in names.items():
        assert file_name(blocks(text)[0]) == name


def test_blocks_tell_what_stands_around() -> None:
    """Language, the rest of the fence's line, the line before, whether it is closed."""
    first, second = blocks("Run\n\nmain.py:\n```python -i\nx\n```\n\n~~~\ny\n")
    assert (first.language, first.info, first.heading, first.code) == (
        "python",
        "python -i",
        "main.py:",
        "x\n",
    )
    assert first.closed and not second.closed and second.heading == ""


def test_prose_is_no_body() -> None:
    """Nothing is made of it that Python would take."""
    assert "I would" in completed(PROMPT, "I would add them up.")


def test_only_line_ends_end_lines() -> None:
    """A form feed or a line separator in a text stays where it is."""
    assert code("```python\nx = 'a\u2028b\x0c'\n```") == "x = 'a\u2028b\x0c'\n"
