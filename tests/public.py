"""What examples and notebooks may import."""

from __future__ import annotations

import ast
from importlib import import_module

PACKAGES = ("agenttts", "pipelines", "datastore")


def assert_imports_are_public(source: str) -> None:
    """The source imports nothing of this project but names in `__all__` of its three packages."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
            assert not [name for name in modules if "." in name and name.split(".")[0] in PACKAGES], modules
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in PACKAGES:
            assert node.module in PACKAGES, node.module
            names = {alias.name for alias in node.names}
            assert names <= set(import_module(node.module).__all__), names
