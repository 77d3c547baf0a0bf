"""What was measured: the records and the DuckDB store that keeps them."""

from datastore.errors import (
    BankError,
    DiskFull,
    ForeignFile,
    NewerSchema,
    ReadOnlyStore,
    StoreClosed,
    StoreError,
    StoreLocked,
    TruncatedFile,
)
from datastore.keys import canonical_json, make_prompt, model_key, prompt_key
from datastore.records import (
    BankRow,
    Event,
    ExampleScore,
    Insight,
    ModelRecord,
    Prompt,
    Proposal,
    Run,
    RunCost,
    Sample,
    StageResult,
    Trial,
)
from datastore.store import Store

__all__ = [
    "BankError",
    "BankRow",
    "DiskFull",
    "Event",
    "ExampleScore",
    "ForeignFile",
    "Insight",
    "ModelRecord",
    "NewerSchema",
    "Prompt",
    "Proposal",
    "ReadOnlyStore",
    "Run",
    "RunCost",
    "Sample",
    "StageResult",
    "Store",
    "StoreClosed",
    "StoreError",
    "StoreLocked",
    "Trial",
    "TruncatedFile",
    "canonical_json",
    "make_prompt",
    "model_key",
    "prompt_key",
]
