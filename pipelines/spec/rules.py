"""Rules between the fields of a pipeline's description, checked without any server or dataset.

Each rule yields SpecErrors with the field, the rule, the offending value and a remedy. `configfile` adds the
file and the line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.allocation import StageOption
from pipelines.errors import SpecError
from pipelines.jsonvalues import schema_problem
from pipelines.spec.fields import BudgetSpec, DatasetSpec, ModelSpec, SamplingSpec, StageSpec
from pipelines.spec.functions import parameters, reference
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


def broken_laws(
    stages: Sequence[StageSpec],
    models: Mapping[str, ModelSpec],
    dataset: DatasetSpec,
    budget: BudgetSpec,
    root: Path,
) -> list[SpecError]:
    """Check a description against every rule.

    Args:
        stages: The stages in the order of the file, with their inputs filled in.
        models: The models by key.
        dataset: The description of the dataset.
        budget: The budget of a search.
        root: The directory from which relative paths start.

    Returns:
        An error for each broken rule; empty when the description is consistent.
    """
    problems = list(_names(stages))
    if not problems:
        problems += _graph(stages)
    answering = {name for stage in stages for name in stage.models}
    for stage in stages:
        field = f"stages[{stage.name}]"
        if stage.python is not None:
            problems += _function(field, stage)
            continue
        problems += _required(field, stage)
        problems += _prompt(field, stage, root)
        if isinstance(stage.parser, JsonParser) and stage.parser.schema_file is not None:
            problems += _schema_file(f"{field}.parser.schema_file", root / stage.parser.schema_file)
        problems += _truncation(field, stage)
        problems += _aggregator(field, stage, models, answering)
        problems += _candidates(field, stage, models)
        problems += _verifiers(field, stage, models, answering)
        problems += _lengths(field, stage, models)
    problems += _models(models)
    problems += _budget(budget, models, used_models(stages, models))
    problems += _pool(dataset)
    if dataset.config is not None and dataset.hub is None:
        problems.append(SpecError("needs hub", field="dataset.config", remedy="add hub or remove config"))
    return problems


def in_order(stages: Sequence[StageSpec]) -> list[StageSpec]:
    """Sort stages so that each comes after its inputs; otherwise the given order stays.

    Returns:
        The sorted stages, without those that belong to a cycle, come after one, or have an unknown input.
    """
    waiting, placed = list(stages), dict[str, StageSpec]()
    while ready := next((s for s in waiting if all(name in placed for name in s.input_names)), None):
        waiting.remove(ready)
        placed[ready.name] = ready
    return list(placed.values())


def used_models(stages: Iterable[StageSpec], models: Iterable[str]) -> tuple[str, ...]:
    """Return the keys of the models that a stage may call, verifiers and fusing models included.

    Args:
        stages: The stages.
        models: The keys of all models, whose order the result has.
    """
    used = {
        name for stage in stages for name in (*stage.models, *stage.verifiers, stage.aggregator.own_model)
    }
    return tuple(name for name in models if name in used)


def listed(names: Iterable[str]) -> str:
    """Quote names and join them with commas, for a message."""
    return ", ".join(repr(name) for name in names)


def _names(stages: Sequence[StageSpec]) -> Iterator[SpecError]:
    names = [stage.name for stage in stages]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield SpecError(
                f"stage names must differ, got {name!r} twice",
                field=f"stages[{index}].name",
                remedy="rename one",
            )


def _graph(stages: Sequence[StageSpec]) -> Iterator[SpecError]:
    by_name = {stage.name: stage for stage in stages}
    broken = False
    for stage in stages:
        unknown = [name for name in stage.input_names if name not in by_name]
        if unknown or len(set(stage.input_names)) < len(stage.input_names):
            broken = True
            yield SpecError(
                f"must name other stages, each once, got {listed(unknown or stage.input_names)}",
                field=f"stages[{stage.name}].inputs",
                remedy=f"the stages are {listed(by_name)}",
            )
    placed = in_order(stages)
    if broken:
        return
    if len(placed) < len(stages):
        cycle = _cycle({s.name: s for s in stages if s not in placed})
        yield SpecError(
            f"must not form a cycle, got {' -> '.join(cycle)}",
            field=f"stages[{cycle[0]}].inputs",
            remedy="remove one of these inputs",
        )
        return
    used = {name for stage in stages for name in stage.input_names}
    for stage in placed[:-1]:
        if stage.name not in used:
            yield SpecError(
                f"the output of {stage.name!r} must be used by another stage, "
                f"as the pipeline's output is that of {placed[-1].name!r}",
                field=f"stages[{stage.name}]",
                remedy="name it in the inputs of a later stage or remove the stage",
            )


def _cycle(stages: Mapping[str, StageSpec]) -> list[str]:
    path = [next(iter(stages))]
    while True:
        following = next(name for name in stages[path[-1]].input_names if name in stages)
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)


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
_OF_FUNCTIONS = ("named_options", "files", "cost", "costs")


def _function(field: str, stage: StageSpec) -> Iterator[SpecError]:
    defaults = {
        name: StageSpec.model_fields[name].get_default(call_default_factory=True) for name in _OF_MODELS
    }
    for name, default in defaults.items():
        if getattr(stage, name) != default:
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


def _required(field: str, stage: StageSpec) -> Iterator[SpecError]:
    """What stages have where models answer."""
    for name in _OF_FUNCTIONS:
        if getattr(stage, name) != StageSpec.model_fields[name].get_default(call_default_factory=True):
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
    given = [name for name in ("prompt", "prompt_file", "messages") if getattr(stage, name) is not None]
    if len(given) > 1 or not (given or stage.prompts):
        yield SpecError(
            f"must have exactly one of prompt, prompt_file and messages, got {' and '.join(given) or 'none'}",
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
        schema = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
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


def _budget(
    budget: BudgetSpec, models: Mapping[str, ModelSpec], used: Collection[str]
) -> Iterator[SpecError]:
    if (budget.units is None) == (budget.usd is None):
        given = "none" if budget.units is None else f"units: {budget.units:g} and usd: {budget.usd:g}"
        yield SpecError(
            f"must have exactly one of units and usd, got {given}",
            field="budget",
            remedy="units are compute per query, usd is US dollars per query",
        )
        return
    for name, model in models.items():
        if budget.usd is None and model.active_params is None:
            yield SpecError(
                f"must be given where the budget is in units, got none with units: {budget.units:g}",
                field=f"models.{name}.active_params",
                remedy="add it, or give every model a price and the budget in usd",
            )
        if budget.usd is not None and model.price is None and name in used:
            yield SpecError(
                f"must be given where the budget is in US dollars, got none with usd: {budget.usd:g}",
                field=f"models.{name}.price",
                remedy="add prompt_usd_per_million and generated_usd_per_million, or a budget in units",
            )


def _pool(dataset: DatasetSpec) -> Iterator[SpecError]:
    for name in ("search", "test"):
        value = getattr(dataset, name)
        if isinstance(value, int) and dataset.pool is None:
            remedy = "add pool, the file or hub split that the rows are drawn from"
            yield SpecError(
                f"a number of rows needs a pool, got {value}", field=f"dataset.{name}", remedy=remedy
            )
        if isinstance(value, str) and dataset.pool is not None:
            yield SpecError(f"with a pool it is a number of rows, got {value!r}", field=f"dataset.{name}")


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
    found = {place: model.sampled(stage.sampling) for place, model in own.items()}
    return {field: stage.sampling, **found} if len(own) < len(known) or not known else found


def _lengths(field: str, stage: StageSpec, models: Mapping[str, ModelSpec]) -> Iterator[SpecError]:
    fixed = (stage.aggregator.model,) if isinstance(stage.aggregator, Verifier) else ()
    readers = (StageOption(name) for name in (*stage.verifiers, *fixed))
    told = set[str]()
    for option in (*(option for option in stage.options if option.verifier is None), *readers):
        if option.model not in models:
            continue
        prompt_tokens, generated_tokens = stage.lengths_of(option)
        longest, window = (
            models[option.model].sampled(stage.sampling).max_tokens,
            models[option.model].context_length,
        )
        own = next((key for key in (option.drawn, option.model) if key in stage.lengths), None)
        place = field if own is None else f"{field}.lengths.{own}"
        if longest is not None and generated_tokens > longest and option.model in stage.models:
            law = f"must be <= sampling.max_tokens, got {generated_tokens:g} with max_tokens {longest}"
            if law not in told:
                told.add(law)
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


def address_law(base_url: str) -> str | None:
    """Return the rule that a server's address breaks; None when it breaks none."""
    if not re.match(r"https?://[^/\s]", base_url):
        return "must start with http:// or https://"
    if re.match(r"https?://[^/?#]*@", base_url):
        return (
            "must hold no user name and no password, which would be stored with each run; export the key, "
            "and name its variable (api_key_env)"
        )
    try:
        parts = urlsplit(base_url)
        if parts.port == 0 or not parts.hostname:
            raise ValueError
    except ValueError:
        return "must have a host, and a port from 1 to 65535 if any"
    return None


