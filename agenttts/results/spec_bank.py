"""The bank of recorded samples that a pipeline's file names."""

from __future__ import annotations

from pathlib import Path

from datastore.store import Store
from pipelines.spec.pipeline import PipelineSpec


def attach_spec_bank(spec: PipelineSpec, store: Store) -> Path | None:
    """Attach the bank that the spec names to a store, when the file exists.

    Args:
        spec: The pipeline.
        store: The store to attach the bank to.

    Returns:
        The path of the bank; None when the spec names none or the file does not exist.
    """
    path = spec.bank_path
    if path is None or not path.is_file():
        return None
    store.attach_bank(path)
    return path
