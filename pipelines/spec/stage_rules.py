"""Rules between the fields of one stage, and of the models that it names.

Those of stages that run a function are in `function_rules`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from pipelines.allocation import StageOption
from pipelines.errors import SpecError, listed
from pipelines.jsonvalues import read_json, schema_problem
from pipelines.spec.function_rules import function_laws
from pipelines.spec.models import ModelSpec, SamplingSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.variants import (
    Fusion,
    JsonParser,
    LengthWeighted,
    PythonParser,
    Refine,
    SetVote,
    Verifier,
    Weighted,
)

ROLES = ("system", "developer", "user", "assistant")
_OF_FUNCTIONS = ("named_options", "files", "cost", "costs")


def stage_laws(
    stage: StageSpec, models: Mapping[str, ModelSpec], answering: Collection[str], root: Path
) -> Iterator[SpecError]:
    """Check a stage against every rule.

    Args:
        stage: The stage, with its inputs filled in.
        models: The models by key.
        answering: The keys of the models that answer in any stage; the others are classifiers.
        root: The directory from which relative paths start.

    Yields:
        An error for each broken rule.
    """
    field = f"stages[{stage.name}]"
    if stage.python is not None:
        yield from function_laws(field, stage)
        return
    yield from _required(field, stage)
    yield from _prompt(field, stage, root)
    if isinstance(stage.parser, JsonParser) and stage.parser.schema_file is not None:
        yield from _schema_file(f"{field}.parser.schema_file", root / stage.parser.schema_file)
    yield from _truncation(field, stage)
    yield from _aggregator(field, stage, models, answering)
    yield from _candidates(field, stage, models)
    yield from _verifiers(field, stage, models, answering)
    yield from _lengths(field, stage, models)


def _required(field: str, stage: StageSpec) -> Iterator[SpecError]:
    """What stages have where models answer."""
    for name in _OF_FUNCTIONS:
        if not stage.is_default(name):
            key = StageSpec.model_fields[name].alias or name
            yield SpecError(
                "belongs to stages that run a function",
                field=f"{field}.{key}",
                remedy="add python, or remove it",
            )
    for name in ("models", "max_samples", "prompt_tokens", "generated_tokens"):
        if name not in stage.model_fields_set:
            yield SpecError("is required", field=f"{field}.{name}", remedy=f"add {name}")
        elif getattr(stage, name) == ():
            yield SpecError("must have at least 1 item, got ()", field=f"{field}.{name}")
    for key in stage.lengths:
        known = {text for option in stage.options for text in (option.model, option.drawn)}
        if key not in known:
            law = f"must be one of the stage's options, {listed(sorted(known))}"
            yield SpecError(f"{law}, got {key!r}", field=f"{field}.lengths.{key}")


def _prompt(field: str, stage: StageSpec, root: Path) -> Iterator[SpecError]:
    names = [name for name in ("prompt", "prompt_file", "messages") if getattr(stage, name) is not None]
    if len(names) > 1 or not (names or stage.prompts):
        yield SpecError(
            f"must have exactly one of prompt, prompt_file and messages, got {' and '.join(names) or 'none'}",
            field=field,
        )
    if stage.completion and stage.messages is not None:
        yield SpecError(
            "a completion has no chat messages", field=f"{field}.messages", remedy="use prompt or prompt_file"
        )
    for index, message in enumerate(stage.messages or ()):
        if set(message) != {"role", "content"} or message["role"] not in ROLES:
            yield SpecError(
                f"must have role (one of {', '.join(ROLES)}) and content, got {message!r}",
                field=f"{field}.messages[{index}]",
            )
    files = {f"{field}.prompts.{name}": variant.file for name, variant in stage.prompts.items()}
    for place, file in {f"{field}.prompt_file": stage.prompt_file, **files}.items():
        if file is None:
            continue
        try:
            (root / file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            yield SpecError(
                f"{root / file} can't be read: {reason}",
                field=place,
                remedy="paths start from the spec's directory",
            )


def _schema_file(field: str, file: Path) -> Iterator[SpecError]:
    try:
        schema = read_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
        remedy = "paths start from the spec's directory"
        yield SpecError(f"{file} can't be read: {reason}", field=field, remedy=remedy)
        return
    if not isinstance(schema, dict) or (problem := schema_problem(schema)):
        yield SpecError(
            f"{file} must hold a JSON schema: {problem if isinstance(schema, dict) else 'no object'}",
            field=field,
        )


def _truncation(field: str, stage: StageSpec) -> Iterator[SpecError]:
    for index, cut in enumerate(stage.truncate):
        place = f"{field}.truncate[{index}]"
        if cut.items is None and cut.item_chars is None and cut.chars is None:
            yield SpecError(
                "needs items, item_chars or chars", field=place, remedy="set at least one of them"
            )
        if cut.field in [other.field for other in stage.truncate[:index]]:
            yield SpecError(f"each field comes once, got {cut.field!r} twice", field=f"{place}.field")


def _aggregator(
    field: str, stage: StageSpec, models: Mapping[str, ModelSpec], answering: Collection[str]
) -> Iterator[SpecError]:
    aggregator, field = stage.aggregator, f"{field}.aggregator"
    model = aggregator.own_model
    if model is not None and model not in models:
        yield SpecError(f"must be one of {listed(models)}, got {model!r}", field=f"{field}.model")
    match aggregator:
        case SetVote() | Weighted(threshold=float()) | LengthWeighted(threshold=float()) if not (
            stage.parser.list_valued or isinstance(stage.parser, PythonParser)
        ):
            voting = "set_vote" if isinstance(aggregator, SetVote) else "a vote with a threshold"
            yield SpecError(
                f"{voting} needs a parser that gives lists, got {stage.parser.kind}",
                field=f"{field}.kind",
                remedy="parse with kind lines or json, or vote by plurality",
            )
        case Refine(start=start) if start not in stage.input_names:
            yield SpecError(
                f"must be one of the stage's inputs, {listed(stage.input_names)}, got {start!r}",
                field=f"{field}.start",
            )
        case Verifier() if model in answering:
            yield SpecError(f"must be a classifier, got {model!r}, which answers", field=f"{field}.model")
        case Fusion(prompt=None) if stage.completion:
            yield SpecError("fusion by plain completion needs prompt", field=field)


def _verifiers(
    field: str, stage: StageSpec, models: Mapping[str, ModelSpec], answering: Collection[str]
) -> Iterator[SpecError]:
    for index, name in enumerate(stage.verifiers):
        place = f"{field}.verifiers[{index}]"
        if name not in models:
            yield SpecError(f"must be one of {listed(models)}, got {name!r}", field=place)
        elif name in answering:
            yield SpecError(f"must be a classifier, got {name!r}, which answers", field=place)
        elif name in (*stage.verifiers[:index], stage.aggregator.own_model):
            yield SpecError(f"must be named once, got {name!r} again", field=place)
    if len({str(option) for option in stage.options}) < len(set(stage.options)):
        yield SpecError(
            f"options must be told apart, got {listed(map(str, stage.options))}",
            field=f"{field}.models",
            remedy="rename a model that has @ or : in its name",
        )
    if not stage.verifiers:
        return
    if isinstance(stage.aggregator, Refine):
        yield SpecError(
            "a verifier picks among samples of one prompt, which refine does not draw",
            field=f"{field}.verifiers",
            remedy="leave them out, or aggregate another way",
        )
    if stage.max_samples == 1:
        yield SpecError(
            "a verifier has nothing to pick from where max_samples is 1", field=f"{field}.verifiers"
        )


def _candidates(field: str, stage: StageSpec, models: Mapping[str, ModelSpec]) -> Iterator[SpecError]:
    for index, name in enumerate(stage.models):
        if name not in models or name in stage.models[:index]:
            law = f"must be one of {listed(models)}" if name not in models else "must name each model once"
            yield SpecError(f"{law}, got {name!r}", field=f"{field}.models[{index}]")
    if stage.max_samples == 1:
        return
    for place, sampling in _samplings(field, stage, models).items():
        if sampling.temperature == 0:
            yield SpecError(
                f"must be > 0 where max_samples is over 1, got 0 with max_samples {stage.max_samples}",
                field=f"{place}.sampling.temperature",
                remedy="greedy samples are all alike and vLLM refuses several: raise it, or set max_samples "
                "to 1",
            )


def _samplings(field: str, stage: StageSpec, models: Mapping[str, ModelSpec]) -> dict[str, SamplingSpec]:
    """How the stage's models are sampled, by the place that says so: the stage, or a model of its own."""
    known = {name: models[name] for name in stage.models if name in models}
    own = {f"models.{name}": model for name, model in known.items() if model.sampling is not None}
    samplings = {place: model.sampled(stage.sampling) for place, model in own.items()}
    return {field: stage.sampling, **samplings} if len(own) < len(known) or not known else samplings


