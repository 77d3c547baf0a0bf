"""The Dockerfile copies, installs and starts what is there."""

from __future__ import annotations

import re
import tomllib

from docs.building import commands
from tests.docs.pages import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_what_is_copied_is_there_and_not_ignored() -> None:
    """Every source of a COPY is in the context that .dockerignore leaves."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = {
        name for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    }
    assert copied == allowed
    for name in copied:
        assert (ROOT / name).exists(), name


def test_the_package_builds_from_what_is_copied() -> None:
    """What pyproject.toml reads from the root when the package is built is among it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in (project["readme"], *project["license-files"]):
        assert re.search(rf"^COPY .*\b{re.escape(name.split('/')[0])}\b", DOCKERFILE, re.MULTILINE), name
    assert set(re.findall(r"^ARG EXTRAS=(.*)$", DOCKERFILE, re.MULTILINE)[0].split(",")) <= set(
        project["optional-dependencies"]
    )


def test_it_starts_a_command_that_is_there() -> None:
    """Without arguments it runs the demo."""
    (first,) = re.findall(r'^CMD \["(\w+)"\]$', DOCKERFILE, re.MULTILINE)
    assert f"agenttts {first}" in {command.path for command in commands.commands()}
