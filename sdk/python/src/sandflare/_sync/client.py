# Written by generate_sync.py: change the file of this name in `_async`.
"""A node, to ask: bound once to its address and a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandflare import _operations as operations
from sandflare._retry import RETRIES
from sandflare._settings import Settings
from sandflare._sync import runtime
from sandflare._sync.sandbox import Sandbox
from sandflare._sync.transport import Transport

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from types import TracebackType

    from sandflare._policy import Network
    from sandflare.models import CreatedKey, Health, Key, Project, Snapshot, Template, Usage


class Client:
    """A node, to ask. One is enough for a program; threads can share it.

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
        self._transport = Transport(Settings.find(url, api_key, ca), request_timeout, retries)

    def __repr__(self) -> str:
        return f"<Client of {self.url}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The node's address."""
        return self._transport.settings.url

    def close(self) -> None:
        """Close its connections. Sandboxes live on."""
        self._transport.close()

    def create(
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
    ) -> Sandbox:
        """Create a sandbox; see :meth:`Sandbox.create`."""
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
        return Sandbox(self._transport, self._transport.ask(ask, request_timeout))

    def get(self, id: str) -> Sandbox:
        """The sandbox of this id."""
        return Sandbox(self._transport, self._transport.ask(operations.sandbox_get(id)))

    def get_or_create(
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
    ) -> Sandbox:
        """Get or create a sandbox; see :meth:`Sandbox.get_or_create`."""
        for sandbox in self.list(name=name):
            if operations.lives(sandbox.state):
                return sandbox
        return self.create(
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

    def list(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Iterator[Sandbox]:
        """Iterate over sandboxes, oldest first; pages are fetched as they are needed."""
        cursor: str | None = None
        while True:
            found, cursor = self._transport.ask(
                operations.sandbox_list(state=state, name=name, metadata=metadata, cursor=cursor)
            )
            for info in found:
                if operations.matches(info, state, name, metadata):
                    yield Sandbox(self._transport, info)
            if cursor is None:
                return

    def health(self) -> Health:
        """Whether the node serves, and its version."""
        return self._transport.ask(operations.health())

    def templates(self) -> builtins.list[Template]:
        """Every template in every size."""
        return self._transport.ask(operations.templates())

    def delete_template(self, name: str, *, size: str = "nano") -> None:
        """Delete a template's snapshot, unless it is in use; the next create makes it again."""
        self._transport.ask(operations.template_delete(name, size))

    def snapshots(self) -> Iterator[Snapshot]:
        """Iterate over snapshots; pages are fetched as they are needed."""
        cursor: str | None = None
        while True:
            found, cursor = self._transport.ask(operations.snapshot_list(cursor))
            yield from found
            if cursor is None:
                return

    def snapshot(self, id: str) -> Snapshot:
        """The snapshot of this id."""
        return self._transport.ask(operations.snapshot_get(id))

    def delete_snapshot(self, id: str) -> None:
        """Delete a snapshot. Sandboxes made from it live on."""
        self._transport.ask(operations.snapshot_delete(id))

    def projects(self) -> builtins.list[Project]:
        """Every project; for admins."""
        all_projects: builtins.list[Project] = []
        cursor: str | None = None
        while True:
            found, cursor = self._transport.ask(operations.project_list(cursor))
            all_projects += found
            if cursor is None:
                return all_projects

    def create_project(self, name: str, *, quota: Mapping[str, int] | None = None) -> Project:
        """Make a project; for admins. Figures that ``quota`` leaves out are the default plan's."""
        return self._transport.ask(operations.project_create(name, quota))

    def set_quota(self, id: str, **figures: int) -> Project:
        """Change figures of a project's quota, such as ``sandboxes=30``; for admins."""
        return self._transport.ask(operations.project_change(id, figures))

    def delete_project(self, id: str) -> None:
        """Delete a project that has no sandboxes and snapshots left, with its keys; for admins."""
        self._transport.ask(operations.project_delete(id))

    def keys(self) -> builtins.list[Key]:
        """Every key that this client's key may see."""
        all_keys: builtins.list[Key] = []
        cursor: str | None = None
        while True:
            found, cursor = self._transport.ask(operations.key_list(cursor))
            all_keys += found
            if cursor is None:
                return all_keys

    def create_key(
        self,
        name: str,
        *,
        project: str | None = None,
        role: str | None = None,
        expires_at: datetime | None = None,
    ) -> CreatedKey:
        """Make a key; its ``key`` is shown this once. Default: a ``user`` of one's own project."""
        return self._transport.ask(operations.key_create(name, project, role, expires_at))

    def delete_key(self, id: str) -> None:
        """Revoke a key."""
        self._transport.ask(operations.key_delete(id))

    def usage(self) -> Usage:
        """What the project of this client's key may use and what it uses."""
        return self._transport.ask(operations.usage())


def client_for(url: str | None, api_key: str | None) -> Client:
    """The client for these settings; made once, so that connections are used again."""
    settings = Settings.find(url, api_key)
    return runtime.bound(settings, lambda: Client(settings.url, settings.api_key, ca=settings.ca))
