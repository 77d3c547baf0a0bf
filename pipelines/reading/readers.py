"""Reading values out of what models write: one layer for parsers, task families, tuning and proposers.

Take the thinking off first (`strip_thinking`), then read a value of the kind that is wanted. Every function
is pure and returns `NoAnswer`, with its reason, where a text holds no such value; none raises.
"""

from pipelines.reading.answers import UNMARKED, clean, final_answer, marks_nothing
from pipelines.reading.choices import choice
from pipelines.reading.code import code, completed, defines, python_problem
from pipelines.reading.fences import Block, blocks, file_name
from pipelines.reading.jsontext import json_value
from pipelines.reading.lines import quoted_lines
from pipelines.reading.noanswer import NoAnswer, required
from pipelines.reading.thinking import strip_thinking

__all__ = [
    "UNMARKED",
    "Block",
    "NoAnswer",
    "blocks",
    "choice",
    "clean",
    "code",
    "completed",
    "defines",
    "file_name",
    "final_answer",
    "json_value",
    "marks_nothing",
    "python_problem",
    "quoted_lines",
    "required",
    "strip_thinking",
]
