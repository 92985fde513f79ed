"""Every operation of the node as the request that asks for it. Pure: nothing is sent from here."""

from __future__ import annotations

import math
import signal as signals
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Union

from sandflare._ask import (
    Ask,
    Body,
    given,
    idempotency,
    many,
    nothing,
    one,
    page,
    parsed,
    segment,
    the_same,
)
from sandflare._ask import text as as_text
from sandflare._policy import Network, policy
from sandflare._retry import Again
from sandflare.errors import ConfigurationError, TooLarge
from sandflare.models import (
    CreatedKey,
    DatabaseInfo,
    DatabaseSnapshot,
    DatabaseStats,
    FileEntry,
    Flow,
    Health,
    Key,
    Metrics,
    Policy,
    Port,
    ProcessInfo,
    Project,
    Rows,
    SandboxInfo,
    SecretInfo,
    Snapshot,
    Template,
    Usage,
    Wired,
)

#: What ``run`` takes: a line for the shell, or a program and its arguments.
Command = Union[str, Sequence[str]]
#: A signal by its number, its name (``"SIGINT"`` or ``"INT"``), or as :class:`signal.Signals`.
Signal = Union[int, str, signals.Signals]

_STATES = ("creating", "running", "pausing", "paused", "resuming", "stopping", "failed")
# Linux's numbers, which other systems count differently; a sandbox is always Linux.
_SIGNALS = {
    "HUP": 1,
    "INT": 2,
    "QUIT": 3,
    "ILL": 4,
    "TRAP": 5,
    "ABRT": 6,
    "BUS": 7,
    "FPE": 8,
    "KILL": 9,
    "USR1": 10,
    "SEGV": 11,
    "USR2": 12,
    "PIPE": 13,
    "ALRM": 14,
    "TERM": 15,
    "STKFLT": 16,
    "CHLD": 17,
    "CONT": 18,
    "STOP": 19,
    "TSTP": 20,
    "TTIN": 21,
    "TTOU": 22,
    "URG": 23,
    "XCPU": 24,
    "XFSZ": 25,
    "VTALRM": 26,
    "PROF": 27,
    "WINCH": 28,
    "IO": 29,
    "PWR": 30,
    "SYS": 31,
}


def health() -> Ask[Health]:
    return Ask("GET", "/health", one(Health), again=Again.SAFE)


def template_delete(name: str, size: str) -> Ask[None]:
    return Ask("DELETE", f"/templates/{segment(name)}/{segment(size)}", nothing, again=Again.SAFE)


def templates() -> Ask[list[Template]]:
    return Ask("GET", "/templates", many(Template, "templates"), again=Again.SAFE)


def sandbox_create(
    *,
    name: str | None,
    template: str | None,
    size: str | None,
    env: Mapping[str, str] | None,
    metadata: Mapping[str, str] | None,
    timeout: float | None,
    idle_timeout: float | None,
    on_timeout: str | None,
    snapshot: str | Snapshot | None,
    network: Network | None,
    secrets: Mapping[str, str] | None = None,
    after: str | None = None,
) -> Ask[SandboxInfo]:
    """``after`` makes the same create as long as it is the same; see :func:`the_same`."""
    body = given(
        name=name,
        template=template,
        size=size,
        env=dict(env) if env else None,
        metadata=dict(metadata) if metadata else None,
        timeout_s=seconds("timeout", timeout),
        idle_timeout_s=seconds("idle_timeout", idle_timeout),
        on_timeout=on_timeout,
        snapshot=snapshot.id if isinstance(snapshot, Snapshot) else snapshot,
        network=policy(network) if network is not None else None,
        secrets=dict(secrets) if secrets else None,
    )
    return Ask(
        "POST",
        "/sandboxes",
        one(SandboxInfo),
        json=body,
        headers=idempotency() if after is None else the_same(body, after),
        again=Again.SAFE,
        slow=True,
    )


