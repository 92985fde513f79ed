"""What the node says about things, as it was when it was asked.

Fields newer than this version are in ``raw``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from sandflare.errors import BadAnswer, CommandFailed, SandflareError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

M = TypeVar("M", bound="Model")

_RAW: Any = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Model:
    """What every answer of the node has in common."""

    @classmethod
    def parse(cls: type[M], answer: Any) -> M:
        """Make one from JSON. Unknown fields are kept in ``raw``; a missing one is an error."""
        if not isinstance(answer, dict):
            raise BadAnswer(f"the node answered {type(answer).__name__} for a {cls.__name__}")
        known = {f.name for f in dataclasses.fields(cls)} - {"raw"}
        values = {name: value for name, value in answer.items() if name in known}
        try:
            return cls(raw=answer, **values)  # type: ignore[call-arg]
        except TypeError as error:
            raise BadAnswer(f"the node's {cls.__name__} is not complete: {error}") from error

    @classmethod
    def parse_some(cls: type[M], answer: Any) -> M | None:
        """Make one from JSON, where there is any."""
        return None if answer is None else cls.parse(answer)


@dataclass(frozen=True)
class SandboxInfo(Model):
    """A sandbox. Times are milliseconds since 1970; ``phases`` are microseconds of its making."""

    id: str
    template: str
    size: str
    state: str
    created_at_ms: int
    name: str | None = None
    reason: str | None = None
    snapshot: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    timeout_at_ms: int | None = None
    idle_timeout_s: int = 0
    on_timeout: str = "kill"
    phases: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = _RAW


@dataclass(frozen=True)
class Snapshot(Model):
    """A snapshot of a sandbox, from which others are created."""

    id: str
    template: str
    size: str
    created_at_ms: int
    name: str | None = None
    sandbox: str | None = None
    bytes: int = 0
    raw: Mapping[str, Any] = _RAW


@dataclass(frozen=True)
class Template(Model):
    """A template at one size."""

    name: str
    size: str
    state: str
    snapshot_bytes: int = 0
    built_at_ms: int | None = None
    message: str | None = None
    raw: Mapping[str, Any] = _RAW


@dataclass(frozen=True)
class Metrics(Model):
    """Counters of a sandbox's machine since it was made or resumed, and what it takes now.

    What a node cannot tell is ``None``.
    """

    faults: int = 0
    pages_copied: int = 0
    pages_prefetched: int = 0
    private_pages: int = 0
    overhead_kib: int = 0
    disk_written_bytes: int = 0
    exits: int = 0
    #: Processor time, of all its processors together, in microseconds.
    cpu_time_us: int | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    #: What its disk takes on the node.
    disk_bytes: int | None = None
    #: How long its guest runs since it was made or resumed.
    uptime_ms: int | None = None
    raw: Mapping[str, Any] = _RAW

    @property
    def private_kib(self) -> int:
        """Guest memory that is this sandbox's own, in KiB."""
        return self.private_pages * 4


@dataclass(frozen=True)
class Policy(Model):
    """What a sandbox may reach.

    Private addresses, the node's machine and other sandboxes are never reached. Then ``deny``
    counts, then ``allow``, then ``base``.

    Attributes:
        base: ``default``, the internet is reached where no rule says otherwise, or ``none``.
        allow: rules: a domain, ``*.domain``, an address, a CIDR or ``*``, then perhaps ``:port``
            or ``:port-port``, then perhaps ``/tcp`` or ``/udp``.
        deny: the same.

    """

    base: str = "default"
    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    raw: Mapping[str, Any] = _RAW

    @classmethod
    def parse(cls, answer: Any) -> Policy:
        """Make one from JSON."""
        parsed = super().parse(answer)
        return dataclasses.replace(parsed, allow=tuple(parsed.allow), deny=tuple(parsed.deny))


@dataclass(frozen=True)
class Flow(Model):
    """Something a sandbox reached, when that was over, or that it was denied.

    Attributes:
        index: its place among the sandbox's flows.
        at_ms: when it began, in milliseconds since 1970.
        protocol: ``tcp``, ``udp``, ``icmp``, ``dns`` (a question for a name) or ``other``.
        verdict: ``allowed`` or ``denied``.
        reason: what decided that.
        name: the name that was asked for, or whose answer gave the address.
        address: where to.
        port: at which port.
        bytes_up: bytes that left the sandbox.
        bytes_down: bytes that came back.
        duration_ms: how long it was.
        count: how many denials it stands for.

    """

    index: int
    at_ms: int
    protocol: str
    verdict: str
    reason: str
    name: str | None = None
    address: str | None = None
    port: int | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    duration_ms: int = 0
    count: int = 1
    raw: Mapping[str, Any] = _RAW

    @property
    def denied(self) -> bool:
        """Whether it was not let out."""
        return self.verdict == "denied"


