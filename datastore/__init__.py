"""What was measured: the records and the DuckDB store that keeps them."""

from datastore.lazy import public_names

__all__ = public_names(__name__)
