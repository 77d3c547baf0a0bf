"""Running a pipeline: an allocation and an example in, the outcome of each stage and the score out."""

from datastore.lazy import public_names

__all__ = public_names(__name__)
