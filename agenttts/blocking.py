"""Running a coroutine from code that is not one, in a script or under a notebook's event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def run_blocking(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end and return its result.

    In a thread that runs an event loop already, such as a notebook's, the coroutine runs in a thread of its
    own.

    Args:
        work: The coroutine.

    Returns:
        What the coroutine returns.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="agenttts") as pool:
        return pool.submit(asyncio.run, work).result()


def parameters_of(
    function: Callable[Parameters, object],
) -> Callable[[Callable[..., Result]], Callable[Parameters, Result]]:
    """Give a function that passes all of its arguments on to another the parameters of the other.

    `inspect.signature`, type checkers and editors then show them. The name and the docstring of the decorated
    function stay as they are.

    Args:
        function: The function that the arguments are passed on to.

    Returns:
        The decorator.
    """

    def decorate(wrapper: Callable[..., Result]) -> Callable[Parameters, Result]:
        return functools.update_wrapper(wrapper, function, assigned=(), updated=())

    return decorate
