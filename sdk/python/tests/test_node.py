"""Sandboxes, commands and files, against a real node."""

from __future__ import annotations

import asyncio
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandflare import AsyncClient, Client, CommandFailed, Sandbox, errors

pytestmark = pytest.mark.node


def test_a_command_ends_with_all_that_is_known_of_it(sandbox: Sandbox) -> None:
    result = sandbox.run("echo out; echo err >&2; exit 3")
    assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")
    assert not result.ok
    assert not result.timed_out
    assert not result.truncated
    assert 0 < result.duration < 60
    assert Sandbox.exec is Sandbox.run


def test_a_list_is_a_program_and_its_arguments(sandbox: Sandbox) -> None:
    words = ["$HOME", "a b", "*", "'", "ü", ""]
    assert sandbox.run(["printf", "%s|", *words]).stdout == "".join(f"{word}|" for word in words)


def test_environment_directory_and_user_are_those_asked_for(client: Client) -> None:
    with client.create(env={"A": "sandbox", "B": "sandbox"}) as sandbox:
        result = sandbox.run(
            "echo $A $B; pwd; id -un", env={"B": "command"}, cwd="/tmp", user="root"
        )
        assert result.stdout == "sandbox command\n/tmp\nroot\n"
        assert sandbox.run("pwd; id -un").stdout == "/home/agent\nagent\n"


def test_a_command_that_was_to_succeed_raises_with_its_result(sandbox: Sandbox) -> None:
    with pytest.raises(CommandFailed, match="exit code 9: why") as caught:
        sandbox.run("echo before; echo why >&2; exit 9", check=True)
    assert (caught.value.result.exit_code, caught.value.result.stdout) == (9, "before\n")
    assert sandbox.run("true", check=True).ok


def test_a_command_is_killed_when_its_time_is_up(sandbox: Sandbox) -> None:
    result = sandbox.run("echo before; sleep 60", timeout=0.5)
    assert result.timed_out
    assert not result.ok
    assert result.stdout == "before\n"
    assert result.duration < 30


def test_a_program_that_is_not_there_is_a_result(sandbox: Sandbox) -> None:
    result = sandbox.run(["no-such-program"])
    assert result.exit_code == 127
    assert "no-such-program" in result.stderr


def test_output_beyond_what_was_asked_for_is_cut_and_said(sandbox: Sandbox) -> None:
    result = sandbox.run("head -c 300000 /dev/zero", max_output=1000)
    assert (len(result.stdout_bytes), result.truncated) == (1000, True)


def test_input_and_output_of_any_bytes_pass_each_other(sandbox: Sandbox) -> None:
    data = os.urandom(3_000_000)
    assert sandbox.run("cat", input=data).stdout_bytes == data
    assert sandbox.run("cat", input="text ü").stdout == "text ü"
    assert sandbox.run("cat", input=b"").stdout_bytes == b""
    assert sandbox.run("wc -c", input=(b"x" * 1000 for _ in range(50))).stdout == "50000\n"


def test_a_command_need_not_read_its_input(sandbox: Sandbox) -> None:
    result = sandbox.run("exec <&-; echo done", input=b"x" * 3_000_000)
    assert (result.exit_code, result.stdout) == (0, "done\n")


def test_input_that_fails_ends_the_command_and_is_raised(sandbox: Sandbox) -> None:
    def source() -> object:
        yield b"x"
        raise RuntimeError("no more of it")

    with pytest.raises(RuntimeError, match="no more of it"):
        sandbox.run("cat", input=source())  # type: ignore[arg-type]


def test_lines_come_as_they_are_written(sandbox: Sandbox) -> None:
    # The command goes on only when this side has seen its first line.
    command = "echo first; while [ ! -e seen ]; do sleep 0.05; done; printf 'ä\\r\\nlast'; exit 2"
    seen = []
    for event in sandbox.stream(command):
        seen.append((event.event, event.line))
        if event.line == "first":
            sandbox.upload(b"", "/home/agent/seen")
    assert seen == [
        ("started", ""),
        ("stdout", "first"),
        ("stdout", "ä"),
        ("stdout", "last"),
        ("exit", ""),
    ]


def test_a_stream_that_is_left_kills_its_command(sandbox: Sandbox) -> None:
    with sandbox.stream("echo on > /home/agent/left; echo here; exec sleep 1000") as events:
        for event in events:
            if event.line == "here":
                break
    deadline = time.monotonic() + 240
    while sandbox.run(["pgrep", "-xf", "sleep 1000"]).ok:
        assert time.monotonic() < deadline, "the command is still there"


def test_pieces_are_bytes_exactly(sandbox: Sandbox) -> None:
    command = "head -c 100000 /dev/urandom | tee random; sha256sum random >&2"
    events = list(sandbox.stream(command, lines=False))
    data = b"".join(event.data for event in events if event.event == "stdout")
    assert data == sandbox.download("/home/agent/random")
    assert [event.seq for event in events] == sorted(event.seq for event in events)


