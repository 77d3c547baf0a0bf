"""Do small tuned models beat larger general ones on their sub-task?

    python benchmarks/tuned_museum.py [--out DIR]

The zoo's kept-out domain, which no zoo model was trained on: each size as it is, and tuned by LoRA on the CPU
on what is left of 2,000 rows after the checks; the same 300 questions for all, through vLLM.

Measured 2026-11-25 (2 cores, 2 min 17 s in all), exact match on 292 distinct questions, 95 % intervals: small
0.075, medium 0.524, large 0.291 untuned; tuned small 0.925 [0.890, 0.952] (11 s, 0.68 GiB), medium 0.983
[0.962, 0.993] (20 s), large 0.976 (31 s). Small tuned minus large untuned, paired: +0.634 [+0.575, +0.685].
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

from agenttts import evaluate, fit
from datastore import Store
from tests.agenttts.tasktune.museum import ZOO, fit_config, museum


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=None)
    folder = parser.parse_args().out or Path(tempfile.mkdtemp(prefix="museum-"))
    data = museum(folder, 2000, 300)
    places = {size: str(ZOO / "models" / size) for size in ("small", "medium", "large")}
    for size, base in list(places.items()):
        (made,) = fit(fit_config(base=base, out=f"adapters/{size}", epochs=4), folder)
        places[f"{size}-tuned"] = str(made.path)
    with Store.open(folder / "eval.duckdb") as store:
        found = asyncio.run(evaluate(data, places, store=store, reference="large", log_dir=folder / "logs"))
    print(json.dumps(found.to_json_dict(), indent=2))


if __name__ == "__main__":
    main()
