"""Fixtures for every test: no way to a paid model, and a scripted server that speaks real HTTP."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import ScriptedServer

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests' models are too small to share among cores

# The same examples in every run; `pytest --hypothesis-profile random` looks for new ones.
ANY_TIME = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fixed", derandomize=True, **ANY_TIME)
settings.register_profile("random", **ANY_TIME)
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def no_paid_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, addresses and proxies of the environment stay out of the tests."""
    for name in (
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "OPENAI_ORG_ID",
        "OPENAI_PROJECT_ID",
        "AGENTTTS_AGENT_BASE_URL",
        "AGENTTTS_AGENT_API_KEY",
        "AGENTTTS_AGENT_MODEL",
        "AGENTTTS_AGENT_KEY_ENV",
        "AGENTTTS_AGENT_TIMEOUT",
        "AGENTTTS_AGENT_MAX_TOKENS",
        "AGENTTTS_AGENT_SHARE",
        "AGENTTTS_AGENT_TEMPERATURE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def tuning_libraries() -> None:
    """What the extra `tune` brings; where AGENTTTS_REQUIRE_LIVE is set, its absence is a failure."""
    absent = [
        name for name in ("torch", "transformers", "peft", "trl") if importlib.util.find_spec(name) is None
    ]
    if absent and os.environ.get("AGENTTTS_REQUIRE_LIVE"):
        pytest.fail(f"{absent[0]} is not installed; run: make test")
    if absent:
        pytest.skip(f"{absent[0]} is not installed; run: make test")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A scripted server with the models `small` and `large`."""
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def make_server() -> Iterator[Callable[..., ScriptedServer]]:
    """`make_server(**settings)` starts a scripted server that stops when the test ends."""
    started: list[ScriptedServer] = []

    def make(**settings: object) -> ScriptedServer:
        running = ScriptedServer(**settings)  # type: ignore[arg-type]
        running.start()
        started.append(running)
        return running

    yield make
    for running in started:
        running.stop()
