"""Databases: what is said of them, and, against a real node, who gets in and what is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from sandflare import (
    AsyncClient,
    AsyncDatabase,
    AsyncSandbox,
    Client,
    Database,
    DatabaseInfo,
    DatabaseStats,
    Rows,
    Sandbox,
    SandboxInfo,
    Wired,
    errors,
)
from sandflare import _operations as operations

EXAMPLES = Path(__file__).parents[3] / "examples" / "database"
KNOWN: dict[str, Any] = {
    "id": "db_0123456789abcdef",
    "name": "memory",
    "status": "running",
    "size": "nano",
    "extensions": ["vector"],
    "outside": "loopback",
    "host": "127.0.0.1",
    "port": 5432,
    "user": "u1",
    "database": "main",
    "password": "Secret#42",
    "url": "postgresql://u1:Secret%2342@127.0.0.1:5432/main",
    "direct_url": "postgresql://u1.direct:Secret%2342@127.0.0.1:5432/main",
    "created_at_ms": 1,
}
# What a sandbox does with the address it finds.
CONNECT = """\
import os, sys, psycopg
with psycopg.connect(os.environ[sys.argv[1]]) as connection:
    answer = connection.execute(sys.argv[2])
    print(answer.fetchone()[0] if answer.description else answer.statusmessage)
