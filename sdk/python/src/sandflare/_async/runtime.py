"""How the asynchronous half waits, and works beside its caller. The other half has its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from sandflare import _operations as operations
from sandflare._input import NOBODY_READS, Input, pieces

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

    from sandflare._async.transport import AsyncTransport
    from sandflare._settings import Settings

T = TypeVar("T")

_bound: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Settings, Any]] = WeakKeyDictionary()


def bound(settings: Settings, make: Callable[[], T]) -> T:
    """The client for these settings; one for each in an event loop, which owns its connections."""
    clients = _bound.setdefault(asyncio.get_running_loop(), {})
    if settings not in clients:
        clients[settings] = make()
    client: T = clients[settings]
    return client


async def sleep(seconds: float) -> None:
    """Wait."""
    await asyncio.sleep(seconds)


async def in_thread(work: Callable[[], T]) -> T:
    """Do work that may block, such as reading a file, in a thread."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


def waited(pieces: AsyncGenerator[bytes, None]) -> Iterator[bytes]:
    """Make what a loop yields into what one of its threads can wait for.

    To be called in the loop, and iterated over in :func:`in_thread`.
    """
    loop = asyncio.get_running_loop()

    async def step() -> bytes | None:
        async for piece in pieces:
            return piece
        return None

    def iterate() -> Iterator[bytes]:
        while (piece := asyncio.run_coroutine_threadsafe(step(), loop).result()) is not None:
            yield piece

    return iterate()


async def in_pieces(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Read pieces that may block, such as those of a file, beside the event loop."""
    iterator: Iterator[bytes] = iter(pieces)
    step: Callable[[], bytes | None] = lambda: next(iterator, None)  # noqa: E731
    while (piece := await in_thread(step)) is not None:
        yield piece


def body(content: bytes | Iterable[bytes] | None) -> bytes | AsyncIterator[bytes] | None:
    """Make the body of a request what this half sends."""
    return content if content is None or isinstance(content, bytes) else in_pieces(content)


def feed(
    transport: AsyncTransport,
    sandbox: str,
    process: int,
    source: Input,
    request_timeout: float | None = None,
) -> Callable[[], Awaitable[None]]:
    """Send a command its input beside reading its output, which could fill up otherwise.

    Returns what to call at the command's end: it stops the sending and raises what went wrong.
    """

    async def send(data: bytes, close: bool) -> bool:
        try:
            ask = operations.process_stdin(sandbox, process, data, close)
            await transport.ask(ask, request_timeout)
        except NOBODY_READS:
            return False
        return True

    async def work() -> None:
        reads = True
        try:
            async for piece in in_pieces(pieces(source)):
                reads = await send(piece, False)
                if not reads:
                    return
        finally:
            # Also when the source failed: the command must not wait for what never comes.
            if reads:
                await send(b"", True)

    task = asyncio.ensure_future(work())

    async def finish() -> None:
        if task.done():
            task.result()
            return
        # What goes wrong after the end goes wrong because of it.
        task.cancel()
        await asyncio.wait([task])

    return finish
