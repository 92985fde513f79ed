"""Pause, resume, fork, snapshots, times, and keys, against a real node."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest

from sandflare import AsyncClient, Client, Sandbox, errors

pytestmark = pytest.mark.node


def test_what_a_sandbox_was_created_with_is_told(client: Client) -> None:
    with client.create(
        "told",
        metadata={"team": "blue", "a:b": "c"},
        timeout=500,
        idle_timeout=400,
        on_timeout="pause",
    ) as sandbox:
        info = sandbox.refresh()
        assert (info.metadata, info.idle_timeout_s) == ({"team": "blue", "a:b": "c"}, 400)
        assert info.on_timeout == "pause"
        assert info.timeout_at_ms is not None
        assert abs(info.timeout_at_ms / 1000 - time.time() - 500) < 120
        for entries in ({"team": "blue"}, {"a:b": "c"}, {"team": "blue", "a:b": "c"}):
            assert [found.id for found in client.list(metadata=entries)] == [sandbox.id]
        assert list(client.list(metadata={"team": "red"})) == []
        sandbox.set_timeout(1000)
        later = sandbox.refresh().timeout_at_ms
        assert later is not None
        assert later > info.timeout_at_ms
        sandbox.set_timeout(0)
        assert sandbox.refresh().timeout_at_ms is None
        assert isinstance(sandbox.logs(), str)


def test_a_paused_sandbox_goes_on_where_it_was(client: Client) -> None:
    with client.create("paused") as sandbox:
        counter = sandbox.spawn("i=0; while :; do i=$((i+1)); echo $i > counter; sleep 0.5; done")
        sandbox.upload("kept", "/home/agent/file")
        sandbox.pause()
        assert sandbox.refresh().state == "paused"
        sandbox.resume()
        assert sandbox.state == "running"
        assert sandbox.download("/home/agent/file") == b"kept"
        assert counter.id in [info.id for info in sandbox.processes() if info.running]
        sandbox.pause()
        # Any use resumes it.
        assert sandbox.run("cat file").stdout == "kept"
        assert sandbox.refresh().state == "running"


def test_forks_go_their_own_ways_from_one_moment(client: Client) -> None:
    with client.create("origin") as sandbox:
        sandbox.run("echo before > file; sync", check=True)
        forks = sandbox.fork(2, name="child")
        try:
            assert [fork.name for fork in forks] == ["child", "child"]
            for number, fork in enumerate(forks):
                assert fork.run(f"cat file; echo {number} > file").stdout == "before\n"
            assert [fork.run("cat file").stdout for fork in forks] == ["0\n", "1\n"]
            assert sandbox.run("cat file").stdout == "before\n"
        finally:
            for fork in forks:
                fork.kill()


def test_a_snapshot_makes_sandboxes_after_its_own_is_gone(client: Client) -> None:
    with client.create("kept") as sandbox:
        sandbox.run("echo kept > file; sync", check=True)
        snapshot = sandbox.snapshot("moment")
    try:
        assert snapshot.id in [found.id for found in client.snapshots()]
        assert client.snapshot(snapshot.id).name == "moment"
        with client.create(snapshot=snapshot) as again:
            assert again.run("cat file").stdout == "kept\n"
            assert again.info.snapshot == snapshot.id
    finally:
        client.delete_snapshot(snapshot.id)
    with pytest.raises(errors.NotFound):
        client.snapshot(snapshot.id)


def test_a_key_opens_its_project_until_it_is_revoked(client: Client, sandbox: Sandbox) -> None:
    project = client.create_project("sdk-test-project", quota={"sandboxes": 1})
    try:
        key = client.create_key(
            "agent", project=project.id, expires_at=datetime.now(timezone.utc) + timedelta(days=1)
        )
        assert key.key not in repr(key)
        assert key.id in [found.id for found in client.keys()]  # noqa: SIM118 -- not a dictionary's
        assert project.id in [found.id for found in client.projects()]
        with Client(client.url, key.key) as theirs:
            assert theirs.usage().quota["sandboxes"] == 1
            with pytest.raises(errors.NotFound):
                theirs.get(sandbox.id)
            assert list(theirs.list()) == []
            with theirs.create("one") as one:
                assert one.run("echo mine").stdout == "mine\n"
                with pytest.raises(errors.QuotaExceeded):
                    theirs.create("two")
            with pytest.raises(errors.PermissionDenied):
                theirs.projects()
            client.delete_key(key.id)
            with pytest.raises(errors.AuthenticationFailed):
                theirs.usage()
    finally:
        client.delete_project(project.id)


def test_all_who_ask_for_a_name_at_once_get_one_sandbox(client: Client) -> None:
    name = "sdk-test-shared"
    with ThreadPoolExecutor(6) as threads:
        got = list(threads.map(lambda _: client.get_or_create(name), range(6)))
    try:
        assert len({sandbox.id for sandbox in got}) == 1
        assert [found.id for found in client.list(name=name)] == [got[0].id]
        assert client.get_or_create(name).id == got[0].id
    finally:
        got[0].kill()
    # The key's answer is remembered, and what it made is gone.
    with client.get_or_create(name) as other:
        assert other.id != got[0].id
        assert other.run("true").ok


def test_an_admins_key_gets_no_other_projects_sandbox(client: Client) -> None:
    project = client.create_project("sdk-test-other", quota={"sandboxes": 1})
    try:
        key = client.create_key("agent", project=project.id)
        with Client(client.url, key.key) as theirs, theirs.create("sdk-test-both") as foreign:
            assert foreign.id in [found.id for found in client.list(name="sdk-test-both")]
            with client.get_or_create("sdk-test-both") as own:
                assert own.id != foreign.id
            assert theirs.get_or_create("sdk-test-both").id == foreign.id
    finally:
        client.delete_project(project.id)


def test_what_a_sandbox_takes_is_told(client: Client, sandbox: Sandbox) -> None:
    before = client.get(sandbox.id).metrics()
    sandbox.run("python3 -c 'sum(range(3_000_000))'; head -c 4000000 /dev/urandom > file; sync")
    after = sandbox.metrics()
    # Where there are no control groups, there is no figure.
    if before.cpu_time_us is not None and after.cpu_time_us is not None:
        assert after.cpu_time_us > before.cpu_time_us
    if after.memory_bytes is not None and after.memory_limit_bytes is not None:
        assert 0 < after.memory_bytes < after.memory_limit_bytes
    assert before.disk_bytes is not None
    assert after.disk_bytes is not None
    assert after.disk_bytes > before.disk_bytes
    assert before.uptime_ms is not None
    assert after.uptime_ms is not None
    assert after.uptime_ms > before.uptime_ms


async def test_the_async_sandbox_does_the_same(client: Client) -> None:
    async with AsyncClient(client.url) as node, await node.create("async-life") as sandbox:
        await sandbox.run("echo before > file; sync", check=True)
        (fork,) = await sandbox.fork()
        async with fork:
            assert (await fork.run("cat file")).stdout == "before\n"
        await sandbox.pause()
        await sandbox.resume()
        snapshot = await sandbox.snapshot()
        assert snapshot.id in [found.id async for found in node.snapshots()]
        await node.delete_snapshot(snapshot.id)
        await sandbox.set_timeout(60)
        assert (await sandbox.refresh()).timeout_at_ms is not None
