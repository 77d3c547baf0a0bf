"""What a pipeline is, as data: its fields, the rules between them, and the YAML file that says so."""

from datastore.lazy import public_names

__all__ = public_names(__name__)
