"""The prompts of proposers that ask an LLM, and the marks around data within them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = dict[str, str]


def as_data(value: Mapping[str, object]) -> str:
    """Write data as JSON that stays inside a fenced block, whatever its texts hold.

    Backticks, which would close the block, and angle brackets, which models take for marks of roles, are
    written as escapes that JSON reads as themselves.

    Args:
        value: JSON-able data.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return text.replace("`", "\\u0060").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def prompt_text(name: str) -> str:
    """Return the text of a file in `prompts/`."""
    return files("agenttts.proposers").joinpath("prompts", name).read_text(encoding="utf-8")


@cache
def template(name: str) -> Template:
    """Return a file in `prompts/` as a template."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False)
    return environment.from_string(prompt_text(name))