def test_files_are_what_was_written(sandbox: Sandbox, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(os.urandom(700_001))
    sources = [b"bytes", "text ü", local, io.BytesIO(b"file"), io.StringIO("text file ö")]
    expected = [b"bytes", "text ü".encode(), local.read_bytes(), b"file", "text file ö".encode()]
    for source, content in zip(sources, expected):
        entry = sandbox.upload(source, "/home/agent/deep/er/file", mode=0o640)
        assert (entry.size, entry.mode, entry.kind) == (len(content), 0o640, "file")
        assert sandbox.download("/home/agent/deep/er/file") == content
    for to in (tmp_path / "to", str(tmp_path / "to")):
        sandbox.upload(local, "/home/agent/file")
        copy = sandbox.download("/home/agent/file", to)
        assert (copy.files, copy.bytes) == (1, 700_001)
        assert (tmp_path / "to").read_bytes() == local.read_bytes()
    sink = io.BytesIO()
    sandbox.download("/home/agent/file", sink)
    assert sink.getvalue() == local.read_bytes()


def test_a_download_that_fails_leaves_what_was_there(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "to").write_text("old")
    with pytest.raises(errors.PathNotFound):
        sandbox.download("/no/such/file", tmp_path / "to")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_directories_go_in_and_come_out(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "ü").write_bytes(os.urandom(1_200_000))
    (tmp_path / "in" / "run").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "in" / "run").chmod(0o755)
    made = sandbox.upload(tmp_path / "in", "/home/agent/tree")
    assert (made.name, made.kind) == ("tree", "directory")
    assert sandbox.run("tree/run; stat -c %U tree/run").stdout == "ran\nagent\n"
    sandbox.run("ln -s /etc/passwd tree/link", check=True)
    copy = sandbox.download("/home/agent/tree", tmp_path / "out")
    assert (copy.files, copy.skipped) == (2, ["link"])
    for name in ("run", "sub/ü"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()


def test_a_part_of_a_file_is_read_without_the_rest(sandbox: Sandbox) -> None:
    data = os.urandom(300_000)
    files = sandbox.files
    files.write("/home/agent/parts", data)
    assert files.read("/home/agent/parts", start=299_990) == data[299_990:]
    assert files.read("/home/agent/parts", length=5) == data[:5]
    assert b"".join(files.stream("/home/agent/parts", start=7, length=200_000)) == data[7:200_007]
    with pytest.raises(errors.RangeNotSatisfiable, match="300000 bytes"):
        files.read("/home/agent/parts", start=300_000)
    # What has no size comes whole, and is cut here.
    whole = files.read("/proc/version")
    assert files.read("/proc/version", start=3, length=4) == whole[3:7]


def test_files_are_seen_with_the_rights_of_a_user(sandbox: Sandbox) -> None:
    files = sandbox.files
    files.write("/root/secret", b"x", mode=0o600, user="root")
    assert files.read("/root/secret") == b"x"
    for look in (files.read, files.list, files.stat):
        with pytest.raises(errors.PermissionDenied):
            look("/root/secret", user="agent")
    with pytest.raises(errors.PermissionDenied):
        sandbox.download("/root", "unused", user="agent")
    assert sandbox.files.exists("/home/agent", user="agent")


def test_a_watch_tells_what_a_command_does(sandbox: Sandbox) -> None:
    sandbox.files.make_dir("/home/agent/watched")
    # Each after the one before was told: what happens in a directory before it is watched is not.
    steps = ["mkdir sub", "echo x > sub/a", "mv sub/a b", "rm b"]
    seen = []
    for event in sandbox.files.watch("/home/agent/watched", recursive=True):
        if event.event == "modified":
            continue
        seen.append((event.event, event.path, event.to))
        if not steps:
            break
        sandbox.run(steps.pop(0), cwd="/home/agent/watched", check=True)
    assert seen == [
        ("started", None, None),
        ("created", "/home/agent/watched/sub", None),
        ("created", "/home/agent/watched/sub/a", None),
        ("moved", "/home/agent/watched/sub/a", "/home/agent/watched/b"),
        ("removed", "/home/agent/watched/b", None),
    ]
    with pytest.raises(errors.PathNotFound):
        next(iter(sandbox.files.watch("/no/such/directory")))


def test_files_are_listed_moved_and_removed(sandbox: Sandbox) -> None:
    files = sandbox.files
    files.make_dir("/home/agent/box", mode=0o700)
    files.make_dir("/home/agent/box")
    files.write("/home/agent/box/b", b"b")
    files.write("/home/agent/box/a", "ä")
    assert [(e.name, e.size) for e in files.list("/home/agent/box")] == [("a", 2), ("b", 1)]
    assert files.read_text("/home/agent/box/a") == "ä"
    files.move("/home/agent/box/a", "/home/agent/box/c", user="agent")
    with pytest.raises(errors.PermissionDenied):
        files.move("/etc/passwd", "/home/agent/box/d", user="agent")
    with pytest.raises(errors.PermissionDenied):
        files.remove("/etc/passwd", user="agent")
    assert not files.exists("/home/agent/box/a")
    assert files.stat("/home/agent/box").is_directory
    assert b"".join(files.stream("/home/agent/box/c")) == "ä".encode()
    with pytest.raises(errors.SandflareError):
        files.remove("/home/agent/box")
    files.remove("/home/agent/box", recursive=True)
    with pytest.raises(errors.PathNotFound) as caught:
        files.stat("/home/agent/box")
    assert caught.value.request_id


def test_a_sandbox_is_found_and_gone_when_it_is_killed(client: Client) -> None:
    with client.create("findable") as sandbox:
        assert client.get(sandbox.id).name == "findable"
        assert sandbox.id in [found.id for found in client.list()]
        assert [found.id for found in client.list(name="findable")] == [sandbox.id]
        assert list(client.list(name="findable", state="failed")) == []
        assert client.get_or_create("findable").id == sandbox.id
        assert sandbox.refresh().state == "running"
        assert sandbox.metrics().private_kib > 0
    with pytest.raises(errors.NotFound):
        sandbox.refresh()
    with pytest.raises(errors.NotFound):
        sandbox.run("true")
    assert sandbox.kill() is False
    made = client.get_or_create("findable")
    assert made.id != sandbox.id
    assert made.kill() is True


def test_what_the_node_refuses_says_why(client: Client) -> None:
    with pytest.raises(errors.TemplateUnknown) as caught:
        client.create(template="no-such")
    assert caught.value.request_id
    with pytest.raises(errors.InvalidRequest, match="name"):
        client.create("a b")


def test_the_class_alone_finds_its_node() -> None:
    with Sandbox.create("alone", size="nano", url=os.environ["SANDFLARE_API_URL"]) as sandbox:
        assert Sandbox.get(sandbox.id).run("echo ok").stdout == "ok\n"
        assert sandbox.id in [found.id for found in Sandbox.list()]
        assert Sandbox.get_or_create("alone").id == sandbox.id


def test_many_streams_at_once_lose_nothing(sandbox: Sandbox) -> None:
    # None of them prints before all of them run.
    command = "while [ ! -e go ]; do sleep 0.05; done; seq 1 2000; echo end >&2"
    streams = [sandbox.stream(command) for _ in range(12)]
    assert {next(stream).event for stream in streams} == {"started"}
    sandbox.upload(b"", "/home/agent/go")
    with ThreadPoolExecutor(len(streams)) as threads:
        for events in threads.map(list, streams):
            lines = [event.line for event in events if event.event == "stdout"]
            assert lines == [str(number) for number in range(1, 2001)]
            assert [event.line for event in events if event.event == "stderr"] == ["end"]


async def test_the_async_classes_do_the_same(client: Client, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_bytes(os.urandom(900_000))
    async with AsyncClient(client.url) as node, await node.create("async") as sandbox:
        results = await asyncio.gather(
            *(sandbox.run(f"cat; echo {n}", input=b"x" * 700_000) for n in range(4))
        )
        assert [len(result.stdout_bytes) for result in results] == [700_002] * 4
        assert (await sandbox.run("exec <&-; echo done", input=b"x" * 2_000_000)).stdout == "done\n"
        with pytest.raises(CommandFailed):
            await sandbox.run("exit 1", check=True)
        await sandbox.upload(tmp_path / "in", "/home/agent/tree")
        copy = await sandbox.download("/home/agent/tree", tmp_path / "out")
        assert copy.files == 1
        copied = (tmp_path / "out" / "file").read_bytes()
        assert copied == (tmp_path / "in" / "file").read_bytes()
        assert await sandbox.download("/home/agent/tree/file") == copied
        await sandbox.download("/home/agent/tree/file", tmp_path / "one")
        assert (tmp_path / "one").read_bytes() == copied
        lines = [event.line async for event in sandbox.stream("echo a; echo b")]
        assert lines == ["", "a", "b", ""]
        async with sandbox.stream("echo here; exec sleep 1001") as events:
            async for event in events:
                if event.line == "here":
                    break
        deadline = time.monotonic() + 240
        while (await sandbox.run(["pgrep", "-xf", "sleep 1001"])).ok:
            assert time.monotonic() < deadline, "the command is still there"
        assert [found.id async for found in node.list(name="async")] == [sandbox.id]
        assert (await sandbox.files.stat("/home/agent/tree")).is_directory
    with pytest.raises(errors.NotFound):
        client.get(sandbox.id)
