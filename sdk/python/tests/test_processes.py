"""Processes that live on their own, against a real node."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from sandflare import AsyncClient, Client, Sandbox, errors

pytestmark = pytest.mark.node


class Network:
    """What is between a client and a node: passes on all there is, until it is cut."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._node = (parts.hostname or "", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self.taken = 0
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._node)
            self.taken += 1
            self._open += [near, far]
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(a, b), daemon=True).start()

    @staticmethod
    def _pass_on(a: socket.socket, b: socket.socket) -> None:
        try:
            while piece := a.recv(65536):
                b.sendall(piece)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self) -> None:
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()


@pytest.fixture
def network(client: Client) -> Iterator[Network]:
    network = Network(client.url)
    yield network
    network.close()


def test_a_process_lives_on_and_is_told_of_afterwards(sandbox: Sandbox) -> None:
    process = sandbox.spawn("echo one; echo two >&2; exit 5", env={"A": "b"}, cwd="/tmp")
    result = process.wait()
    assert (result.exit_code, result.stdout, result.stderr) == (5, "one\n", "two\n")
    again = sandbox.process(process.id)
    events = [(event.event, event.line) for event in again.events()]
    assert sorted(events[1:-1]) == [("stderr", "two"), ("stdout", "one")]
    info = next(info for info in sandbox.processes() if info.id == process.id)
    assert not info.running
    assert info.exit is not None
    assert (info.exit["exit_code"], info.cwd) == (5, "/tmp")
    with pytest.raises(errors.CommandFailed):
        process.wait(check=True)
    with pytest.raises(errors.NotFound):
        sandbox.process(4_000_000)


def test_a_process_is_talked_to(sandbox: Sandbox) -> None:
    process = sandbox.spawn("while read line; do echo got $line; done; echo end", stdin=True)
    events = process.events()
    assert next(events).event == "started"
    process.write("a\n")
    assert next(events).line == "got a"
    process.write(b"b\n")
    assert next(events).line == "got b"
    process.close_stdin()
    assert [event.line for event in events] == ["end", ""]
    assert process.wait().ok


def test_a_process_without_input_says_so(sandbox: Sandbox) -> None:
    process = sandbox.spawn("sleep 1000")
    with pytest.raises(errors.SandflareError):
        process.write("x")
    process.kill()
    assert process.wait().signal == 9


def test_a_process_takes_signals(sandbox: Sandbox) -> None:
    for sent in ("SIGTERM", "term", 15, signal.SIGTERM):
        process = sandbox.spawn(
            "trap 'echo trapped; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
        )
        events = process.events()
        assert [next(events).line, next(events).line] == ["", "ready"]
        process.signal(sent)
        # The shell also says on its standard error that its `sleep` was ended.
        rest = [(event.line, event.exit_code) for event in events if event.event != "stderr"]
        assert rest == [("trapped", None), ("", 3)]


def test_waiting_ends_and_the_process_does_not(sandbox: Sandbox) -> None:
    process = sandbox.spawn("while :; do echo busy; sleep 0.2; done")
    with pytest.raises(errors.WaitTimeout):
        process.wait(timeout=1.5)
    assert any(info.id == process.id and info.running for info in sandbox.processes())
    process.kill()
    assert process.wait(timeout=60).exit_code == 137
    assert process.kill() is False


def test_events_go_on_where_another_listener_stopped(sandbox: Sandbox) -> None:
    process = sandbox.spawn("for i in 1 2 3; do echo $i; sleep 0.2; done")
    first = process.events(lines=False)
    seen = [next(first), next(first)]
    first.close()
    rest = list(process.events(lines=False, after=seen[-1].seq))
    data = b"".join(event.data for event in [*seen, *rest])
    assert data == b"1\n2\n3\n"
    assert rest[-1].event == "exit"


def test_a_broken_network_loses_no_line(network: Network, sandbox: Sandbox) -> None:
    with Client(network.url) as client:
        process = client.get(sandbox.id).spawn(
            "for i in $(seq 1 40); do echo line $i; sleep 0.02; done"
        )
        lines = []
        for event in process.events():
            if event.event == "stdout":
                lines.append(event.line)
                if len(lines) in (5, 6, 25):
                    network.cut()
    assert lines == [f"line {number}" for number in range(1, 41)]
    assert network.taken >= 4


def test_output_older_than_the_node_keeps_is_said_to_be_missing(sandbox: Sandbox) -> None:
    process = sandbox.spawn("head -c 4000000 /dev/zero; echo end")
    assert process.wait().exit_code == 0
    events = list(process.events())
    assert "dropped" in [event.event for event in events]
    assert events[-2].line.endswith("end")
    assert process.wait().truncated


def test_a_terminal_is_one(sandbox: Sandbox) -> None:
    terminal = sandbox.pty(["sh"], rows=30, cols=100, env={"PS1": ""})
    terminal.write("test -t 0 && stty size\n")
    events = terminal.events()
    assert any(event.line == "30 100" for event in events)
    terminal.resize(40, 120)
    terminal.write("stty size; exit 6\n")
    rest = list(events)
    assert "40 120" in [event.line for event in rest]
    assert rest[-1].exit_code == 6


async def test_the_async_process_does_the_same(client: Client, sandbox: Sandbox) -> None:
    async with AsyncClient(client.url) as node:
        there = await node.get(sandbox.id)
        process = await there.spawn("read line; echo got $line; sleep 1000", stdin=True)
        await process.write("a\n")
        async for event in process.events():
            if event.event == "stdout":
                assert event.line == "got a"
                break
        with pytest.raises(errors.WaitTimeout):
            await process.wait(timeout=0.5)
        await process.signal("INT")
        assert (await process.wait(timeout=60)).signal == 2
        terminal = await there.pty(["sh", "-c", "stty size; exit 4"], rows=11, cols=22)
        result = await terminal.wait()
        assert (result.exit_code, result.stdout) == (4, "11 22\r\n")
        assert (await there.process(terminal.id)).info.pty
