"""`whole`: a file or a directory appears at its place complete, or the place stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.files import whole


def test_a_file_is_replaced_at_the_end(tmp_path: Path) -> None:
    """Within the block the old content is still there; parents are made; nothing is left beside."""
    path = tmp_path / "new" / "a.json"
    for text in ("first", "second"):
        with whole(path) as beside:
            beside.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_leaves_the_place_as_it_was(tmp_path: Path) -> None:
    """The error goes on, the old file stays, and the half-written one is removed."""
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="stop"), whole(path) as beside:
        beside.mkdir()
        (beside / "half").write_text("half")
        raise ValueError("stop")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_is_not_empty(tmp_path: Path) -> None:
    """It is replaced only where that is asked for; what a killed process left beside it is removed."""
    path = tmp_path / "data"
    path.mkdir()
    (path / "old").write_text("old")
    (tmp_path / "data.partial").write_text("left behind")
    with pytest.raises(OSError, match="not empty"), whole(path) as beside:
        beside.mkdir()
    assert (path / "old").exists()
    with whole(path, replace_directory=True) as beside:
        beside.mkdir()
        (beside / "new").write_text("new")
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]
