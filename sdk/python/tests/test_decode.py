"""From bytes of a stream to events, lines and results."""

from __future__ import annotations

import base64
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandflare import _decode
from sandflare._decode import (
    Collector,
    EventReader,
    FileEventReader,
    LineShaper,
    PieceShaper,
    whole_characters,
)
from sandflare._transfer import Part
from sandflare.errors import BadAnswer, CommandFailed, PathNotFound, SandboxOver
from sandflare.models import Event, FileEvent

OUTPUT = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=40)))


def wire(type: str, seq: int, **fields: object) -> bytes:
    body = {"seq": seq, "ts": 1_000_000 + seq, "type": type, **fields}
    return json.dumps(body).encode() + b"\n"


def output(kind: str, seq: int, data: bytes) -> bytes:
    return wire(kind, seq, data=base64.b64encode(data).decode())


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({place % (len(data) + 1) for place in at} | {0, len(data)})
    return [data[start:end] for start, end in zip(places, places[1:])]


@given(OUTPUT, st.lists(st.integers(min_value=0)))
def test_a_stream_may_be_cut_into_pieces_anywhere(
    written: list[tuple[str, bytes]], places: list[int]
) -> None:
    stream = wire("started", 0, process_id=7, pid=100)
    for seq, (kind, data) in enumerate(written, 1):
        stream += output(kind, seq, data) + wire("heartbeat", seq)
    stream += wire("exit", len(written) + 1, exit_code=3)
    reader = EventReader()
    events = [event for piece in cut(stream, places) for event in reader.feed(piece)]
    assert [(e.event, e.data) for e in events[1:-1]] == written
    assert (events[0].process, events[-1].exit_code) == (7, 3)
    assert reader.ended
    assert reader.last_seq == len(written) + 1


@given(OUTPUT)
def test_lines_are_whole_and_together_are_what_was_written(
    written: list[tuple[str, bytes]],
) -> None:
    shaper = LineShaper()
    events = []
    for seq, (kind, data) in enumerate(written):
        events += shaper.shape(Event(kind, seq, 0.0, data=data))
    events += shaper.shape(Event("exit", len(written), 0.0, exit_code=0))
    assert events[-1].event == "exit"
    for kind in ("stdout", "stderr"):
        whole = b"".join(data for k, data in written if k == kind)
        lines = [event for event in events if event.event == kind]
        assert b"".join(event.data for event in lines) == whole
        assert [event.data for event in lines] == re.findall(rb"[^\n]*\n|[^\n]+", whole)


@given(st.text(), st.integers(min_value=1, max_value=7))
def test_text_in_pieces_never_breaks_a_character(text: str, size: int) -> None:
    data = text.encode("utf-8", "surrogatepass")
    shaper = PieceShaper()
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    events = [e for piece in pieces for e in shaper.shape(Event("stdout", 0, 0.0, data=piece))]
    assert b"".join(event.data for event in events) == data
    assert "".join(event.line for event in events) == data.decode("utf-8", "replace")


@given(st.text(min_size=1), st.data())
def test_a_cut_keeps_characters_whole(text: str, data: st.DataObject) -> None:
    encoded = text.encode("utf-8", "replace")
    end = data.draw(st.integers(min_value=1, max_value=len(encoded)))
    kept = whole_characters(encoded[:end])
    assert 0 < kept <= end
    assert end - kept < 4
    if kept < end:
        encoded[:kept].decode()


@given(st.binary(min_size=1))
def test_a_cut_of_what_is_no_text_goes_on(data: bytes) -> None:
    assert 0 < whole_characters(data) <= len(data)


def test_a_line_without_end_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_decode, "LINE_BYTES_MAX", 10)
    shaper = LineShaper()
    data = "ä".encode() * 50
    events = list(shaper.shape(Event("stdout", 0, 0.0, data=b"x" + data)))
    events += shaper.finish()
    assert b"".join(event.data for event in events) == b"x" + data
    assert all(len(event.data) <= 10 and "\ufffd" not in event.line for event in events)


def test_lines_lose_their_ending_and_nothing_else() -> None:
    shaper = LineShaper()
    events = list(shaper.shape(Event("stdout", 4, 1.5, data=b"a\r\nb\n\n c ")))
    events += shaper.shape(Event("exit", 5, 2.0, exit_code=0))
    assert [event.line for event in events[:-1]] == ["a", "b", "", " c "]
    assert [event.seq for event in events] == [4, 4, 4, 4, 5]


@pytest.mark.parametrize(
    "line",
    [
        b"<html>\n",
        b"[]\n",
        b"{}\n",
        b'{"type":"stdout","seq":1}\n',
        b'{"type":"stdout","seq":1,"data":"%%"}\n',
        b'{"type":"exit","seq":"x"}\n',
        b'{"type":"error","seq":1,"failure":7}\n',
        b"\xff\xfe\n",
    ],
)
def test_what_is_no_event_is_an_error_of_its_own(line: bytes) -> None:
    with pytest.raises(BadAnswer):
        EventReader().feed(line)


