"""Rules of a stage that runs a function: what its parameters take, and the fields that it can't have."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from pipelines.errors import SpecError, listed
from pipelines.spec.functions import parameters, reference
from pipelines.spec.stage import StageSpec

_OF_MODELS = (
    "prompt",
    "prompt_file",
    "prompts",
    "messages",
    "completion",
    "truncate",
    "parser",
    "aggregator",
    "models",
    "verifiers",
    "max_samples",
    "sampling",
    "prompt_tokens",
    "generated_tokens",
    "lengths",
)


def function_laws(field: str, stage: StageSpec) -> Iterator[SpecError]:
    """Check a stage that runs a function against every rule.

    Args:
        field: What messages call the stage.
        stage: The stage, with its inputs filled in.

    Yields:
        An error for each broken rule.
    """
    for name in _OF_MODELS:
        if not stage.is_default(name):
            yield SpecError(
                "belongs to stages where models answer, and this one has python",
                field=f"{field}.{name}",
                remedy="remove it, or python",
            )
    assert stage.python is not None
    try:
        takes = parameters(stage.python)
    except SpecError as error:
        yield SpecError(error.message, field=f"{field}.python")
        return
    for name in stage.input_names:
        if not takes.take(name):
            yield SpecError(
                f"{reference(stage.python)} must take {name!r}, an input of the stage",
                field=f"{field}.inputs",
                remedy=f"add the parameter {name}, or leave the stage out of inputs",
            )
    given_by: list[tuple[str, Iterable[str], Collection[str]]] = [("files", stage.files, ())]
    given_by += [(f"options.{option}", own, stage.files) for option, own in stage.arguments.items()]
    for place, names, files in given_by:
        for name in names:
            if not takes.take(name) or name in stage.input_names or name in files:
                giver = "file" if name in files else "input"
                yield SpecError(
                    f"must be a parameter of {reference(stage.python)} that no {giver} gives, got {name!r}",
                    field=f"{field}.{place}",
                    remedy=f"its parameters are {listed((*takes.required, *takes.optional))}",
                )
    for name in stage.costs:
        if name not in stage.arguments:
            law = f"must be one of the options, {listed(stage.arguments)}"
            yield SpecError(f"{law}, got {name!r}", field=f"{field}.costs.{name}")
