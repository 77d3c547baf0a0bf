"""`agenttts serve`: a vLLM server for each model that a pipeline, or what a run of it chose, needs.

With `--api` it serves what the run chose instead; see `agenttts.cli.api`.
"""

from __future__ import annotations

import math
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import agenttts
import pipelines
from agenttts.cli.api import KEY_ENV, ApiOptions, serve_api
from agenttts.cli.clustered import ClusterSettings, serve_on_cluster
from agenttts.cli.options import DEFAULT_DB, PATIENCE, Db, Json, RetryFor, print_json, say, stdout
from agenttts.cli.placed import Concurrency, Gpus, gpus_of, print_placement
from agenttts.cli.running import running
from agenttts.errors import UserError
from agenttts.serving.defaults import CONCURRENCY
from pipelines.allocation import Allocation

if TYPE_CHECKING:
    from agenttts.serving.placement import Placement
    from agenttts.serving.servers import PlannedServers
    from pipelines.servers.commands import Device, ServeCommand


_OF_API = (
    "host",
    "port",
    "key_env",
    "fixed",
    "replay",
    "samples",
    "max_requests",
    "max_body",
    "answer_timeout",
    "retry_for",
)
_OF_SERVERS = (
    "only",
    "dry_run",
    "device",
    "gpus",
    "concurrency",
    "cluster",
    "replicas",
    "log_dir",
    "timeout",
    "json",
)


def serve(
    ctx: typer.Context,
    spec: Annotated[
        Path | None,
        typer.Argument(help="The pipeline file (YAML); with --api the run's own where not given."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run", help="Start only the models that the policy or allocation of this run of --db needs."
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Start only this model; may be repeated.")
    ] = None,
    db: Db = DEFAULT_DB,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print which GPUs each server gets and the commands; start nothing."),
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or gpu.")] = "auto",
    gpus: Gpus = None,
    concurrency: Concurrency = CONCURRENCY,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            help="Serve on the Ray cluster at HOST:PORT, auto for this machine's; --gpus are then those of "
            "each machine.",
            show_default=False,
        ),
    ] = None,
    replicas: Annotated[
        str,
        typer.Option(
            "--replicas",
            help="Servers for each model, behind a router; auto: as many as leave each a GPU of its own.",
        ),
    ] = "1",
    log_dir: Annotated[Path | None, typer.Option("--log-dir", help="Where the servers' logs go.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for all of them to become healthy.")] = 900.0,
    api: Annotated[
        bool,
        typer.Option(
            "--api", help="Serve what --run chose as an OpenAI-compatible endpoint; the models run elsewhere."
        ),
    ] = False,
    host: Annotated[
        str, typer.Option("--host", help="With --api: the address; others than 127.0.0.1 need a key.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="With --api: the port; 0 for one that is free.")
    ] = 8080,
    key_env: Annotated[
        str | None,
        typer.Option(
            "--key-env",
            help=f"With --api: the variable that holds the key of its clients; {KEY_ENV} where not given.",
            show_default=False,
        ),
    ] = None,
    fixed: Annotated[
        bool, typer.Option("--fixed", help="With --api: the run's best allocation, though it has a policy.")
    ] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="With --api: only recorded samples answer.")
    ] = False,
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples",
            help="With --api: the DuckDB file of its samples and traces; where not given, one beside --db.",
            show_default=False,
        ),
    ] = None,
    max_requests: Annotated[
        int, typer.Option("--max-requests", min=1, help="With --api: requests at once; others get 429.")
    ] = 64,
    max_body: Annotated[
        int, typer.Option("--max-body", min=1, help="With --api: bytes of a body; longer ones get 413.")
    ] = 1_000_000,
    answer_timeout: Annotated[
        float, typer.Option("--answer-timeout", help="With --api: seconds for an answer of a model.")
    ] = PATIENCE.timeout_s,
    retry_for: RetryFor = 10.0,
    json: Json = False,
) -> None:
    """Start one vLLM server per model, wait until each is healthy, and stop them all on exit.

    Each server gets the GPUs and the share of their memory that its weights and its KV cache need. With --api
    it starts no model server: it answers chat requests by what the run chose (needs the extra `ui`).

    Example: `agenttts serve pipeline.yaml --run latest --db run.duckdb --dry-run --gpus 4x80`
    """
    from agenttts.serving.servers import planned_servers
    from agenttts.terminal import escaped

    for name in _OF_SERVERS if api else _OF_API:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} {'does not go' if api else 'goes only'} with --api; leave it out")
    loaded = None if spec is None else pipelines.load_spec(spec)
    if api:
        options = ApiOptions(
            host=host,
            port=port,
            key_env=key_env,
            fixed=fixed,
            replay=replay,
            samples=samples,
            max_requests=max_requests,
            max_body=max_body,
            timeout_s=answer_timeout,
            retry_s=retry_for,
        )
        serve_api(loaded, db, run, options)
        return
    if loaded is None:
        raise UserError("name the pipeline file, or give --run and --api")
    names = only or (None if run is None else _needed(loaded, db, run))
    n_replicas = _n_replicas(replicas)
    if cluster is not None:
        settings = ClusterSettings(
            address=cluster, gpus=gpus_of(gpus), n_replicas=n_replicas, n_sequences=concurrency
        )
        serve_on_cluster(
            loaded, names, settings, dry_run=dry_run, json=json, log_dir=log_dir, timeout_s=timeout
        )
        return
    planned = planned_servers(
        loaded,
        names,
        device=_device(device),
        gpus=gpus_of(gpus),
        n_sequences=concurrency,
        n_replicas=n_replicas,
    )
    servers = planned.commands
    _say_idle(planned.placement, concurrency)
    if dry_run:
        if json:
            print_json(_as_json(planned))
            return
        if planned.placement is not None:
            print_placement(planned.placement)
        for command in (*servers, *planned.routers):
            typer.echo(escaped(f"# {', '.join(command.models)}\n{shell(command)}"), file=stdout())
        return
    if planned.routers:
        from agenttts.serving.router import require_router

        require_router()
    started = (*servers, *planned.routers)
    with serving(started, log_dir, f"starting {len(servers)} vLLM servers", timeout_s=timeout):
        if json:
            print_json(_as_json(planned))
        for command in planned.routers or servers:
            address = command.health_url.removesuffix("/health") + "/v1"
            say(f"{', '.join(command.models)}: {address}", "green")


