"""Programs that a sandbox must contain: what they are, how they may end, what they then have said."""

# ruff: noqa: E501

from __future__ import annotations

HOSTILE: dict[str, tuple[str, tuple[str, ...], str]] = {
    "fork bomb": ("import os\nwhile True: os.fork()", ("failed", "memory", "timeout"), ""),
    "memory of one process": ("x = bytearray(4 << 30)\nprint('ESCAPED')", ("failed", "memory"), ""),
    "memory of many processes": (
        "import os, time\nfor _ in range(12):\n    if os.fork() == 0:\n        x = bytearray(64 << 20)\n"
        "        for i in range(0, len(x), 4096): x[i] = 1\n        time.sleep(60)\ntime.sleep(60)\nprint('ESCAPED')",
        ("memory",),
        "",
    ),
    "disk fill": (
        "import itertools\nfor i in itertools.count():\n    open(f'f{i}', 'wb').write(b'0' * (4 << 20))",
        ("failed",),
        "No space left",
    ),
    "one large file": ("open('f', 'wb').write(b'0' * (64 << 20))\nprint('ESCAPED')", ("failed",), ""),
    "endless output": ("while True: print('x' * 1000)", ("output",), "xxx"),
    "endless loop": ("while True: pass", ("timeout", "failed"), ""),
    "network call": (
        "import socket\nsocket.create_connection(('127.0.0.1', 22), 2)\nprint('ESCAPED')",
        ("failed",),
        "Error",
    ),
    "network to the world": (
        "import socket\nsocket.create_connection(('1.1.1.1', 80), 2)\nprint('ESCAPED')",
        ("failed",),
        "Network is unreachable",
    ),
    "reading ~/.ssh": (
        "import pathlib\nfor home in ('/root', '/home', pathlib.Path('~').expanduser()):\n"
        "    for file in pathlib.Path(home).glob('**/.ssh/*'):\n        print('ESCAPED', file.read_text())",
        ("ok", "failed"),
        "",
    ),
    "reading the environment": (
        "import os\nprint('ESCAPED' if set(os.environ) - {'HOME', 'PATH', 'PWD', 'OLDPWD', 'LC_CTYPE', 'SHLVL', '_'}"
        " else 'bare')\nprint(open('/proc/1/environ').read())",
        ("ok", "failed"),
        "bare",
    ),
    "killing the parent": (
        "import os, signal\nfor pid in (os.getppid(), 1, -1):\n    try:\n        os.kill(pid, signal.SIGKILL)\n"
        "    except OSError as error:\n        print('refused', error, flush=True)",
        ("ok", "failed"),
        "refused",
    ),
    "symlink escape": (
        "import os\nos.symlink('/etc/passwd', 'p')\nos.symlink('/', 'r')\nos.symlink('/source/../..', 's')\n"
        "print('ESCAPED' if os.path.exists('p') or os.path.exists('r/home') else 'nothing there')",
        ("ok",),
        "nothing there",
    ),
    "writing outside": (
        "for path in ('/usr/x', '/x', '/etc/x', '/proc/sys/kernel/hostname', '/source/x'):\n    try:\n"
        "        open(path, 'w').write('x')\n        print('ESCAPED', path)\n    except OSError as error:\n"
        "        print('refused', error)",
        ("ok",),
        "refused",
    ),
    "leaving a daemon": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(60)\n"
        "    os._exit(0)\nos.wait()\nprint('left')",
        ("ok",),
        "left",
    ),
    "gaining privileges": (
        "import os, socket\nfor change in (lambda: os.chroot('.'), lambda: socket.sethostname('x'), "
        "lambda: os.mknod('d', 0o20666, 259)):\n    try:\n        change()\n        print('ESCAPED')\n"
        "    except OSError as error:\n        print('refused', error)",
        ("ok",),
        "refused",
    ),
}


def as_files(program: str) -> tuple[tuple[str, str], ...]:
    """A program as `sandbox.run` takes it."""
    return (("main.py", program),)
