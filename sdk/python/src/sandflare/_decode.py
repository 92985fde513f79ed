"""From the bytes of a stream to events, lines and results, without any input or output."""

from __future__ import annotations

import base64
import binascii
import codecs
import json
from typing import TYPE_CHECKING, Any

from sandflare.errors import BadAnswer, SandflareError, from_failure
from sandflare.models import Event, FileEvent, Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# LIMIT: one event of a stream, as text. The node sends output in pieces far under this.
EVENT_BYTES_MAX = 16 * 1024 * 1024
# LIMIT: a line of output. A program that writes no newline must not fill the memory of who listens.
LINE_BYTES_MAX = 1024 * 1024
# LIMIT: output that `run` keeps of each stream unless told otherwise.
OUTPUT_BYTES_MAX = 64 * 1024 * 1024
#: Exit code with which the node says that the sandbox was lost under a command.
LOST_EXIT_CODE = 125

_END = frozenset({"exit", "error"})
_KINDS = frozenset({"started", "stdout", "stderr", "exit", "error", "dropped"})
_FILE_KINDS = frozenset(
    {"started", "created", "modified", "attributes", "removed", "moved", "overflow"}
)


class _Lines:
    """Puts lines together, however their stream is cut into pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next bytes; return the lines they complete."""
        self._rest += piece
        if b"\n" not in piece:
            if len(self._rest) > EVENT_BYTES_MAX:
                raise BadAnswer(f"the node sent an event of over {EVENT_BYTES_MAX} bytes")
            return []
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        return [line for line in lines if line.strip()]

    def clear(self) -> None:
        """Forget half a line."""
        self._rest.clear()


def _no_event(line: bytes) -> BadAnswer:
    shown = line[:100].decode("utf-8", "replace")
    return BadAnswer(f"the node sent what is no event: {shown!r}")


class EventReader:
    """Reads a stream of events, one JSON object per line, however it is cut into pieces."""

    def __init__(self) -> None:
        self._lines = _Lines()
        self.last_seq: int | None = None
        self.ended = False

    def feed(self, piece: bytes) -> list[Event]:
        """Take the next bytes; return the events they complete."""
        events = []
        for line in self._lines.feed(piece):
            event = None if self.ended else self._event(line)
            if event is not None:
                events.append(event)
        return events

    def restart(self) -> None:
        """Forget half an event, before the stream is attached again after ``last_seq``."""
        self._lines.clear()

    def _event(self, line: bytes) -> Event | None:
        try:
            body = json.loads(line)
            kind, seq = body["type"], int(body["seq"])
            if kind not in _KINDS:
                # A heartbeat, or an event newer than this version.
                return None
            event = _parsed(kind, seq, body)
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise _no_event(line) from error
        self.last_seq = seq
        self.ended = kind in _END
        return event


class FileEventReader:
    """Reads the stream of a watch, however it is cut into pieces."""

    def __init__(self) -> None:
        self._lines = _Lines()

    def feed(self, piece: bytes) -> Iterator[FileEvent]:
        """Take the next bytes; yield the events they complete, then raise why the watch is over."""
        for line in self._lines.feed(piece):
            try:
                body = json.loads(line)
                kind, seq, ts = body["type"], int(body["seq"]), _seconds(body)
                failure = from_failure(body["failure"]) if kind == "error" else None
            except (ValueError, KeyError, TypeError) as error:
                raise _no_event(line) from error
            if failure is not None:
                raise failure
            # Others are heartbeats, or newer than this version.
            if kind in _FILE_KINDS:
                path, to, what = body.get("path"), body.get("to"), body.get("kind")
                yield FileEvent(kind, seq, ts, path=path, to=to, kind=what)


def _seconds(body: Mapping[str, Any]) -> float:
    return float(body["ts_ms"]) / 1e3 if "ts_ms" in body else float(body.get("ts", 0)) / 1e6


def _parsed(kind: str, seq: int, body: Mapping[str, Any]) -> Event:
    ts = _seconds(body)
    if kind in ("stdout", "stderr"):
        return Event(kind, seq, ts, data=base64.b64decode(body["data"], validate=True))
    if kind == "started":
        return Event(kind, seq, ts, process=int(body["process_id"]))
    if kind == "exit":
        return Event(
            kind,
            seq,
            ts,
            exit_code=int(body["exit_code"]),
            signal=body.get("signal"),
            timed_out=bool(body.get("timed_out", False)),
        )
    if kind == "error":
        failure = from_failure(body["failure"])
        return Event(
            kind,
            seq,
            ts,
            line=failure.message,
            exit_code=int(body.get("exit_code", LOST_EXIT_CODE)),
            failure=failure,
        )
    return Event(kind, seq, ts)


