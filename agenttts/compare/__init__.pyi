# The public names and the modules that define them. Type checkers read this file, and so does
# `datastore.lazy`, which imports a name when it is first used.
from agenttts.compare.jobs import bank_jobs, family_jobs, known_bank
from agenttts.compare.side_by_side import compare

__all__ = [
    "bank_jobs",
    "compare",
    "family_jobs",
    "known_bank",
]
