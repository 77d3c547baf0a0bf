"""Records the zoo's bank: `python -m pipelines.zoo.training.record --db zoo-bank.duckdb`.

Starts one vLLM server per model, draws every sample that any allocation can need on the search and test
splits, and exports them to the Parquet file that the project ships. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import time
from pathlib import Path

from datastore import Store
from pipelines.dataset.splits import load_examples
from pipelines.runtime.recording import record_full_bank
from pipelines.runtime.runtime import Runtime
from pipelines.servers.clients import ModelClients
from pipelines.servers.group import ServerGroup, commands
from pipelines.spec.files import load_spec
from pipelines.spec.pipeline import PipelineSpec

log = logging.getLogger("zoo.record")
HERE = Path(__file__).parents[1]


async def record(spec: PipelineSpec, store: Store, *, max_in_flight: int) -> None:
    """Draw every sample that an allocation can need on both splits into the store."""
    started = time.monotonic()

    def report(stage: str, cells: int) -> None:
        if cells % 500 == 0:
            log.info("%s: %d cells, %.0f s", stage, cells, time.monotonic() - started)

    clients = ModelClients(spec, max_in_flight=max_in_flight, rng=random.Random(0))
    try:
        runtime = Runtime(spec, store, clients, run_id=None)
        for split in ("search", "test"):
            cells = await record_full_bank(runtime, load_examples(spec, split), on_progress=report)
            log.info("%s split: %d cells after %.0f s", split, cells, time.monotonic() - started)
    finally:
        await clients.aclose()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", type=Path, required=True, help="store that collects the samples")
    parser.add_argument("--out", type=Path, default=HERE / "bank" / "zoo.parquet")
    parser.add_argument("--max-in-flight", type=int, default=32, help="requests per server")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    spec = load_spec(HERE / "pipeline.yaml").model_copy(update={"bank": None})
    with Store.open(arguments.db) as store, ServerGroup(commands(spec), log_dir=arguments.db.parent):
        asyncio.run(record(spec, store, max_in_flight=arguments.max_in_flight))
        arguments.out.parent.mkdir(exist_ok=True)
        log.info("%d prompts exported to %s", store.export_bank(arguments.out), arguments.out)


if __name__ == "__main__":
    main()
