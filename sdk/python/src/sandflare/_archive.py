"""Directories as tar streams, made on this machine and taken apart on it.

What comes out of a sandbox was written by whoever ran there: nothing of it may land outside the
directory it was asked into.
"""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from sandflare.errors import ArchiveRefused
from sandflare.models import LocalCopy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# What one request of standard input carries, about.
PIECE_BYTES = 512 * 1024
# LIMIT: files of one download; a sandbox could make them faster than this machine has inodes.
_MEMBERS_MAX = 1_000_000
_END = bytes(2 * tarfile.BLOCKSIZE)


def pack(folder: Path) -> Iterator[bytes]:
    """Yield the content of a directory as a tar stream, in pieces of at least ``PIECE_BYTES``.

    Owners are left out: they are people of this machine. Links are kept as links, and sockets and
    devices are left out.
    """
    waiting = bytearray()
    for piece in _pack(folder):
        waiting += piece
        if len(waiting) >= PIECE_BYTES:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting)


def _pack(folder: Path) -> Iterator[bytes]:
    for parent, directories, files in os.walk(folder):
        directories.sort()
        for name in sorted(directories + files):
            path = Path(parent) / name
            yield from _member(path, path.relative_to(folder).as_posix())
    yield _END


def _member(path: Path, name: str) -> Iterator[bytes]:
    member = tarfile.TarInfo(name)
    about = path.lstat()
    member.mode = stat.S_IMODE(about.st_mode)
    member.mtime = int(about.st_mtime)
    if stat.S_ISREG(about.st_mode):
        with path.open("rb") as file:
            member.size = os.fstat(file.fileno()).st_size
            yield _header(member)
            yield from _content(file, member.size)
    elif stat.S_ISDIR(about.st_mode):
        member.type = tarfile.DIRTYPE
        yield _header(member)
    elif stat.S_ISLNK(about.st_mode):
        member.type = tarfile.SYMTYPE
        member.linkname = str(path.readlink())
        yield _header(member)


def _header(member: tarfile.TarInfo) -> bytes:
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _content(file: IO[bytes], size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = file.read(min(left, PIECE_BYTES))
        if not piece:
            # The file shrank while it was read, and its header has been sent: zeros keep the rest
            # of the archive where it belongs.
            piece = bytes(min(left, PIECE_BYTES))
        left -= len(piece)
        yield piece
    yield bytes(-size % tarfile.BLOCKSIZE)


class _Source:
    """The pieces of a stream as a file to read; all that ``tarfile`` asks of one."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def read(self, size: int) -> bytes:
        parts = [self._rest]
        have = len(self._rest)
        while have < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            parts.append(piece)
            have += len(piece)
        data = b"".join(parts)
        self._rest = data[size:]
        return data[:size]


def unpack(pieces: Iterable[bytes], folder: Path) -> LocalCopy:
    """Write a tar stream into a directory, which is made if it is not there.

    Only directories and regular files are made; links and devices are left out and named in the
    answer. A name that leads elsewhere ends it with :class:`ArchiveRefused`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = total = members = 0
    skipped: list[str] = []
    try:
        with tarfile.open(mode="r|", fileobj=_Source(pieces)) as archive:  # type: ignore[call-overload]
            for member in archive:
                members += 1
                # `tarfile` keeps every member it has seen.
                archive.members = []
                if members > _MEMBERS_MAX:
                    raise ArchiveRefused(f"the directory has more than {_MEMBERS_MAX} entries")
                target = _place(folder, member.name)
                if target is None:
                    continue
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                elif member.isreg():
                    total += _write(archive.extractfile(member), target, member.mode)
                    files += 1
                else:
                    skipped.append(target.relative_to(folder).as_posix())
    except tarfile.TarError as error:
        raise ArchiveRefused(f"the directory's archive is damaged: {error}") from error
    return LocalCopy(files=files, bytes=total, skipped=skipped)


def _place(folder: Path, name: str) -> Path | None:
    """Where a member goes; ``None`` for the directory itself."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    alien = name.startswith("/") or ".." in parts or "\0" in name
    # On Windows a name can also lead elsewhere by a drive, a stream or the other slash.
    if alien or (os.name == "nt" and any(set(part) & set("\\:") for part in parts)):
        raise ArchiveRefused(
            f"the directory has an entry named {name[:200]!r}, which leads elsewhere"
        )
    return folder.joinpath(*parts) if parts else None


def _write(source: IO[bytes] | None, target: Path, mode: int) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    # A link that stood here before would be followed; what is written is a new file.
    target.unlink(missing_ok=True)
    written = 0
    # Never more than a file needs: no set-user-id bit comes out of a sandbox.
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode & 0o777)
    with open(descriptor, "wb") as file:  # noqa: PTH123 -- it is a descriptor
        while source is not None and (piece := source.read(PIECE_BYTES)):
            file.write(piece)
            written += len(piece)
    return written
