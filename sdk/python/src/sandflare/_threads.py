"""Blocking work beside the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

T = TypeVar("T")


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
