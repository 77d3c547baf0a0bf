"""A run as a person reads it: data, sentences, terminal, HTML and figures."""

from datastore.lazy import public_names

__all__ = public_names(__name__)
