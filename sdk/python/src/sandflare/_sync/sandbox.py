# Written by generate_sync.py: change the file of this name in `_async`.
"""A sandbox: a machine of its own for one agent."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from sandflare import _archive as archive
from sandflare import _decode
from sandflare import _operations as operations
from sandflare import _transfer as transfer
from sandflare._sync import runtime
from sandflare._sync.chosen import chosen
from sandflare._sync.files import Files
from sandflare._sync.process import Events, Process
from sandflare.errors import NotFound
from sandflare.models import (
    FileEntry,
    Flow,
    LocalCopy,
    Metrics,
    Policy,
    Port,
    ProcessInfo,
    Result,
    SandboxInfo,
    Snapshot,
    Wired,
)

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Generator, Iterator, Mapping
    from types import TracebackType

    import httpx

    from sandflare._input import Input
    from sandflare._operations import Command
    from sandflare._policy import Network
    from sandflare._sync.client import Client
    from sandflare._sync.database import Database
    from sandflare._sync.transport import Transport
    from sandflare._transfer import Source, Target


class Sandbox:
    """A machine of its own for one agent. Make one with :meth:`create`.

    Used as a context manager, it is killed at the end. What ``request_timeout`` means everywhere is
    told at :class:`Client`.
    """

    def __init__(self, transport: Transport, info: SandboxInfo) -> None:
        self._transport = transport
        self.info = info
        self.files = Files(transport, info.id)

    def __repr__(self) -> str:
        return f"<Sandbox {self.id} {self.state}>"

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @classmethod
    def create(
        cls,
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
        client: Client | None = None,
        api_key: str | None = None,
        url: str | None = None,
        request_timeout: float | None = None,
    ) -> Sandbox:
        """Create a sandbox; returns when it is ready to run commands.

        Args:
            name: for people; need not be unique.
            template: what it is a clone of; default ``agent``.
            size: ``nano`` (default), ``micro``, ``small``, ``medium`` or ``large``.
            env: environment of every command in it.
            metadata: what you want to find it by.
            timeout: seconds it may live; 0 is without end. Default: the node's.
            idle_timeout: seconds it may live unused; 0 (default) is without end.
            on_timeout: ``kill`` (default) or ``pause``.
            snapshot: a snapshot to create it from, instead of a template.
            network: what it may reach: ``none``, ``default``, a :class:`Policy`, or a dictionary
                such as ``{"base": "none", "allow": ["pypi.org"]}``. Default: the internet, or
                what the snapshot's sandbox might.
            secrets: variables, and the names of the secrets (:class:`Secret`) they stand for,
                such as ``{"OPENAI_API_KEY": "openai"}``. Each holds a placeholder; the node puts
                the value in where a request goes to a host of the secret.
            client: the node to ask; default: the one that ``url`` and ``api_key`` name.
            api_key: see :class:`Client`.
            url: see :class:`Client`.
            request_timeout: see :class:`Client`.

        """
        return chosen(client, url, api_key).create(
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
            secrets=secrets,
            request_timeout=request_timeout,
        )

    @classmethod
    def get(
        cls,
        id: str,
        *,
        client: Client | None = None,
        api_key: str | None = None,
        url: str | None = None,
        request_timeout: float | None = None,
    ) -> Sandbox:
        """Get the sandbox of this id."""
        found = chosen(client, url, api_key)
        return found.get(id, request_timeout=request_timeout)

    @classmethod
    def get_or_create(
        cls,
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
        client: Client | None = None,
        api_key: str | None = None,
        url: str | None = None,
        request_timeout: float | None = None,
    ) -> Sandbox:
        """Get the oldest living sandbox of this name, or create one as :meth:`create` does.

        Of the project that the key is for, whatever else the key may see. Callers at the same
        moment that give the same arguments get the same one.
        """
        return chosen(client, url, api_key).get_or_create(
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
            secrets=secrets,
            request_timeout=request_timeout,
        )

    @classmethod
    def list(
        cls,
        *,
        state: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        client: Client | None = None,
        api_key: str | None = None,
        url: str | None = None,
        request_timeout: float | None = None,
    ) -> Iterator[Sandbox]:
        """Iterate over sandboxes, oldest first; pages are fetched as they are needed."""
        found = chosen(client, url, api_key).list(
            state=state, name=name, metadata=metadata, request_timeout=request_timeout
        )
        yield from found

    @property
    def id(self) -> str:
        """Its id, for ever."""
        return self.info.id

    @property
    def name(self) -> str | None:
        """The name it was created with."""
        return self.info.name

    @property
    def state(self) -> str:
        """Where it was in its life when it was last asked; see :meth:`refresh`."""
        return self.info.state

    @property
    def metadata(self) -> Mapping[str, str]:
        """What it was created with."""
        return self.info.metadata

    def refresh(self, *, request_timeout: float | None = None) -> SandboxInfo:
        """Ask the node how it is; ``info`` is new afterwards."""
        self.info = self._transport.ask(operations.sandbox_get(self.id), request_timeout)
        return self.info

    def run(
        self,
        command: Command,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
        input: Input | None = None,
        check: bool = False,
        max_output: int = _decode.OUTPUT_BYTES_MAX,
        request_timeout: float | None = None,
    ) -> Result:
        """Run a command to its end.

        Args:
            command: a line for the shell, or a list: a program and its arguments.
            env: environment added to the sandbox's.
            cwd: directory; default: the user's home.
            user: default ``agent``.
            timeout: kill it, and all it started, after this many seconds.
            input: its standard input; default: none.
            check: raise :class:`CommandFailed` unless it ends well.
            max_output: bytes to keep of each of its outputs.
            request_timeout: seconds until the node says that it begins; see :class:`Client`.

        """
        events = self._execute(
            command,
            _decode.Shaper(),
            env=env,
            cwd=cwd,
            user=user,
            timeout=timeout,
            input=input,
            request_timeout=request_timeout,
        )
        collector = _decode.Collector(command, max_output)
        with events:
            for event in events:
                collector.add(event)
        result = collector.result()
        return result.check() if check else result

    exec = run

    def stream(
        self,
        command: Command,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
        input: Input | None = None,
        lines: bool = True,
        request_timeout: float | None = None,
    ) -> Events:
        """Run a command and iterate over what happens, as it happens; arguments as for :meth:`run`.

        Output comes line by line, or with ``lines=False`` in pieces as the command wrote them. The
        command is killed when you stop listening.
        """
        shaper = _decode.LineShaper() if lines else _decode.PieceShaper()
        return self._execute(
            command,
            shaper,
            env=env,
            cwd=cwd,
            user=user,
            timeout=timeout,
            input=input,
            request_timeout=request_timeout,
        )

    def spawn(
        self,
        command: Command,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
        stdin: bool = False,
        request_timeout: float | None = None,
    ) -> Process:
        """Start a process that lives on when nobody listens; arguments as for :meth:`run`.

        With ``stdin=True`` its input stays open for :meth:`Process.write`.
        """
        ask = operations.process_spawn(
            self.id,
            command,
            env=env,
            cwd=cwd,
            user=user,
            timeout=timeout,
            stdin=stdin,
            pty=None,
        )
        info = self._transport.ask(ask, request_timeout)
        return Process(self._transport, self.id, info)

    def pty(
        self,
        command: Command = ("bash", "-l"),
        *,
        rows: int = 24,
        cols: int = 80,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> Process:
        """Start a process on a terminal of its own; all it prints comes as ``stdout``."""
        ask = operations.process_spawn(
            self.id,
            command,
            env=env,
            cwd=cwd,
            user=user,
            timeout=timeout,
            stdin=True,
            pty=(rows, cols),
        )
        info = self._transport.ask(ask, request_timeout)
        return Process(self._transport, self.id, info)

    def processes(self, *, request_timeout: float | None = None) -> builtins.list[ProcessInfo]:
        """Every process that was spawned and is still known."""
        return self._transport.ask(operations.process_list(self.id), request_timeout)

    def process(self, id: int, *, request_timeout: float | None = None) -> Process:
        """The spawned process of this number, to listen to it and to steer it."""
        info = self._transport.ask(operations.process_get(self.id, id), request_timeout)
        return Process(self._transport, self.id, info)

    def upload(
        self,
        source: Source,
        path: str,
        *,
        mode: int | None = None,
        user: str | None = None,
        request_timeout: float | None = None,
    ) -> FileEntry:
        """Write to ``path`` in the sandbox.

        ``source`` is the content as bytes or text, a file opened to read, or a local path as
        ``pathlib.Path``. Text is never taken for a path. A local directory is copied with all that
        is in it, into the directory ``path``.
        """
        folder = transfer.local_path(source)
        if folder is None or not folder.is_dir():
            return self.files.write(
                path, source, mode=mode, user=user, request_timeout=request_timeout
            )
        if mode is not None:
            self.files.make_dir(path, mode=mode, user=user, request_timeout=request_timeout)
        body = partial(archive.pack, folder)
        ask = operations.file_unpack(self.id, path, body, user)
        return self._transport.ask(ask, request_timeout)

    @overload
    def download(
        self, path: str, *, user: str | None = None, request_timeout: float | None = None
    ) -> bytes: ...

    @overload
    def download(
        self,
        path: str,
        to: Target,
        *,
        user: str | None = None,
        request_timeout: float | None = None,
    ) -> LocalCopy: ...

    def download(
        self,
        path: str,
        to: Target | None = None,
        *,
        user: str | None = None,
        request_timeout: float | None = None,
    ) -> bytes | LocalCopy:
        """Read ``path`` in the sandbox: a file as bytes, or a file or directory into ``to``.

        ``to`` is a local path, or a file opened to write bytes. Of a directory, links and devices
        are left out; their names are in the answer's ``skipped``.
        """
        if to is None:
            return self.files.read(path, user=user, request_timeout=request_timeout)
        if not isinstance(to, (str, Path)) and hasattr(to, "write"):
            size = 0
            for piece in self.files.stream(path, user=user, request_timeout=request_timeout):
                runtime.in_thread(partial(to.write, piece))
                size += len(piece)
            return LocalCopy(files=1, bytes=size)
        target = Path(to)
        entry = self.files.stat(path, user=user, request_timeout=request_timeout)
        if entry.is_directory:
            return self._unpacked(path, target, user, request_timeout)
        landing = transfer.Landing(target)
        well = False
        try:
            pieces = self.files.stream(path, user=user, request_timeout=request_timeout)
            for piece in pieces:
                runtime.in_thread(partial(landing.write, piece))
            well = True
        finally:
            landing.end(well)
        return LocalCopy(files=1, bytes=landing.bytes)

    def pause(self, *, request_timeout: float | None = None) -> None:
        """Stop it and keep all of it on disk; anything that touches it resumes it."""
        self.info = self._transport.ask(operations.sandbox_pause(self.id), request_timeout)

    def resume(self, *, request_timeout: float | None = None) -> None:
        """Go on where it was paused."""
        self.info = self._transport.ask(operations.sandbox_resume(self.id), request_timeout)

    def fork(
        self,
        count: int = 1,
        *,
        name: str | None = None,
        databases: Literal["none", "share", "fork"] = "none",
        request_timeout: float | None = None,
    ) -> builtins.list[Sandbox]:
        """Make running copies of it, all from this moment; it keeps running itself.

        ``databases`` says what they have of those it is wired to: ``"none"``; ``"share"``, the
        same ones, each with a role of its own; or ``"fork"``, each a fork of every one from the
        same moment, which goes by the same ``DATABASE_URL``. Forked databases stay when their
        sandbox is gone; :meth:`wired` names them.
        """
        ask = operations.sandbox_fork(self.id, count, name, databases)
        made = self._transport.ask(ask, request_timeout)
        return [Sandbox(self._transport, info) for info in made]

    def snapshot(
        self, name: str | None = None, *, request_timeout: float | None = None
    ) -> Snapshot:
        """Keep it as it is now, to create others from it; it keeps running itself."""
        ask = operations.sandbox_snapshot(self.id, name)
        return self._transport.ask(ask, request_timeout)

    def set_timeout(self, timeout: float, *, request_timeout: float | None = None) -> None:
        """Let it live this many seconds from now; 0 is without end."""
        self._transport.ask(operations.sandbox_timeout(self.id, timeout), request_timeout)

    def url(
        self, port: int, public: bool | None = None, *, request_timeout: float | None = None
    ) -> Port:
        """Say where a TCP port of it is reached; a program need not listen there yet.

        ``public=True`` lets everybody in who reaches the node, ``public=False`` only those who
        have its token or a key, which is how every port begins. Without it, nothing changes.
        """
        if public is None:
            ask = operations.port_get(self.id, port)
        else:
            ask = operations.port_set(self.id, port, public)
        return self._transport.ask(ask, request_timeout)

    def policy(self, *, request_timeout: float | None = None) -> Policy:
        """What it may reach."""
        return self._transport.ask(operations.policy_get(self.id), request_timeout)

    def set_policy(self, network: Network, *, request_timeout: float | None = None) -> Policy:
        """Give it another policy, as ``network`` of :meth:`create`; it holds when this returns."""
        ask = operations.policy_set(self.id, network)
        return self._transport.ask(ask, request_timeout)

    def flows(
        self,
        *,
        after: int | None = None,
        limit: int | None = None,
        request_timeout: float | None = None,
    ) -> builtins.list[Flow]:
        """What it reached and was denied, oldest first: the newest, or those after an ``index``.

        At most 100 unless ``limit`` says otherwise, up to 1000.
        """
        ask = operations.flow_list(self.id, after, limit)
        return self._transport.ask(ask, request_timeout)

    def wire(
        self,
        db: str | Database,
        env: str = "DATABASE_URL",
        role: str = "readwrite",
        *,
        request_timeout: float | None = None,
    ) -> Wired:
        """Let it use a database, which it is told of in every process started from then on.

        Args:
            db: a database of its project, or the name or id of one.
            env: the variable that has the address; with ``_UNPOOLED`` after it, the one without
                the pool. ``DATABASE_URL`` brings ``PGHOST`` and the like along.
            role: ``readwrite``, or ``readonly`` to look at every table and change nothing.
            request_timeout: see :class:`Client`.

        """
        ask = operations.database_wire(self.id, _database(db), env, role)
        return self._transport.ask(ask, request_timeout)

    def unwire(self, db: str | Database, *, request_timeout: float | None = None) -> None:
        """Let it use a database no more; its connections are closed when this returns."""
        ask = operations.database_unwire(self.id, _database(db))
        self._transport.ask(ask, request_timeout)

    def wired(self, *, request_timeout: float | None = None) -> builtins.list[Wired]:
        """The databases it may use."""
        return self._transport.ask(operations.database_wired(self.id), request_timeout)

    def metrics(self, *, request_timeout: float | None = None) -> Metrics:
        """Counters of its machine since it was made."""
        return self._transport.ask(operations.sandbox_metrics(self.id), request_timeout)

    def logs(self, *, request_timeout: float | None = None) -> str:
        """The end of what its machine printed on its console."""
        return self._transport.ask(operations.sandbox_logs(self.id), request_timeout)

    def kill(self, *, request_timeout: float | None = None) -> bool:
        """End it; returns when nothing of it is left. ``False`` if it was gone before."""
        try:
            self._transport.ask(operations.sandbox_kill(self.id), request_timeout)
        except NotFound:
            return False
        return True

    def _execute(
        self,
        command: Command,
        shaper: _decode.Shaper,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
        input: Input | None = None,
        request_timeout: float | None = None,
    ) -> Events:
        ask = operations.execute(
            self.id,
            command,
            env=env,
            cwd=cwd,
            user=user,
            timeout=timeout,
            stdin=input is not None,
        )
        on_started: Callable[[int], Callable[[], None]] | None = None
        if input is not None:
            on_started = partial(
                runtime.feed,
                self._transport,
                self.id,
                source=input,
                request_timeout=request_timeout,
            )
        return Events(
            self._transport,
            lambda _: ask,
            shaper,
            attach=False,
            on_started=on_started,
            request_timeout=request_timeout,
        )

    def _unpacked(
        self, path: str, target: Path, user: str | None, request_timeout: float | None
    ) -> LocalCopy:
        # Before anything is made here.
        ask = operations.file_pack(self.id, path, user)
        response = self._transport.open(ask, request_timeout)
        packed = self._packed(response)
        try:
            return runtime.in_thread(partial(archive.unpack, runtime.waited(packed), target))
        finally:
            packed.close()
            response.close()

    def _packed(self, response: httpx.Response) -> Generator[bytes, None, None]:
        yield from self._transport.pieces(response)


def _database(db: str | Database) -> str:
    return db if isinstance(db, str) else db.id
