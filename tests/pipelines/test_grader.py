"""The grader: a program is graded by values alone, honest ones as the official check grades them."""

# ruff: noqa: E501

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import Candidate, Example
from pipelines.software import rows, scoring
from pipelines.software.confinement import UNSANDBOXED
from pipelines.software.grader import Checks, FaultyTests, grade
from pipelines.software.grading.values import NotPlain, Packer, Unpacker, updated
from tests.hostile import HACKS

pytestmark = pytest.mark.usefixtures("sandboxed")
HUMANEVAL = Example(
    "made/1",
    rows.humaneval(
        {
            "task_id": "made/1",
            "prompt": 'def double(n):\n    """Twice n.\n\n    >>> double(211)\n    422\n    """\n',
            "entry_point": "double",
            "test": "def check(candidate):\n    assert candidate(211) == 422\n    assert candidate(0) == 0\n",
        }
    ),
)
MBPP = Example(
    "7",
    rows.mbpp(
        {
            "task_id": 7,
            "text": "Write add.",
            "test_list": ["assert add(211, 422) == 633", "assert add(0, 0) == 0"],
        }
    ),
)


@pytest.mark.parametrize("hack", HACKS)
@pytest.mark.parametrize(
    ("example", "name"), [(HUMANEVAL, "double"), (MBPP, "add")], ids=["humaneval", "mbpp"]
)
def test_a_program_that_solves_nothing_scores_0_and_is_reported(
    hack: str, example: Example, name: str
) -> None:
    """Whatever it does to its own process; neither the hidden tests nor the shown ones pass."""
    program = HACKS[hack].replace("NAME", name)
    assert scoring.passes(program, example) == 0.0
    assert scoring.suspicious(program, example) == 1.0
    assert scoring.shown_score(Candidate(0, "", program), example, {}) == 0.0


