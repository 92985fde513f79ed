# Written by generate_sync.py: change the file of this name in `_async`.
"""Processes in a sandbox: what they print, what they are given, how they end."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from sandflare import _decode
from sandflare import _operations as operations
from sandflare._input import pieces
from sandflare._retry import RETRIES, Again, pause
from sandflare._sync import runtime
from sandflare.errors import Conflict, ConnectionBroken, RequestTimeout, SandflareError, WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import httpx

    from sandflare._ask import Ask
    from sandflare._operations import Signal
    from sandflare._sync.transport import Transport
    from sandflare.models import Event, ProcessInfo, Result


class Events:
    """What happens to a process, as it happens. Iterate over it; it ends with the process.

    Nothing is asked of the node, and no command starts, before the first event is asked for.
    Closing it early (with :meth:`close`, or by leaving its ``with``) kills a command that was
    started by ``stream`` and leaves a spawned process alone.
    """

    def __init__(
        self,
        transport: Transport,
        ask: Callable[[int | None], Ask[Any]],
        shaper: _decode.Shaper,
        *,
        attach: bool,
        after: int | None = None,
        on_started: Callable[[int], Callable[[], None]] | None = None,
        deadline: float | None = None,
        request_timeout: float | None = None,
    ) -> None:
        self._transport = transport
        self._ask = ask
        self._shaper = shaper
        self._attach = attach
        self._on_started = on_started
        self._finish: Callable[[], None] | None = None
        self._deadline = deadline
        self._request_timeout = request_timeout
        self._reader = _decode.EventReader()
        self._reader.last_seq = after
        self._ready: deque[Event] = deque()
        self._broken = 0
        self._closed = False
        self._response: httpx.Response | None = None
        self._pieces: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while not self._ready:
            if self._closed or self._reader.ended:
                self.close()
                raise StopIteration
            for event in self._reader.feed(self._read()):
                self._broken = 0
                if event.process is not None and self._on_started is not None:
                    self._finish = self._on_started(event.process)
                self._ready.extend(self._shaper.shape(event))
        event = self._ready.popleft()
        failure = _decode.lost(event)
        if failure is not None:
            self.close()
            raise failure
        return event

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        if not self._closed:
            self._closed = True
            if self._response is not None:
                self._response.close()
            if self._finish is not None:
                self._finish()

    def _open(self) -> None:
        left = self._left() if self._deadline is not None else None
        self._opened_at = time.monotonic()
        ask = self._ask(self._reader.last_seq)
        try:
            self._response = self._transport.open(ask, self._request_timeout, left)
        except RequestTimeout:
            # The time that ran out may be that of whoever waits.
            if self._deadline is not None:
                self._left()
            raise
        self._pieces = self._transport.pieces(self._response)

    def _left(self) -> float:
        assert self._deadline is not None  # noqa: S101 -- asked only when there is one
        left = self._deadline - time.monotonic()
        if left <= 0:
            self.close()
            raise WaitTimeout("the process was still running when the time was up")
        return left

    def _read(self) -> bytes:
        if self._response is None:
            self._open()
        while True:
            if self._deadline is not None:
                self._left()
                # How long a read may take is fixed when the stream is opened.
                if time.monotonic() - self._opened_at > 1.0:
                    self._reopen()
            try:
                if self._pieces is not None:
                    for piece in self._pieces:
                        return piece
                failure: SandflareError = ConnectionBroken(
                    "the stream ended before the process did"
                )
            except (ConnectionBroken, RequestTimeout) as error:
                failure = error
            if self._deadline is not None:
                self._left()
            if not self._attach:
                self.close()
                raise failure
            self._broken += 1
            wait = pause(Again.SAFE, ConnectionBroken(failure.message), self._broken, RETRIES)
            if wait is None:
                self.close()
                raise failure
            runtime.sleep(wait)
            self._reopen()

    def _reopen(self) -> None:
        if self._response is not None:
            self._response.close()
        self._reader.restart()
        self._open()


class Process:
    """A process that lives on when nobody listens; made by ``spawn`` and ``pty``.

    What ``request_timeout`` means everywhere is told at :class:`Client`.
    """

    def __init__(self, transport: Transport, sandbox: str, info: ProcessInfo) -> None:
        self._transport = transport
        self._sandbox = sandbox
        self.info = info

    def __repr__(self) -> str:
        return f"<Process {self.id} of {self._sandbox}>"

    @property
    def id(self) -> int:
        """Its number, never used twice in the life of a sandbox."""
        return self.info.id

    def events(
        self,
        *,
        after: int | None = None,
        lines: bool = True,
        request_timeout: float | None = None,
    ) -> Events:
        """Listen to it, from its start or after the event numbered ``after``.

        A broken connection is made again, and nothing is missed that the node still keeps; when
        older output is gone, an event ``dropped`` says so. With ``lines=False`` events are pieces
        as the node sent them: with those, ``after=event.seq`` goes on exactly where it stopped.
        """
        shaper = _decode.LineShaper() if lines else _decode.PieceShaper()
        return self._events(shaper, after=after, request_timeout=request_timeout)

    def wait(
        self,
        timeout: float | None = None,
        *,
        check: bool = False,
        max_output: int = _decode.OUTPUT_BYTES_MAX,
        request_timeout: float | None = None,
    ) -> Result:
        """Wait for its end, at most ``timeout`` seconds; all it printed is in the result.

        When the time is up it raises :class:`WaitTimeout`, and the process goes on.
        """
        deadline = time.monotonic() + timeout if timeout is not None else None
        collector = _decode.Collector(self.info.argv, max_output)
        listening = self._events(
            _decode.Shaper(), deadline=deadline, request_timeout=request_timeout
        )
        with listening as events:
            for event in events:
                collector.add(event)
        result = collector.result()
        return result.check() if check else result

    def write(self, data: str | bytes, *, request_timeout: float | None = None) -> None:
        """Send it input; returns when the sandbox took it. Needs ``stdin=True`` or a terminal."""
        for piece in pieces(data):
            self._transport.ask(
                operations.process_stdin(self._sandbox, self.id, piece, False), request_timeout
            )

    def close_stdin(self, *, request_timeout: float | None = None) -> None:
        """End its input."""
        ask = operations.process_stdin(self._sandbox, self.id, b"", True)
        self._transport.ask(ask, request_timeout)

    def signal(self, signal: Signal, *, request_timeout: float | None = None) -> None:
        """Send it and all it started a signal: 2, ``"SIGINT"`` or ``signal.SIGINT``."""
        ask = operations.process_signal(self._sandbox, self.id, signal)
        self._transport.ask(ask, request_timeout)

    def kill(self, *, request_timeout: float | None = None) -> bool:
        """End it and all it started, at once. ``False`` if it had ended before."""
        try:
            self.signal("SIGKILL", request_timeout=request_timeout)
        except Conflict:
            return False
        return True

    def resize(self, rows: int, cols: int, *, request_timeout: float | None = None) -> None:
        """Tell it that its terminal has another size."""
        ask = operations.process_resize(self._sandbox, self.id, rows, cols)
        self._transport.ask(ask, request_timeout)

    def _events(
        self,
        shaper: _decode.Shaper,
        *,
        after: int | None = None,
        deadline: float | None = None,
        request_timeout: float | None = None,
    ) -> Events:
        return Events(
            self._transport,
            lambda seq: operations.process_events(self._sandbox, self.id, seq),
            shaper,
            attach=True,
            after=after,
            deadline=deadline,
            request_timeout=request_timeout,
        )
