"""The proposers, which suggest allocations: the rules, the solver, the LLM agent and the controls."""

from datastore.lazy import public_names

__all__ = public_names(__name__)
