"""What can be uploaded, and where a download can go."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Union

from sandflare._archive import PIECE_BYTES
from sandflare.errors import ConfigurationError, TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandflare._ask import Body

#: The content of a file: bytes, text, a local path (``pathlib.Path``), or a file opened to read.
Source = Union[bytes, bytearray, str, "os.PathLike[str]", IO[bytes], IO[str]]
#: Where a download goes: a local path as text or ``Path``, or a file opened to write bytes.
Target = Union[str, "os.PathLike[str]", IO[bytes]]

# LIMIT: a file read into memory. What is bigger goes to a file, or through a stream.
MEMORY_BYTES_MAX = 2 * 1024 * 1024 * 1024


def local_path(source: object) -> Path | None:
    """The local path that a source is, if it is one. Text never is: it is content."""
    return Path(source) if isinstance(source, os.PathLike) else None


def body(source: Source) -> tuple[Body, int | None]:
    """Make the body of an upload, and its length where it is known."""
    if isinstance(source, str):
        source = source.encode()
    if isinstance(source, (bytes, bytearray)):
        return bytes(source), None
    path = local_path(source)
    if path is not None:
        if path.is_dir():
            raise ConfigurationError(f"{path} is a directory", hint="use `upload`")
        # Opened by each sending anew, so that it can be sent again.
        return (lambda: _file(path)), path.stat().st_size
    if not hasattr(source, "read"):
        raise ConfigurationError(f"a {type(source).__name__} cannot be uploaded")
    return (lambda: _pieces(source)), None  # type: ignore[arg-type]


def _file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from _pieces(file)


def _pieces(file: IO[bytes] | IO[str]) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece.encode() if isinstance(piece, str) else piece


def gather(whole: io.BytesIO, piece: bytes, path: str) -> None:
    """Add a piece to a file that is put together in memory."""
    if whole.tell() + len(piece) > MEMORY_BYTES_MAX:
        raise TooLarge(
            f"`{path}` is over {MEMORY_BYTES_MAX} bytes, too big for memory",
            hint="download it to a file",
        )
    whole.write(piece)


class Part:
    """The part of a file that was asked for, also when the whole of it comes.

    What has no size, such as a file of ``/proc``, only comes whole.
    """

    def __init__(self, start: int, length: int | None, whole: bool) -> None:
        self._skip = start if whole else 0
        self._left = length if whole else None

    def of(self, piece: bytes) -> bytes:
        """Take what belongs to it of the next piece."""
        skipped = min(self._skip, len(piece))
        self._skip -= skipped
        piece = piece[skipped:]
        if self._left is not None:
            piece = piece[: self._left]
            self._left -= len(piece)
        return piece


class Landing:
    """A local file that is there whole or not at all."""

    def __init__(self, target: Path) -> None:
        if target.is_dir():
            raise ConfigurationError(f"{target} is a directory; name the file to write")
        self._target = target
        self._part = target.with_name(f".{target.name}.{os.urandom(6).hex()}.part")
        self.bytes = 0
        # Not opened through a path somebody else may have put there.
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._file = open(descriptor, "wb")  # noqa: PTH123, SIM115 -- closed by `end`

    def write(self, piece: bytes) -> None:
        """Add a piece."""
        self._file.write(piece)
        self.bytes += len(piece)

    def end(self, well: bool) -> None:
        """Put the file where it belongs, or leave what was there before."""
        self._file.close()
        if well:
            self._part.replace(self._target)
        else:
            self._part.unlink(missing_ok=True)
