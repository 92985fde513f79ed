"""Directories as tar streams, and what of them may be written here."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandflare import _archive
from sandflare._archive import pack, unpack
from sandflare.errors import ArchiveRefused


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> list[bytes]:
    out = io.BytesIO()
    with tarfile.open(mode="w", fileobj=out) as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    data = out.getvalue()
    return [data[at : at + 1000] for at in range(0, len(data), 1000)]


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def test_a_directory_comes_back_as_it_went(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "a" / "empty").mkdir(parents=True)
    (source / "a" / "ü.txt").write_text("text")
    (source / "big").write_bytes(os.urandom(1_500_001))
    (source / ("long" * 40)).write_bytes(b"")
    (source / "tool").write_bytes(b"#!")
    (source / "tool").chmod(0o755)
    copy = unpack(pack(source), tmp_path / "copy")
    names = {path.relative_to(source) for path in source.rglob("*")}
    assert {path.relative_to(tmp_path / "copy") for path in (tmp_path / "copy").rglob("*")} == names
    for name in names:
        if (source / name).is_file():
            assert (tmp_path / "copy" / name).read_bytes() == (source / name).read_bytes()
    assert (tmp_path / "copy" / "tool").stat().st_mode & 0o111
    assert (copy.files, copy.bytes, copy.skipped) == (4, 1_500_007, [])


def test_links_go_out_and_do_not_come_in(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "link").symlink_to("/etc/passwd")
    with tarfile.open(fileobj=io.BytesIO(b"".join(pack(tmp_path / "source")))) as tar:
        assert tar.getmember("link").linkname == "/etc/passwd"
    copy = unpack(pack(tmp_path / "source"), tmp_path / "copy")
    assert copy.skipped == ["link"]
    assert list((tmp_path / "copy").iterdir()) == []


def test_what_is_sent_names_nobody_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with tarfile.open(fileobj=io.BytesIO(b"".join(pack(tmp_path)))) as tar:
        (info,) = tar.getmembers()
    assert (info.uid, info.gid, info.uname, info.gname) == (0, 0, "", "")


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/out", "a/../b", ".."])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    target = tmp_path / "in" / "here"
    with pytest.raises(ArchiveRefused, match="leads elsewhere"):
        unpack(archive((member(name), b"evil")), target)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "in" / "out").exists()


def test_a_file_cannot_be_written_through_a_link_of_the_same_archive(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        copy = unpack(
            archive((member("d", kind, str(victim)), b""), (member("d/file"), b"evil")),
            tmp_path / "copy",
        )
        assert copy.skipped == ["d"]
    assert list(victim.iterdir()) == []


def test_a_link_that_stood_there_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "file").symlink_to(victim)
    unpack(archive((member("file"), b"new")), tmp_path / "copy")
    assert victim.read_text() == "mine"
    assert (tmp_path / "copy" / "file").read_text() == "new"


def test_no_device_and_no_right_of_another_user_comes_out(tmp_path: Path) -> None:
    copy = unpack(
        archive((member("fifo", tarfile.FIFOTYPE), b""), (member("tool", mode=0o6777), b"x")),
        tmp_path / "copy",
    )
    assert copy.skipped == ["fifo"]
    assert (tmp_path / "copy" / "tool").stat().st_mode & 0o7000 == 0


def test_the_number_of_files_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "_MEMBERS_MAX", 3)
    with pytest.raises(ArchiveRefused, match="more than 3"):
        unpack(archive(*((member(f"f{n}"), b"") for n in range(4))), tmp_path / "copy")


@settings(max_examples=50)
@given(st.data())
def test_a_damaged_archive_is_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(b"".join(archive((member("a/b"), b"x" * 700), (member("c"), b"y"))))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, 2047))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(whole)))
    folder = tmp_path_factory.mktemp("damaged") / "copy"
    with contextlib.suppress(ArchiveRefused, OSError):
        unpack([bytes(whole[:end])], folder)
    assert [path.name for path in folder.parent.iterdir()] == ["copy"]
