"""The models of a spec as clients: each at its server, with what the spec says of its requests."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from pipelines.content import Content
from pipelines.errors import ConfigurationError, ServerError
from pipelines.servers.billing import Bill
from pipelines.servers.grace import GRACE_S, Grace
from pipelines.servers.health import ServerHealth
from pipelines.servers.keys import key_in
from pipelines.servers.patience import Patience
from pipelines.servers.server import OnNegotiated, OnNotice, ServerClient
from pipelines.servers.streamed import TextStream
from pipelines.servers.wire import Draw, Negotiated
from pipelines.spec import ModelSpec, SamplingSpec
from pipelines.spec.request_fields import sent_fields


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What a server says of a model.

    Attributes:
        names: Of all models that it serves.
        max_model_len: Tokens; None when it does not say.
        root: What the model was loaded from; None when it does not say.
    """

    names: tuple[str, ...]
    max_model_len: int | None
    root: str | None = None


class Models(Protocol):
    """What is read of a spec here."""

    @property
    def models(self) -> Mapping[str, ModelSpec]: ...

    def place_of(self, field: str) -> str:
        """Return a field of the spec as messages name it."""
        ...


class ModelClients:
    """The models of a spec, each at its server; those at one address with one key share connections.

    environ: where API keys and proxies are read from; ConfigurationError when a variable that the spec
    names is not set, or names a proxy that can't be used. grace_s: for which requests in flight are awaited
    when a run is stopped. max_in_flight: for each replica where there are several (replicas: by address).
    Further arguments are those of `ServerClient`. Use it on one event loop, and close
    it there.
    """

    def __init__(
        self,
        spec: Models,
        *,
        rng: random.Random,
        patience: Patience = Patience(),  # noqa: B008 -- frozen
        holds: bool = True,
        max_in_flight: int = 64,
        replicas: Mapping[str, int] = MappingProxyType({}),
        backoff_s: float = 0.5,
        environ: Mapping[str, str] = os.environ,
        on_negotiated: OnNegotiated | None = None,
        on_notice: OnNotice | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self.on_negotiated = on_negotiated
        self.grace = Grace(grace_s, on_notice or (lambda line: None))
        self._most_in_flight = 0
        self._models = dict(spec.models)
        self._fields = {name: sent_fields(model.request) for name, model in spec.models.items()}
        self._negotiated: list[Negotiated] = []
        self._servers: dict[tuple[str, str | None], ServerClient] = {}
        self._by_model: dict[str, ServerClient] = {}
        for name, model in spec.models.items():
            place = (model.base_url, _api_key(name, spec, environ))
            most = max_in_flight * replicas.get(model.base_url, 1)
            if place not in self._servers:
                self._most_in_flight += most
                self._servers[place] = ServerClient(
                    *place,
                    key_env=model.api_key_env,
                    rng=rng,
                    patience=patience,
                    holds=holds,
                    max_in_flight=most,
                    backoff_s=backoff_s,
                    environ=environ,
                    on_negotiated=self.tell,
                    on_notice=on_notice,
                    grace=self.grace,
                )
            self._by_model[name] = self._servers[place]

    @property
    def negotiated(self) -> tuple[Negotiated, ...]:
        """What was found out about the servers, each thing once, with the models' keys in the spec."""
        return tuple(self._negotiated)

    @property
    def most_in_flight(self) -> int:
        """Requests that all servers together may have in flight, at the very most."""
        return self._most_in_flight

    def tell(self, negotiated: Negotiated) -> None:
        """Keep something that a user should know, and hand it to `on_negotiated`."""
        names = [name for name in self._models if negotiated.model in (name, self.served_name(name))]
        own = replace(negotiated, model=names[0]) if len(names) == 1 else negotiated
        self._negotiated.append(own)
        if self.on_negotiated is not None:
            self.on_negotiated(own)

    def server(self, model: str) -> ServerClient:
        return self._by_model[model]

    def health(self) -> tuple[ServerHealth, ...]:
        """Return how each server is doing."""
        return tuple(
            server.health(tuple(name for name, own in self._by_model.items() if own is server))
            for server in self._servers.values()
        )

    def served_name(self, model: str) -> str:
        return self._models[model].served_name or model

    async def draw(
        self,
        model: str,
        content: Content,
        sampling: SamplingSpec,
        n: int,
        *,
        first: int = 0,
        logprobs: bool = True,
        bill: Bill | None = None,
        stream: TextStream | None = None,
    ) -> Draw:
        """At most n samples in one request; see `ServerClient.draw`.

        Args:
            model: The key in the spec.
            sampling: With what the model has of its own already in it (`ModelSpec.sampled`).
            bill: Gets what the server bills, also when the draw fails; None: nobody wants to know.
            stream: Gets the text of the one sample while it is generated; None: nobody does.
        """
        fields = {} if "classify" in content else self._fields[model]
        return await self._by_model[model].draw(
            self.served_name(model),
            content,
            sampling,
            n,
            first=first,
            fields=fields,
            logprobs=logprobs and "logprobs" not in fields,
            context_length=self._models[model].context_length,
            bill=bill,
            stream=stream,
        )

    async def served(self, model: str) -> ServedModel:
        """What the model's server serves, and this model's context length. ServerError on a fault."""
        server = self._by_model[model]
        answer = await server.get("/models")
        try:
            entries = {str(entry["id"]): entry for entry in answer["data"]}
            own = entries.get(self.served_name(model), {})
            root = own.get("root")
            return ServedModel(
                names=tuple(entries),
                max_model_len=own.get("max_model_len"),
                root=None if root is None else str(root),
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ServerError(f"{server.address}: /models is not a list of models") from error

    async def aclose(self) -> None:
        for server in self._servers.values():
            await server.aclose()


def _api_key(name: str, spec: Models, environ: Mapping[str, str]) -> str | None:
    variable = spec.models[name].api_key_env
    if variable is None:
        return None
    key = key_in(environ, variable)
    if key is None:
        place = spec.place_of(f"models.{name}.api_key_env")
        raise ConfigurationError(f"{place}: {variable} is not set; export it")
    return key
