"""Proposers side by side, on recorded banks and on simulated landscapes, without a call."""

from datastore.lazy import public_names

__all__ = public_names(__name__)
