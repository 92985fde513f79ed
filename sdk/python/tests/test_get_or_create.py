"""Whoever asks for the same sandbox at the same moment gets the same one."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from sandflare import AsyncClient, Client, Sandbox, errors

CALLERS = 8


class Fake:
    """As much of a node as creates that must not happen twice need."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sandboxes: dict[str, dict[str, Any]] = {}
        self.made: list[str] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.under_way: set[str] = set()
        #: A create takes until somebody else has asked for the same, where this says so.
        self.crowd = threading.Event()

    def create(self, key: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            if key in self.under_way:
                self.crowd.set()
                return 409, {"code": "conflict", "message": "it is being carried out"}
            if key in self.answers:
                return 201, self.answers[key]
            self.under_way.add(key)
        self.crowd.wait(2)
        with self.lock:
            facts = {
                "id": f"sbx_{len(self.made):016x}",
                "template": "agent",
                "size": body.get("size", "nano"),
            }
            facts |= {"name": body.get("name"), "state": "running", "created_at_ms": 1}
            self.made.append(facts["id"])
            self.sandboxes[facts["id"]] = self.answers[key] = facts
            self.under_way.remove(key)
            return 201, facts

    def list(self, own: bool) -> dict[str, Any]:
        with self.lock:
            other = {**FOREIGN, "name": "n"}
            seen = list(self.sandboxes.values())
            return {"sandboxes": seen if own else [other, *seen]}


FOREIGN = {
    "id": "sbx_of_another_project",
    "template": "agent",
    "size": "nano",
    "state": "running",
    "created_at_ms": 0,
}


@pytest.fixture
def fake() -> Iterator[tuple[str, Fake]]:
    node = Fake()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            parts = urlsplit(self.path)
            place = parts.path.removeprefix("/v1/sandboxes").strip("/")
            if self.command == "POST":
                status, said = node.create(self.headers["Idempotency-Key"], json.loads(body))
            elif not place:
                status, said = 200, node.list(parse_qs(parts.query).get("own") == ["true"])
            elif place not in node.sandboxes:
                status, said = 404, {"code": "not_found", "message": "no"}
            else:
                status, said = 200, node.sandboxes[place]
                if self.command == "DELETE":
                    status, said = 204, {}
                    del node.sandboxes[place]
            answer = b"" if status == 204 else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", node
    running.shutdown()
    thread.join()
    running.server_close()


def crowd(url: str, **arguments: Any) -> list[Sandbox]:
    """Ask at once from threads, as programs would that know nothing of each other."""
    together = threading.Barrier(CALLERS)

    def ask(_: int) -> Sandbox:
        with Client(url) as client:
            together.wait()
            return client.get_or_create("n", **arguments)

    with ThreadPoolExecutor(CALLERS) as threads:
        return list(threads.map(ask, range(CALLERS)))


def test_all_who_ask_at_once_get_one(fake: tuple[str, Fake]) -> None:
    url, node = fake
    got = {sandbox.id for sandbox in crowd(url)}
    assert got == set(node.made)
    assert len(node.made) == 1


def test_all_who_ask_at_once_get_one_after_others_of_the_name_were_killed(
    fake: tuple[str, Fake],
) -> None:
    url, node = fake
    with Client(url) as client:
        for _ in range(3):
            client.get_or_create("n").kill()
        assert len(node.made) == 3
        node.crowd.clear()
        got = {sandbox.id for sandbox in crowd(url)}
        assert got == {node.made[3]}
        assert len(node.made) == 4
        # One that is there is got, whatever else is asked of it.
        assert client.get_or_create("n", size="large").id in got


def test_another_size_of_the_name_is_another_create(fake: tuple[str, Fake]) -> None:
    url, node = fake
    node.crowd.set()
    with Client(url) as client:
        client.get_or_create("n", size="small").kill()
        made = client.get_or_create("n", size="nano")
        assert (made.info.size, len(node.made)) == ("nano", 2)


def test_another_projects_is_not_taken(fake: tuple[str, Fake]) -> None:
    url, node = fake
    node.crowd.set()
    with Client(url) as client:
        assert FOREIGN["id"] in [sandbox.id for sandbox in client.list()]
        assert client.get_or_create("n").id == node.made[0]


def test_a_create_that_is_never_done_is_not_waited_for_without_end(fake: tuple[str, Fake]) -> None:
    url, node = fake
    with Client(url) as client:
        sandbox = client.get_or_create("n")
        (key,) = node.answers
        sandbox.kill()
        node.answers.clear()
        node.under_way.add(key)
        # Long enough for any single request of it, on any machine.
        with pytest.raises(errors.Conflict):
            client.get_or_create("n", request_timeout=5)


async def test_the_async_half_does_the_same(fake: tuple[str, Fake]) -> None:
    url, node = fake
    async with AsyncClient(url) as client:
        got = await asyncio.gather(*(client.get_or_create("n") for _ in range(CALLERS)))
    assert {sandbox.id for sandbox in got} == set(node.made)
    assert len(node.made) == 1