def sandbox_list(
    *,
    state: str | None = None,
    name: str | None = None,
    metadata: Mapping[str, str] | None = None,
    limit: int | None = None,
    cursor: str | None = None,
    own: bool = False,
) -> Ask[tuple[list[SandboxInfo], str | None]]:
    if state is not None and state not in _STATES:
        raise ConfigurationError(
            f"no sandbox has the state {state!r}", hint=f"one of {', '.join(_STATES)}"
        )
    # The node looks for one entry; the others are compared here, as is a key with a colon.
    pairs = [f"{key}:{value}" for key, value in (metadata or {}).items() if ":" not in key]
    params = given(
        state=state,
        name=name,
        metadata=pairs[0] if pairs else None,
        limit=str(limit) if limit is not None else None,
        cursor=cursor,
        own="true" if own else None,
    )
    return Ask("GET", "/sandboxes", page(SandboxInfo, "sandboxes"), params=params, again=Again.SAFE)


def sandbox_get(id: str) -> Ask[SandboxInfo]:
    return Ask("GET", _of(id), one(SandboxInfo), again=Again.SAFE)


def sandbox_kill(id: str) -> Ask[None]:
    return Ask("DELETE", _of(id), nothing, again=Again.SAFE)


def sandbox_timeout(id: str, timeout: float) -> Ask[None]:
    body = {"timeout_s": seconds("timeout", timeout)}
    return Ask("POST", _of(id, "/timeout"), nothing, json=body, again=Again.SAFE)


def sandbox_pause(id: str) -> Ask[SandboxInfo]:
    return Ask("POST", _of(id, "/pause"), one(SandboxInfo), slow=True)


def sandbox_resume(id: str) -> Ask[SandboxInfo]:
    return Ask("POST", _of(id, "/resume"), one(SandboxInfo), slow=True)


def sandbox_fork(
    id: str, count: int, name: str | None, databases: str = "none"
) -> Ask[list[SandboxInfo]]:
    return Ask(
        "POST",
        _of(id, "/fork"),
        many(SandboxInfo, "sandboxes"),
        json=given(count=count, name=name, databases=databases),
        headers=idempotency(),
        again=Again.SAFE,
        slow=True,
    )


def sandbox_snapshot(id: str, name: str | None) -> Ask[Snapshot]:
    return Ask(
        "POST",
        _of(id, "/snapshots"),
        one(Snapshot),
        json=given(name=name),
        headers=idempotency(),
        again=Again.SAFE,
        slow=True,
    )


def sandbox_metrics(id: str) -> Ask[Metrics]:
    return Ask("GET", _of(id, "/stats"), one(Metrics), again=Again.SAFE)


def sandbox_logs(id: str) -> Ask[str]:
    return Ask("GET", _of(id, "/logs"), as_text, again=Again.SAFE)


def policy_get(id: str) -> Ask[Policy]:
    return Ask("GET", _of(id, "/policy"), one(Policy), again=Again.SAFE)


def policy_set(id: str, network: Network) -> Ask[Policy]:
    return Ask("PUT", _of(id, "/policy"), one(Policy), json=policy(network), again=Again.SAFE)


def flow_list(id: str, after: int | None, limit: int | None) -> Ask[list[Flow]]:
    params = given(
        after=str(after) if after is not None else None,
        limit=str(limit) if limit is not None else None,
    )
    return Ask("GET", _of(id, "/flows"), many(Flow, "flows"), params=params, again=Again.SAFE)


def port_get(id: str, port: int) -> Ask[Port]:
    return Ask("GET", _of(id, f"/ports/{port}"), one(Port), again=Again.SAFE)


def port_set(id: str, port: int, public: bool) -> Ask[Port]:
    path = _of(id, f"/ports/{port}")
    return Ask("PUT", path, one(Port), json={"public": public}, again=Again.SAFE)


def snapshot_list(cursor: str | None = None) -> Ask[tuple[list[Snapshot], str | None]]:
    read = page(Snapshot, "snapshots")
    return Ask("GET", "/snapshots", read, params=given(cursor=cursor), again=Again.SAFE)