def _key(name: str, models: Mapping[str, ModelSpec]) -> tuple[str, str | None]:
    """What the store knows a model by."""
    return models[name].served_name or name, models[name].revision


def _charges(model: ModelSpec) -> tuple[object, ...]:
    return model.active_params, model.price


def without_password(address: str) -> str:
    """Return an address with what stands before its host left out, for messages."""
    return re.sub(r"^(\w*:?//)?[^/?#]*@", r"\1…@", address)


def _models(models: Mapping[str, ModelSpec]) -> Iterator[SpecError]:
    for name, model in models.items():
        law = address_law(model.base_url)
        if law is not None:
            yield SpecError(
                f"{law}, got {without_password(model.base_url)!r}", field=f"models.{name}.base_url"
            )
        twin = next((other for other in models if _key(other, models) == _key(name, models)), name)
        if _charges(models[twin]) != _charges(model):
            yield SpecError(
                f"must cost what {twin!r} costs, which is the same served model (active_params and price)",
                field=f"models.{name}",
                remedy="state the same, or give it another served_name or revision",
            )
        if model.parent is None:
            continue
        parent = models.get(model.parent)
        if parent is None or parent is model or parent.parent is not None:
            law = "must be another model, one without a parent"
            yield SpecError(
                f"{law}, got {model.parent!r}",
                field=f"models.{name}.parent",
                remedy=f"the models are {listed(models)}",
            )
