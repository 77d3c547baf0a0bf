# The public names and the modules that define them. Type checkers read this file, and so does
# `datastore.lazy`, which imports a name when it is first used.
from agenttts.compare.side_by_side import bank_jobs, compare, family_jobs, known_bank

__all__ = [
    "bank_jobs",
    "compare",
    "family_jobs",
    "known_bank",
]