def test_an_event_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_decode, "EVENT_BYTES_MAX", 100)
    with pytest.raises(BadAnswer, match="over 100 bytes"):
        EventReader().feed(b"x" * 101)


def test_events_of_the_future_are_passed_over() -> None:
    assert EventReader().feed(wire("moved", 1, where="elsewhere")) == []


def test_a_result_has_all_that_was_written_up_to_its_limit() -> None:
    reader, collector = EventReader(), Collector("command", max_output=5)
    stream = wire("started", 0, process_id=1, pid=2) + output("stdout", 1, b"abc")
    stream += output("stdout", 2, b"defg") + output("stderr", 3, b"err")
    stream += wire("exit", 2_000_000, exit_code=0)
    for event in reader.feed(stream):
        collector.add(event)
    result = collector.result()
    assert (result.stdout, result.stderr, result.truncated) == ("abcde", "err", True)
    assert result.ok
    assert result.check() is result
    assert result.duration == pytest.approx(2.0)


def test_output_the_node_no_longer_has_makes_a_result_truncated() -> None:
    collector = Collector(["x"], max_output=100)
    for event in EventReader().feed(wire("dropped", 4, events=5) + wire("exit", 9, exit_code=0)):
        collector.add(event)
    assert collector.result().truncated


def test_a_program_that_is_not_there_ends_as_in_a_shell() -> None:
    failure = {"code": "path_not_found", "message": "`x` is not in the sandbox"}
    collector = Collector(["x"], max_output=100)
    for event in EventReader().feed(wire("error", 0, failure=failure, exit_code=127)):
        assert _decode.lost(event) is None
        collector.add(event)
    result = collector.result()
    assert (result.exit_code, result.stderr) == (127, "`x` is not in the sandbox\n")
    assert result.failure is not None
    assert result.failure.code == "path_not_found"
    with pytest.raises(CommandFailed, match="`x` ended with exit code 127") as caught:
        result.check()
    assert caught.value.result is result


def test_a_sandbox_lost_under_a_command_is_an_error() -> None:
    failure = {"code": "sandbox_over", "message": "the guest's kernel panicked"}
    (event,) = EventReader().feed(wire("error", 5, failure=failure, exit_code=125))
    assert isinstance(_decode.lost(event), SandboxOver)


def test_a_command_that_was_killed_says_why() -> None:
    for fields, said in [
        ({"exit_code": 137, "signal": 9, "timed_out": True}, "its time was up"),
        ({"exit_code": 143, "signal": 15}, "signal 15"),
        ({"exit_code": 4}, "exit code 4: why\\?"),
    ]:
        collector = Collector("x" * 200, max_output=100)
        for event in EventReader().feed(
            output("stderr", 1, b"how\nwhy?\n") + wire("exit", 2, **fields)
        ):
            collector.add(event)
        with pytest.raises(CommandFailed, match=said):
            collector.result().check()


@given(st.integers(1, 400))
def test_changes_of_files_survive_any_cutting(size: int) -> None:
    failure = {"code": "path_not_found", "message": "the watched directory is gone"}
    stream = (
        wire("started", 0)
        + wire("created", 1, path="/a/ü", kind="file")
        + wire("heartbeat", 1)
        + wire("moved", 2, path="/a/ü", to="/a/b")
        + wire("error", 3, failure=failure)
    )
    reader = FileEventReader()
    pieces = (stream[at : at + size] for at in range(0, len(stream), size))
    events = (event for piece in pieces for event in reader.feed(piece))
    assert next(events) == FileEvent("started", 0, 1.0)
    assert next(events) == FileEvent("created", 1, 1.000001, path="/a/ü", kind="file")
    assert next(events) == FileEvent("moved", 2, 1.000002, path="/a/ü", to="/a/b")
    with pytest.raises(PathNotFound, match="is gone"):
        next(events)


def test_what_is_no_change_of_a_file_is_refused() -> None:
    with pytest.raises(BadAnswer, match="no event"):
        list(FileEventReader().feed(b'{"seq": 1}\n'))


@given(
    st.binary(max_size=60), st.integers(0, 70), st.none() | st.integers(1, 70), st.integers(1, 9)
)
def test_a_part_of_a_file_is_the_same_however_it_comes(
    data: bytes, start: int, length: int | None, size: int
) -> None:
    wanted = data[start:] if length is None else data[start : start + length]
    for whole, sent in [(True, data), (False, wanted)]:
        part = Part(start, length, whole)
        got = [part.of(sent[at : at + size]) for at in range(0, len(sent), size)]
        assert b"".join(got) == wanted
