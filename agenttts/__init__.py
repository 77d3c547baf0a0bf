"""Finds which model and how many samples each stage of an LLM pipeline should get, under a compute budget."""

from datastore.lazy import public_names

__all__ = public_names(__name__)
