"""Rules between the fields of a pipeline's description, checked without any server or dataset.

Each rule yields SpecErrors with the field, the rule, the offending value and a remedy. `configfile` adds the
file and the line. The rules of a single stage are in `stage_rules`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from pipelines.errors import SpecError, listed
from pipelines.spec.fields import BudgetSpec, DatasetSpec
from pipelines.spec.models import ModelSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.stage_rules import stage_laws


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
        problems += stage_laws(stage, models, answering, root)
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


def _budget(
    budget: BudgetSpec, models: Mapping[str, ModelSpec], used: Collection[str]
) -> Iterator[SpecError]:
    if (budget.units is None) == (budget.usd is None):
        amounts = "none" if budget.units is None else f"units: {budget.units:g} and usd: {budget.usd:g}"
        yield SpecError(
            f"must have exactly one of units and usd, got {amounts}",
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


_SECRET = re.compile(
    r"(?:(?:api|access|secret|subscription|function|private)?key|code|(?:client)?secret|jwt|pat|bearer|sk\w{8,}"
    r"|(?:access|api|auth|bearer|id|sas|security|xamzsecurity)?token|passw(?:or)?d|pwd|pass|auth(?:orization)?"
    r"|(?:xamz)?credentials?|(?:xamz)?sig(?:nature)?)"
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
        names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
        secrets = [name for name in names if _SECRET.fullmatch(re.sub(r"[-_.]", "", name).lower())]
        if secrets:
            return (
                f"must hold no secret in its query, which would be stored with each run, got {secrets[0]!r}; "
                "export the key, and name its variable (api_key_env)"
            )
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
    """Return an address with what stands before its host, and the query's values, left out, for messages."""
    without_user = re.sub(r"^(\w*:?//)?[^/?#]*@", r"\1…@", address)
    return re.sub(r"([?&][^=&#]*=)[^&#]+", r"\1…", without_user)


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
