# The public names and the modules that define them. Type checkers read this file, and so does
# `datastore.lazy`, which imports a name when it is first used.
from pipelines.runtime.outcomes import ExampleOutcome, StageOutcome
from pipelines.runtime.policies import PolicyOutcome, PolicyRunner
from pipelines.runtime.runtime import Runtime
from pipelines.runtime.sampler import Sampler, Samples

__all__ = [
    "ExampleOutcome",
    "PolicyOutcome",
    "PolicyRunner",
    "Runtime",
    "Sampler",
    "Samples",
    "StageOutcome",
]