@dataclass(frozen=True)
class Port(Model):
    """A port of a sandbox: where it is reached, and by whom.

    ``str()`` is an address to be opened as it is, in a browser for instance: of a private port it
    has the token in it. ``url`` and ``path_url`` are without; send ``headers`` along to either.
    """

    port: int
    public: bool
    url: str
    path_url: str
    token: str = field(repr=False)
    raw: Mapping[str, Any] = _RAW

    def __str__(self) -> str:
        return f"{self.url}/" if self.public else f"{self.url}/?sandflare_token={self.token}"

    @property
    def headers(self) -> dict[str, str]:
        """What lets a request in; every port of this sandbox takes it, and no other sandbox."""
        return {"X-Sandflare-Token": self.token}


@dataclass(frozen=True)
class DatabaseInfo(Model):
    """A database. Times are milliseconds since 1970.

    Attributes:
        status: ``creating``, ``running``, ``paused`` (a connection resumes it) or ``failed``.
        reason: why it failed.
        disk_mib: how much its data may take, in MiB; ``None`` when nothing was said.
        host: where it is reached, at ``port``.
        outside: who may connect by the node's listener for databases: ``off``, ``loopback``, or
            a list of networks.
        user: its owner's name in Postgres.
        database: its name in Postgres.
        password: its owner's. Neither it nor an address is in lists.
        url: all of this as one address, by way of the pool.
        direct_url: the same without the pool.

    """

    id: str
    name: str
    status: str
    size: str
    host: str
    port: int
    user: str
    database: str
    extensions: Sequence[str] = ()
    outside: str | Sequence[str] = "loopback"
    created_at_ms: int = 0
    expires_at_ms: int | None = None
    disk_mib: int | None = None
    reason: str | None = None
    password: str | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)
    direct_url: str | None = field(default=None, repr=False)
    raw: Mapping[str, Any] = _RAW


@dataclass(frozen=True)
class DatabaseSnapshot(Model):
    """One moment of a database, kept under a name. Times are milliseconds since 1970.

    Attributes:
        database: the id of the database, with which it is deleted.
        bytes: disk it takes; the database shares what did not change since.

    """

    id: str
    name: str
    database: str
    created_at_ms: int
    bytes: int = 0
    raw: Mapping[str, Any] = _RAW


@dataclass(frozen=True)
class DatabaseConnections(Model):
    """Sessions of a database, without those of the node.

    Attributes:
        open: that are open; those of the pool count once, however many clients share them.
        active: that run a statement.
        max: that may be open at once.

    """

    open: int
    active: int
    max: int
    raw: Mapping[str, Any] = _RAW


@dataclass(frozen=True)
class DatabaseTransactions(Model):
    """Transactions of a database since its server began to count."""

    committed: int
    rolled_back: int
    raw: Mapping[str, Any] = _RAW


@dataclass(frozen=True)
class DatabaseCache(Model):
    """Blocks of 8 KiB that a database needed since its server began to count.

    Attributes:
        hit: that were in the server's cache.
        read: that were not.
        ratio: the share of those that were, 0 to 1; ``None`` when none was needed.

    """

    hit: int
    read: int
    ratio: float | None = None
    raw: Mapping[str, Any] = _RAW


@dataclass(frozen=True)
class SlowQuery(Model):
    """A query, with all of its runs taken together.

    Attributes:
        query: its text, up to 1000 bytes, with ``$1`` and the like in place of values.
        calls: how often it ran.
        mean_ms: how long a run took on average, in milliseconds.
        total_ms: how long all of them took.
        rows: rows that all of them gave or changed.

    """

    query: str
    calls: int
    mean_ms: float
    total_ms: float
    rows: int
    raw: Mapping[str, Any] = _RAW


