"""The errors of the package.

Every error that a person can put right derives from AgentTTSError; the command line prints its one line and
exits with code 2, or with 1 for TrialsFailed. Faults of servers and models during a trial are not errors
here: they become missing values (`evaluate`). Errors of a spec are `pipelines.errors.SpecError`, errors of
the store `datastore.errors.StoreError`.
"""

from __future__ import annotations


class AgentTTSError(Exception):
    """Base class of the errors of this package.

    The message is one line: what is required, the value that was given, and what to do about it.
    """


class UserError(AgentTTSError):
    """A request that cannot be carried out as it stands."""


class TrialsFailed(AgentTTSError):
    """Several trials in a row have no score; the run stops, and goes on when the cause is mended."""


class SpaceError(UserError):
    """A search space that is empty or too large to list, or an allocation that is not in the space."""
