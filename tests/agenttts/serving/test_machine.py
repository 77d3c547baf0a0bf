"""A machine is stated, or read from nvidia-smi, of which a program may see a part only."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttts.errors import UserError
from agenttts.serving.machine import detect_gpus, machine_text, parse_gpus

LISTING = "0, GPU-aaaa-1, 81559, 81000\n1, GPU-bbbb-2, 81559, 400\n2, GPU-cccc-3, 24564, 24000"


@pytest.mark.parametrize("text", ["4x80", "2x80,1x24", "8x141", "1x24"])
def test_a_machine_is_read_and_written(text: str) -> None:
    """The number of GPUs and the GB of each, in groups of one size."""
    assert machine_text(parse_gpus(text)) == text


@pytest.mark.parametrize("text", ["", "4", "x80", "0x80", "4x0", "4x80,", "4x-80", "many"])
def test_what_is_no_machine_is_refused(text: str) -> None:
    """With an example of one."""
    with pytest.raises(UserError, match="such as 4x80"):
        parse_gpus(text)


@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        (None, ["0", "1", "2"]),
        ("2,0", ["2", "0"]),
        ("GPU-bbbb", ["1"]),
        ("", []),
    ],
)
def test_gpus_are_those_that_a_program_may_see(
    visible: str | None, devices: list[str], tmp_path: Path
) -> None:
    """CUDA_VISIBLE_DEVICES, of numbers or UUIDs, leaves out the others; sizes are nvidia-smi's."""
    environ = {"PATH": f"{nvidia_smi(tmp_path, LISTING)}:/usr/bin:/bin"}
    gpus = detect_gpus(environ if visible is None else {**environ, "CUDA_VISIBLE_DEVICES": visible})
    assert [gpu.device for gpu in gpus] == devices
    if devices[:1] == ["0"]:
        assert gpus[0].memory_bytes == 81559 * 2**20 and gpus[1].free_bytes == 400 * 2**20


@pytest.mark.parametrize("listing", ["", "0, GPU-a, [N/A], [N/A]", "no devices were found"])
def test_a_machine_without_gpus_that_can_be_read_has_none(listing: str, tmp_path: Path) -> None:
    """Whatever nvidia-smi prints."""
    assert detect_gpus({"PATH": f"{nvidia_smi(tmp_path, listing)}:/usr/bin:/bin"}) == ()


def nvidia_smi(folder: Path, listing: str) -> Path:
    """A directory with a program of that name."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{listing}\nEND\n")
    program.chmod(0o755)
    return folder