def snapshot_get(id: str) -> Ask[Snapshot]:
    return Ask("GET", f"/snapshots/{segment(id)}", one(Snapshot), again=Again.SAFE)


def snapshot_delete(id: str) -> Ask[None]:
    return Ask("DELETE", f"/snapshots/{segment(id)}", nothing, again=Again.SAFE)


def database_create(
    *,
    name: str,
    password: str | None,
    size: str | None,
    extensions: Sequence[str] | None,
    seed: str | None,
    ttl: float | None,
    idle_timeout: float | None,
    outside: str | Sequence[str] | None,
    exist_ok: bool,
    disk_mib: int | None = None,
) -> Ask[DatabaseInfo]:
    # The characters of a text would be extensions as well.
    if isinstance(extensions, str):
        raise ConfigurationError("`extensions` is a list of names", hint=f"[{extensions!r}]")
    body = given(
        name=name,
        password=password,
        size=size,
        disk_mib=disk_mib,
        extensions=list(extensions) if extensions is not None else None,
        seed=seed,
        ttl_s=seconds("ttl", ttl),
        idle_timeout_s=seconds("idle_timeout", idle_timeout),
        outside=None if outside is None else _outside(outside),
        exist_ok=True if exist_ok else None,
    )
    return Ask(
        "POST",
        "/databases",
        one(DatabaseInfo),
        json=body,
        headers=idempotency(),
        again=Again.SAFE,
        slow=True,
    )


def database_list(cursor: str | None = None) -> Ask[tuple[list[DatabaseInfo], str | None]]:
    read = page(DatabaseInfo, "databases")
    return Ask("GET", "/databases", read, params=given(cursor=cursor), again=Again.SAFE)


def database_get(id: str) -> Ask[DatabaseInfo]:
    return Ask("GET", _database(id), one(DatabaseInfo), again=Again.SAFE)


def database_stats(id: str) -> Ask[DatabaseStats]:
    return Ask("GET", _database(id, "/stats"), one(DatabaseStats), again=Again.SAFE)


def database_delete(id: str) -> Ask[None]:
    return Ask("DELETE", _database(id), nothing, again=Again.SAFE)


def database_query(id: str, sql: str, rows_max: int | None, timeout: float | None) -> Ask[Rows]:
    body = given(sql=sql, rows_max=rows_max, timeout_ms=milliseconds("timeout", timeout))
    return Ask("POST", _database(id, "/query"), one(Rows), json=body, slow=True)


def database_set_password(id: str, password: str | None) -> Ask[DatabaseInfo]:
    return Ask(
        "POST",
        _database(id, "/password"),
        one(DatabaseInfo),
        json=given(password=password),
        # Of two random ones, nobody could say which is the last.
        again=Again.UNSENT if password is None else Again.SAFE,
        slow=True,
    )


def database_set_outside(id: str, outside: str | Sequence[str]) -> Ask[DatabaseInfo]:
    body = {"outside": _outside(outside)}
    return Ask("PUT", _database(id, "/outside"), one(DatabaseInfo), json=body, again=Again.SAFE)


def database_fork(
    id: str, name: str, password: str | None, snapshot: str | None = None
) -> Ask[DatabaseInfo]:
    return Ask(
        "POST",
        _database(id, "/fork"),
        one(DatabaseInfo),
        json=given(name=name, password=password, snapshot=snapshot),
        headers=idempotency(),
        again=Again.SAFE,
        slow=True,
    )


def database_snapshot(id: str, name: str) -> Ask[DatabaseSnapshot]:
    return Ask(
        "POST",
        _database(id, "/snapshots"),
        one(DatabaseSnapshot),
        json=given(name=name),
        headers=idempotency(),
        again=Again.SAFE,
        slow=True,
    )


def database_snapshots(id: str) -> Ask[list[DatabaseSnapshot]]:
    read = many(DatabaseSnapshot, "snapshots")
    return Ask("GET", _database(id, "/snapshots"), read, again=Again.SAFE)


