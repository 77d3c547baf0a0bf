# The public names and the modules that define them. Type checkers read this file, and so does
# `datastore.lazy`, which imports a name when it is first used.
from pipelines.dataset.rows import Row, read_file, read_hub
from pipelines.dataset.splits import (
    Splits,
    examples_digest,
    examples_from_rows,
    load_examples,
    load_splits,
    seeded_order,
    with_data,
)

__all__ = [
    "Row",
    "Splits",
    "examples_digest",
    "examples_from_rows",
    "load_examples",
    "load_splits",
    "read_file",
    "read_hub",
    "seeded_order",
    "with_data",
]
