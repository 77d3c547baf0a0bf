"""Compound LLM pipelines: what they are, how one is described, and how one is run."""

from datastore.lazy import public_names

__all__ = public_names(__name__)
