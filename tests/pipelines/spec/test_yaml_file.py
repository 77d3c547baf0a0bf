"""YAML as it is written and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.spec.yaml_file import read_yaml, yaml_text

# Text of any characters, and text that is mostly of those that YAML gives a meaning to.
TEXTS = st.text(max_size=200) | st.text(
    "\x85\u2028\u2029\ufeff\x7f\r\n\t '\"#:-?[]{},&*!|>%@`\\~a1.", max_size=200
)


def written_and_read(file: Path, data: object) -> object:
    file.write_text(yaml_text(data), encoding="utf-8")
    return read_yaml(file).data


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(TEXTS, TEXTS | st.lists(TEXTS, max_size=3), max_size=3))
def test_text_survives(tmp_path_factory: Any, data: dict[str, object]) -> None:
    """Keys and values of any characters are read as they were written."""
    if data:
        assert written_and_read(tmp_path_factory.mktemp("yaml") / "file.yaml", data) == data


@pytest.mark.parametrize(
    "text",
    ["\x85", "a\u2028b", "x\u2029", "word\n" + "\u4e2d\x07 " * 90, "no", "1e3", "2026-11-26", "a: b # c", ""],
)
def test_text_that_once_changed(tmp_path: Path, text: str) -> None:
    """A line break of Unicode and a long quoted line are neither folded nor trimmed."""
    assert written_and_read(tmp_path / "file.yaml", {"key": text}) == {"key": text}