def database_snapshot_delete(id: str, snapshot: str) -> Ask[None]:
    path = _database(id, f"/snapshots/{segment(snapshot)}")
    return Ask("DELETE", path, nothing, again=Again.SAFE)


def database_restore(id: str, snapshot: str) -> Ask[DatabaseInfo]:
    # Twice, it would take what was written in between.
    path = _database(id, "/restore")
    return Ask("POST", path, one(DatabaseInfo), json=given(snapshot=snapshot), slow=True)


def database_wire(id: str, database: str, env: str | None, role: str | None) -> Ask[Wired]:
    path = _of(id, f"/databases/{segment(database)}")
    body = given(env=env, role=role)
    return Ask("PUT", path, one(Wired), json=body, again=Again.SAFE, slow=True)


def database_wired(id: str) -> Ask[list[Wired]]:
    return Ask("GET", _of(id, "/databases"), many(Wired, "databases"), again=Again.SAFE)


def database_unwire(id: str, database: str) -> Ask[None]:
    path = _of(id, f"/databases/{segment(database)}")
    return Ask("DELETE", path, nothing, again=Again.SAFE, slow=True)


def project_list(cursor: str | None = None) -> Ask[tuple[list[Project], str | None]]:
    read = page(Project, "projects")
    return Ask("GET", "/projects", read, params=given(cursor=cursor), again=Again.SAFE)


def project_create(name: str, quota: Mapping[str, int] | None) -> Ask[Project]:
    body = given(name=name, quota=dict(quota) if quota else None)
    return Ask("POST", "/projects", one(Project), json=body)


def project_change(id: str, quota: Mapping[str, int]) -> Ask[Project]:
    body = {"quota": dict(quota)}
    return Ask("PATCH", f"/projects/{segment(id)}", one(Project), json=body)


def project_delete(id: str) -> Ask[None]:
    return Ask("DELETE", f"/projects/{segment(id)}", nothing)


def key_list(cursor: str | None = None) -> Ask[tuple[list[Key], str | None]]:
    read = page(Key, "keys")
    return Ask("GET", "/keys", read, params=given(cursor=cursor), again=Again.SAFE)


def key_create(
    name: str, project: str | None, role: str | None, expires_at: datetime | None
) -> Ask[CreatedKey]:
    expires_at_ms = None
    if expires_at is not None:
        if expires_at.tzinfo is None:
            raise ConfigurationError("`expires_at` has no time zone")
        expires_at_ms = int(expires_at.timestamp() * 1000)
    body = given(name=name, project=project, role=role, expires_at_ms=expires_at_ms)
    return Ask("POST", "/keys", one(CreatedKey), json=body)


def key_delete(id: str) -> Ask[None]:
    return Ask("DELETE", f"/keys/{segment(id)}", nothing)


def usage() -> Ask[Usage]:
    return Ask("GET", "/usage", one(Usage), again=Again.SAFE)


def execute(
    id: str,
    command: Command,
    *,
    env: Mapping[str, str] | None,
    cwd: str | None,
    user: str | None,
    timeout: float | None,
    stdin: bool,
) -> Ask[Any]:
    body = _command(command, env, cwd, user, timeout, stdin)
    return Ask("POST", _of(id, "/exec"), parsed, json=body)


def process_spawn(
    id: str,
    command: Command,
    *,
    env: Mapping[str, str] | None,
    cwd: str | None,
    user: str | None,
    timeout: float | None,
    stdin: bool,
    pty: tuple[int, int] | None,
) -> Ask[ProcessInfo]:
    body = _command(command, env, cwd, user, timeout, stdin)
    if pty is not None:
        body["pty"] = {"rows": pty[0], "cols": pty[1]}
    return Ask(
        "POST",
        _of(id, "/processes"),
        one(ProcessInfo),
        json=body,
        headers=idempotency(),
        again=Again.SAFE,
    )


def process_list(id: str) -> Ask[list[ProcessInfo]]:
    return Ask("GET", _of(id, "/processes"), many(ProcessInfo, "processes"), again=Again.SAFE)


