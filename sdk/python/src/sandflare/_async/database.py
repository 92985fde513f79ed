"""A database: Postgres in a machine of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandflare import _operations as operations
from sandflare._async.chosen import chosen
from sandflare.errors import NotFound
from sandflare.models import DatabaseInfo, DatabaseSnapshot, DatabaseStats, Rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType

    from sandflare._async.client import AsyncClient
    from sandflare._async.transport import AsyncTransport


class AsyncDatabase:
    """Postgres in a machine of its own. Make one with :meth:`create`.

    Used as a context manager, it is deleted at the end. What ``request_timeout`` means everywhere
    is told at :class:`AsyncClient`.
    """

    def __init__(self, transport: AsyncTransport, info: DatabaseInfo) -> None:
        self._transport = transport
        self.info = info

    def __repr__(self) -> str:
        return f"<AsyncDatabase {self.id} {self.name} {self.status}>"

    async def __aenter__(self) -> AsyncDatabase:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.delete()

    @classmethod
    async def create(
        cls,
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
        client: AsyncClient | None = None,
        api_key: str | None = None,
        url: str | None = None,
        request_timeout: float | None = None,
    ) -> AsyncDatabase:
        """Create a database; returns when it takes connections.

        Args:
            name: what it is found by; no other database of the project has it.
            password: its owner's, of any characters but a zero byte. Default: a random one.
            size: ``nano``, ``micro``, ``small``, ``medium`` or ``large``.
            disk_mib: how much of the disk its data may take, 64 to 6144 MiB. Default: 6144. What
                would take more raises :class:`errors.DiskFull`, and all else goes on.
            extensions: what is made in it.
            seed: SQL to run in one transaction. When it fails, :class:`SqlFailed` is raised, and
                there is no database.
            ttl: seconds it may live; 0 (default) is without end.
            idle_timeout: seconds without a connection until it is paused, which a connection
                ends; 0 is never. Default: 300.
            outside: who may connect by the node's listener for databases; see :meth:`set_outside`.
            exist_ok: get the one of this name if there is one, whatever else is asked for.
            client: the node to ask; default: the one that ``url`` and ``api_key`` name.
            api_key: see :class:`AsyncClient`.
            url: see :class:`AsyncClient`.
            request_timeout: see :class:`AsyncClient`.

        """
        return await chosen(client, url, api_key).create_database(
            name,
            password=password,
            size=size,
            disk_mib=disk_mib,
            extensions=extensions,
            seed=seed,
            ttl=ttl,
            idle_timeout=idle_timeout,
            outside=outside,
            exist_ok=exist_ok,
            request_timeout=request_timeout,
        )

    @classmethod
    async def get(
        cls,
        name_or_id: str,
        *,
        client: AsyncClient | None = None,
        api_key: str | None = None,
        url: str | None = None,
        request_timeout: float | None = None,
    ) -> AsyncDatabase:
        """Get the database of this name in the key's project, or of this id."""
        found = chosen(client, url, api_key)
        return await found.database(name_or_id, request_timeout=request_timeout)

    @classmethod
    async def list(
        cls,
        *,
        client: AsyncClient | None = None,
        api_key: str | None = None,
        url: str | None = None,
        request_timeout: float | None = None,
    ) -> AsyncIterator[AsyncDatabase]:
        """Iterate over databases, oldest first; pages are fetched as they are needed.

        Passwords and addresses are not in lists: :meth:`refresh` gets those of one.
        """
        found = chosen(client, url, api_key).databases(request_timeout=request_timeout)
        async for database in found:
            yield database

    @property
    def id(self) -> str:
        """Its id, for ever."""
        return self.info.id

    @property
    def name(self) -> str:
        """Its name."""
        return self.info.name

    @property
    def status(self) -> str:
        """Where it was in its life when it was last asked; see :meth:`refresh`."""
        return self.info.status

    @property
    def size(self) -> str:
        """How big its machine is."""
        return self.info.size

    @property
    def disk_mib(self) -> int | None:
        """How much of the disk its data may take, in MiB; ``None`` when nothing was said."""
        return self.info.disk_mib

    @property
    def extensions(self) -> Sequence[str]:
        """The extensions that were asked for."""
        return self.info.extensions

    @property
    def url(self) -> str | None:
        """Its address with user and password, by way of the pool. ``None`` of one from a list."""
        return self.info.url

    @property
    def psql_url(self) -> str | None:
        """The same, for ``psql``."""
        return self.info.url

    @property
    def direct_url(self) -> str | None:
        """The address without the pool: for migrations, ``LISTEN``, and session settings."""
        return self.info.direct_url

    @property
    def host(self) -> str:
        """Where it is reached."""
        return self.info.host

    @property
    def port(self) -> int:
        """The port there."""
        return self.info.port

    @property
    def outside(self) -> str | Sequence[str]:
        """Who may connect by the node's listener for databases; see :meth:`set_outside`."""
        return self.info.outside

    @property
    def user(self) -> str:
        """Its owner's name in Postgres."""
        return self.info.user

    @property
    def password(self) -> str | None:
        """Its owner's password. ``None`` of one from a list."""
        return self.info.password

    async def refresh(self, *, request_timeout: float | None = None) -> DatabaseInfo:
        """Ask the node how it is; ``info`` is new afterwards."""
        self.info = await self._transport.ask(operations.database_get(self.id), request_timeout)
        return self.info

    async def stats(self, *, request_timeout: float | None = None) -> DatabaseStats:
        """Ask how it is and what its server counts; one that is paused is not woken.

        A server that does not answer is no error: there are no figures then, but a ``reason``.
        """
        return await self._transport.ask(operations.database_stats(self.id), request_timeout)

    async def query(
        self,
        sql: str,
        *,
        rows_max: int | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> Rows:
        """Run SQL as its owner, by way of the node; resumes it if it is paused.

        Args:
            sql: a statement, or several that are one transaction unless they say otherwise.
            rows_max: rows to get of the last one, up to 10000. Default: 1000.
            timeout: seconds it may take, up to 600. Default: 30.
            request_timeout: see :class:`AsyncClient`.

        """
        ask = operations.database_query(self.id, sql, rows_max, timeout)
        return await self._transport.ask(ask, request_timeout)

    async def fork(
        self,
        name: str,
        *,
        password: str | None = None,
        snapshot: str | None = None,
        request_timeout: float | None = None,
    ) -> AsyncDatabase:
        """Make another one from this moment, with a user of its own; it goes on itself.

        Args:
            name: what the new one is called.
            password: its owner's. Default: a random one.
            snapshot: the name or id of a snapshot to make it from, in place of this moment.
            request_timeout: see :class:`AsyncClient`.

        """
        ask = operations.database_fork(self.id, name, password, snapshot)
        return AsyncDatabase(self._transport, await self._transport.ask(ask, request_timeout))

    async def snapshot(
        self, name: str, *, request_timeout: float | None = None
    ) -> DatabaseSnapshot:
        """Keep this moment of it under a name, to :meth:`restore` or :meth:`fork` from."""
        ask = operations.database_snapshot(self.id, name)
        return await self._transport.ask(ask, request_timeout)

    async def snapshots(
        self, *, request_timeout: float | None = None
    ) -> Sequence[DatabaseSnapshot]:
        """Its snapshots, oldest first. They are deleted with it."""
        return await self._transport.ask(operations.database_snapshots(self.id), request_timeout)

    async def delete_snapshot(
        self, name_or_id: str, *, request_timeout: float | None = None
    ) -> bool:
        """Delete a snapshot of it. ``False`` if it was gone before."""
        ask = operations.database_snapshot_delete(self.id, name_or_id)
        try:
            await self._transport.ask(ask, request_timeout)
        except NotFound:
            return False
        return True

    async def restore(self, snapshot: str, *, request_timeout: float | None = None) -> DatabaseInfo:
        """Put it back to the moment of a snapshot, by name or id; ``info`` is new afterwards.

        What was written since is gone. Its name, addresses, passwords and wired sandboxes stay as
        they are. Connections end; new ones find everything as it was then.
        """
        ask = operations.database_restore(self.id, snapshot)
        self.info = await self._transport.ask(ask, request_timeout)
        return self.info

    async def reset_password(
        self, password: str | None = None, *, request_timeout: float | None = None
    ) -> DatabaseInfo:
        """Give its owner another password, by default a random one; ``info`` is new afterwards.

        Connections that are open stay so.
        """
        ask = operations.database_set_password(self.id, password)
        self.info = await self._transport.ask(ask, request_timeout)
        return self.info

    async def set_outside(
        self, outside: str | Sequence[str], *, request_timeout: float | None = None
    ) -> DatabaseInfo:
        """Say who may connect by the node's listener for databases; ``info`` is new afterwards.

        Sessions of those who may not any more end. Sandboxes it is wired to are not concerned.

        Args:
            outside: ``off`` (nobody), ``loopback`` (programs of the node's own machine, as when
                nothing is said), or a list of networks such as ``10.0.0.0/8`` and
                ``2001:db8::/32``.
            request_timeout: see :class:`AsyncClient`.

        """
        ask = operations.database_set_outside(self.id, outside)
        self.info = await self._transport.ask(ask, request_timeout)
        return self.info

    async def delete(self, *, request_timeout: float | None = None) -> bool:
        """End it; returns when nothing of it is left. ``False`` if it was gone before."""
        try:
            await self._transport.ask(operations.database_delete(self.id), request_timeout)
        except NotFound:
            return False
        return True
