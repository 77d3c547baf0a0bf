"""Servers that the tests talk to over real HTTP."""

from tests.servers.scripted import Request, ScriptedServer

__all__ = ["Request", "ScriptedServer"]
