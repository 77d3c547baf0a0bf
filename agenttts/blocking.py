"""Running a coroutine from code that is not one, in a script or under a notebook's event loop."""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Any, ParamSpec, TypeVar, cast

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


def iterate_blocking(coming: AsyncGenerator[Result]) -> Iterator[Result]:
    """Iterate over an asynchronous generator, which goes on in a thread of its own between two items.

    Args:
        coming: The generator; it is closed when the iterator is, or at its end.

    Yields:
        What the generator yields, of which one item is kept ready.
    """
    ready = queue.Queue[tuple[Result | None, BaseException | None]](1)
    closed = threading.Event()
    stops = list[Callable[[], object]]()

    def hand_over(item: Result | None, error: BaseException | None) -> None:
        while not closed.is_set():
            with suppress(queue.Full):
                ready.put((item, error), timeout=0.1)
                return

    async def work() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        stops.append(lambda: loop.call_soon_threadsafe(task.cancel))
        async with aclosing(coming):
            async for item in coming:
                await asyncio.to_thread(hand_over, item, None)
                if closed.is_set():
                    return

    def run() -> None:
        try:
            asyncio.run(work())
            hand_over(None, StopIteration())
        except BaseException as error:
            hand_over(None, error)

    thread = threading.Thread(target=run, name="agenttts")
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield cast(Result, item)
    finally:
        closed.set()
        for stop in stops:
            with suppress(RuntimeError):  # it has ended
                stop()
        thread.join()


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
