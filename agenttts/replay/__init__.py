"""Scores of allocations from recorded samples, without calling a model."""
