"""Who suggests allocations: the rules, an LLM, and whoever else keeps the protocol of `base`."""

from datastore.lazy import public_names

__all__ = public_names(__name__)
