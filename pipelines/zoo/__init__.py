"""The embedded pipeline: small real models, their questions, and every sample that an allocation can need."""

from pathlib import Path

SPEC = Path(__file__).parent / "pipeline.yaml"
"""The zoo's pipeline file."""
