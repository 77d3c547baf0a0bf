"""Writes the zoo's rows: `python -m pipelines.zoo.training.make_data --out pipelines/zoo/data`.

Search and test rows come from splits that share no fact with the training or each other; the
held-out domain's train and eval rows share no fact either. Difficulty is set here, not in the
models: the same models can get easier or harder questions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.zoo.training.lexicon import CIVIC, MUSEUM, Domain
from pipelines.zoo.training.rows import write_rows
from pipelines.zoo.training.worlds import Difficulty, Split, make_rows

DIFFICULTY = Difficulty(
    hop_weights=(0.3, 0.6, 0.1),
    level_weights=(0.8, 0.16, 0.04),
    n_candidates=(4, 6),
    clause_share=0.2,
    distinct_share=1.0,
)
"""Easier than the training: one of the models' answers in three to four is right at one sample."""
SEED = 20261124


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    files: tuple[tuple[str, Domain, Split, int], ...] = (
        ("search", CIVIC, "search", 240),
        ("test", CIVIC, "test", 400),
        ("heldout_train", MUSEUM, "train", 2000),
        ("heldout_eval", MUSEUM, "test", 300),
    )
    for name, domain, split, n_rows in files:
        rows = list(make_rows(SEED, domain, split, DIFFICULTY, prefix=name, n_rows=n_rows))
        write_rows(out / f"{name}.jsonl", rows)


if __name__ == "__main__":
    main()
