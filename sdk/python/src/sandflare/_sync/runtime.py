"""How the synchronous half waits, and works beside its caller. The other half has its own."""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from sandflare import _operations as operations
from sandflare._http import SILENCE_S_MAX
from sandflare._input import NOBODY_READS, Input, pieces
from sandflare.errors import SandflareError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sandflare._settings import Settings
    from sandflare._sync.transport import Transport

T = TypeVar("T")

_bound: dict[tuple[int, Settings], Any] = {}
_binding = threading.Lock()


def bound(settings: Settings, make: Callable[[], T]) -> T:
    """The client for these settings; one for each in a process."""
    with _binding:
        # A process that was forked must not share connections with its parent.
        key = (os.getpid(), settings)
        if key not in _bound:
            _bound[key] = make()
        client: T = _bound[key]
        return client


@atexit.register
def unbind() -> None:
    """Close the connections of this process."""
    for (process, _), client in _bound.items():
        if process == os.getpid():
            client.close()


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


def in_thread(work: Callable[[], T]) -> T:
    """Do work that may block: here, whoever asks for it waits anyway."""
    return work()


def waited(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Make what is yielded into what can be waited for: here, it is."""
    return pieces


def body(content: bytes | Iterable[bytes] | None) -> bytes | Iterable[bytes] | None:
    """Make the body of a request what this half sends."""
    return content


def feed(
    transport: Transport,
    sandbox: str,
    process: int,
    source: Input,
    request_timeout: float | None = None,
) -> Callable[[], None]:
    """Send a command its input beside reading its output, which could fill up otherwise.

    Returns what to call at the command's end: it stops the sending and raises what went wrong.
    """
    over = threading.Event()
    wrong: list[BaseException] = []

    def send(data: bytes, close: bool) -> None:
        try:
            ask = operations.process_stdin(sandbox, process, data, close)
            transport.ask(ask, request_timeout)
        except NOBODY_READS:
            over.set()

    def work() -> None:
        try:
            for piece in pieces(source):
                if over.is_set():
                    return
                send(piece, False)
        except BaseException as error:  # noqa: BLE001 -- raised where the command is waited for
            wrong.append(error)
        # Also when the source failed: the command must not wait for what never comes.
        if not over.is_set():
            try:
                send(b"", True)
            except SandflareError as error:
                wrong.append(error)

    thread = threading.Thread(target=work, name=f"sandflare-stdin-{process}", daemon=True)
    thread.start()

    def finish() -> None:
        # What goes wrong after the end goes wrong because of it.
        before = wrong[:1]
        over.set()
        thread.join(timeout=SILENCE_S_MAX)
        if before:
            raise before[0]

    return finish
