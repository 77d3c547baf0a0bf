"""The pipeline that ships with the project: small models, questions, and a bank of all samples."""

from pathlib import Path

SPEC = Path(__file__).parent / "pipeline.yaml"
"""The pipeline file of the zoo."""
