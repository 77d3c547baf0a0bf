"""The options that name a machine, and the table of which server gets which of its GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agenttts.cli.options import out, say

if TYPE_CHECKING:
    from agenttts.serving.machine import Gpu
    from agenttts.serving.placement import Placed, Placement

Gpus = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        help="Plan for GPUs of that many GB, such as 4x80 or 2x80,1x24; else for those of this machine.",
        show_default=False,
    ),
]
Concurrency = Annotated[
    int,
    typer.Option("--concurrency", min=1, help="Sequences at once that each KV cache is planned for."),
]


def gpus_of(text: str | None) -> tuple[Gpu, ...] | None:
    """Return the GPUs that `--gpus` states; None where it is not given.

    Args:
        text: The option's value.

    Raises:
        UserError: It is no machine.
    """
    if text is None:
        return None
    from agenttts.serving.machine import parse_gpus

    return parse_gpus(text)


def print_placement(placement: Placement) -> None:
    """Print a row for each server, and what of each GPU is taken.

    Args:
        placement: The placement.
    """
    from rich.table import Table
    from rich.text import Text

    from agenttts.serving.machine import GB

    table = Table(box=None, pad_edge=False)
    table.add_column("server")
    for heading in ("GPUs", "share", "weights", "KV cache", "own", "context", "at once"):
        table.add_column(heading, justify="right")
    for one in placement.servers:
        table.add_row(Text(", ".join(one.need.hosted.models)), *_figures(one))
    out().print(table)
    shares = [
        f"{name_of(gpu)}: {sum(one.share for one in placement.servers if gpu in one.gpus):.0%} "
        f"of {gpu.memory_bytes / GB:.0f} GB"
        for gpu in placement.gpus
    ]
    say(
        "GB on each GPU of a server. At once: sequences of the expected length that the KV cache holds. "
        f"GPUs taken: {'; '.join(shares)}",
        "dim",
    )


def name_of(gpu: Gpu) -> str:
    """Return a GPU as tables name it: with its machine, in a cluster.

    Args:
        gpu: The GPU.
    """
    return f"{gpu.node[:8]}:{gpu.device}" if gpu.node else gpu.device


def _figures(one: Placed) -> tuple[str, ...]:
    from agenttts.serving.machine import GB

    about = "≈" if one.need.size.is_estimated else ""
    return (
        name_of(one.gpus[0]) + "".join(f",{gpu.device}" for gpu in one.gpus[1:]),
        f"{one.share:.3f}",
        f"{about}{one.planned.weights / GB:.1f}",
        f"{one.cache_bytes / GB:.1f}",
        f"{one.planned.own / GB:.1f}",
        f"{one.need.context_tokens:,}",
        f"{one.n_sequences:,}",
    )