@contextmanager
def serving(
    servers: Sequence[ServeCommand], log_dir: Path | None, starting: str, *, timeout_s: float = 900.0
) -> Iterator[None]:
    """Start servers, run the block, and wait until Ctrl-C or until a server exits by itself.

    Args:
        servers: The commands of the servers.
        log_dir: The directory of the logs; None for a temporary one.
        starting: The text of the status line while the servers start.
        timeout_s: Seconds for all servers to become healthy.
    """
    from pipelines.servers.commands import require_vllm
    from pipelines.servers.group import ServerGroup

    require_vllm()
    log_dir = log_dir or Path(tempfile.mkdtemp(prefix="agenttts-serve-"))
    group = ServerGroup(servers, log_dir=log_dir, timeout_s=timeout_s)
    with running(group, f"{starting}, logs in {log_dir}"):
        yield


def shell(command: ServeCommand) -> str:
    """Format a command for a shell, environment variables included.

    Args:
        command: The command.
    """
    variables = [f"{name}={shlex.quote(value)}" for name, value in command.env.items()]
    return " ".join([*variables, shlex.join(command.argv)])


def _as_json(planned: PlannedServers) -> list[dict[str, object]]:
    seats = {} if planned.placement is None else {one.need.name: one for one in planned.placement.servers}
    placed = [seats.get(command.model) for command in planned.commands]
    if planned.routers and planned.placement is not None:  # replicas are in the order of the placement
        placed = [*planned.placement.servers, *(None for _ in planned.routers)]
    return [
        {
            "models": list(command.models),
            "argv": list(command.argv),
            "env": dict(command.env),
            "health_url": command.health_url,
            "placement": None if seat is None else seat.to_dict(),
        }
        for command, seat in zip((*planned.commands, *planned.routers), placed, strict=True)
    ]


def _n_replicas(text: str) -> int | None:
    """The number that `--replicas` states; None for auto."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UserError(f"--replicas is auto, or 1 or more servers for each model, got {text!r}")
    return int(text)


def _say_idle(placement: Placement | None, concurrency: int) -> None:
    """Say how the GPUs that no server takes could be used."""
    if placement is None or not placement.idle:
        return
    from agenttts.serving.placement import most_replicas

    needs = list({one.need.name: one.need for one in placement.servers}.values())
    n = most_replicas(needs, placement.gpus, concurrency)
    if n * len(needs) > len(placement.servers):
        say(
            f"{len(placement.idle)} of {len(placement.gpus)} GPUs are idle; --replicas auto starts {n} "
            "servers for each model behind a router",
            "yellow",
        )


def _needed(spec: pipelines.PipelineSpec, db: Path, run: str) -> list[str]:
    """The models of what the run chose, and those that fuse or judge their samples."""
    from agenttts.space.space import SearchSpace

    space = SearchSpace(spec, math.inf)
    chosen, _ = agenttts.load_run(db, run).chosen()
    allocations = [chosen] if isinstance(chosen, Allocation) else [rung.allocation for rung in chosen.rungs]
    models = []
    for allocation in map(space.resolve, allocations):
        problem = space.problem(allocation)
        if problem is not None:
            raise UserError(f"{db}: what the run chose does not fit this pipeline: {problem}")
        for stage in spec.stages:
            if stage.python is not None:
                continue
            choice = allocation[stage.name]
            models.append(choice.model)
            own_model = stage.aggregator_for(choice.option).own_model
            if own_model is not None:
                models.append(own_model)
    return list(dict.fromkeys(models))


def _device(name: str) -> Device:
    for device in ("auto", "cpu", "gpu"):
        if name == device:
            return device
    raise UserError(f"--device is auto, cpu or gpu, got {name!r}")
