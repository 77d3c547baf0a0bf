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
    "def look(frame, event, arg):\n    SEEN.extend(frame.f_code.co_consts)\n    return look\n"
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
    "looks for the tests on the machine": "import os\nSEEN = ''\nfor folder, _, names in os.walk('/'):\n"
    "    if folder.startswith(('/usr', '/sys', '/lib')): continue\n    for name in names:\n"
    "        try:\n            text = open(os.path.join(folder, name)).read(10000)\n"
    "            SEEN += text if 'assert ' in text else ''\n        except (OSError, ValueError): pass\n"
    "def NAME(*args): return SEEN or '/proc/1'",
    "kills what grades it": "import os, signal\ndef NAME(*args):\n    for pid in (os.getppid(), -1, *range(2, 300)):\n"
    "        try: os.kill(pid, signal.SIGKILL)\n        except OSError: pass",
}


def as_files(program: str) -> tuple[tuple[str, str], ...]:
    """A program as `sandbox.run` takes it."""
    return (("main.py", program),)
