"""The filter of system calls, run instruction by instruction as the kernel runs it, for both machines."""

from __future__ import annotations

import errno
import struct

import pytest

from pipelines.software import filters
from pipelines.software.filters import program

ALLOWED, KILLED = 0x7FFF0000, 0x80000000
THREAD = 0x3D0F00  # the flags of pthread_create
FORK = 0x01200011
NEW_USER = 0x10000011


def decided(code: bytes, machine: str, name: str | int, *args: int, audit: int | None = None) -> int:
    """What the filter returns for a system call."""
    known = filters._MACHINES[machine]
    number = known.calls[name] if isinstance(name, str) else name
    padded = [*args, *[0] * (6 - len(args))]
    data = struct.pack("=IIQ6Q", number, known.audit if audit is None else audit, 0, *padded)
    steps, at, loaded = [*struct.iter_unpack("=HBBI", code)], 0, 0
    while True:
        operation, if_true, if_false, value = steps[at]
        at += 1
        if operation == 0x06:
            return int(value)
        if operation == 0x20:
            loaded = struct.unpack_from("=I", data, value)[0]
        else:
            tests = {0x15: loaded == value, 0x25: loaded > value, 0x35: loaded >= value, 0x45: loaded & value}
            at += if_true if tests[operation] else if_false


def refused(number: int) -> int:
    return 0x00050000 | number


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_what_takes_uncounted_memory_or_makes_namespaces_is_refused(machine: str) -> None:
    """By its number; where a call has other uses, by its arguments."""
    code = program(machine, alone=False)
    for name in (
        "memfd_create",
        "shmget",
        "msgget",
        "vmsplice",
        "unshare",
        "mount",
        "bpf",
        "ptrace",
        "mq_open",
    ):
        assert decided(code, machine, name) == refused(errno.EPERM), name
    assert decided(code, machine, "clone3") == refused(errno.ENOSYS)
    assert decided(code, machine, "clone", NEW_USER) == refused(errno.EPERM)
    assert decided(code, machine, "fcntl", 3, 1031, 1 << 20) == refused(errno.EPERM)
    assert decided(code, machine, "fcntl", 3, 1030) == ALLOWED
    assert decided(code, machine, "socket", 16) == refused(errno.EAFNOSUPPORT)
    assert [decided(code, machine, "socket", family) for family in (1, 2, 10)] == [ALLOWED] * 3
    assert decided(code, machine, "setsockopt", 3, 1, 7) == refused(0)
    assert decided(code, machine, "setsockopt", 3, 1, 2) == ALLOWED
    assert decided(code, machine, 63) == ALLOWED
    assert decided(code, machine, 63, audit=0x40000003) == KILLED  # another architecture's calls
    assert decided(code, machine, 0x40000001) == refused(errno.ENOSYS)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_alone_means_threads_and_no_processes(machine: str) -> None:
    """clone makes a thread in either case, a process only where processes are counted."""
    alone, counted = program(machine, alone=True), program(machine, alone=False)
    assert decided(alone, machine, "clone", THREAD) == decided(counted, machine, "clone", THREAD) == ALLOWED
    assert decided(alone, machine, "clone", FORK) == refused(errno.EAGAIN)
    assert decided(counted, machine, "clone", FORK) == ALLOWED
    if machine == "x86_64":
        assert decided(alone, machine, "vfork") == refused(errno.EAGAIN)
        assert decided(counted, machine, "vfork") == ALLOWED


def test_other_machines_have_no_filter() -> None:
    """Then programs run in a control group, or not at all."""
    assert program("riscv64", alone=True) == b""
