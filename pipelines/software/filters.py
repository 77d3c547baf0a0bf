"""A seccomp filter: the system calls that a program in the sandbox is refused.

Refused is what takes memory that no limit of a process counts (memfds, System V IPC, message queues, key
rings, pages given to pipes, larger buffers of pipes and sockets), what makes namespaces and mounts, and what
reaches deep into the kernel (io_uring, BPF, ptrace). Where no cgroup counts the memory of several processes,
a program may also start none: its threads share one address space, which the kernel limits.

The filter is classic BPF over `struct seccomp_data` (`man 2 seccomp`), for x86-64 and 64-bit ARM.
"""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass
from functools import cache

_LOAD, _EQUAL, _GREATER, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000
_NEW_NAMESPACE = 0x7E020000  # every CLONE_NEW* flag of clone
_CLONE_THREAD = 0x00010000
_F_SETPIPE_SZ = 1031
_AF_INET6 = 10
_SO_SNDBUF, _SO_RCVBUF = 7, 8
_IGNORED = 0  # the error that makes a refused call seem to succeed


@dataclass(frozen=True, kw_only=True)
class _Machine:
    """An architecture: its number in seccomp_data, and the numbers of its system calls by name."""

    audit: int
    calls: dict[str, int]


_SHARED = {  # numbers that all newer architectures have in common
    "io_uring_setup": 425,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "clone3": 435,
    "mount_setattr": 442,
    "memfd_secret": 447,
}
_X86_64 = {
    "shmget": 29,
    "socket": 41,
    "socketpair": 53,
    "setsockopt": 54,
    "clone": 56,
    "fork": 57,
    "vfork": 58,
    "semget": 64,
    "msgget": 68,
    "fcntl": 72,
    "ptrace": 101,
    "pivot_root": 155,
    "chroot": 161,
    "mount": 165,
    "umount2": 166,
    "io_setup": 206,
    "mq_open": 240,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "inotify_add_watch": 254,
    "unshare": 272,
    "vmsplice": 278,
    "perf_event_open": 298,
    "fanotify_init": 300,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "memfd_create": 319,
    "bpf": 321,
    "userfaultfd": 323,
}
_ARM_64 = {
    "io_setup": 0,
    "fcntl": 25,
    "inotify_add_watch": 27,
    "umount2": 39,
    "mount": 40,
    "pivot_root": 41,
    "chroot": 51,
    "vmsplice": 75,
    "unshare": 97,
    "ptrace": 117,
    "mq_open": 180,
    "msgget": 186,
    "semget": 190,
    "shmget": 194,
    "socket": 198,
    "socketpair": 199,
    "setsockopt": 208,
    "add_key": 217,
    "request_key": 218,
    "keyctl": 219,
    "clone": 220,
    "perf_event_open": 241,
    "fanotify_init": 262,
    "name_to_handle_at": 264,
    "open_by_handle_at": 265,
    "setns": 268,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "memfd_create": 279,
    "bpf": 280,
    "userfaultfd": 282,
}
_MACHINES = {
    "x86_64": _Machine(audit=0xC000003E, calls=_SHARED | _X86_64),
    "aarch64": _Machine(audit=0xC00000B7, calls=_SHARED | _ARM_64),
}
_BY_ARGUMENT = ("clone", "fcntl", "socket", "socketpair", "setsockopt")
_ABSENT = ("clone3", "io_uring_setup", "io_setup")  # callers then use the older call
_STARTING = ("fork", "vfork")

_INSTALL = """\
import ctypes, os, sys
code = bytes.fromhex(sys.argv[1])
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
call = ctypes.CDLL(None, use_errno=True).prctl
call.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
filter = Program(len(code) // 8, code)
if call(38, 1, None, 0, 0) or call(22, 2, ctypes.addressof(filter), 0, 0):
    raise OSError(ctypes.get_errno(), "the filter of system calls can't be set")
os.execv(sys.argv[2], sys.argv[2:])
"""


def filtered(python: str, *, alone: bool) -> list[str]:
    """Return the command that sets the filter and then becomes the command that follows it.

    Args:
        python: The interpreter, by its path in the sandbox.
        alone: Whether the program may start threads only, no processes.

    Returns:
        The words before the command; empty where there is no filter for the machine.
    """
    code = program(platform.machine(), alone=alone)
    return [python, "-I", "-S", "-c", _INSTALL, code.hex()] if code else []


@cache
def program(machine: str, *, alone: bool) -> bytes:
    """Return the filter as an array of `struct sock_filter`; empty for a machine whose calls are not listed.

    Args:
        machine: The machine as `platform.machine` names it.
        alone: Whether the program may start threads only, no processes.
    """
    known = _MACHINES.get(machine)
    if known is None:
        return b""
    calls = known.calls
    code = [_step(_LOAD, _ARCHITECTURE), _step(_EQUAL, known.audit, 1, 0), _step(_RETURN, _KILL)]
    code += [_step(_LOAD, _NUMBER), *_refused(_AT_LEAST, _X32, errno.ENOSYS)]
    for name, number in calls.items():
        if name not in (*_BY_ARGUMENT, *_STARTING):
            code += _refused(_EQUAL, number, errno.ENOSYS if name in _ABSENT else errno.EPERM)
    for name in _STARTING if alone else ():
        if name in calls:
            code += _refused(_EQUAL, calls[name], errno.EAGAIN)
    clone = _refused(_ANY_BIT, _NEW_NAMESPACE, errno.EPERM)
    if alone:
        clone += [_step(_ANY_BIT, _CLONE_THREAD, 1, 0), _step(_RETURN, _REFUSE | errno.EAGAIN)]
    code += _checked(calls["clone"], 0, clone)
    code += _checked(calls["fcntl"], 1, _refused(_EQUAL, _F_SETPIPE_SZ, errno.EPERM))
    for name in ("socket", "socketpair"):
        code += _checked(calls[name], 0, _refused(_GREATER, _AF_INET6, errno.EAFNOSUPPORT))
    sizes = [step for size in (_SO_SNDBUF, _SO_RCVBUF) for step in _refused(_EQUAL, size, _IGNORED)]
    code += _checked(calls["setsockopt"], 2, sizes)
    return b"".join([*code, _step(_RETURN, _ALLOW)])


def _step(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; the jumps are the numbers of instructions to leave out."""
    return struct.pack("=HBBI", operation, if_true, if_false, value)


def _refused(test: int, value: int, error: int) -> list[bytes]:
    """Refuse the call when the test of the loaded value holds."""
    return [_step(test, value, 0, 1), _step(_RETURN, _REFUSE | error)]


def _checked(number: int, argument: int, tests: list[bytes]) -> list[bytes]:
    """For one system call, run tests on the lower half of an argument, and allow it after them."""
    body = [_step(_LOAD, _ARGUMENTS + 8 * argument), *tests, _step(_RETURN, _ALLOW)]
    return [_step(_EQUAL, number, 0, len(body)), *body]
