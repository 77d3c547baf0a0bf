"""Working on a stream: items in, results out in the same order, a bounded window of them at a time.

The iterator is read in a thread of its own: it may wait for a pipe while what is under way goes on.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WINDOW = 256
"""Items under way by default: enough for servers that answer 64 requests at once, also behind a slow one."""


async def in_order(
    items: Iterable[Item],
    work: Callable[[Item], Coroutine[object, object, Result]],
    *,
    window: int = WINDOW,
) -> AsyncGenerator[Result]:
    """Work on the items of an iterator, and yield the results in the order of the items.

    At most `window` items are read and not yet done with; a result is done with when the next is asked for.
    Close the generator (`contextlib.aclosing`) to end what is under way.

    Args:
        items: Read one by one, as there is room in the window.
        work: Called for each item in order; what it returns is run beside the others.
        window: How many items, at least 1.

    Yields:
        The results.

    Raises:
        Exception: What `items` or the work on an item raised, in its place in the order.
    """
    reader = _Reader(items, window)
    tasks = deque[asyncio.Task[Result]]()
    reader.start()
    try:
        while True:
            while reader.items:
                task = asyncio.create_task(work(reader.items.popleft()))
                task.add_done_callback(lambda _: reader.news.set())
                tasks.append(task)
            while tasks and tasks[0].done():
                yield tasks.popleft().result()
                reader.room.release()
            if reader.ended and not tasks and not reader.items:
                break
            await reader.news.wait()
            reader.news.clear()
        if reader.failure is not None:
            raise reader.failure
    finally:
        reader.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Reader(Generic[Item]):
    """Reads an iterator in a thread, an item for each place in the room.

    Attributes:
        items: What was read and not yet taken.
        room: How many more items may be read.
        news: Set when there are items, or no more of them.
        ended: Whether all items were read, or reading failed.
        failure: What reading raised.
    """

    def __init__(self, items: Iterable[Item], window: int) -> None:
        self.items = deque[Item]()
        self.room = threading.Semaphore(window)
        self.news = asyncio.Event()
        self.ended = False
        self.failure: Exception | None = None
        self._source = items
        self._stopped = False
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Start the thread. One that waits for a pipe keeps nobody from ending."""
        threading.Thread(target=self._read, name="input", daemon=True).start()

    def stop(self) -> None:
        """Read nothing more."""
        self._stopped = True
        self.room.release()

    def _read(self) -> None:
        try:
            source = iter(self._source)
            while True:
                self.room.acquire()
                if self._stopped:
                    return
                self.items.append(next(source))
                self._notify()
        except StopIteration:
            pass
        except Exception as error:
            self.failure = error
        self.ended = True
        self._notify()

    def _notify(self) -> None:
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            self._loop.call_soon_threadsafe(self.news.set)