def process_events(id: str, process: int, after: int | None) -> Ask[Any]:
    params = given(after=str(after) if after is not None else None)
    return Ask("GET", _process(id, process, "events"), parsed, params=params, again=Again.SAFE)


def process_stdin(id: str, process: int, data: bytes, close: bool) -> Ask[None]:
    params = {"close": "true"} if close else {}
    return Ask("POST", _process(id, process, "stdin"), nothing, params=params, body=data)


def process_signal(id: str, process: int, signal: Signal) -> Ask[None]:
    body = {"signal": signal_number(signal)}
    return Ask("POST", _process(id, process, "signal"), nothing, json=body)


def process_resize(id: str, process: int, rows: int, cols: int) -> Ask[None]:
    body = {"rows": rows, "cols": cols}
    return Ask("POST", _process(id, process, "resize"), nothing, json=body, again=Again.SAFE)


def process_get(id: str, process: int) -> Ask[ProcessInfo]:
    path = f"{_of(id)}/processes/{process}"
    return Ask("GET", path, one(ProcessInfo), again=Again.SAFE)


def file_read(
    id: str, path: str, user: str | None, start: int = 0, length: int | None = None
) -> Ask[bytes]:
    if start < 0 or (length is not None and length < 1):
        raise ConfigurationError("`start` is 0 or more, and `length` is 1 or more")
    headers = {}
    if start or length is not None:
        last = start + length - 1 if length is not None else ""
        headers["Range"] = f"bytes={start}-{last}"
    params = given(path=path, user=user)
    return Ask("GET", _of(id, "/files"), bytes, params=params, headers=headers, again=Again.SAFE)


def file_pack(id: str, path: str, user: str | None) -> Ask[bytes]:
    params = given(path=path, user=user)
    return Ask("GET", _of(id, "/files/archive"), bytes, params=params, again=Again.SAFE)


def file_unpack(id: str, path: str, body: Body, user: str | None) -> Ask[FileEntry]:
    return Ask(
        "PUT",
        _of(id, "/files/archive"),
        one(FileEntry),
        params=given(path=path, user=user),
        body=body,
        headers={"Content-Type": "application/x-tar"},
        slow=True,
    )


def file_watch(id: str, path: str, recursive: bool, user: str | None) -> Ask[Any]:
    params = given(path=path, recursive="true" if recursive else None, user=user)
    return Ask("GET", _of(id, "/files/watch"), parsed, params=params, again=Again.SAFE)


def file_write(
    id: str,
    path: str,
    body: Body,
    *,
    length: int | None,
    mode: int | None,
    user: str | None,
) -> Ask[FileEntry]:
    return Ask(
        "PUT",
        _of(id, "/files"),
        one(FileEntry),
        params=given(path=path, mode=str(mode) if mode is not None else None, user=user),
        body=body,
        length=length,
    )


def file_list(id: str, path: str, user: str | None) -> Ask[list[FileEntry]]:
    params = given(path=path, user=user)
    return Ask("GET", _of(id, "/files/list"), _entries, params=params, again=Again.SAFE)


def _entries(answer: bytes) -> list[FileEntry]:
    if parsed(answer).get("truncated"):
        # A part that looks like the whole would be worse.
        raise TooLarge(
            "the directory has more entries than the node lists", hint="list it with `run`"
        )
    return many(FileEntry, "entries")(answer)


def file_stat(id: str, path: str, user: str | None) -> Ask[FileEntry]:
    params = given(path=path, user=user)
    return Ask("GET", _of(id, "/files/stat"), one(FileEntry), params=params, again=Again.SAFE)


def file_make(id: str, path: str, mode: int | None, user: str | None) -> Ask[FileEntry]:
    body = given(path=path, mode=mode, user=user)
    return Ask("POST", _of(id, "/files/make"), one(FileEntry), json=body, again=Again.SAFE)


def file_move(id: str, source: str, to: str, user: str | None) -> Ask[FileEntry]:
    body = {"from": source, **given(to=to, user=user)}
    return Ask("POST", _of(id, "/files/move"), one(FileEntry), json=body)


