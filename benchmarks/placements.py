"""Where the servers of the published pipelines run, on machines of several sizes.

    PYTHONPATH=. python benchmarks/placements.py

prints the table of docs/design/016-placement.md: for each model the number of GPUs that it is split over, the
sequences at once that each KV cache holds at least, and for what does not fit the remedies that were found.
Weights are those of 16 bits by the public configs; it is arithmetic, of a few seconds.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from agenttts.serving.machine import parse_gpus
from agenttts.serving.remedies import DoesNotFit
from agenttts.serving.servers import placed
from pipelines.spec.pipeline import PipelineSpec
from tests.agenttts.serving.public_models import MACHINES, PIPELINES, published, write_configs


def cell(spec: PipelineSpec, machine: str) -> str:
    """What becomes of a pipeline on a machine."""
    try:
        placement = placed(spec, None, parse_gpus(machine))
    except DoesNotFit as refusal:
        return str(refusal).split("; ", 1)[1]
    splits = [f"{one.need.name} on {','.join(gpu.device for gpu in one.gpus)}" for one in placement.servers]
    return f"{'; '.join(splits)} (at once: {min(one.n_sequences for one in placement.servers)} or more)"


def main() -> None:
    """Print a line for each pipeline and machine."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        directories = write_configs(Path(folder))
        for name in PIPELINES:
            spec = published(name, directories)
            for machine in MACHINES:
                print(f"| {name} | {machine} | {cell(spec, machine)} |")
    print(f"{time.perf_counter() - begun:.2f} s")


if __name__ == "__main__":
    main()
