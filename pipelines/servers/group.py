"""A group of servers that starts, becomes healthy and ends together, with no process left behind.

Each server has a process group of its own and a log file. Servers that share a GPU start one after the
other, because vLLM takes what another allocates meanwhile for its own (vllm-project/vllm#55827). The group
ends on leaving the block, on SIGINT and on SIGTERM; on Linux the servers are also told to end when this
process is killed. What the commands are is in `commands`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self
from urllib.parse import urlsplit

from pipelines.errors import ServerError
from pipelines.servers.commands import Device, ServeCommand, commands, has_gpu, require_vllm

__all__ = ["Device", "ServeCommand", "ServerGroup", "commands", "free_port", "has_gpu", "require_vllm"]

logger = logging.getLogger(__name__)

_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1
_TAIL_LINES = 15
_STOP_S = 20.0  # between asking a server to end and killing it


class ServerGroup:
    """`with ServerGroup(commands, log_dir=DIR):` (or `async with`) runs the servers for the block.

    timeout_s: for all of them to become healthy.
    Enter it in the main thread, or in one that outlives the block. ServerError when a server ends or is not
    healthy in time, with the end of its log; the others are stopped then.
    """

    def __init__(
        self,
        commands: Sequence[ServeCommand],
        *,
        log_dir: Path,
        timeout_s: float = 900.0,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.commands = tuple(commands)
        self._log_dir = Path(log_dir)
        self._timeout_s = timeout_s
        self._environ = environ
        self._running: list[tuple[ServeCommand, subprocess.Popen[bytes]]] = []
        self._waiting: list[ServeCommand] = []
        self._handler_before: Any = None

    def __enter__(self) -> Self:
        try:
            self._start()
            while not self._complete(self._ill()):
                time.sleep(0.5)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            self._start()
            while not self._complete(await asyncio.to_thread(self._ill)):
                await asyncio.sleep(0.5)
        except BaseException:
            self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the servers, which are those of their process groups too."""
        return tuple(process.pid for _, process in self._running)

    def log_path(self, command: ServeCommand) -> Path:
        return self._log_dir / (re.sub(r"[^A-Za-z0-9._-]", "_", command.model) + ".log")

    def watch(self) -> None:
        """Wait until a server ends by itself, and raise the ServerError that says so."""
        while True:
            self.require_running()
            time.sleep(1.0)

    def require_running(self) -> None:
        """Raise the ServerError of a server that has ended by itself, if one has."""
        self._raise_if_ended("")

    def stop(self) -> None:
        """End every server, and all that it started; those that do not end in time are killed."""
        running, self._running = self._running, []
        for _, process in running:
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        for _, process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.warning("process %d does not end: killed", process.pid)
            _signal_group(process, signal.SIGKILL)
            process.wait()
        if self._handler_before is not None:
            signal.signal(signal.SIGTERM, self._handler_before)
            self._handler_before = None

    def _start(self) -> None:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        for command in self.commands:
            _require_free_port(command)
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            self._handler_before = signal.signal(signal.SIGTERM, _exit_on_signal)
        self._deadline = time.monotonic() + self._timeout_s
        self._waiting = list(self.commands)
        self._start_next(starting=[])

    def _start_next(self, starting: Sequence[ServeCommand]) -> None:
        """Start every server whose GPUs no other is starting on, in the order of the commands."""
        busy = {device for command in starting for device in command.devices}
        waiting, self._waiting = self._waiting, []
        for command in waiting:
            if busy & command.devices:
                self._waiting.append(command)
            else:
                self._launch(command)
            busy |= command.devices

    def _launch(self, command: ServeCommand) -> None:
        with self.log_path(command).open("wb") as log:
            process = subprocess.Popen(
                command.argv,
                env={**self._environ, **command.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent if _LIBC is not None else None,
            )
        self._running.append((command, process))
        logger.info("%s: process %d, log %s", command.model, process.pid, self.log_path(command))

    def _complete(self, ill: Sequence[ServeCommand]) -> bool:
        """Whether all servers run and none is ill; else those that may start now are started."""
        if not ill and not self._waiting:
            return True
        self._start_next(ill)
        return False

    def _ill(self) -> list[ServeCommand]:
        """The servers that run and are not healthy yet. ServerError when one ended or the time is over."""
        self._raise_if_ended(" before it was healthy")
        ill = [command for command, _ in self._running if not _healthy(command.health_url)]
        if ill and time.monotonic() > self._deadline:
            names = ", ".join(command.model for command in ill)
            end = self._log_end(ill[0])
            raise ServerError(f"{names}: not healthy after {self._timeout_s:g} s; allow it more time{end}")
        return ill

    def _raise_if_ended(self, when: str) -> None:
        for command, process in self._running:
            if process.poll() is not None:
                status = f"{command.model}: its server ended with status {process.returncode}{when}"
                raise ServerError(f"{status}; see its log{self._log_end(command)}")

    def _log_end(self, command: ServeCommand) -> str:
        path = self.log_path(command)
        lines = path.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join([f", {path}:", *lines])


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port at which nobody listens now.

    Args:
        host: The address.
    """
    with socket.socket() as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])


def _require_free_port(command: ServeCommand) -> None:
    url = urlsplit(command.health_url)
    try:
        socket.create_connection((url.hostname or "127.0.0.1", url.port or 80), timeout=2.0).close()
    except OSError:
        return
    raise ServerError(
        f"{command.model}: port {url.port} is in use; end what listens there or change base_url"
    )


def _healthy(url: str) -> bool:
    try:
        with _NO_PROXY.open(url, timeout=5.0) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    """Runs in the child before its program: SIGTERM when the thread that started it is gone."""
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