def file_remove(id: str, path: str, recursive: bool, user: str | None) -> Ask[None]:
    params = given(path=path, recursive="true" if recursive else None, user=user)
    return Ask("DELETE", _of(id, "/files"), nothing, params=params)


def argv(command: Command) -> list[str]:
    """Write a command as a program and its arguments; a string goes to the shell."""
    if isinstance(command, str):
        return ["sh", "-c", command]
    words = [str(word) for word in command]
    if not words:
        raise ConfigurationError("the command is empty")
    return words


def seconds(what: str, value: float | None) -> int | None:
    """Write a duration as the node takes it: whole seconds, rounded up."""
    if value is None:
        return None
    if not 0 <= value < float("inf"):
        raise ConfigurationError(f"`{what}` is {value}; it is seconds, 0 or more")
    return math.ceil(value)


def milliseconds(what: str, value: float | None) -> int | None:
    """Write a limit as the node takes it: whole milliseconds, rounded up, of more than none."""
    if value is None:
        return None
    if not 0 < value < float("inf"):
        raise ConfigurationError(f"`{what}` is {value}; it is seconds, more than 0")
    return math.ceil(value * 1000)


def signal_number(signal: Signal) -> int:
    """Write a signal as Linux numbers it."""
    if isinstance(signal, signals.Signals):
        signal = signal.name
    if isinstance(signal, str):
        name = signal.upper()
        number = _SIGNALS.get(name.removeprefix("SIG"))
        if number is None:
            raise ConfigurationError(f"there is no signal {signal!r}")
        return number
    return int(signal)


def _command(
    command: Command,
    env: Mapping[str, str] | None,
    cwd: str | None,
    user: str | None,
    timeout: float | None,
    stdin: bool,
) -> dict[str, Any]:
    return given(
        argv=argv(command),
        env=dict(env) if env else None,
        cwd=cwd,
        user=user,
        time_limit_ms=milliseconds("timeout", timeout),
        stdin=True if stdin else None,
    )


def secret_list() -> Ask[list[SecretInfo]]:
    return Ask("GET", "/secrets", many(SecretInfo, "secrets"), again=Again.SAFE)


def secret_set(name: str, value: str, hosts: Sequence[str]) -> Ask[SecretInfo]:
    # The characters of a text would be hosts as well.
    if isinstance(hosts, str):
        raise ConfigurationError("`hosts` is a list of hosts", hint=f"[{hosts!r}]")
    body = {"value": value, "hosts": [str(host) for host in hosts]}
    path = f"/secrets/{segment(name)}"
    return Ask("PUT", path, one(SecretInfo), json=body, again=Again.SAFE)


def secret_delete(name: str) -> Ask[None]:
    return Ask("DELETE", f"/secrets/{segment(name)}", nothing, again=Again.SAFE)


def _of(id: str, rest: str = "") -> str:
    return f"/sandboxes/{segment(id)}{rest}"


def _outside(outside: str | Sequence[str]) -> str | list[str]:
    # One network may be written without the list around it.
    if isinstance(outside, str):
        return outside if outside in ("off", "loopback") else [outside]
    return [str(network) for network in outside]


def _database(id: str, rest: str = "") -> str:
    return f"/databases/{segment(id)}{rest}"


def _process(id: str, process: int, rest: str) -> str:
    return f"{_of(id)}/processes/{process}/{rest}"


def lives(state: str) -> bool:
    """Whether a sandbox of this state can be used, perhaps after it resumed."""
    return state not in ("stopping", "failed")


def matches(
    info: SandboxInfo,
    state: str | None,
    name: str | None,
    metadata: Mapping[str, str] | None,
) -> bool:
    """Whether a sandbox is among those asked for, also when the node lists more."""
    return (
        (state is None or info.state == state)
        and (name is None or info.name == name)
        and all(info.metadata.get(key) == value for key, value in (metadata or {}).items())
    )
