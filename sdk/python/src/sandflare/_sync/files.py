# Written by generate_sync.py: change the file of this name in `_async`.
"""Files of a sandbox."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from sandflare import _decode
from sandflare import _operations as operations
from sandflare import _transfer as transfer
from sandflare.errors import ConnectionBroken, PathNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandflare._sync.transport import Transport
    from sandflare._transfer import Source
    from sandflare.models import FileEntry, FileEvent

# The HTTP status of an answer with the whole file, whatever part was asked for.
_WHOLE = 200


class Files:
    """Files of a sandbox, by absolute path; ``sandbox.files``.

    What ``request_timeout`` means everywhere is told at :class:`Client`.
    """

    def __init__(self, transport: Transport, sandbox: str) -> None:
        self._transport = transport
        self._sandbox = sandbox

    def read(
        self,
        path: str,
        *,
        start: int = 0,
        length: int | None = None,
        user: str | None = None,
        request_timeout: float | None = None,
    ) -> bytes:
        """Read a file, or ``length`` bytes of it from ``start`` on.

        With the rights of ``user`` (default: root).
        """
        whole = io.BytesIO()
        for piece in self.stream(
            path, start=start, length=length, user=user, request_timeout=request_timeout
        ):
            transfer.gather(whole, piece, path)
        return whole.getvalue()

    def read_text(
        self,
        path: str,
        *,
        encoding: str = "utf-8",
        user: str | None = None,
        request_timeout: float | None = None,
    ) -> str:
        """Read a file as text."""
        data = self.read(path, user=user, request_timeout=request_timeout)
        return data.decode(encoding)

    def stream(
        self,
        path: str,
        *,
        start: int = 0,
        length: int | None = None,
        user: str | None = None,
        request_timeout: float | None = None,
    ) -> Iterator[bytes]:
        """Read a file, or a part of it, in pieces, as they come."""
        ask = operations.file_read(self._sandbox, path, user, start, length)
        response = self._transport.open(ask, request_timeout)
        part = transfer.Part(start, length, response.status_code == _WHOLE)
        for piece in self._transport.pieces(response):
            wanted = part.of(piece)
            if wanted:
                yield wanted

    def watch(
        self,
        path: str,
        *,
        recursive: bool = False,
        user: str | None = None,
        request_timeout: float | None = None,
    ) -> Iterator[FileEvent]:
        """Iterate over what changes in a directory, for ever.

        With ``recursive``, also in all directories below it. The watch begins when the first event
        is asked for, which is ``started``; it ends when you stop iterating, or with an error when
        the directory is gone.
        """
        ask = operations.file_watch(self._sandbox, path, recursive, user)
        reader = _decode.FileEventReader()
        for piece in self._transport.pieces(self._transport.open(ask, request_timeout)):
            yield from reader.feed(piece)
        raise ConnectionBroken("the stream ended before the watch did")

    def write(
        self,
        path: str,
        data: Source,
        *,
        mode: int | None = None,
        user: str | None = None,
        request_timeout: float | None = None,
    ) -> FileEntry:
        """Write a file that belongs to ``user`` (default: agent); directories above it are made.

        With the rights of ``user`` if there is one, or else of root. The old content stays whole
        until the new one has arrived whole. ``mode`` is octal, such as ``0o755``.
        """
        body, length = transfer.body(data)
        return self._transport.ask(
            operations.file_write(self._sandbox, path, body, length=length, mode=mode, user=user),
            request_timeout,
        )

    def list(
        self, path: str, *, user: str | None = None, request_timeout: float | None = None
    ) -> list[FileEntry]:
        """List a directory, by name."""
        return self._transport.ask(operations.file_list(self._sandbox, path, user), request_timeout)

    def stat(
        self, path: str, *, user: str | None = None, request_timeout: float | None = None
    ) -> FileEntry:
        """Tell what is at a path. A symbolic link is not followed."""
        return self._transport.ask(operations.file_stat(self._sandbox, path, user), request_timeout)

    def exists(
        self, path: str, *, user: str | None = None, request_timeout: float | None = None
    ) -> bool:
        """Whether there is anything at a path."""
        try:
            self.stat(path, user=user, request_timeout=request_timeout)
        except PathNotFound:
            return False
        return True

    def make_dir(
        self,
        path: str,
        *,
        mode: int | None = None,
        user: str | None = None,
        request_timeout: float | None = None,
    ) -> FileEntry:
        """Make a directory and those above it; one that is there is fine.

        They belong to ``user``, whose rights count, or else to agent, with the rights of root.
        """
        return self._transport.ask(
            operations.file_make(self._sandbox, path, mode, user), request_timeout
        )

    def move(
        self,
        source: str,
        to: str,
        *,
        user: str | None = None,
        request_timeout: float | None = None,
    ) -> FileEntry:
        """Move a file or directory; a file at ``to`` is replaced.

        With the rights of ``user`` (default: root).
        """
        return self._transport.ask(
            operations.file_move(self._sandbox, source, to, user), request_timeout
        )

    def remove(
        self,
        path: str,
        *,
        recursive: bool = False,
        user: str | None = None,
        request_timeout: float | None = None,
    ) -> None:
        """Remove a file, or with ``recursive`` a directory and all that is in it.

        With the rights of ``user`` (default: root).
        """
        self._transport.ask(
            operations.file_remove(self._sandbox, path, recursive, user), request_timeout
        )