class Shaper:
    """Turns the node's events into those a user sees; this one leaves them as they are."""

    def shape(self, event: Event) -> Iterator[Event]:
        """Yield what the user sees of it."""
        yield event


class LineShaper(Shaper):
    """One event for each line of output, whole, whichever way the node's pieces cut it.

    A last line without a line ending comes before the event that ends the stream. A line over
    ``LINE_BYTES_MAX`` comes in parts, none of which breaks a character.
    """

    def __init__(self) -> None:
        self._open: dict[str, tuple[bytearray, Event]] = {}

    def shape(self, event: Event) -> Iterator[Event]:
        """Yield the lines it completes, or itself."""
        if event.event not in ("stdout", "stderr"):
            if event.event in _END:
                yield from self.finish()
            yield event
            return
        held = self._open.pop(event.event, None)
        buffer = held[0] if held is not None else bytearray()
        searched = len(buffer)
        buffer += event.data
        start = 0
        while True:
            end = buffer.find(b"\n", max(start, searched)) + 1
            if end == 0:
                if len(buffer) - start <= LINE_BYTES_MAX:
                    break
                end = start + whole_characters(buffer[start : start + LINE_BYTES_MAX])
            yield _line(event, bytes(buffer[start:end]))
            start = end
        if start < len(buffer):
            self._open[event.event] = (buffer[start:], event)

    def finish(self) -> Iterator[Event]:
        """Yield the lines that have no ending."""
        for buffer, event in self._open.values():
            yield _line(event, bytes(buffer))
        self._open.clear()


class PieceShaper(Shaper):
    """The node's events as they are, with text that never breaks a character."""

    def __init__(self) -> None:
        self._decoders = {
            kind: codecs.getincrementaldecoder("utf-8")("replace") for kind in ("stdout", "stderr")
        }

    def shape(self, event: Event) -> Iterator[Event]:
        """Yield the same event with its text, or itself."""
        decoder = self._decoders.get(event.event)
        if decoder is None:
            yield event
        else:
            yield Event(
                event.event, event.seq, event.ts, data=event.data, line=decoder.decode(event.data)
            )


def _line(event: Event, data: bytes) -> Event:
    text = data
    if text.endswith(b"\n"):
        text = text[:-2] if text.endswith(b"\r\n") else text[:-1]
    return Event(event.event, event.seq, event.ts, data=data, line=text.decode("utf-8", "replace"))


def whole_characters(data: bytes | bytearray) -> int:
    """How many of these bytes can be cut off without breaking a UTF-8 character at the end.

    At least one of a non-empty ``data``: what is no UTF-8 at all must not be held back for ever.
    """
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            kept = len(data) - back if length > back else len(data)
            return kept or len(data)
    return len(data)


class Collector:
    """Adds the events of one command up to its result."""

    def __init__(self, command: Any, max_output: int) -> None:
        self._command = command
        self._max = max_output
        self._out = {"stdout": bytearray(), "stderr": bytearray()}
        self._truncated = False
        self._started: float | None = None
        self._last: Event | None = None

    def add(self, event: Event) -> None:
        """Take the next event, with output in pieces."""
        kept = self._out.get(event.event)
        if kept is not None:
            room = self._max - len(kept)
            kept += event.data[:room]
            self._truncated |= len(event.data) > room
        elif event.event == "started":
            self._started = event.ts
        elif event.event == "dropped":
            self._truncated = True
        elif event.event in _END:
            self._last = event

    def result(self) -> Result:
        """Make the result, once ``exit`` or ``error`` was added."""
        last = self._last
        if last is None or last.exit_code is None:
            raise BadAnswer("the stream of a command ended without its exit code")
        stderr = self._out["stderr"]
        if last.failure is not None:
            # As a shell would: why a program was not started is on its standard error.
            stderr += f"{last.failure.message}\n".encode()
        return Result(
            command=self._command,
            exit_code=last.exit_code,
            stdout_bytes=bytes(self._out["stdout"]),
            stderr_bytes=bytes(stderr),
            duration=max(0.0, last.ts - self._started) if self._started is not None else 0.0,
            timed_out=last.timed_out,
            truncated=self._truncated,
            signal=last.signal,
            failure=last.failure,
        )


def lost(event: Event) -> SandflareError | None:
    """Why the sandbox was lost under the command, if that is what the event says."""
    return event.failure if event.exit_code == LOST_EXIT_CODE else None
