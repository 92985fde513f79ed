"""A node, to ask: bound once to its address and a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandflare import _operations as operations
from sandflare._async import runtime
from sandflare._async.sandbox import AsyncSandbox
from sandflare._async.transport import AsyncTransport
from sandflare._retry import RETRIES
from sandflare._settings import Settings

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Mapping
    from datetime import datetime
    from types import TracebackType

    from sandflare._policy import Network
    from sandflare.models import CreatedKey, Health, Key, Project, Snapshot, Template, Usage


class AsyncClient:
    """A node, to ask. One is enough for an event loop.

    Args:
        url: the node's address; default ``SANDFLARE_API_URL``, else the node of this machine.
        api_key: default ``SANDFLARE_API_KEY``, else the key file of this machine's node.
        ca: a file with the certificates to trust; default ``SANDFLARE_CA``, else the system's.
        request_timeout: seconds for an answer; 0 is without end. Default: 60, and 600 where the
            node may have to boot a guest or write its memory to disk.
        retries: how often a request is sent again when that is safe.

    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        ca: str | None = None,
        request_timeout: float | None = None,
        retries: int = RETRIES,
    ) -> None:
        self._transport = AsyncTransport(Settings.find(url, api_key, ca), request_timeout, retries)

    def __repr__(self) -> str:
        return f"<AsyncClient of {self.url}>"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """The node's address."""
        return self._transport.settings.url

    async def close(self) -> None:
        """Close its connections. Sandboxes live on."""
        await self._transport.close()

    async def create(
        self,
        name: str | None = None,
        *,
        template: str | None = None,
        size: str | None = None,
        env: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
        idle_timeout: float | None = None,
        on_timeout: str | None = None,
        snapshot: str | Snapshot | None = None,
        network: Network | None = None,
        request_timeout: float | None = None,
    ) -> AsyncSandbox:
        """Create a sandbox; see :meth:`AsyncSandbox.create`."""
        ask = operations.sandbox_create(
            name=name,
            template=template,
            size=size,
            env=env,
            metadata=metadata,
            timeout=timeout,
            idle_timeout=idle_timeout,
            on_timeout=on_timeout,
            snapshot=snapshot,
            network=network,
        )
        return AsyncSandbox(self._transport, await self._transport.ask(ask, request_timeout))

    async def get(self, id: str) -> AsyncSandbox:
        """The sandbox of this id."""
        return AsyncSandbox(self._transport, await self._transport.ask(operations.sandbox_get(id)))

    async def get_or_create(
        self,
        name: str,
        *,
        template: str | None = None,
        size: str | None = None,
        env: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
        idle_timeout: float | None = None,
        on_timeout: str | None = None,
        snapshot: str | Snapshot | None = None,
        network: Network | None = None,
        request_timeout: float | None = None,
    ) -> AsyncSandbox:
        """Get or create a sandbox; see :meth:`AsyncSandbox.get_or_create`."""
        async for sandbox in self.list(name=name):
            if operations.lives(sandbox.state):
                return sandbox
        return await self.create(
            name,
            template=template,
            size=size,
            env=env,
            metadata=metadata,
            timeout=timeout,
            idle_timeout=idle_timeout,
            on_timeout=on_timeout,
            snapshot=snapshot,
            network=network,
            request_timeout=request_timeout,
        )

    async def list(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncIterator[AsyncSandbox]:
        """Iterate over sandboxes, oldest first; pages are fetched as they are needed."""
        cursor: str | None = None
        while True:
            found, cursor = await self._transport.ask(
                operations.sandbox_list(state=state, name=name, metadata=metadata, cursor=cursor)
            )
            for info in found:
                if operations.matches(info, state, name, metadata):
                    yield AsyncSandbox(self._transport, info)
            if cursor is None:
                return

    async def health(self) -> Health:
        """Whether the node serves, and its version."""
        return await self._transport.ask(operations.health())

    async def templates(self) -> builtins.list[Template]:
        """Every template in every size."""
        return await self._transport.ask(operations.templates())

    async def delete_template(self, name: str, *, size: str = "nano") -> None:
        """Delete a template's snapshot, unless it is in use; the next create makes it again."""
        await self._transport.ask(operations.template_delete(name, size))

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """Iterate over snapshots; pages are fetched as they are needed."""
        cursor: str | None = None
        while True:
            found, cursor = await self._transport.ask(operations.snapshot_list(cursor))
            for snapshot in found:
                yield snapshot
            if cursor is None:
                return

    async def snapshot(self, id: str) -> Snapshot:
        """The snapshot of this id."""
        return await self._transport.ask(operations.snapshot_get(id))

    async def delete_snapshot(self, id: str) -> None:
        """Delete a snapshot. Sandboxes made from it live on."""
        await self._transport.ask(operations.snapshot_delete(id))

    async def projects(self) -> builtins.list[Project]:
        """Every project; for admins."""
        all_projects: builtins.list[Project] = []
        cursor: str | None = None
        while True:
            found, cursor = await self._transport.ask(operations.project_list(cursor))
            all_projects += found
            if cursor is None:
                return all_projects

    async def create_project(self, name: str, *, quota: Mapping[str, int] | None = None) -> Project:
        """Make a project; for admins. Figures that ``quota`` leaves out are the default plan's."""
        return await self._transport.ask(operations.project_create(name, quota))

    async def set_quota(self, id: str, **figures: int) -> Project:
        """Change figures of a project's quota, such as ``sandboxes=30``; for admins."""
        return await self._transport.ask(operations.project_change(id, figures))

    async def delete_project(self, id: str) -> None:
        """Delete a project that has no sandboxes and snapshots left, with its keys; for admins."""
        await self._transport.ask(operations.project_delete(id))

    async def keys(self) -> builtins.list[Key]:
        """Every key that this client's key may see."""
        all_keys: builtins.list[Key] = []
        cursor: str | None = None
        while True:
            found, cursor = await self._transport.ask(operations.key_list(cursor))
            all_keys += found
            if cursor is None:
                return all_keys

    async def create_key(
        self,
        name: str,
        *,
        project: str | None = None,
        role: str | None = None,
        expires_at: datetime | None = None,
    ) -> CreatedKey:
        """Make a key; its ``key`` is shown this once. Default: a ``user`` of one's own project."""
        return await self._transport.ask(operations.key_create(name, project, role, expires_at))

    async def delete_key(self, id: str) -> None:
        """Revoke a key."""
        await self._transport.ask(operations.key_delete(id))

    async def usage(self) -> Usage:
        """What the project of this client's key may use and what it uses."""
        return await self._transport.ask(operations.usage())


def client_for(url: str | None, api_key: str | None) -> AsyncClient:
    """The client for these settings; made once, so that connections are used again."""
    settings = Settings.find(url, api_key)
    return runtime.bound(
        settings, lambda: AsyncClient(settings.url, settings.api_key, ca=settings.ca)
    )
