"""Which servers a spec's models take, and where their weights lie.

A server answers for one base model, for the other entries that are configurations of the same served model,
and for the adapters of both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import SpecError
from pipelines.spec.pipeline import PipelineSpec


@dataclass(frozen=True, kw_only=True)
class Hosted:
    """What one server answers for, as keys in the spec's `models`.

    Attributes:
        base: The model that the server is started with.
        twins: Further entries of the same served model.
        adapters: Adapters of the base.
    """

    base: str
    twins: tuple[str, ...]
    adapters: tuple[str, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """All of them, the base first."""
        return (self.base, *self.twins, *self.adapters)


def hosted_models(spec: PipelineSpec, models: Iterable[str] | None = None) -> list[Hosted]:
    """Group models by the server that answers for them.

    Args:
        spec: The spec.
        models: Keys of models, or of models with variants; None for all of the spec.

    Raises:
        SpecError: The spec has no model of such a key.
    """
    named = spec.models if models is None else (name for key in models for name in _variants(spec, key))
    keys = list(dict.fromkeys(named))
    for name in keys:
        if name not in spec.models:
            raise SpecError(f"no such model, got {name!r}", remedy=f"the models are {', '.join(spec.models)}")
    same: dict[tuple[object, ...], list[str]] = {}
    for name in dict.fromkeys(spec.models[name].parent or name for name in keys):
        same.setdefault(_server_of(spec, name), []).append(name)
    return [
        Hosted(
            base=base,
            twins=tuple(twins),
            adapters=tuple(name for name in keys if spec.models[name].parent in (base, *twins)),
        )
        for base, *twins in same.values()
    ]


def weights_directory(spec: PipelineSpec, name: str) -> Path | None:
    """Return the directory of a model's weights; None when they come from the hub.

    Args:
        spec: The spec.
        name: The model's key.
    """
    path = spec.models[name].path
    if path is None:
        return None
    directory = (spec.root / Path(path).expanduser()).resolve()
    return directory if directory.is_dir() else None


def weights_name(spec: PipelineSpec, name: str) -> str:
    """Return what vLLM is told to load for a model: a directory, or a name of the hub.

    Args:
        spec: The spec.
        name: The model's key.

    Raises:
        SpecError: The spec names a directory that does not exist.
    """
    model = spec.models[name]
    directory = weights_directory(spec, name)
    if directory is not None:
        return str(directory)
    if model.path is not None and model.path.startswith((".", "/", "~")):
        raise spec.error_at(f"models.{name}.path", f"no such directory, got {model.path!r}")
    return model.path or model.served_name or name


def _variants(spec: PipelineSpec, key: str) -> list[str]:
    """The variants of a model that a file gives variants; else its key alone."""
    return [name for name in spec.models if name.startswith(f"{key}/") and key not in spec.models] or [key]


def _server_of(spec: PipelineSpec, name: str) -> tuple[object, ...]:
    """What entries share that are configurations of one served model."""
    model = spec.models[name]
    return model.served_name or name, model.revision, model.base_url, model.path, model.serve_args
