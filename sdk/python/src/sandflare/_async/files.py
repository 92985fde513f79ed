"""Files of a sandbox."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from sandflare import _operations as operations
from sandflare import _transfer as transfer
from sandflare.errors import PathNotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandflare._async.transport import AsyncTransport
    from sandflare._transfer import Source
    from sandflare.models import FileEntry


class AsyncFiles:
    """Files of a sandbox, by absolute path; ``sandbox.files``."""

    def __init__(self, transport: AsyncTransport, sandbox: str) -> None:
        self._transport = transport
        self._sandbox = sandbox

    async def read(self, path: str, *, user: str | None = None) -> bytes:
        """Read a file whole, with the rights of ``user`` (default: root)."""
        whole = io.BytesIO()
        async for piece in self.stream(path, user=user):
            transfer.gather(whole, piece, path)
        return whole.getvalue()

    async def read_text(
        self, path: str, *, encoding: str = "utf-8", user: str | None = None
    ) -> str:
        """Read a file as text."""
        return (await self.read(path, user=user)).decode(encoding)

    async def stream(self, path: str, *, user: str | None = None) -> AsyncIterator[bytes]:
        """Read a file in pieces, as they come."""
        response = await self._transport.open(operations.file_read(self._sandbox, path, user))
        async for piece in self._transport.pieces(response):
            yield piece

    async def write(
        self,
        path: str,
        data: Source,
        *,
        mode: int | None = None,
        user: str | None = None,
    ) -> FileEntry:
        """Write a file that belongs to ``user`` (default: agent); directories above it are made.

        The old content stays whole until the new one has arrived whole. ``mode`` is octal, such
        as ``0o755``.
        """
        body, length = transfer.body(data)
        return await self._transport.ask(
            operations.file_write(self._sandbox, path, body, length=length, mode=mode, user=user)
        )

    async def list(self, path: str) -> list[FileEntry]:
        """List a directory, by name."""
        return await self._transport.ask(operations.file_list(self._sandbox, path))

    async def stat(self, path: str) -> FileEntry:
        """Tell what is at a path. A symbolic link is not followed."""
        return await self._transport.ask(operations.file_stat(self._sandbox, path))

    async def exists(self, path: str) -> bool:
        """Whether there is anything at a path."""
        try:
            await self.stat(path)
        except PathNotFound:
            return False
        return True

    async def make_dir(
        self, path: str, *, mode: int | None = None, user: str | None = None
    ) -> FileEntry:
        """Make a directory and those above it; one that is there is fine."""
        return await self._transport.ask(operations.file_make(self._sandbox, path, mode, user))

    async def move(self, source: str, to: str) -> FileEntry:
        """Move a file or directory; a file at ``to`` is replaced."""
        return await self._transport.ask(operations.file_move(self._sandbox, source, to))

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file, or with ``recursive`` a directory and all that is in it."""
        await self._transport.ask(operations.file_remove(self._sandbox, path, recursive))
