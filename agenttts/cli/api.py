"""`agenttts serve --run RUN --api`: what a run chose, behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import agenttts
from agenttts.cli.options import say
from agenttts.errors import UserError

if TYPE_CHECKING:
    from pipelines import PipelineSpec

KEY_ENV = "AGENTTTS_SERVICE_KEY"


@dataclass(frozen=True, kw_only=True)
class ApiOptions:
    """The options of `--api`.

    Attributes:
        host: The address to listen on.
        port: The port; 0 for one that is free.
        key_env: The environment variable that holds the clients' key, and must; None: KEY_ENV, which may.
        fixed: Whether a run's best allocation is served though it has a policy.
        replay: Whether only recorded samples answer.
        samples: The database of samples and traces; None: beside the run's.
        max_requests: Requests under way at once.
        max_body: Bytes of a body.
        timeout_s: Seconds for an answer of a model server.
        retry_s: Seconds for which a request to a model server is tried again.
    """

    host: str
    port: int
    key_env: str | None
    fixed: bool
    replay: bool
    samples: Path | None
    max_requests: int
    max_body: int
    timeout_s: float
    retry_s: float


def serve_api(spec: PipelineSpec | None, db: Path, run: str | None, options: ApiOptions) -> None:
    """Serve what a run chose until Ctrl-C.

    Args:
        spec: The pipeline, with the model servers' addresses; None: the run's own.
        db: The database of the run.
        run: The run.
        options: The options.
    """
    from pipelines.extras import library

    if run is None:
        raise UserError("--api serves what a run chose; name it with --run, as in --run latest")
    for name in ("starlette", "uvicorn"):
        library(name, "agenttts serve --api", extra="ui")
    from agenttts.cli.run import fitting
    from agenttts.service.gate import Limits
    from agenttts.service.server import ServiceSettings, serve
    from agenttts.terminal import EscapingFormatter
    from pipelines.allocation import Allocation
    from pipelines.servers.patience import Patience

    key_env = options.key_env or KEY_ENV
    key = os.environ.get(key_env, "").strip() or None
    if options.key_env is not None and key is None:
        raise UserError(f"--key-env {options.key_env}: the variable is not set, or empty; set it to the key")
    loaded = agenttts.load_run(db, run)
    chosen, mean = loaded.chosen(fixed=options.fixed)
    spec = spec or loaded.spec
    if isinstance(chosen, Allocation):
        chosen = fitting(spec, chosen)
    samples = options.samples or db.with_name(f"{db.stem}.service.duckdb")
    settings = ServiceSettings(
        spec=spec,
        run_id=loaded.run_id,
        chosen=chosen,
        mean=mean,
        samples=samples,
        host=options.host,
        port=options.port,
        key=key,
        limits=Limits(requests=options.max_requests, body_bytes=options.max_body),
        patience=Patience(
            timeout_s=options.timeout_s, retry_s=options.retry_s, longest_outage_s=options.retry_s
        ),
        replay=options.replay,
    )

    def ready(address: str) -> None:
        whose = "no key is asked for" if key is None else f"the key is that of {key_env}"
        say(f"{spec.name} of run {loaded.run_id}: {address}/v1", "green")
        say(f"{chosen}\n{whose}; samples and traces go to {samples}\nCtrl-C ends it.", "dim")

    own_log = logging.getLogger("agenttts.service")
    own_log.setLevel(min(own_log.getEffectiveLevel(), logging.ERROR))  # what requests are not told
    for handler in logging.getLogger().handlers:
        handler.setFormatter(EscapingFormatter(logging.BASIC_FORMAT))
    serve(settings, ready)