# program and tests, by what they show
HONEST: dict[str, tuple[str, str]] = {
    "floats within a tolerance": (
        "def f(x): return x / 3",
        "import math\nassert abs(f(1) - 0.333) < 1e-3 and math.isclose(f(2), 2 / 3)",
    ),
    "not a number, infinite, negative zero": (
        "def f(): return [float('nan'), float('inf'), -0.0]",
        "nan, inf, zero = f()\nassert nan != nan and inf == float('inf') and str(zero) == '-0.0'",
    ),
    "an exception by its class and message": (
        "def f(x):\n    if x < 0: raise ValueError(f'{x} is negative')\n    return {}[x]",
        "for x, kind, text in ((-1, ValueError, '-1 is negative'), (1, KeyError, '1')):\n"
        "    try:\n        f(x)\n    except kind as error:\n        assert str(error) == text\n"
        "    else:\n        assert False",
    ),
    "an exception of a class of its own": (
        "class Odd(ArithmeticError): pass\ndef f(x): raise Odd(x)",
        "try:\n    f(3)\n    assert False\nexcept ArithmeticError as error:\n    assert error.args == (3,)",
    ),
    "every plain type": (
        "def f(x): return x",
        "for x in (None, True, 1, 2 ** 20000, 1.5, 2j, 'é\\udc80', b'\\0', (1, [2]), {1},\n"
        "          frozenset({(1,)}), {(1, 2): {'a': None}}, range(1, 9, 2), bytearray(b'x'), int):\n"
        "    assert f(x) == x and type(f(x)) is type(x)",
    ),
    "types of the standard library": (
        "from collections import *\nfrom decimal import Decimal\nfrom fractions import Fraction\nimport datetime\n"
        "def f(): return [Counter('aab'), OrderedDict(a=1), deque([1, 2]), defaultdict(int, a=1), Decimal('1.1'),\n"
        "    Fraction(1, 3), datetime.date(2026, 1, 2), datetime.timedelta(1), namedtuple('P', 'x y')(1, 2)]",
        "from decimal import Decimal\nfrom fractions import Fraction\nimport datetime, collections\n"
        "assert f() == [{'a': 2, 'b': 1}, {'a': 1}, collections.deque([1, 2]), {'a': 1}, Decimal('1.1'),\n"
        "    Fraction(1, 3), datetime.date(2026, 1, 2), datetime.timedelta(1), (1, 2)]\n"
        "assert f()[0].most_common(1) == [('a', 2)]",
    ),
    "views of a dictionary": (
        "def f(x): return [x.keys(), x.values(), x.items()]",
        "keys, values, items = f({'a': 1})\n"
        "assert keys == {'a'} and list(values) == [1] and items == {('a', 1)} and keys != ['a']",
    ),
    "members of an enumeration": (
        "import enum\nclass Size(enum.IntEnum):\n    S = 1\ndef f(): return Size.S",
        "assert f() == 1",
    ),
    "a generator": (
        "import itertools\ndef f(n):\n    for i in itertools.count(n): yield i * i",
        "import itertools\nit = f(2)\nassert next(it) == 4 and next(it) == 9\n"
        "assert list(itertools.islice(f(0), 500))[-1] == 499 ** 2",
    ),
    "what maps and zips": (
        "def f(x): return zip(map(str, x), x)",
        "assert list(f([1, 2])) == [('1', 1), ('2', 2)] and dict(f(range(900)))['899'] == 899",
    ),
    "arguments that it changes": (
        "def f(a, *, b):\n    a.sort(); a[0].append(9); b['x'] = {1}; b.pop('y')",
        "inner = [1]\na, b = [[5], inner], {'y': 0}\nassert f(a, b=b) is None\n"
        "assert a == [[1, 9], [5]] and b == {'x': {1}}",
    ),
    "arguments that are consumed": ("def f(x): return sum(x)", "assert f(n for n in (1, 2, 3)) == 6"),
    "a function that it returns": (
        "def f(n): return lambda k=1: n + k",
        "assert f(1)(2) == 3 and f(1)(k=5) == 6 and callable(f(1))",
    ),
    "objects of its own class": (
        "class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\n"
        "    def __str__(self): return f'<{self.a}>'\n    def total(self): return self.a + self.b\n"
        "def f(pairs): return sum(p.a for p in pairs)",
        "pair = Pair(1, b=2)\nassert f([pair, Pair(5, 6)]) == 6 and pair.b == 2 and pair.total() == 3\n"
        "assert str(pair) == '<1>'",
    ),
    "a tree that the tests build": (
        "class Node:\n    def __init__(self, v): self.v, self.left, self.right = v, None, None\n"
        "def f(node): return 0 if node is None else 1 + max(f(node.left), f(node.right))\nleaf = Node(9)",
        "root = Node(1)\nroot.left = Node(2)\nroot.left.right = Node(3)\n"
        "assert f(root) == 3 and f(leaf) == 1 and root.right is None",
    ),
    "a global value that it changes": (
        "seen = []\ndef f(x):\n    global last\n    last = x\n    seen.append(x)",
        "assert seen == []\nf(1)\nassert seen == [1] and last == 1\nf(2)\nassert seen == [1, 2] and last == 2",
    ),
    "an object that is only true": (
        "import re\ndef f(x): return re.match('a(b)', x)",
        "assert f('ab') and not f('ba') and f('ab').group(1) == 'b'",
    ),
    "a module that only the program imports": (
        "import sys\ndef f(x): return sys.getsizeof(x)",
        "assert f((1, 2)) == sys.getsizeof((1, 2))",
    ),
    "a built-in function's name": ("def sum(a, b): return a * b", "assert sum(10, 15) == 150"),
    "built-in functions beside its own": (
        "def f(x): return [x, x]\nset = list",
        "assert set(f(1)) == {1} and len(f(1)) == 2",
    ),
    "much that it prints": (
        "def f(x):\n    print('x' * 999)\n    return x",
        "assert [f(n) for n in range(9)][8] == 8",
    ),
    "a part for when it is run by itself": (
        "def f(x): return x\nif __name__ == '__main__':\n    print(f(1), f.__module__)\n    g = f",
        "assert g(2) == 2",
    ),
    "annotations that are never evaluated": (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: Absent\n"
        "def f(x: Absent) -> Missing: return P(x).x",
        "assert f(1) == 1",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(name: str) -> None:
    """What official tests do with a solution works across the two processes."""
    program, tests = HONEST[name]
    verdict = grade(program, Checks(tests=tests))
    assert verdict.passed, verdict.error
    assert verdict.suspicious is None


@pytest.mark.parametrize(
    ("program", "tests", "words"),
    [
        ("def f(): return [1]", "assert f() == (1,)", "assert f() == (1,)"),
        ("def f(): return '1'", "assert f() == 1", "AssertionError"),
        ("def f(): return iter([1])", "assert f() == [1]", "a plain value is needed"),
        ("def f(x):\n    return x.y", "f(1)", "return x.y\n           ^^^\nAttributeError: 'int' object"),
        ("x = ", "assert True", "SyntaxError"),
        ("", "assert f(1) == 1", "NameError: name 'f' is not defined"),
        ("def f(x): return x", "import sys\nassert f(1) == 1\nsys.exit(0)", "SystemExit"),
        ("def f(n): return f(n + 1)", "f(0)", "RecursionError"),
        ("def f(): return bytearray(1 << 40)", "f()", "MemoryError"),
    ],
)
def test_what_fails_is_told(program: str, tests: str, words: str) -> None:
    """The error holds the test that failed and the traceback through the program; none is suspicious."""
    verdict = grade(program, Checks(tests=tests))
    assert not verdict.passed
    assert verdict.error is not None and words in verdict.error
    assert verdict.suspicious is None
    assert "/grading/" not in verdict.error and len(verdict.error) <= 1500


def test_without_a_sandbox_programs_are_graded_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The explicit switch takes the walls away and leaves the two processes."""
    monkeypatch.setenv(UNSANDBOXED, "1")
    grade.cache_clear()
    checks = Checks(tests="assert f(3) == 6")
    assert grade("def f(x): return 2 * x", checks).passed
    assert grade("import os\nos._exit(0)", checks).suspicious == "it ended before its tests did"
    grade.cache_clear()


def test_helpers_of_the_task_are_the_graders_own() -> None:
    """A program that redefines what the tests use of the task's own code changes nothing."""
    checks = Checks(
        entry_point="root",
        preamble="def value(x):\n    return x * x - 4\n",
        tests="def check(candidate):\n    assert abs(value(candidate())) < 1e-9\ncheck(root)",
    )
    assert grade("def root(): return 2.0 if value(1) == -3 else None", checks).passed
    assert not grade("def value(x): return 0\ndef root(): return 7.0", checks).passed


@pytest.mark.parametrize(
    ("tests", "words"),
    [
        ("assert f(", "not Python"),
        ("import os\nos._exit(0)", "ended the grader"),
        ("f(lambda: 1)", "object of <class 'function'>"),
        ("x = []\nx.append(x)\nf(x)", "contains itself"),
    ],
)
def test_tests_that_can_not_be_run_are_a_fault(tests: str, words: str) -> None:
    """They say nothing about a program, so there is no score, not a score of 0."""
    with pytest.raises(FaultyTests, match=words.replace("(", r"\(")):
        grade("def f(x): return x", Checks(tests=tests))


ATOMS = (
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats() | st.complex_numbers()
)
PLAIN = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.tuples(st.integers()), inner)
    ),
    max_leaves=8,
)


def refused(value: object) -> None:
    raise AssertionError(f"{value!r} is plain")


@settings(deadline=None)
@given(PLAIN)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    """Value and exact type, through JSON."""
    packed = json.dumps(Packer(refused).pack(value))
    back = json.loads(packed, object_hook=Unpacker(refused).unpack)
    assert repr(back) == repr(value)


@settings(deadline=None)
@given(st.lists(PLAIN), st.lists(PLAIN))
def test_a_container_becomes_another_in_place(old: list[object], new: list[object]) -> None:
    """It stays the same object, and holds what the other one holds."""
    expected = repr(new)
    assert updated(old, new) is old and repr(old) == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "eval"}',
        '{"os.system": ["true"]}',
        '{"set": [[1]]}',
        '{"tuple": [], "list": []}',
        '{"int": "x"}',
        "{}",
    ],
)
def test_what_is_no_plain_value_is_refused(text: str) -> None:
    """No JSON makes anything but a plain value, and nothing else is imported or called."""
    with pytest.raises(NotPlain):
        json.loads(text, object_hook=Unpacker(refused).unpack)