@dataclass(frozen=True)
class DatabaseStats(Model):
    """How a database is, and what its server counts; all but the first two is ``None`` without.

    Attributes:
        status: as that of :class:`DatabaseInfo`; one that is paused is not resumed to be asked.
        reason: why it failed, or why one that runs has no figures.
        answered_us: how long its server took to let a session in and answer, in microseconds.
        uptime_ms: how long its server runs, in milliseconds and with its pauses.
        connections: its sessions.
        transactions: its transactions.
        size_bytes: what its tables and indexes take.
        cache: how its reads were served.
        slow_queries: up to 10 queries, those with the longest mean time first.

    """

    status: str
    reason: str | None = None
    answered_us: int | None = None
    uptime_ms: int | None = None
    connections: DatabaseConnections | None = None
    transactions: DatabaseTransactions | None = None
    size_bytes: int | None = None
    cache: DatabaseCache | None = None
    slow_queries: Sequence[SlowQuery] | None = None
    raw: Mapping[str, Any] = _RAW

    @classmethod
    def parse(cls, answer: Any) -> DatabaseStats:
        """Make one from JSON."""
        parsed = super().parse(answer)
        queries = answer.get("slow_queries")
        if not isinstance(queries, (list, type(None))):
            raise BadAnswer("the node's answer has no list of slow queries")
        return dataclasses.replace(
            parsed,
            connections=DatabaseConnections.parse_some(answer.get("connections")),
            transactions=DatabaseTransactions.parse_some(answer.get("transactions")),
            cache=DatabaseCache.parse_some(answer.get("cache")),
            slow_queries=None if queries is None else tuple(map(SlowQuery.parse, queries)),
        )


@dataclass(frozen=True)
class Rows(Model):
    """What the last statement of a query gave; a sequence of dictionaries, one for each row.

    A value is text, as Postgres writes it, or ``None``.

    Attributes:
        columns: names of the columns; none when the statement gives no rows.
        values: the rows as tuples, for columns that have the same name.
        truncated: whether there are more rows than these.
        rows_affected: how many rows it gave or changed, where the node knows.

    """

    columns: Sequence[str] = ()
    values: Sequence[Sequence[str | None]] = field(default=(), repr=False)
    truncated: bool = False
    rows_affected: int | None = None
    raw: Mapping[str, Any] = _RAW

    @classmethod
    def parse(cls, answer: Any) -> Rows:
        """Make one from JSON."""
        parsed = super().parse(answer)
        try:
            columns = tuple(str(column["name"]) for column in answer["columns"])
            values = tuple(tuple(row) for row in answer["rows"])
        except (KeyError, TypeError) as error:
            raise BadAnswer("the node's answer has no columns and rows") from error
        return dataclasses.replace(parsed, columns=columns, values=values)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[dict[str, str | None]]:
        return (dict(zip(self.columns, row)) for row in self.values)

    def __getitem__(self, index: int) -> dict[str, str | None]:
        return dict(zip(self.columns, self.values[index]))


@dataclass(frozen=True)
class Wired(Model):
    """A database that a sandbox may use.

    Attributes:
        id: the database's.
        name: the database's.
        role: what the sandbox may do in it, ``readwrite`` or ``readonly``.
        env: the variables that its processes get; the password in them is good there only.

    """

    id: str
    name: str
    role: str
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    raw: Mapping[str, Any] = _RAW


@dataclass(frozen=True)
class SecretInfo(Model):
    """A secret, without what it says.

    Attributes:
        name: its name.
        hosts: where its value may go.
        created_at_ms: when it was made, in milliseconds since 1970.
        updated_at_ms: when it was set last, in milliseconds since 1970.

    """

    name: str
    hosts: Sequence[str]
    created_at_ms: int
    updated_at_ms: int
    raw: Mapping[str, Any] = _RAW

    @classmethod
    def parse(cls, answer: Any) -> SecretInfo:
        """Read the JSON form."""
        parsed = super().parse(answer)
        return dataclasses.replace(parsed, hosts=tuple(parsed.hosts))


@dataclass(frozen=True)
class ProcessInfo(Model):
    """A process that was spawned in a sandbox."""

    id: int
    argv: list[str] = field(default_factory=list)
    user: str | None = None
    cwd: str | None = None
    pid: int | None = None
    pty: bool = False
    started_at_ms: int = 0
    running: bool = True
    exit: Mapping[str, Any] | None = None
    last_seq: int = 0
    raw: Mapping[str, Any] = _RAW


