"""What `sandflare bench --api` has the Python SDK do: one line of JSON in, one line of JSON out.

Run by the command line with ``python3 -c``, on whatever SDK is installed there. Times are whole
microseconds on this side of the wire.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from typing import Any, Callable

import sandflare
from sandflare import Client

# What the guest runs to answer a line of its input with a line of its output, at once.
_ECHO = ["cat"]
# Seconds that a stream may wait for the others to begin.
_BEGIN_WITHIN = 120.0

client = Client()


def micros(begun: float) -> int:
    """Whole microseconds since ``begun``."""
    return round((time.perf_counter() - begun) * 1e6)


def create(template: str, size: str) -> dict[str, Any]:
    """Time a create; whoever asked kills the sandbox."""
    begun = time.perf_counter()
    sandbox = client.create(template=template, size=size)
    return {"us": micros(begun), "id": sandbox.id}


def run(id: str) -> dict[str, Any]:
    """Time the smallest command there is."""
    sandbox = client.get(id)
    begun = time.perf_counter()
    sandbox.run("true", check=True)
    return {"us": micros(begun)}


def transfer(id: str, mib: int, path: str) -> dict[str, Any]:
    """Time a file on its way in and on its way out again."""
    sandbox = client.get(id)
    content = os.urandom(mib << 20)
    begun = time.perf_counter()
    sandbox.upload(content, path)
    up_us = micros(begun)
    begun = time.perf_counter()
    back = sandbox.download(path)
    down_us = micros(begun)
    sandbox.files.remove(path)
    return {"up_us": up_us, "down_us": down_us, "equal": back == content}


def first_byte(id: str, count: int) -> dict[str, Any]:
    """Time round trips: a line to a command's input, and the same line back from its output."""
    sandbox = client.get(id)
    process = sandbox.spawn(_ECHO, stdin=True)
    rounds = []
    try:
        with process.events(lines=True) as events:
            for number in range(count):
                # Later than what the round before left to be done.
                time.sleep(0.05)
                line = f"line {number}"
                begun = time.perf_counter()
                process.write(line + "\n")
                sent_us = micros(begun)
                for event in events:
                    if event.event == "stdout":
                        break
                if event.line != line:
                    raise SystemExit(f"{line!r} came back as {event.line!r}")
                rounds.append({"us": micros(begun), "sent_us": sent_us})
    finally:
        process.kill()
    return {"rounds": rounds}


def stream(ids: list[str], lines: int) -> dict[str, Any]:
    """Read the lines of one command in each sandbox, all at once, and count what is not right."""
    script = f"echo begin; read go; seq 1 {lines}"
    together = threading.Barrier(len(ids))
    results: list[dict[str, Any]] = [{} for _ in ids]

    def follow(id: str) -> dict[str, Any]:
        seen, wrong, last, rest = 0, 0, -1, b""
        process = client.get(id).spawn(script, stdin=True)
        begun = time.perf_counter()
        # Pieces as they were sent, whose numbers have no gaps.
        with process.events(lines=False) as events:
            for event in events:
                wrong += event.seq != last + 1
                last = event.seq
                *whole, rest = (rest + (event.data or b"")).split(b"\n")
                for line in whole:
                    if line == b"begin":
                        # All are listening before the first line is printed.
                        together.wait(_BEGIN_WITHIN)
                        begun = time.perf_counter()
                        process.write("go\n")
                        continue
                    seen += 1
                    wrong += line != str(seen).encode()
        return {"lines": seen, "wrong": wrong, "us": micros(begun)}

    def work(index: int) -> None:
        try:
            results[index] = follow(ids[index])
        except Exception as error:  # noqa: BLE001 -- told in the answer
            together.abort()
            results[index] = {"error": f"{type(error).__name__}: {error}"}

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(ids))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"streams": results}


DO: dict[str, Callable[..., dict[str, Any]]] = {
    "create": create,
    "run": run,
    "transfer": transfer,
    "first_byte": first_byte,
    "stream": stream,
}


def say(answer: dict[str, Any]) -> None:
    """Answer."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Do what each line of the input asks for."""
    say({"sdk": sandflare.__version__, "python": platform.python_version()})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            say(DO[request.pop("do")](**request))
        except Exception as error:  # noqa: BLE001 -- told to whoever asked
            say({"error": f"{type(error).__name__}: {error}"})


main()
