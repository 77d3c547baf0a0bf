"""The pipeline spec that serves and asks models which are to be compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

from agenttts.errors import UserError
from agenttts.training.weights import TunedModel, context_length, read_tuned, require_base, require_servable
from pipelines.servers.group import free_port
from pipelines.spec.fields import BudgetSpec, DatasetSpec
from pipelines.spec.models import ModelSpec
from pipelines.spec.pipeline import PipelineSpec
from pipelines.spec.stage import StageSpec
from pipelines.spec.variants import BuiltinMetric


def rivals_spec(places: Mapping[str, str], *, port: int | None = None) -> PipelineSpec:
    """Make the spec of a comparison. An adapter brings its base along.

    Args:
        places: The directory of each model, or the base URL of a server that runs, by the model's name.
        port: The port of the first base; the next ones follow. None: free ports.

    Raises:
        UserError: A directory holds no model, or an adapter that does not fit its base.
    """
    models: dict[str, ModelSpec] = {}
    tuned = {name: read_tuned(place) for name, place in places.items() if "://" not in place}
    ports = _free_ports() if port is None else itertools.count(port)
    bases: dict[str, str] = {}
    for name, place in places.items():
        if name not in tuned:
            models[name] = ModelSpec(base_url=place, active_params=1.0)
            continue
        require_servable(tuned[name].path)
        if not tuned[name].is_adapter:
            bases[str(tuned[name].path.resolve())] = name
            models[name] = _checkpoint(name, tuned[name], next(ports))
    for name, adapter in tuned.items():
        if adapter.base is None:
            continue
        local = Path(adapter.base).is_dir()
        base = str(Path(adapter.base).resolve()) if local else adapter.base
        if base not in bases:
            bases[base] = f"base-of-{name}"
            models[bases[base]] = _base_of(adapter, base, bases[base], next(ports))
        if local:
            require_base(adapter, Path(base))
        models[name] = _adapter(name, adapter, bases[base], models[bases[base]])
    return PipelineSpec(
        name="evaluation",
        models=models,
        stages=(
            StageSpec(
                name="answer",
                prompt="{{ prompt }}",
                models=tuple(models),
                max_samples=1,
                prompt_tokens=1,
                generated_tokens=1,
            ),
        ),
        metric=BuiltinMetric(kind="exact_match", label="output"),
        dataset=DatasetSpec(search="rows.jsonl", test="rows.jsonl"),
        budget=BudgetSpec(units=1),
    )


def _free_ports() -> Iterator[int]:
    while True:
        yield free_port()


def _address(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"


def _checkpoint(name: str, tuned: TunedModel, port: int) -> ModelSpec:
    return ModelSpec(
        served_name=name,
        base_url=_address(port),
        path=str(tuned.path.resolve()),
        active_params=float(max(1, tuned.n_params)),
        context_length=context_length(tuned.path),
        revision=tuned.digest[:16],
    )


def _base_of(adapter: TunedModel, base: str, name: str, port: int) -> ModelSpec:
    """An adapter's base, in a directory or on the hub."""
    if Path(base).is_dir():
        return _checkpoint(name, read_tuned(base), port)
    if base.startswith((".", "/", "~")):
        raise UserError(f"{adapter.path}: its base {base!r} is not there; put it back, or merge elsewhere")
    return ModelSpec(
        served_name=name,
        base_url=_address(port),
        path=base,
        active_params=float(adapter.card.base_params or 1),
    )


def _adapter(name: str, adapter: TunedModel, parent: str, base: ModelSpec) -> ModelSpec:
    return ModelSpec(
        served_name=name,
        base_url=base.base_url,
        path=str(adapter.path.resolve()),
        active_params=(base.active_params or 0.0) + adapter.n_params,
        context_length=base.context_length,
        revision=adapter.digest[:16],
        parent=parent,
    )