@dataclass(frozen=True)
class FileEntry(Model):
    """A file or directory of a sandbox. ``kind`` is file, directory, symlink or other."""

    name: str
    kind: str
    size: int
    mode: int
    uid: int
    gid: int
    modified_at_ms: int
    target: str | None = None
    raw: Mapping[str, Any] = _RAW

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory; a symbolic link to one is not."""
        return self.kind == "directory"


@dataclass(frozen=True)
class Health(Model):
    """Whether the node serves, and its version."""

    ready: bool
    version: str
    raw: Mapping[str, Any] = _RAW


@dataclass(frozen=True)
class Project(Model):
    """What sandboxes and keys belong to, and what it may use at once."""

    id: str
    name: str
    created_at_ms: int = 0
    quota: Mapping[str, int] = field(default_factory=dict)
    raw: Mapping[str, Any] = _RAW


@dataclass(frozen=True)
class Key(Model):
    """A key of the API, without what makes it one. ``role`` is ``user`` or ``admin``."""

    id: str
    project: str
    name: str
    role: str
    created_at_ms: int = 0
    expires_at_ms: int | None = None
    last_used_at_ms: int | None = None
    raw: Mapping[str, Any] = _RAW


@dataclass(frozen=True)
class CreatedKey(Key):
    """A key that was just made. ``key`` is what opens the API; nobody can show it again."""

    key: str = field(default="", repr=False)


@dataclass(frozen=True)
class Usage(Model):
    """What a project may use and what it uses."""

    project: str
    quota: Mapping[str, int] = field(default_factory=dict)
    used: Mapping[str, int] = field(default_factory=dict)
    raw: Mapping[str, Any] = _RAW


@dataclass(frozen=True)
class Event:
    """One thing that happened to a process.

    Attributes:
        event: ``started``, ``stdout``, ``stderr``, ``exit``, ``error`` or ``dropped``.
        seq: number of the node's event that brought the last byte of this one.
        ts: when the node learned of it, in seconds since 1970.
        data: the bytes, exactly; all ``data`` of one kind in order is all that was written.
        line: the text of ``data`` without its line ending; bytes that are no UTF-8 become U+FFFD.
        process: the number of the process, with ``started``.
        exit_code: with ``exit`` and ``error``.
        signal: the signal that ended it, if one did.
        timed_out: whether it was killed because its time was up.
        failure: why it could not be started, with ``error``.

    """

    event: str
    seq: int
    ts: float
    data: bytes = b""
    line: str = ""
    process: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    timed_out: bool = False
    failure: SandflareError | None = None


@dataclass(frozen=True)
class FileEvent:
    """One thing that happened in a watched directory.

    Attributes:
        event: ``started``, ``created``, ``modified``, ``attributes``, ``removed``, ``moved``, or
            ``overflow``: some of what happened was not noticed.
        seq: 0, 1, 2 … in the life of the watch.
        ts: when the sandbox learned of it, in seconds since 1970.
        path: where, in full.
        to: where it is now, with ``moved``.
        kind: what it is, if it could still be looked at: file, directory, symlink or other.

    """

    event: str
    seq: int
    ts: float
    path: str | None = None
    to: str | None = None
    kind: str | None = None


@dataclass(frozen=True)
class Result:
    """A command that ended.

    Attributes:
        command: what was run, as it was given.
        exit_code: the command's; 128 plus the signal that ended it; 127 when there is no such
            program and 126 when it cannot be run.
        duration: seconds from its start to its end, by the node's clock.
        timed_out: whether it was killed because its ``timeout`` was up.
        truncated: whether output beyond ``max_output``, or older than the node keeps, is missing.
        failure: why it could not be started, if it could not.

    """

    command: Any
    exit_code: int
    stdout_bytes: bytes = field(default=b"", repr=False)
    stderr_bytes: bytes = field(default=b"", repr=False)
    duration: float = 0.0
    timed_out: bool = False
    truncated: bool = False
    signal: int | None = None
    failure: SandflareError | None = None

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with exit code 0."""
        return self.exit_code == 0 and not self.timed_out

    @property
    def stdout(self) -> str:
        """Its standard output as text; bytes that are no UTF-8 become U+FFFD."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """Its standard error as text; bytes that are no UTF-8 become U+FFFD."""
        return self.stderr_bytes.decode("utf-8", "replace")

    def check(self) -> Result:
        """Return itself, or raise :class:`CommandFailed` unless it is ``ok``."""
        if self.ok:
            return self
        what = self.command if isinstance(self.command, str) else " ".join(self.command)
        # LIMIT: what fits a line of a log; `result` has all of it.
        what = what if len(what) <= 80 else what[:77] + "..."
        if self.timed_out:
            reason = "was killed because its time was up"
        elif self.signal is not None:
            reason = f"was ended by signal {self.signal}"
        else:
            reason = f"ended with exit code {self.exit_code}"
        last = self.stderr.strip().rsplit("\n", 1)[-1][:200]
        message = f"`{what}` {reason}" + (f": {last}" if last else "")
        raise CommandFailed(message, result=self)


@dataclass(frozen=True)
class LocalCopy:
    """What a download wrote to this machine, and the names of links and devices it left out."""

    files: int
    bytes: int
    skipped: list[str] = field(default_factory=list)
