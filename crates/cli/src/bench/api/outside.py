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
from sandflare import Client, Database

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


def database() -> dict[str, Any]:
    """Time a database to its first answer, and its wiring to a sandbox."""
    name = f"bench-{os.urandom(4).hex()}"
    with client.create(template="postgres", size="nano") as sandbox:
        # As it is most of the time: with one made ahead since the last create.
        time.sleep(10)
        begun = time.perf_counter()
        made = Database.create(name)
        try:
            made.query("SELECT 1")
            create_us = micros(begun)
            begun = time.perf_counter()
            sandbox.wire(made)
            return {"create_us": create_us, "wire_us": micros(begun)}
        finally:
            made.delete()


def fork_database(mb: int, count: int) -> list[dict[str, Any]]:
    """Time forks of a database with so many MB of rows in it."""
    columns = "n, repeat(md5(n::text), 31) AS text"
    numbers = f"generate_series(1, {max(1, mb * 1000)}) n"
    seed = f"CREATE TABLE rows AS SELECT {columns} FROM {numbers}"  # noqa: S608 -- of numbers
    made = Database.create(f"bench-{os.urandom(4).hex()}", seed=seed)
    forked = []
    try:
        for _ in range(count):
            # As it is most of the time: at rest.
            time.sleep(2)
            begun = time.perf_counter()
            branch = made.fork(f"bench-{os.urandom(4).hex()}")
            forked.append({"us": micros(begun)})
            branch.delete()
    finally:
        made.delete()
    return forked


# As root in a sandbox of the template, whose own server runs already.
_INITDB = """
set -e
cd /
rm -rf /var/lib/postgresql/cluster
own() {
    setpriv --reuid=postgres --regid=postgres --init-groups "/usr/lib/sandflare/postgres/$@"
}
own initdb --pgdata=/var/lib/postgresql/cluster --username=postgres --data-checksums >/dev/null
listen="-c listen_addresses= -k /var/lib/postgresql -p 5555"
own pg_ctl --pgdata=/var/lib/postgresql/cluster -o "$listen" -w start >/dev/null 2>&1
own pg_ctl --pgdata=/var/lib/postgresql/cluster -m immediate stop >/dev/null
"""
_PGBENCH = "{} /usr/lib/sandflare/postgres/pgbench --client=4 --time=20 --no-vacuum {} 2>/dev/null"
_FILL = "{} /usr/lib/sandflare/postgres/pgbench --initialize --quiet {} >/dev/null 2>&1"


def postgres() -> dict[str, Any]:
    """Time a cluster that is made and started; pgbench wired, and at a server beside it."""
    made = Database.create(f"bench-{os.urandom(4).hex()}")
    try:
        with client.create(template="postgres", size="nano") as sandbox:
            sandbox.wire(made)
            begun = time.perf_counter()
            sandbox.run(_INITDB, user="root", timeout=300, check=True)
            initdb_us = micros(begun)
            figures = {}
            own = "env -u PGPASSWORD -u PGPORT PGHOST=/run/postgresql PGUSER=postgres"
            wired = '"$DATABASE_URL_UNPOOLED"'
            for name, env, at in (("wired_tps", "", wired), ("own_tps", own, "main")):
                sandbox.run(_FILL.format(env, at), user="root", timeout=300, check=True)
                said = sandbox.run(_PGBENCH.format(env, at), user="root", timeout=300, check=True)
                line = next(line for line in said.stdout.splitlines() if line.startswith("tps = "))
                figures[name] = float(line.split()[2])
    finally:
        made.delete()
    return {"initdb_us": initdb_us, **figures}


DO: dict[str, Callable[..., Any]] = {
    "create": create,
    "run": run,
    "transfer": transfer,
    "first_byte": first_byte,
    "stream": stream,
    "database": database,
    "fork_database": fork_database,
    "postgres": postgres,
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
