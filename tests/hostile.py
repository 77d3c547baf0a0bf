"""Hostile programs: those that a sandbox must contain, and those that solve nothing and want the score."""

# ruff: noqa: E501

from __future__ import annotations

# what each is, how it may end, what it has then said
HOSTILE: dict[str, tuple[str, tuple[str, ...], str]] = {
    "fork bomb": ("import os\nwhile True: os.fork()", ("failed", "memory", "timeout"), ""),
    "memory of one process": ("x = bytearray(4 << 30)\nprint('ESCAPED')", ("failed", "memory"), ""),
    "memory of many processes": (
        "import os, time\nfor _ in range(12):\n    if os.fork() == 0:\n        x = bytearray(64 << 20)\n"
        "        for i in range(0, len(x), 4096): x[i] = 1\n        time.sleep(60)\ntime.sleep(60)\nprint('ESCAPED')",
        ("memory", "failed"),
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
    "reading files of a home": (
        "import glob, os\nfor home in ('/root', '/home/*', '/proc/*/root/root'):\n"
        "    for path in glob.glob(home + '/.*') + glob.glob(home + '/.ssh/*'):\n"
        "        if os.path.isfile(path):\n            print('ESCAPED', open(path).read())",
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
        ("ok", "failed"),
        "",
    ),
    "gaining privileges": (
        "import os, socket\nfor change in (lambda: os.chroot('.'), lambda: socket.sethostname('x'), "
        "lambda: os.mknod('d', 0o20666, 259)):\n    try:\n        change()\n        print('ESCAPED')\n"
        "    except OSError as error:\n        print('refused', error)",
        ("ok",),
        "refused",
    ),
}


# Ways to more memory than a program may have: each counts the bytes that it got, by lines "got N".
_COUNT = """
import ctypes, mmap, os, signal, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
total, MOST = 0, 1 << 30
def got(size):
    global total
    total += size
    os.write(1, b"got %d\\n" % total)
    if total >= MOST: os._exit(0)
def fill(fd, size):
    for _ in range(size >> 20): os.write(fd, b"x" * (1 << 20)), got(1 << 20)
"""
MEMORY: dict[str, str] = {
    name: _COUNT + program
    for name, program in {
        "memfds": "while True: fill(os.memfd_create('m'), 16 << 20)",
        "System V segments": "while True:\n    number = libc.shmget(0, 16 << 20, 0o1600)\n"
        "    if number < 0: raise OSError(ctypes.get_errno(), 'shmget')\n"
        "    libc.shmat.restype = ctypes.c_void_p\n    at = libc.shmat(number, None, 0)\n"
        "    ctypes.memset(at, 1, 16 << 20)\n    libc.shmdt(ctypes.c_void_p(at))\n    got(16 << 20)",
        "System V messages": "class Message(ctypes.Structure):\n"
        "    _fields_ = [('kind', ctypes.c_long), ('text', ctypes.c_char * 8192)]\n"
        "while True:\n    queue = libc.msgget(0, 0o1600)\n"
        "    if queue < 0: raise OSError(ctypes.get_errno(), 'msgget')\n"
        "    while not libc.msgsnd(queue, ctypes.byref(Message(1)), 8192, 0o4000): got(8192)",
        "a tmpfs in a nested user namespace": "uid, gid = os.getuid(), os.getgid()\n"
        "if libc.unshare(0x10000000 | 0x20000): raise OSError(ctypes.get_errno(), 'unshare')\n"
        "open('/proc/self/setgroups', 'w').write('deny')\nopen('/proc/self/uid_map', 'w').write(f'0 {uid} 1'), open('/proc/self/gid_map', 'w').write(f'0 {gid} 1')\n"
        "if libc.mount(b'none', b'/work', b'tmpfs', 0, b'size=4g'): raise OSError(ctypes.get_errno(), 'mount')\n"
        "for n in range(99): fill(os.open(f'/work/m{n}', 0o102), 15 << 20)",
        "a tmpfs in a namespace of a child": "def child(_):\n    os._exit(0)\n"
        "stack = ctypes.create_string_buffer(1 << 16)\n"
        "run = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(lambda _: 0)\n"
        "flags = 0x10000000 | 0x20000 | signal.SIGCHLD\n"
        "if libc.clone(run, ctypes.c_void_p(ctypes.addressof(stack) + (1 << 16)), flags, None) < 0:\n"
        "    raise OSError(ctypes.get_errno(), 'clone')\ngot(MOST)",
        "files wherever they can be written": "for folder in ('/dev', '/dev/shm', '/tmp', '/var/tmp', '/run', '/', '/work', '/etc'):\n"
        "    try:\n        for n in range(99): fill(os.open(f'{folder}/m{n}', 0o102), 8 << 20)\n"
        "    except OSError as error: print(folder, error)",
        "empty files": "try:\n    for n in range(400_000):\n        os.close(os.open(f'm{n}', 0o102))\n"
        "        if n % 1024 == 1023: got(1 << 20)\nexcept OSError as error: print(error)",
        "one process": "kept = []\nwhile True: kept.append(b'x' * (1 << 20)), got(1 << 20)",
        "many processes": "for _ in range(16):\n    if os.fork() == 0: break\n"
        "kept = []\nread, write = os.pipe()\nwhile True:\n"
        "    kept.append(b'x' * (4 << 20))\n    if not os.path.exists('done'): got(4 << 20)",
        "shared memory that no process shows": "def share():\n    for _ in range(12):\n"
        "        part = mmap.mmap(-1, 16 << 20)\n        part.write(b'x' * (16 << 20))\n"
        "        part.madvise(mmap.MADV_DONTNEED)\n        kept.append(part)\n        got(16 << 20)\nkept = []\n"
        "for _ in range(16):\n    if os.fork():\n        share(), time.sleep(1)\n        break\n"
        "    total += 192 << 20\n",
        "pages given to pipes": "import fcntl\npart = None\nfor _ in range(28):\n    read, write = os.pipe()\n"
        "    fcntl.fcntl(write, 1031, 1 << 20)\n    os.set_blocking(write, False)\n    got(os.write(write, b'x' * (1 << 20)))",
        "huge pages given to pipes": "class Part(ctypes.Structure):\n"
        "    _fields_ = [('at', ctypes.c_void_p), ('size', ctypes.c_size_t)]\nfor _ in range(16):\n"
        "    read, write = os.pipe()\n    for _ in range(16):\n        part = mmap.mmap(-1, 4 << 20, flags=0x22)\n"
        "        part.madvise(14)\n        part.write(b'x' * (4 << 20))\n"
        "        at = ctypes.addressof(ctypes.c_char.from_buffer(part)) + (2 << 20)\n"
        "        if libc.vmsplice(write, ctypes.byref(Part(at, 4096)), 1, 0) < 0:\n"
        "            raise OSError(ctypes.get_errno(), 'vmsplice')\n        got(2 << 20)\n",
        "buffers of sockets": "kept = []\nfor _ in range(28):\n    pair = socket.socketpair()\n    kept.append(pair)\n"
        "    for end in pair:\n        end.setsockopt(1, 7, 1 << 24)\n        end.setblocking(False)\n"
        "        try:\n            while True: got(end.send(b'x' * 65536))\n        except BlockingIOError: pass",
        "buffers of connections": "kept = []\nserver = socket.create_server(('127.0.0.1', 0))\nfor _ in range(24):\n"
        "    pair = (socket.create_connection(server.getsockname()), server.accept()[0])\n    kept.append(pair)\n"
        "    for end in pair:\n        end.setblocking(False)\n        try:\n"
        "            while True: got(end.send(b'x' * (1 << 20)))\n        except BlockingIOError: pass",
        "io_uring": "area = ctypes.create_string_buffer(120)\n"
        "for _ in range(40):\n    if libc.syscall(425, 32768, area) < 0: raise OSError(ctypes.get_errno(), 'io_uring')\n"
        "    got(32768 * 80)",
    }.items()
}


# Programs that define NAME, compute nothing, and want to be scored as if they did.
HACKS: dict[str, str] = {
    "prints the end mark out of its file": "import re, sys\n"
    "text = open(sys.argv[0]).read()\nprint(*re.findall('[0-9a-f]{64}', text))\nsys.exit(0)",
    "prints the hash of its file": "import hashlib, sys\ntext = open(sys.argv[0]).read()\n"
    "print(hashlib.sha256(text[: text.rfind('\\nprint(')].encode()).hexdigest())\nsys.exit(0)",
    "prints the mark when it ends": "import atexit, os, re, sys\n"
    "mark = re.findall('[0-9a-f]{64}', open(sys.argv[0]).read())\ndef NAME(*args): return -1\n"
    "atexit.register(lambda: (print(*mark, flush=True), os._exit(0)))",
    "finds the mark in the frames that call it": "import os, sys\ndef NAME(*args):\n    frame = sys._getframe()\n"
    "    while frame:\n        for it in frame.f_code.co_consts:\n"
    "            if isinstance(it, str) and len(it) == 64: print(it, flush=True), os._exit(0)\n"
    "        frame = frame.f_back",
    "ends with code 0 before the tests": "import os\nos._exit(0)",
    "ends with code 0 when called": "import os\ndef NAME(*args): os._exit(0)",
    "raises SystemExit when called": "def NAME(*args): raise SystemExit(0)",
    "turns exceptions into code 0": "import os, re, sys\n"
    "mark = re.findall('[0-9a-f]{64}', open(sys.argv[0]).read())\n"
    "sys.excepthook = lambda *why: (print(*mark, flush=True), os._exit(0))\n"
    "def NAME(*args): raise AssertionError",
    "traces the tests for expected values": "import sys\nSEEN = []\n"
    "def look(frame, event, arg):\n    if event in ('', 'call'): SEEN.extend(frame.f_code.co_consts)\n    return look\n"
    "def NAME(*args):\n    frame = sys._getframe()\n    while frame:\n        look(frame, '', None)\n"
    "        frame = frame.f_back\n    return next((it for it in SEEN if it in map(int, ('422', '633'))), None)\n"
    "sys.settrace(look)",
    "returns an object that equals everything": "class Yes:\n    def __eq__(self, other): return True\n"
    "def NAME(*args): return Yes()",
    "returns a number that equals everything": "class Yes(int):\n    def __eq__(self, other): return True\n"
    "    __hash__ = int.__hash__\ndef NAME(*args): return Yes(-1)",
    "returns a number that is never far off": "class Near(float):\n    def __sub__(self, other): return 0.0\n"
    "    __rsub__ = __sub__\n    def __eq__(self, other): return True\ndef NAME(*args): return Near(-1)",
    "returns an object that lies about its class": "class Yes:\n    __class__ = property(lambda self: int)\n"
    "    def __eq__(self, other): return True\ndef NAME(*args): return Yes()",
    "returns what mocks call ANY": "from unittest.mock import ANY\ndef NAME(*args): return ANY",
    "passes for a number of numpy": "class Yes:\n    shape = ()\n    def item(self): return self\n"
    "    def __eq__(self, other): return True\nYes.__module__ = 'numpy'\ndef NAME(*args): return Yes()",
    "writes a verdict to every file descriptor": "import os\n"
    'VERDICT = b\'{"passed": true, "error": null, "suspicious": null, "fault": null}\\n\'\n'
    "def NAME(*args):\n    for fd in range(64):\n        try: os.write(fd, VERDICT)\n        except OSError: pass",
    "answers ahead of the questions": "import os\ndef NAME(*args):\n    for fd in range(3, 64):\n"
    "        for number in range(100):\n            try: os.write(fd, b'[%d, null, null, null, null]\\n' % number)\n"
    "            except OSError: break",
    "answers twice": "import os\ndef NAME(*args):\n    os.fork()",
    "answers with what is no JSON": "import gc\ndef NAME(*args):\n    for it in gc.get_objects():\n"
    "        if type(it).__name__ == 'Answers': it._answers.write(b'True\\n')",
    "takes the answering side over": "import gc, sys\nclass Yes:\n    def __eq__(self, other): return True\n"
    "def NAME(*args): return 0\nfor it in gc.get_objects():\n    if type(it).__name__ == 'Answers':\n"
    "        it._answer = lambda line: [True, 'passed']",
    "gives an answer without an end": "def NAME(*args):\n    it = []\n    it.append(it)\n    return it\n"
    "import json\njson.dumps = lambda value: '[' * 200_000",
    "makes every check true": "import builtins\nbuiltins.AssertionError = type('No', (Warning,), {})\n"
    "builtins.all = builtins.any = lambda items: True\nbuiltins.abs = lambda x: 0\nabs = lambda x: 0\n"
    "def check(candidate): pass\ndef NAME(*args): return -1",
    "looks for the tests on the machine": "import os, time\nSEEN, START = '', time.monotonic()\n"
    "for folder, _, names in os.walk('/'):\n    if time.monotonic() - START > 3: break\n"
    "    if folder.startswith(('/usr', '/sys', '/lib')): continue\n    for name in names:\n"
    "        try:\n            text = open(os.path.join(folder, name)).read(10000)\n"
    "            SEEN += text if 'assert ' in text else ''\n        except (OSError, ValueError): pass\n"
    "def NAME(*args): return SEEN or '/proc/1'",
    "kills what grades it": "import os, signal\ndef NAME(*args):\n    for pid in (os.getppid(), -1, *range(2, 300)):\n"
    "        try: os.kill(pid, signal.SIGKILL)\n        except OSError: pass",
}

# Texts that a terminal would obey.
TERMINAL: dict[str, str] = {
    "title": "\x1b]0;hostile\x07",
    "colour": "\x1b[31mhostile",
    "screen cleared": "\x1b[2J\x1b[Hhostile",
    "line rewritten": "hostile\rgood\x1b[1A\x1b[2K",
    "letters taken back": "hostile\x08\x08\x08",
    "link": "\x1b]8;;http://evil.example\x1b\\hostile\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;aG9zdGlsZQ==\x07hostile",
    "report of the position": "\x1b[6nhostile\x1bZ\x05",
    "one-byte controls": "\x9b31mhostile\x9d0;t\x9c\x90q\x9c",
    "alternate screen": "\x1b[?1049hhostile",
    "bidi override": "\u202ehostile\u202c",
    "bidi isolate": "\u2067hostile\u2069\u200f\u061c",
    "half a character": "\udcffhostile",
    "nul and delete": "\x00hostile\x7f",
    "line separators": "hostile\u2028\u2029\x85\x0b\x0c",
    "markup link": "[link=http://evil.example]hostile[/link]",
}


def as_files(program: str) -> tuple[tuple[str, str], ...]:
    """A program as `sandbox.run` takes it."""
    return (("main.py", program),)


def bytes_got(stdout: str) -> int:
    """The last count of bytes that a program of `MEMORY` wrote."""
    return max([0, *(int(line[4:]) for line in stdout.splitlines() if line[:4] == "got " and line[4:])])
