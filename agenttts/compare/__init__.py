"""Comparisons of proposers on recorded banks and on simulated landscapes, without calling a model."""

from datastore.lazy import public_names

__all__ = public_names(__name__)
