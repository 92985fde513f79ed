"""What happens on the wire, against servers that are no nodes and gateways that fail."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sandflare import AsyncClient, Client, errors

SANDBOX = {
    "id": "sbx_0000000000000001",
    "template": "agent",
    "size": "nano",
    "state": "running",
    "created_at_ms": 1,
}


class Answer:
    """One answer of a server; none of it is a broken connection."""

    def __init__(self, status: int, body: object = None, cut: bool = False) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.cut = cut


def refusal(status: int, code: str) -> Answer:
    return Answer(status, {"code": code, "message": "no", "request_id": "req_1"})


@contextmanager
def server(*answers: Answer) -> Iterator[tuple[str, list[tuple[str, str, dict[str, str], bytes]]]]:
    """Give the answers in turn; yields the address and what was asked."""
    left = list(answers)
    asked: list[tuple[str, str, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            asked.append((self.command, self.path, dict(self.headers), body))
            answer = left.pop(0)
            if answer.status:
                self.send_response(answer.status)
                self.send_header("Content-Length", str(len(answer.body) + answer.cut))
                self.end_headers()
                self.wfile.write(answer.body)
            self.close_connection = True

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}", asked
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


BROKEN = Answer(0)


def test_a_create_is_sent_again_with_the_same_key() -> None:
    answers = (refusal(503, "no_capacity"), BROKEN, Answer(502, b"bad gateway"))
    with server(*answers, Answer(201, SANDBOX)) as (url, asked), Client(url) as client:
        assert client.create("x").id == SANDBOX["id"]
    keys = {headers["Idempotency-Key"] for _, _, headers, _ in asked}
    assert (len(asked), len(keys)) == (4, 1)
    assert len({body for _, _, _, body in asked}) == 1


def test_two_creates_have_two_keys() -> None:
    with server(*[Answer(201, SANDBOX)] * 2) as (url, asked), Client(url) as client:
        client.create()
        client.create()
    assert asked[0][2]["Idempotency-Key"] != asked[1][2]["Idempotency-Key"]


def test_a_command_is_sent_once() -> None:
    for answer, kind in [
        (BROKEN, errors.ConnectionBroken),
        (refusal(503, "no_capacity"), errors.NoCapacity),
    ]:
        with (
            server(Answer(200, SANDBOX), answer, answer) as (url, asked),
            Client(url) as client,
        ):
            sandbox = client.get("sbx_0000000000000001")
            with pytest.raises(kind):
                sandbox.run("true")
        assert [method for method, *_ in asked] == ["GET", "POST"]


def test_a_stream_that_is_cut_short_is_an_error_after_what_came() -> None:
    started = b'{"seq":0,"ts":1,"type":"started","process_id":1,"pid":2}\n'
    printed = b'{"seq":1,"ts":1,"type":"stdout","data":"YQo="}\n'
    answer = Answer(200, started + printed, cut=True)
    with server(Answer(200, SANDBOX), answer) as (url, _), Client(url) as client:
        events = client.get("sbx_0000000000000001").stream("x")
        assert [next(events).event, next(events).line] == ["started", "a"]
        with pytest.raises(errors.ConnectionBroken):
            next(events)
    answer = Answer(200, started + printed)
    with server(Answer(200, SANDBOX), answer) as (url, _), Client(url) as client:
        events = client.get("sbx_0000000000000001").stream("x")
        assert [next(events).event, next(events).line] == ["started", "a"]
        with pytest.raises(errors.ConnectionBroken, match="before the process did"):
            next(events)


def test_a_follower_attaches_again_after_the_last_event_it_saw() -> None:
    process = {"id": 3, "argv": ["x"], "user": "agent", "cwd": "/", "started_at_ms": 1}
    first = (
        b'{"seq":0,"ts":1,"type":"started","process_id":3,"pid":2}\n'
        b'{"seq":1,"ts":1,"type":"stdout","data":"YWI="}\n'
        b'{"seq":2,"ts":1,"type":"std'
    )
    last = (
        b'{"seq":2,"ts":1,"type":"stdout","data":"Ywo="}\n'
        b'{"seq":3,"ts":2,"type":"exit","exit_code":0}\n'
    )
    answers = [
        Answer(200, SANDBOX),
        Answer(200, process),
        Answer(200, first, cut=True),
        BROKEN,
        Answer(503, b"gateway"),
        Answer(200, last),
    ]
    with server(*answers) as (url, asked), Client(url) as client:
        events = client.get("sbx_0000000000000001").process(3).events()
        assert [event.line for event in events if event.event == "stdout"] == ["abc"]
    queries = [path.partition("events")[2] for _, path, *_ in asked[2:]]
    assert queries == ["", "?after=1", "?after=1", "?after=1"]


def test_nobody_at_the_address_says_what_to_do() -> None:
    with server() as (url, _):
        pass
    with Client(url, retries=0) as client, pytest.raises(errors.NoNode, match="sandflare up"):
        client.health()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"sandboxes": 7}', b'{"sandboxes":[{}]}'])
def test_an_answer_that_is_no_nodes_is_an_error_of_its_own(body: bytes) -> None:
    with (
        server(Answer(200, body)) as (url, _),
        Client(url) as client,
        pytest.raises(errors.BadAnswer),
    ):
        list(client.list())


def test_a_node_that_is_late_is_not_asked_again() -> None:
    running = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    # Connections are taken by the system and never served.
    url = f"http://127.0.0.1:{running.server_port}"
    try:
        with (
            Client(url, request_timeout=0.05) as client,
            pytest.raises(errors.RequestTimeout),
        ):
            client.health()
    finally:
        running.server_close()


def test_the_key_is_sent_and_is_not_in_what_is_shown() -> None:
    with (
        server(Answer(200, {"ready": True, "version": "1"})) as (url, asked),
        Client(url, "sfk_secret") as client,
    ):
        client.health()
        assert "sfk_secret" not in repr(client)
    assert asked[0][2]["Authorization"] == "Bearer sfk_secret"


def test_pages_are_fetched_until_there_are_no_more() -> None:
    pages = [
        Answer(200, {"sandboxes": [SANDBOX], "next_cursor": "c1"}),
        Answer(200, {"sandboxes": [], "next_cursor": "c2"}),
        Answer(200, {"sandboxes": [{**SANDBOX, "id": "sbx_2", "new": 1}]}),
    ]
    with server(*pages) as (url, asked), Client(url) as client:
        assert [sandbox.id for sandbox in client.list()] == [SANDBOX["id"], "sbx_2"]
    assert ["cursor=" in path for _, path, *_ in asked] == [False, True, True]


async def test_the_async_client_does_the_same() -> None:
    answers = (refusal(503, "no_capacity"), BROKEN, Answer(201, SANDBOX), refusal(404, "not_found"))
    with server(*answers) as (url, asked):
        async with AsyncClient(url) as client:
            sandbox = await client.create("x")
            assert await sandbox.kill() is False
    assert len({headers.get("Idempotency-Key") for _, _, headers, _ in asked[:3]}) == 1
    assert [method for method, *_ in asked] == ["POST", "POST", "POST", "DELETE"]


async def test_each_event_loop_has_connections_of_its_own() -> None:
    from sandflare._async.client import client_for

    assert client_for("http://127.0.0.1:1", "k") is client_for("http://127.0.0.1:1", "k")
    here = client_for("http://127.0.0.1:1", "k")

    async def other() -> bool:
        return client_for("http://127.0.0.1:1", "k") is here

    assert await asyncio.to_thread(lambda: asyncio.run(other())) is False
