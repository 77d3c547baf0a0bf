# The public names and the modules that define them. Type checkers read this file, and so does
# `datastore.lazy`, which imports a name when it is first used.
from pipelines.runtime.runtime import ExampleOutcome, Runtime, StageOutcome
from pipelines.runtime.sampler import Sampler, Samples

__all__ = [
    "ExampleOutcome",
    "Runtime",
    "Sampler",
    "Samples",
    "StageOutcome",
]
