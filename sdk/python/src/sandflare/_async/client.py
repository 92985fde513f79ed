"""A node, to ask: bound once to its address and a key."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sandflare import _http
from sandflare import _operations as operations
from sandflare._async import runtime
from sandflare._async.database import AsyncDatabase
from sandflare._async.sandbox import AsyncSandbox
from sandflare._async.transport import AsyncTransport
from sandflare._retry import RETRIES
from sandflare._settings import Settings
from sandflare.errors import Conflict, NotFound

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    from sandflare._policy import Network
    from sandflare.models import (
        CreatedKey,
        Health,
        Key,
        Project,
        SandboxInfo,
        SecretInfo,
        Snapshot,
        Template,
        Usage,
    )

# How often it is looked whether what another caller makes is there.
_LOOK_S = 0.1


class AsyncClient:
    """A node, to ask. One is enough for an event loop.

    Args:
        url: the node's address; default ``SANDFLARE_API_URL``, else the node of this machine.
        api_key: default ``SANDFLARE_API_KEY``, else the key file of this machine's node.
        ca: a file with the certificates to trust; default ``SANDFLARE_CA``, else the system's.
        request_timeout: seconds that the node may take to answer; 0 is without end. Default: 60,
            and 600 where it may have to boot a guest or write its memory to disk. Every method that
            asks the node takes one as well, for that call. Of what comes as a stream (``run``,
            ``stream``, ``download``, events and the like) it is the time until the stream begins:
            how long it goes on has other limits, if any. A method that asks more than once, such
            as one that gets pages, gives each request this long.
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
        secrets: Mapping[str, str] | None = None,
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
            secrets=secrets,
        )
        return AsyncSandbox(self._transport, await self._transport.ask(ask, request_timeout))

    async def get(self, id: str, *, request_timeout: float | None = None) -> AsyncSandbox:
        """The sandbox of this id."""
        info = await self._transport.ask(operations.sandbox_get(id), request_timeout)
        return AsyncSandbox(self._transport, info)

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
        secrets: Mapping[str, str] | None = None,
        request_timeout: float | None = None,
    ) -> AsyncSandbox:
        """Get or create a sandbox; see :meth:`AsyncSandbox.get_or_create`."""
        give_up = time.monotonic() + (request_timeout or _http.SLOW_TIMEOUT_S)
        gone = ""
        while True:
            info = await self._oldest(name, request_timeout)
            if info is None:
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
                    secrets=secrets,
                    after=gone,
                )
                try:
                    made = await self._transport.ask(ask, request_timeout)
                except Conflict:
                    # Another caller is making it.
                    if time.monotonic() > give_up:
                        raise
                else:
                    # What another caller made may be over since.
                    info = await self._living(made.id, request_timeout)
                    if info is None:
                        gone = made.id
                        continue
            if info is not None and (info.state != "creating" or time.monotonic() > give_up):
                return AsyncSandbox(self._transport, info)
            await runtime.sleep(_LOOK_S)

    async def _oldest(self, name: str, request_timeout: float | None) -> SandboxInfo | None:
        # An admin's key sees the sandboxes of all projects, and makes its own's.
        cursor: str | None = None
        while True:
            ask = operations.sandbox_list(name=name, own=True, cursor=cursor)
            found, cursor = await self._transport.ask(ask, request_timeout)
            for info in found:
                if info.name == name and operations.lives(info.state):
                    return info
            if cursor is None:
                return None

    async def _living(self, id: str, request_timeout: float | None) -> SandboxInfo | None:
        try:
            info = await self._transport.ask(operations.sandbox_get(id), request_timeout)
        except NotFound:
            return None
        return info if operations.lives(info.state) else None

    async def list(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        request_timeout: float | None = None,
    ) -> AsyncIterator[AsyncSandbox]:
        """Iterate over sandboxes, oldest first; pages are fetched as they are needed."""
        cursor: str | None = None
        while True:
            ask = operations.sandbox_list(state=state, name=name, metadata=metadata, cursor=cursor)
            found, cursor = await self._transport.ask(ask, request_timeout)
            for info in found:
                if operations.matches(info, state, name, metadata):
                    yield AsyncSandbox(self._transport, info)
            if cursor is None:
                return

    async def health(self, *, request_timeout: float | None = None) -> Health:
        """Whether the node serves, and its version."""
        return await self._transport.ask(operations.health(), request_timeout)

    async def templates(self, *, request_timeout: float | None = None) -> builtins.list[Template]:
        """Every template in every size."""
        return await self._transport.ask(operations.templates(), request_timeout)

    async def delete_template(
        self, name: str, *, size: str = "nano", request_timeout: float | None = None
    ) -> None:
        """Delete a template's snapshot, unless it is in use; the next create makes it again."""
        await self._transport.ask(operations.template_delete(name, size), request_timeout)

    async def snapshots(self, *, request_timeout: float | None = None) -> AsyncIterator[Snapshot]:
        """Iterate over snapshots; pages are fetched as they are needed."""
        cursor: str | None = None
        while True:
            found, cursor = await self._transport.ask(
                operations.snapshot_list(cursor), request_timeout
            )
            for snapshot in found:
                yield snapshot
            if cursor is None:
                return

    async def snapshot(self, id: str, *, request_timeout: float | None = None) -> Snapshot:
        """The snapshot of this id."""
        return await self._transport.ask(operations.snapshot_get(id), request_timeout)

    async def delete_snapshot(self, id: str, *, request_timeout: float | None = None) -> None:
        """Delete a snapshot. Sandboxes made from it live on."""
        await self._transport.ask(operations.snapshot_delete(id), request_timeout)

    async def create_database(
        self,
        name: str,
        *,
        password: str | None = None,
        size: str = "nano",
        disk_mib: int | None = None,
        extensions: Sequence[str] = ("vector",),
        seed: str | None = None,
        ttl: float | None = None,
        idle_timeout: float | None = None,
        outside: str | Sequence[str] | None = None,
        exist_ok: bool = False,
        request_timeout: float | None = None,
    ) -> AsyncDatabase:
        """Create a database; see :meth:`AsyncDatabase.create`."""
        ask = operations.database_create(
            name=name,
            password=password,
            size=size,
            disk_mib=disk_mib,
            extensions=extensions,
            seed=seed,
            ttl=ttl,
            idle_timeout=idle_timeout,
            outside=outside,
            exist_ok=exist_ok,
        )
        return AsyncDatabase(self._transport, await self._transport.ask(ask, request_timeout))

    async def database(
        self, name_or_id: str, *, request_timeout: float | None = None
    ) -> AsyncDatabase:
        """The database of this name in the key's project, or of this id."""
        info = await self._transport.ask(operations.database_get(name_or_id), request_timeout)
        return AsyncDatabase(self._transport, info)

    async def databases(
        self, *, request_timeout: float | None = None
    ) -> AsyncIterator[AsyncDatabase]:
        """Iterate over databases, without their passwords and addresses, oldest first."""
        cursor: str | None = None
        while True:
            found, cursor = await self._transport.ask(
                operations.database_list(cursor), request_timeout
            )
            for info in found:
                yield AsyncDatabase(self._transport, info)
            if cursor is None:
                return

    async def delete_database(
        self, name_or_id: str, *, request_timeout: float | None = None
    ) -> None:
        """Delete a database; returns when nothing of it is left."""
        await self._transport.ask(operations.database_delete(name_or_id), request_timeout)

    async def projects(self, *, request_timeout: float | None = None) -> builtins.list[Project]:
        """Every project; for admins."""
        all_projects: builtins.list[Project] = []
        cursor: str | None = None
        while True:
            found, cursor = await self._transport.ask(
                operations.project_list(cursor), request_timeout
            )
            all_projects += found
            if cursor is None:
                return all_projects

    async def create_project(
        self,
        name: str,
        *,
        quota: Mapping[str, int] | None = None,
        request_timeout: float | None = None,
    ) -> Project:
        """Make a project; for admins. Figures that ``quota`` leaves out are the default plan's."""
        return await self._transport.ask(operations.project_create(name, quota), request_timeout)

    async def set_quota(
        self, id: str, *, request_timeout: float | None = None, **figures: int
    ) -> Project:
        """Change figures of a project's quota, such as ``sandboxes=30``; for admins."""
        ask = operations.project_change(id, figures)
        return await self._transport.ask(ask, request_timeout)

    async def delete_project(self, id: str, *, request_timeout: float | None = None) -> None:
        """Delete a project that has no sandboxes and snapshots left, with its keys; for admins."""
        await self._transport.ask(operations.project_delete(id), request_timeout)

    async def keys(self, *, request_timeout: float | None = None) -> builtins.list[Key]:
        """Every key that this client's key may see."""
        all_keys: builtins.list[Key] = []
        cursor: str | None = None
        while True:
            found, cursor = await self._transport.ask(operations.key_list(cursor), request_timeout)
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
        request_timeout: float | None = None,
    ) -> CreatedKey:
        """Make a key; its ``key`` is shown this once. Default: a ``user`` of one's own project."""
        return await self._transport.ask(
            operations.key_create(name, project, role, expires_at), request_timeout
        )

    async def delete_key(self, id: str, *, request_timeout: float | None = None) -> None:
        """Revoke a key."""
        await self._transport.ask(operations.key_delete(id), request_timeout)

    async def set_secret(
        self,
        name: str,
        value: str,
        *,
        hosts: Sequence[str],
        request_timeout: float | None = None,
    ) -> SecretInfo:
        """Make or change a secret; see :meth:`AsyncSecret.set`."""
        ask = operations.secret_set(name, value, hosts)
        return await self._transport.ask(ask, request_timeout)

    async def secrets(self, *, request_timeout: float | None = None) -> builtins.list[SecretInfo]:
        """Secrets of the key's project, by name, without what they say."""
        return await self._transport.ask(operations.secret_list(), request_timeout)

    async def delete_secret(self, name: str, *, request_timeout: float | None = None) -> None:
        """Delete a secret; see :meth:`AsyncSecret.delete`."""
        await self._transport.ask(operations.secret_delete(name), request_timeout)

    async def usage(self, *, request_timeout: float | None = None) -> Usage:
        """What the project of this client's key may use and what it uses."""
        return await self._transport.ask(operations.usage(), request_timeout)


def client_for(url: str | None, api_key: str | None) -> AsyncClient:
    """The client for these settings; made once, so that connections are used again."""
    settings = Settings.find(url, api_key)
    return runtime.bound(
        settings, lambda: AsyncClient(settings.url, settings.api_key, ca=settings.ca)
    )
