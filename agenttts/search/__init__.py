"""The search: from a pipeline and a budget to an allocation with a certificate."""

from datastore.lazy import public_names

__all__ = public_names(__name__)