def _lengths(field: str, stage: StageSpec, models: Mapping[str, ModelSpec]) -> Iterator[SpecError]:
    fixed = (stage.aggregator.model,) if isinstance(stage.aggregator, Verifier) else ()
    readers = (StageOption(name) for name in (*stage.verifiers, *fixed))
    broken = set[str]()
    for option in (*(option for option in stage.options if option.verifier is None), *readers):
        if option.model not in models:
            continue
        prompt_tokens, generated_tokens = stage.lengths_of(option)
        longest = models[option.model].sampled(stage.sampling).max_tokens
        window = models[option.model].context_length
        own = next((key for key in (option.drawn, option.model) if key in stage.lengths), None)
        place = field if own is None else f"{field}.lengths.{own}"
        if longest is not None and generated_tokens > longest and option.model in stage.models:
            law = f"must be <= sampling.max_tokens, got {generated_tokens:g} with max_tokens {longest}"
            if law not in broken:
                broken.add(law)
                yield SpecError(
                    law,
                    field=f"{place}.generated_tokens",
                    remedy="raise sampling.max_tokens or expect less",
                )
        if window is not None and prompt_tokens + (longest or 1) > window:
            yield SpecError(
                f"prompt_tokens + sampling.max_tokens must be <= the context_length of {option.model!r}, "
                f"{window}, got {prompt_tokens:g} + {longest or 1}",
                field=f"{place}.prompt_tokens",
                remedy="lower sampling.max_tokens or leave the model out of this stage",
            )
