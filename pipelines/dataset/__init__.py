"""The examples of a pipeline: rows from files or the hub, and the splits drawn from them."""

from datastore.lazy import public_names

__all__ = public_names(__name__)
