"""The failure policy of the package: which errors exist and who meets them.

Everything that a person can put right derives from AgentTTSError; the command line prints its one line and
exits with code 2. Faults of servers and models during a trial are not errors here: they become missing values
(`evaluate`). Errors of a spec are `pipelines.errors.SpecError`, errors of the store
`datastore.errors.StoreError`.
"""

from __future__ import annotations


class AgentTTSError(Exception):
    """Root of the errors of this package. The message is one line: the law, the value, the remedy."""


class UserError(AgentTTSError):
    """Something asked for cannot be done as it stands."""


class SpaceError(UserError):
    """A search space without an allocation, one too large to list, or an allocation with no place in it."""
