"""The program that ``sandflare bench --api`` runs on this package, against a real node."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from sandflare import Client, __version__

pytestmark = pytest.mark.node

_PROGRAM = Path(__file__).parents[3] / "crates" / "cli" / "src" / "bench" / "api" / "outside.py"

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Ask the program for one thing after another, as the command line does."""
    command = [sys.executable, "-c", _PROGRAM.read_text()]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert json.loads(program.stdout.readline())["sdk"] == __version__

        def ask(do: str, **arguments: Any) -> Any:
            program.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            program.stdin.flush()
            return json.loads(program.stdout.readline())

        yield ask
        program.stdin.close()
        assert program.wait(60) == 0


def test_a_create_is_timed_and_the_sandbox_is_there(ask: Ask, client: Client) -> None:
    made = ask("create", template="agent", size="nano")
    assert made["us"] > 0
    assert client.get(made["id"]).kill()


def test_what_is_done_in_a_sandbox_is_timed(ask: Ask, sandbox: Any) -> None:
    assert ask("run", id=sandbox.id)["us"] > 0
    moved = ask("transfer", id=sandbox.id, mib=1, path="/home/agent/bench")
    assert moved["equal"]
    assert min(moved["up_us"], moved["down_us"]) > 0
    assert not sandbox.files.exists("/home/agent/bench")
    rounds = ask("first_byte", id=sandbox.id, count=3)["rounds"]
    assert [one["us"] >= one["sent_us"] > 0 for one in rounds] == [True] * 3


def test_every_line_of_streams_at_once_is_counted(ask: Ask, client: Client) -> None:
    with client.create(size="nano") as one, client.create(size="nano") as other:
        streamed = ask("stream", ids=[one.id, other.id], lines=5000)
    for stream in streamed["streams"]:
        assert (stream["lines"], stream["wrong"]) == (5000, 0)


def test_what_fails_is_said_and_the_program_goes_on(ask: Ask) -> None:
    gone = "sbx_00000000000000ff"
    assert "NotFound" in ask("run", id=gone)["error"]
    [stream] = ask("stream", ids=[gone], lines=1)["streams"]
    assert "NotFound" in stream["error"]