"""


def at(sandbox: Sandbox, sql: str, env: str = "DATABASE_URL") -> str:
    """Run SQL over the address that a variable of the sandbox has; gives what failed, too."""
    result = sandbox.run(["python3", "-c", CONNECT, env, sql], timeout=240)
    return result.stdout.strip() if result.ok else result.stderr


def test_nothing_secret_is_shown() -> None:
    info = DatabaseInfo.parse(KNOWN)
    wired = Wired.parse(
        {"id": "db_1", "name": "memory", "role": "readonly", "env": {"PGPASSWORD": "Secret#42"}}
    )
    with Client("http://127.0.0.1:9", "key") as client:
        database = Database(client._transport, info)
        assert repr(database) == "<Database db_0123456789abcdef memory running>"
        assert (database.url, database.psql_url) == (KNOWN["url"], KNOWN["url"])
        assert (database.password, database.direct_url) == ("Secret#42", KNOWN["direct_url"])
    for shown in (repr(info), repr(wired), repr(database)):
        assert "Secret" not in shown
        assert "postgresql:" not in shown


def test_a_database_of_a_list_has_no_secrets() -> None:
    listed = {name: value for name, value in KNOWN.items() if "url" not in name}
    del listed["password"]
    info = DatabaseInfo.parse(listed)
    assert (info.password, info.url, info.direct_url) == (None, None, None)


def test_rows_are_dictionaries_and_lose_no_column() -> None:
    answer = {
        "columns": [{"name": "x"}, {"name": "y"}, {"name": "x"}],
        "rows": [["1", None, "2"], ["3", "", "4"]],
        "truncated": True,
        "rows_affected": 5,
    }
    rows = Rows.parse(answer)
    assert list(rows) == [{"x": "2", "y": None}, {"x": "4", "y": ""}]
    assert (len(rows), rows[1]["y"], rows.columns) == (2, "", ("x", "y", "x"))
    assert rows.values == (("1", None, "2"), ("3", "", "4"))
    assert (rows.truncated, rows.rows_affected) == (True, 5)
    assert not Rows.parse({"columns": [], "rows": []})
    for wrong in ({}, {"columns": ["x"], "rows": []}, {"columns": [], "rows": 1}, []):
        with pytest.raises(errors.BadAnswer):
            Rows.parse(wrong)


def test_figures_are_read_and_a_database_without_any_has_none() -> None:
    stats = DatabaseStats.parse({**FIGURES, "newer": 1})
    assert (stats.status, stats.answered_us, stats.uptime_ms) == ("running", 1500, 60_000)
    assert stats.connections is not None
    assert stats.transactions is not None
    assert stats.cache is not None
    assert (stats.connections.open, stats.connections.active, stats.connections.max) == (2, 1, 95)
    assert (stats.transactions.committed, stats.transactions.rolled_back) == (120, 3)
    assert (stats.cache.hit, stats.cache.read, stats.cache.ratio) == (3, 1, 0.75)
    assert [one.query for one in stats.slow_queries or ()] == ["SELECT pg_sleep($1)"]
    paused = DatabaseStats.parse({"status": "paused"})
    assert (paused.size_bytes, paused.connections, paused.slow_queries) == (None, None, None)
    unread = DatabaseStats.parse({**FIGURES, "cache": {"hit": 0, "read": 0, "ratio": None}})
    assert unread.cache is not None
    assert unread.cache.ratio is None
    for wrong in ({}, {**FIGURES, "cache": 7}, {**FIGURES, "slow_queries": 7}, []):
        with pytest.raises(errors.BadAnswer):
            DatabaseStats.parse(wrong)


def test_what_is_not_said_is_the_nodes_to_choose() -> None:
    assert operations.database_query("memory", "SELECT 1", None, None).json == {"sql": "SELECT 1"}
    asked = operations.database_query("memory", "SELECT 1", 5, 0.0001).json
    assert asked == {"sql": "SELECT 1", "rows_max": 5, "timeout_ms": 1}
    assert operations.database_set_password("memory", None).json == {}
    assert operations.database_wire("sbx_1", "a/b", None, None).path.endswith("/databases/a%2Fb")


@pytest.mark.parametrize(
    ("meant", "sent"),
    [
        ("off", "off"),
        ("loopback", "loopback"),
        ("10.0.0.0/8", ["10.0.0.0/8"]),
        (("10.0.0.0/8", "::1"), ["10.0.0.0/8", "::1"]),
        ([ip_network("10.0.0.0/8")], ["10.0.0.0/8"]),
    ],
)
def test_who_may_connect_is_a_word_or_a_list(meant: Any, sent: Any) -> None:
    assert operations.database_set_outside("memory", meant).json == {"outside": sent}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"extensions": "vector"}, "a list of names"), ({"ttl": -1}, "`ttl` is -1")],
)
def test_what_cannot_be_meant_is_not_sent(wrong: dict[str, Any], said: str) -> None:
    with Client("http://127.0.0.1:9", "key", retries=0) as client:
        with pytest.raises(errors.ConfigurationError, match=said):
            client.create_database("memory", **wrong)
        database = Database(client._transport, DatabaseInfo.parse(KNOWN))
        with pytest.raises(errors.ConfigurationError, match="`timeout` is 0"):
            database.query("SELECT 1", timeout=0)


SANDBOX = {"id": "sbx_1", "template": "agent", "size": "nano", "state": "running"}
WIRED_ANSWER = {"id": KNOWN["id"], "name": "memory", "role": "readonly", "env": {"URL": "x"}}
REFUSED = {"code": "sql_failed", "message": "ERROR: nonsense", "hint": "h", "request_id": "r"}
KEPT = {"id": "snap_1", "name": "before", "database": KNOWN["id"], "created_at_ms": 1, "bytes": 5}
FIGURES: dict[str, Any] = {
    "status": "running",
    "answered_us": 1500,
    "uptime_ms": 60_000,
    "connections": {"open": 2, "active": 1, "max": 95},
    "transactions": {"committed": 120, "rolled_back": 3},
    "size_bytes": 8_388_608,
    "cache": {"hit": 3, "read": 1, "ratio": 0.75},
    "slow_queries": [
        {
            "query": "SELECT pg_sleep($1)",
            "calls": 2,
            "mean_ms": 300.5,
            "total_ms": 601.0,
            "rows": 2,
        }
    ],
}
ROWS = {"columns": [{"name": "one"}], "rows": [["1"]], "truncated": False, "rows_affected": 1}
ANSWERS: dict[tuple[str, str], tuple[int, Any]] = {
    ("POST", "/v1/databases"): (201, KNOWN),
    ("GET", "/v1/databases"): (200, {"databases": [KNOWN], "next_cursor": "c"}),
    ("GET", "/v1/databases?cursor=c"): (200, {"databases": [{**KNOWN, "id": "db_2"}]}),
    ("GET", "/v1/databases/memory"): (200, KNOWN),
    ("GET", f"/v1/databases/{KNOWN['id']}/stats"): (200, FIGURES),
    ("DELETE", f"/v1/databases/{KNOWN['id']}"): (204, None),
    ("POST", f"/v1/databases/{KNOWN['id']}/query"): (200, ROWS),
    ("POST", f"/v1/databases/{KNOWN['id']}/password"): (200, {**KNOWN, "password": "other"}),
    ("PUT", f"/v1/databases/{KNOWN['id']}/outside"): (200, {**KNOWN, "outside": ["::1"]}),
    ("POST", f"/v1/databases/{KNOWN['id']}/fork"): (201, {**KNOWN, "name": "branch"}),
    ("POST", f"/v1/databases/{KNOWN['id']}/snapshots"): (201, KEPT),
    ("GET", f"/v1/databases/{KNOWN['id']}/snapshots"): (200, {"snapshots": [KEPT]}),
    ("POST", f"/v1/databases/{KNOWN['id']}/restore"): (200, KNOWN),
    ("DELETE", f"/v1/databases/{KNOWN['id']}/snapshots/before"): (204, None),
    ("POST", "/v1/databases/db_2/query"): (422, REFUSED),
    ("DELETE", "/v1/databases/db_2"): (404, {"code": "not_found", "message": "no"}),
    ("PUT", "/v1/sandboxes/sbx_1/databases/memory"): (200, WIRED_ANSWER),
    ("GET", "/v1/sandboxes/sbx_1/databases"): (200, {"databases": [WIRED_ANSWER]}),
    ("DELETE", f"/v1/sandboxes/sbx_1/databases/{KNOWN['id']}"): (204, None),
}


class Node(BaseHTTPRequestHandler):
    """Answers what a node answers, and notes what it was asked."""

    asked: list[tuple[str, str, Any]]
    keys: list[str]

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.asked.append((self.command, self.path, json.loads(body) if body else None))
        self.keys.extend(self.headers.get_all("Idempotency-Key", []))
        status, said = ANSWERS[self.command, self.path]
        text = b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        if said is not None:
            self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def node() -> Iterator[tuple[str, type[Node]]]:
    handler = type("Handler", (Node,), {"asked": [], "keys": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


EVERYTHING = [
    (
        "POST",
        "/v1/databases",
        {"name": "memory", "password": "Secret#42", "size": "nano", "extensions": ["vector"]},
    ),
    ("POST", f"/v1/databases/{KNOWN['id']}/query", {"sql": "SELECT 1"}),
    ("GET", f"/v1/databases/{KNOWN['id']}/stats", None),
    ("POST", f"/v1/databases/{KNOWN['id']}/password", {"password": "other"}),
    ("PUT", f"/v1/databases/{KNOWN['id']}/outside", {"outside": ["::1"]}),
    ("POST", f"/v1/databases/{KNOWN['id']}/snapshots", {"name": "before"}),
    ("GET", f"/v1/databases/{KNOWN['id']}/snapshots", None),
    ("POST", f"/v1/databases/{KNOWN['id']}/fork", {"name": "branch", "snapshot": "before"}),
    ("POST", f"/v1/databases/{KNOWN['id']}/restore", {"snapshot": "before"}),
    ("DELETE", f"/v1/databases/{KNOWN['id']}/snapshots/before", None),
    ("PUT", "/v1/sandboxes/sbx_1/databases/memory", {"env": "URL", "role": "readonly"}),
    ("GET", "/v1/sandboxes/sbx_1/databases", None),
    ("DELETE", f"/v1/sandboxes/sbx_1/databases/{KNOWN['id']}", None),
    ("DELETE", f"/v1/databases/{KNOWN['id']}", None),
    ("GET", "/v1/databases", None),
    ("GET", "/v1/databases?cursor=c", None),
    ("POST", "/v1/databases/db_2/query", {"sql": "nonsense"}),
    ("DELETE", "/v1/databases/db_2", None),
    ("GET", "/v1/databases/memory", None),
]


def test_what_is_asked_is_sent_and_what_is_answered_is_told(node: tuple[str, type[Node]]) -> None:
    url, handler = node
    with Client(url, "key") as client:
        sandbox = Sandbox(client._transport, SandboxInfo.parse({**SANDBOX, "created_at_ms": 1}))
        with Database.create("memory", password="Secret#42", client=client) as database:
            assert database.query("SELECT 1")[0] == {"one": "1"}
            assert database.stats() == DatabaseStats.parse(FIGURES)
            assert database.reset_password("other").password == database.password == "other"
            assert database.outside == "loopback"
            assert database.set_outside(["::1"]).outside == database.outside == ["::1"]
            kept = database.snapshot("before")
            assert (kept.name, kept.bytes) == ("before", 5)
            assert database.snapshots() == [kept]
            assert database.fork("branch", snapshot="before").name == "branch"
            assert database.restore("before").id == database.id
            assert database.delete_snapshot("before")
            wired = sandbox.wire("memory", "URL", "readonly")
            assert (wired.name, wired.role, wired.env) == ("memory", "readonly", {"URL": "x"})
            assert sandbox.wired() == [wired]
            sandbox.unwire(database)
        _, second = Database.list(client=client)
        with pytest.raises(errors.SqlFailed, match="ERROR: nonsense"):
            second.query("nonsense")
        assert second.delete() is False
        assert Database.get("memory", client=client).id == KNOWN["id"]
    assert handler.asked == EVERYTHING
    # The create, the snapshot and the fork; each has one of its own.
    assert len(set(handler.keys)) == len(handler.keys) == 3


async def test_the_async_half_asks_the_same(node: tuple[str, type[Node]]) -> None:
    url, handler = node
    async with AsyncClient(url, "key") as client:
        info = SandboxInfo.parse({**SANDBOX, "created_at_ms": 1})
        sandbox = AsyncSandbox(client._transport, info)
        made = await AsyncDatabase.create("memory", password="Secret#42", client=client)
        async with made as database:
            assert (await database.query("SELECT 1"))[0] == {"one": "1"}
            assert await database.stats() == DatabaseStats.parse(FIGURES)
            assert (await database.reset_password("other")).password == database.password
            assert (await database.set_outside(["::1"])).outside == ["::1"]
            kept = await database.snapshot("before")
            assert await database.snapshots() == [kept]
            assert (await database.fork("branch", snapshot="before")).name == "branch"
            assert (await database.restore("before")).id == database.id
            assert await database.delete_snapshot("before")
            wired = await sandbox.wire("memory", "URL", "readonly")
            assert await sandbox.wired() == [wired]
            await sandbox.unwire(database)
        _, second = [found async for found in AsyncDatabase.list(client=client)]
        with pytest.raises(errors.SqlFailed, match="ERROR: nonsense"):
            await second.query("nonsense")
        assert await second.delete() is False
        assert (await AsyncDatabase.get("memory", client=client)).id == KNOWN["id"]
    assert handler.asked == EVERYTHING


def test_the_examples_are_python_and_the_first_is_the_one_that_is_shown() -> None:
    for program in EXAMPLES.glob("*.py"):
        compile(program.read_text(), str(program), "exec")
    text = (EXAMPLES / "wired.py").read_text()
    assert WIRED in text


WIRED = """\
from sandflare import Sandbox, Database
db = Database.create("memory", password="Secret#42")
sb = Sandbox.create("agent")
sb.wire(db.name)
sb.run(\"\"\"python3 -c "import os, psycopg; psycopg.connect(os.environ['DATABASE_URL'])\
.execute('create table t(x int)')" \"\"\", check=True)
"""


@pytest.mark.node
def test_a_database_answers_and_is_gone_at_the_end(client: Client) -> None:
    with client.create_database("sdk-first", seed="CREATE TABLE s (x int)", ttl=600) as database:
        assert database.query("SELECT 1 AS one, NULL AS none")[0] == {"one": "1", "none": None}
        assert database.query("SELECT count(*) FROM s").values == (("0",),)
        assert database.query("SELECT '[1,2]'::vector <-> '[1,4]' AS d")[0]["d"] == "2"
        part = database.query("SELECT n FROM generate_series(1, 50) n", rows_max=10)
        assert (len(part), part.truncated, part.rows_affected) == (10, True, 50)
        with pytest.raises(errors.SqlFailed, match="nonsense") as caught:
            database.query("SELECT nonsense")
        assert (caught.value.code, caught.value.status) == ("sql_failed", 422)
        with pytest.raises(errors.SqlFailed):
            database.query("SELECT pg_sleep(30)", timeout=0.5)

        assert client.database("sdk-first").id == client.database(database.id).id == database.id
        (listed,) = [one for one in client.databases() if one.id == database.id]
        assert (listed.url, listed.password, listed.extensions) == (None, None, ["vector"])
        assert listed.refresh().url == listed.url == database.url
        with pytest.raises(errors.AlreadyExists):
            client.create_database("SDK-first")
        assert client.create_database("SDK-first", exist_ok=True).id == database.id
    with pytest.raises(errors.NotFound):
        client.database("sdk-first")
    assert database.delete() is False


@pytest.mark.node
def test_figures_move_with_what_is_done(client: Client) -> None:
    with client.create_database("sdk-figures", ttl=600) as database:
        before = database.stats()
        assert before.status == "running", before
        assert before.answered_us
        assert before.size_bytes
        database.query("CREATE TABLE t AS SELECT n FROM generate_series(1, 50000) n")
        database.query("SELECT pg_sleep(0.2), 'Secret#42'")
        # Sessions tell what they did when they end, a moment after their answers.
        until = time.monotonic() + 240
        while True:
            after = database.stats()
            slow = [one.query for one in after.slow_queries or ()]
            if after.transactions != before.transactions and "SELECT pg_sleep($1), $2" in slow:
                break
            assert time.monotonic() < until, after
            time.sleep(0.5)
        assert (after.size_bytes or 0) > before.size_bytes
        assert "Secret" not in repr(after)


@pytest.mark.node
def test_a_seed_that_fails_leaves_nothing(client: Client) -> None:
    with pytest.raises(errors.SqlFailed):
        client.create_database("sdk-seed", seed="CREATE TABLE t (x int); SELECT nonsense")
    # It is being removed when the failure is told.
    until = time.monotonic() + 240
    while "sdk-seed" in [found.name for found in client.databases()]:
        assert time.monotonic() < until, "what could not be made is still there"
        time.sleep(0.1)
    with pytest.raises(errors.NotFound):
        client.database("sdk-seed")


def lets_in(database: Database, password: str) -> bool:
    """Whether the server takes this password from its owner; it is asked from inside of it."""
    url = f"postgresql://{database.user}:{quote(password, safe='')}@127.0.0.1:5432/main"
    try:
        database.query(f"SELECT * FROM dblink('{url}', 'SELECT session_user') AS t(x text)")
    except errors.SqlFailed:
        return False
    return True


@pytest.mark.node
def test_a_password_of_any_characters_lets_in_until_there_is_another(client: Client) -> None:
    with client.create_database(
        "sdk-password", password="Secret#42", extensions=["dblink"]
    ) as database:
        assert database.password == "Secret#42"
        assert ":Secret%2342@" in (database.url or "")
        assert lets_in(database, "Secret#42")
        assert not lets_in(database, "Secret")
        database.reset_password("Other/43")
        assert database.password == "Other/43"
        assert ":Other%2F43@" in (database.url or "")
        assert lets_in(database, "Other/43")
        assert not lets_in(database, "Secret#42")
        assert database.reset_password().password not in (None, "", "Other/43")
        assert client.database(database.id).password == database.password


@pytest.mark.node
def test_sandboxes_share_a_database_until_they_are_unwired(client: Client) -> None:
    with (
        client.create_database("sdk-wired", password="Secret#42") as database,
        client.create("sdk-writer") as writer,
        client.create("sdk-reader") as reader,
    ):
        wired = writer.wire(database)
        assert (wired.id, wired.name, wired.role) == (database.id, "sdk-wired", "readwrite")
        assert writer.run("echo $DATABASE_URL").stdout.strip() == wired.env["DATABASE_URL"]
        assert at(writer, "CREATE TABLE t (x int)") == "CREATE TABLE"
        assert at(writer, "INSERT INTO t VALUES (7)", "DATABASE_URL_UNPOOLED") == "INSERT 0 1"
        assert writer.wired() == [wired]

        read = reader.wire(database.name, env="MEMORY", role="readonly")
        assert (read.role, sorted(read.env)) == ("readonly", ["MEMORY", "MEMORY_UNPOOLED"])
        assert at(reader, "SELECT x FROM t", "MEMORY") == "7"
        insert = "INSERT INTO t VALUES (8)"
        assert "ReadOnlySqlTransaction" in at(reader, insert, "MEMORY")
        # The setting is a courtesy.
        insert = f"SET TRANSACTION READ WRITE; {insert}"
        assert "InsufficientPrivilege" in at(reader, insert, "MEMORY")
        assert database.query("SELECT x FROM t")[0] == {"x": "7"}

        writer.unwire(database)
        assert writer.wired() == []
        assert writer.run('echo "<$DATABASE_URL>"').stdout == "<>\n"
        old = ["python3", "-c", CONNECT, "DATABASE_URL", "SELECT 1"]
        refused = writer.run(old, env=wired.env, timeout=240)
        assert "OperationalError" in refused.stderr
        assert at(reader, "SELECT x FROM t", "MEMORY") == "7"
        with pytest.raises(errors.NotFound):
            writer.unwire(database.name)


@pytest.mark.node
def test_a_fork_goes_its_own_way(client: Client) -> None:
    with client.create_database("sdk-trunk", seed="CREATE TABLE t AS SELECT 1 AS x") as trunk:
        with trunk.fork("sdk-branch", password="Secret#42") as branch:
            assert (branch.name, branch.password) == ("sdk-branch", "Secret#42")
            branch.query("INSERT INTO t VALUES (2)")
            assert branch.query("SELECT count(*) AS n FROM t")[0]["n"] == "2"
            assert trunk.query("SELECT count(*) AS n FROM t")[0]["n"] == "1"
        assert "sdk-branch" not in [found.name for found in client.databases()]


@pytest.mark.node
def test_a_snapshot_is_a_moment_to_go_back_to(client: Client) -> None:
    seed = "CREATE TABLE t AS SELECT 1 AS x"
    with (
        client.create_database("sdk-kept", seed=seed) as database,
        client.create("sdk-kept") as sandbox,
    ):
        wired = sandbox.wire(database)
        database.snapshot("before")
        with pytest.raises(errors.AlreadyExists):
            database.snapshot("Before")
        database.query("DROP TABLE t")
        password = database.password
        assert database.restore("before").password == password
        assert database.query("SELECT x FROM t")[0] == {"x": "1"}
        # As it was wired before, by the same address.
        assert sandbox.wired() == [wired]
        assert at(sandbox, "SELECT x FROM t") == "1"
        assert database.delete_snapshot("before")
        assert database.delete_snapshot("before") is False
        with pytest.raises(errors.NotFound):
            database.restore("before")


@pytest.mark.node
async def test_it_is_the_same_without_waiting(client: Client) -> None:
    async with AsyncClient(client.url) as other:
        async with (
            await other.create_database("sdk-async") as database,
            await other.create("sdk-async") as sandbox,
        ):
            assert (await database.query("SELECT 1 AS one"))[0] == {"one": "1"}
            wired = await sandbox.wire(database)
            assert await sandbox.wired() == [wired]
            await sandbox.unwire(database)
            assert database.id in [found.id async for found in other.databases()]
        with pytest.raises(errors.NotFound):
            await other.database("sdk-async")


@pytest.mark.node
@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("program", ["wired.py", "shared_queue.py"])
def test_an_example_runs_to_its_end(client: Client, program: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, EXAMPLES / program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    names = {found.name for found in client.databases()}
    assert not names & {"memory", "tasks"}
