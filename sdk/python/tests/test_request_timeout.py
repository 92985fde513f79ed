"""``request_timeout`` of every method that asks a node: it is taken, and it is meant."""

from __future__ import annotations

import inspect
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sandflare import (
    AsyncClient,
    AsyncSandbox,
    Client,
    Database,
    Files,
    Process,
    Sandbox,
    Secret,
    errors,
)
from sandflare.models import DatabaseInfo, ProcessInfo, SandboxInfo

INFO = {"id": "sbx_1", "template": "agent", "size": "nano", "state": "running", "created_at_ms": 1}
PROCESS = {"id": 3, "argv": ["x"], "user": "agent", "cwd": "/", "started_at_ms": 1}
DATABASE = {
    "id": "db_1",
    "name": "memory",
    "status": "running",
    "size": "nano",
    "host": "127.0.0.1",
    "port": 5432,
    "user": "u1",
    "database": "main",
}
SHORT_S = 0.05
# What nobody gave: a method that forgets what it was given takes this long, and fails here.
FORGOTTEN_S = 3.0

Calls = dict[str, Callable[[Any], object]]


@contextmanager
def silent() -> Iterator[str]:
    """Take every connection and never answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def of_client(client: Client) -> Calls:
    return {
        "create": lambda t: client.create(request_timeout=t),
        "get": lambda t: client.get("sbx_1", request_timeout=t),
        "get_or_create": lambda t: client.get_or_create("n", request_timeout=t),
        "list": lambda t: list(client.list(request_timeout=t)),
        "health": lambda t: client.health(request_timeout=t),
        "templates": lambda t: client.templates(request_timeout=t),
        "delete_template": lambda t: client.delete_template("agent", request_timeout=t),
        "snapshots": lambda t: list(client.snapshots(request_timeout=t)),
        "snapshot": lambda t: client.snapshot("snap_1", request_timeout=t),
        "delete_snapshot": lambda t: client.delete_snapshot("snap_1", request_timeout=t),
        "create_database": lambda t: client.create_database("n", request_timeout=t),
        "database": lambda t: client.database("n", request_timeout=t),
        "databases": lambda t: list(client.databases(request_timeout=t)),
        "delete_database": lambda t: client.delete_database("n", request_timeout=t),
        "projects": lambda t: client.projects(request_timeout=t),
        "create_project": lambda t: client.create_project("n", request_timeout=t),
        "set_quota": lambda t: client.set_quota("prj_1", sandboxes=3, request_timeout=t),
        "delete_project": lambda t: client.delete_project("prj_1", request_timeout=t),
        "keys": lambda t: client.keys(request_timeout=t),
        "create_key": lambda t: client.create_key("n", request_timeout=t),
        "delete_key": lambda t: client.delete_key("key_1", request_timeout=t),
        "usage": lambda t: client.usage(request_timeout=t),
        "set_secret": lambda t: client.set_secret("n", "x", hosts=["a.b"], request_timeout=t),
        "secrets": lambda t: client.secrets(request_timeout=t),
        "delete_secret": lambda t: client.delete_secret("n", request_timeout=t),
    }


def of_sandbox(client: Client, sandbox: Sandbox, folder: Path) -> Calls:
    return {
        "create": lambda t: Sandbox.create(client=client, request_timeout=t),
        "get": lambda t: Sandbox.get("sbx_1", client=client, request_timeout=t),
        "get_or_create": lambda t: Sandbox.get_or_create("n", client=client, request_timeout=t),
        "list": lambda t: list(Sandbox.list(client=client, request_timeout=t)),
        "refresh": lambda t: sandbox.refresh(request_timeout=t),
        "run": lambda t: sandbox.run("x", input="y", request_timeout=t),
        "exec": lambda t: sandbox.exec("x", request_timeout=t),
        "stream": lambda t: list(sandbox.stream("x", request_timeout=t)),
        "spawn": lambda t: sandbox.spawn("x", request_timeout=t),
        "pty": lambda t: sandbox.pty(request_timeout=t),
        "processes": lambda t: sandbox.processes(request_timeout=t),
        "process": lambda t: sandbox.process(3, request_timeout=t),
        "upload": lambda t: sandbox.upload("x", "/x", request_timeout=t),
        "upload of a directory": lambda t: sandbox.upload(folder, "/x", request_timeout=t),
        "download": lambda t: sandbox.download("/x", request_timeout=t),
        "download to a place": lambda t: sandbox.download("/x", folder / "x", request_timeout=t),
        "pause": lambda t: sandbox.pause(request_timeout=t),
        "resume": lambda t: sandbox.resume(request_timeout=t),
        "fork": lambda t: sandbox.fork(request_timeout=t),
        "snapshot": lambda t: sandbox.snapshot(request_timeout=t),
        "set_timeout": lambda t: sandbox.set_timeout(5, request_timeout=t),
        "url": lambda t: sandbox.url(8000, request_timeout=t),
        "metrics": lambda t: sandbox.metrics(request_timeout=t),
        "logs": lambda t: sandbox.logs(request_timeout=t),
        "policy": lambda t: sandbox.policy(request_timeout=t),
        "set_policy": lambda t: sandbox.set_policy("none", request_timeout=t),
        "flows": lambda t: sandbox.flows(request_timeout=t),
        "wire": lambda t: sandbox.wire("n", request_timeout=t),
        "unwire": lambda t: sandbox.unwire("n", request_timeout=t),
        "wired": lambda t: sandbox.wired(request_timeout=t),
        "kill": lambda t: sandbox.kill(request_timeout=t),
    }


def of_database(client: Client, database: Database) -> Calls:
    return {
        "create": lambda t: Database.create("n", client=client, request_timeout=t),
        "get": lambda t: Database.get("n", client=client, request_timeout=t),
        "list": lambda t: list(Database.list(client=client, request_timeout=t)),
        "refresh": lambda t: database.refresh(request_timeout=t),
        "stats": lambda t: database.stats(request_timeout=t),
        "query": lambda t: database.query("SELECT 1", request_timeout=t),
        "fork": lambda t: database.fork("m", request_timeout=t),
        "snapshot": lambda t: database.snapshot("before", request_timeout=t),
        "snapshots": lambda t: database.snapshots(request_timeout=t),
        "delete_snapshot": lambda t: database.delete_snapshot("before", request_timeout=t),
        "restore": lambda t: database.restore("before", request_timeout=t),
        "reset_password": lambda t: database.reset_password(request_timeout=t),
        "set_outside": lambda t: database.set_outside("off", request_timeout=t),
        "delete": lambda t: database.delete(request_timeout=t),
    }


def of_secret(client: Client) -> Calls:
    return {
        "set": lambda t: Secret.set("n", "x", hosts=["a.b"], client=client, request_timeout=t),
        "list": lambda t: Secret.list(client=client, request_timeout=t),
        "delete": lambda t: Secret.delete("n", client=client, request_timeout=t),
    }


def of_files(files: Files) -> Calls:
    return {
        "read": lambda t: files.read("/x", request_timeout=t),
        "read_text": lambda t: files.read_text("/x", request_timeout=t),
        "stream": lambda t: list(files.stream("/x", request_timeout=t)),
        "watch": lambda t: list(files.watch("/x", request_timeout=t)),
        "write": lambda t: files.write("/x", "y", request_timeout=t),
        "list": lambda t: files.list("/x", request_timeout=t),
        "stat": lambda t: files.stat("/x", request_timeout=t),
        "exists": lambda t: files.exists("/x", request_timeout=t),
        "make_dir": lambda t: files.make_dir("/x", request_timeout=t),
        "move": lambda t: files.move("/x", "/y", request_timeout=t),
        "remove": lambda t: files.remove("/x", request_timeout=t),
    }


def of_process(process: Process) -> Calls:
    return {
        "events": lambda t: list(process.events(request_timeout=t)),
        "wait": lambda t: process.wait(request_timeout=t),
        "wait with an end": lambda t: process.wait(5, request_timeout=t),
        "write": lambda t: process.write("x", request_timeout=t),
        "close_stdin": lambda t: process.close_stdin(request_timeout=t),
        "signal": lambda t: process.signal(2, request_timeout=t),
        "kill": lambda t: process.kill(request_timeout=t),
        "resize": lambda t: process.resize(1, 2, request_timeout=t),
    }


def methods(kind: type) -> set[str]:
    """Every public method; closing connections asks nothing."""
    found = {name for name, member in inspect.getmembers(kind, callable) if name[0] != "_"}
    return found - {"close"}


def test_every_method_waits_no_longer_than_it_is_told(tmp_path: Path) -> None:
    with silent() as url, Client(url, request_timeout=FORGOTTEN_S, retries=0) as client:
        sandbox = Sandbox(client._transport, SandboxInfo.parse(INFO))
        database = Database(client._transport, DatabaseInfo.parse(DATABASE))
        process = Process(client._transport, "sbx_1", ProcessInfo.parse(PROCESS))
        for kind, calls in [
            (Client, of_client(client)),
            (Sandbox, of_sandbox(client, sandbox, tmp_path)),
            (Database, of_database(client, database)),
            (Secret, of_secret(client)),
            (Files, of_files(sandbox.files)),
            (Process, of_process(process)),
        ]:
            # Some are there twice, with what is asked in another way.
            assert {name.split(" ")[0] for name in calls} == methods(kind)
            for name, call in calls.items():
                begun = time.monotonic()
                with pytest.raises(errors.RequestTimeout):
                    call(SHORT_S)
                assert time.monotonic() - begun < FORGOTTEN_S, f"{kind.__name__}.{name}"


class Slow(BaseHTTPRequestHandler):
    """Answers a command whose head, or whose output, is late."""

    head_s = 0.0
    output_s = 0.0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            time.sleep(self.head_s)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"seq":0,"ts":1,"type":"started","process_id":1,"pid":2}\n')
            self.wfile.flush()
            time.sleep(self.output_s)
            self.wfile.write(b'{"seq":1,"ts":2,"type":"exit","exit_code":0}\n')
        except OSError:
            # The caller left, which is what some of them are for.
            pass

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def slow(head_s: float = 0.0, output_s: float = 0.0) -> Iterator[str]:
    handler = type("Handler", (Slow,), {"head_s": head_s, "output_s": output_s})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def test_a_command_that_has_begun_may_be_silent_for_longer() -> None:
    with slow(output_s=0.6) as url, Client(url, request_timeout=0.2, retries=0) as client:
        sandbox = Sandbox(client._transport, SandboxInfo.parse(INFO))
        # As the client's, and as the call's.
        assert sandbox.run("x").ok
        assert sandbox.run("x", request_timeout=0.3).ok


def test_a_command_that_does_not_begin_is_waited_for_as_long_as_told() -> None:
    with slow(head_s=0.6) as url, Client(url, request_timeout=0.1, retries=0) as client:
        sandbox = Sandbox(client._transport, SandboxInfo.parse(INFO))
        with pytest.raises(errors.RequestTimeout):
            sandbox.run("x")
        assert sandbox.run("x", request_timeout=5).ok
        # 0 is without end.
        assert sandbox.run("x", request_timeout=0).ok


async def test_the_async_half_does_the_same() -> None:
    with slow(head_s=0.3, output_s=0.6) as url:
        async with AsyncClient(url, retries=0) as client:
            sandbox = AsyncSandbox(client._transport, SandboxInfo.parse(INFO))
            with pytest.raises(errors.RequestTimeout):
                await sandbox.run("x", request_timeout=0.1)
            assert (await sandbox.run("x", request_timeout=0.5)).ok


def test_a_wait_that_is_over_is_that_and_no_request_that_took_too_long() -> None:
    with silent() as url, Client(url) as client:
        process = Process(client._transport, "sbx_1", ProcessInfo.parse(PROCESS))
        with pytest.raises(errors.WaitTimeout):
            process.wait(timeout=SHORT_S)
        with pytest.raises(errors.RequestTimeout):
            process.wait(timeout=60, request_timeout=SHORT_S)
