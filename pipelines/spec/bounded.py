"""The sandbox of templates, with limits on what they do and make.

jinja2's sandbox keeps a template from attributes and functions that it must not reach, but lets it loop for
as long as it likes and build values of any size. Here the rounds of loops and calls of macros are counted,
what can make a value larger than its inputs is measured before it runs (`pipelines.spec.sizes`), all that is
made is added up, and the CPU time is looked at in between.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import BuiltinMethodType
from typing import Any, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipelines.spec.sizes import (
    MOST_CHARACTERS,
    at_most,
    measure_filter,
    measure_method,
    measure_operator,
    n_characters,
    n_items,
)

MOST_ROUNDS = 200_000
MOST_SIZE = 10_000_000
MOST_CPU_S = 2.0
_CLOCK_EVERY = 64
_CONTAINERS = (list, tuple, dict)
_Value = TypeVar("_Value")


@dataclass(kw_only=True)
class _Work:
    """What a template has done so far: rounds, size of all its values, operations, when it began."""

    rounds: int = 0
    size: int = 0
    operations: int = 0
    began: float = field(default_factory=time.thread_time)


_WORK: ContextVar[_Work | None] = ContextVar("work of the template", default=None)


@contextmanager
def limited() -> Iterator[None]:
    """Count from zero what a template that is rendered in the block does."""
    token = _WORK.set(_Work())
    try:
        yield
    finally:
        _WORK.reset(token)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """jinja2's immutable sandbox with limits; its templates are rendered in a block of `limited`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, autoescape=False, finalize=_shown)
        del self.globals["lipsum"]
        self.filters = {name: self._measured(name, function) for name, function in self.filters.items()}
        tests: dict[str, Any] = {**self.tests}
        self.tests = {name: _timed(function) for name, function in tests.items()}

    def bounded(self, text: str, name: str) -> jinja2.Template:
        """Compile a template; `name` stands in its tracebacks as the file.

        Raises:
            TemplateSyntaxError: It does not parse, or names a filter or a test that there is not.
        """
        try:
            tree = self.parse(text, name, name)
            _insert_counts(tree)
            tree.set_environment(self)
            code = self.compile(tree, name=name, filename=name)
        except RecursionError:
            raise jinja2.TemplateSyntaxError("its expressions are nested too deeply", 1, name, name) from None
        return jinja2.Template.from_code(self, code, self.make_globals(None))

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join the parts of an output."""
        texts, size = list[str](), 0
        for part in parts:
            texts.append(part)
            size += len(part)
            at_most(size, MOST_CHARACTERS, "characters of text")
        return _counted("".join(texts))

    def count_round(self) -> None:
        """Count a round of a loop or a call of a macro."""
        work = _WORK.get()
        if work is not None:
            work.rounds += 1
            at_most(work.rounds, MOST_ROUNDS, "rounds of loops and calls of macros")
            _look_at_clock(work)

    def tied(self, *values: object) -> str:
        """What `~` does."""
        at_most(sum(map(n_characters, values)), MOST_CHARACTERS, "characters of text")
        return "".join(map(str, values))

    def sliced(self, value: Any, start: Any, stop: Any, step: Any) -> object:
        """What `value[start:stop:step]` does."""
        return value[start:stop:step]

    def literal(self, value: object) -> object:
        """A list, tuple or dict as it is written down."""
        return value

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator that can make large values, within the limits."""
        measure_operator(operator, left, right)
        return _counted(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what a template calls, within the limits."""
        method = getattr(__obj, "__wrapped__", __obj)  # jinja2 wraps str.format
        if isinstance(method, BuiltinMethodType) and isinstance(method.__self__, str | bytes | int):
            measure_method(method.__self__, method.__name__, args, kwargs)
        return _counted(super().call(__context, __obj, *args, **kwargs))

    def _measured(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        first = 1 if hasattr(function, "jinja_pass_arg") else 0  # before it stands what jinja2 passes

        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            if len(args) > first:
                value, *others = args[first:]
                value = measure_filter(self, name, value, others, kwargs)
                args = (*args[:first], value, *others)
            return _counted(function(*args, **kwargs))

        return measured


def _timed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        return _counted(function(*args, **kwargs))

    return timed


def _shown(value: object) -> object:
    """What an expression prints; a container within containers can be far larger as text than in memory."""
    if not isinstance(value, str | int | float):
        at_most(n_characters(value), MOST_CHARACTERS, "characters of text")
    return value


def _counted(value: _Value) -> _Value:
    """Count what an operation has made."""
    work = _WORK.get()
    if work is not None:
        if isinstance(value, str | bytes):
            work.size += len(value)
        elif isinstance(value, _CONTAINERS):
            work.size += n_items(value, MOST_SIZE)
        at_most(work.size, MOST_SIZE, "characters and items in all its operations")
        _look_at_clock(work)
    return value


def _look_at_clock(work: _Work) -> None:
    work.operations += 1
    if work.operations % _CLOCK_EVERY == 0:
        at_most(time.thread_time() - work.began, MOST_CPU_S, "seconds of CPU time")


def _insert_counts(node: nodes.Node) -> None:
    """Put the methods of the environment into a tree, where jinja2 would not ask it."""
    for name, children in node.iter_fields():
        if isinstance(children, list):
            for child in children:
                if isinstance(child, nodes.Node):
                    _insert_counts(child)
            children[:] = map(_through_environment, children)
        elif isinstance(children, nodes.Node):
            _insert_counts(children)
            setattr(node, name, _through_environment(children))
    if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block):
        node.body.insert(0, nodes.ExprStmt(_call("count_round", [], node.lineno), lineno=node.lineno))


def _through_environment(node: Any) -> Any:
    """The call that stands in for an expression; the node itself for all others."""
    if isinstance(node, nodes.Concat):
        return _call("tied", node.nodes, node.lineno)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        ends = [end or nodes.Const(None) for end in (node.arg.start, node.arg.stop, node.arg.step)]
        return _call("sliced", [node.node, *ends], node.lineno)
    is_literal = isinstance(node, nodes.List | nodes.Dict) or (
        isinstance(node, nodes.Tuple) and node.ctx == "load"
    )
    return _call("literal", [node], node.lineno) if is_literal else node


def _call(method: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    function = nodes.EnvironmentAttribute(method, lineno=line)
    return nodes.Call(function, arguments, [], None, None, lineno=line)
