"""What the sample bank spares a search: `python benchmarks/reuse.py --trials 30`.

A search of the zoo, replayed. Counted are the samples that its trials use, as though each trial drew its own,
and the distinct ones among them: those that a search that begins with an empty bank would draw.

Measured 2026-11-24, `--trials 30`: 280,562 samples used, 52,927 to draw; the bank spares 81.1 %.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from agenttts import search
from datastore import Store
from pipelines.zoo import SPEC

QUERY = """
WITH used AS (
    SELECT trial_id, model_key, stage, prompt_key, max(n_samples) AS n
    FROM stage_results JOIN trials USING (trial_id)
    WHERE trials.split = 'search' AND stage_results.status = 'ok'
    GROUP BY ALL
), most AS (SELECT prompt_key, max(n) AS n FROM used GROUP BY prompt_key)
SELECT (SELECT sum(n) FROM used) AS used, (SELECT sum(n) FROM most) AS drawn
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            db = Path(folder) / "run.duckdb"
            result = search(SPEC, trials=arguments.trials, seed=seed, proposer="insights", db=db, replay=True)
            with Store.read(db) as store:
                used, drawn = store.sql(QUERY).iloc[0]
            print(
                f"seed {seed}, {len(result.trials)} trials: {used:,.0f} samples used, {drawn:,.0f} to draw; "
                f"the bank spares {1 - drawn / used:.1%}"
            )


if __name__ == "__main__":
    main()
