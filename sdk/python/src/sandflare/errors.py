"""What can go wrong, one class for each cause.

Every error of this package is a :class:`SandflareError`. What the node refused carries the node's
code, hint and request id; what never reached it has the code of its class.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandflare.models import Result


class SandflareError(Exception):
    """Anything that failed. ``str()`` is one sentence, with the hint if there is one.

    Attributes:
        code: what went wrong, for programs; new ones are only ever added.
        message: what went wrong, for people.
        hint: what to do about it, or ``None``.
        request_id: the request's name in the node's log, or ``None`` if it never got there.
        status: the HTTP status, or ``None`` if there was no answer.

    """

    default_code: ClassVar[str] = "unknown"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        request_id: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code if code is not None else self.default_code
        self.hint = hint
        self.request_id = request_id
        self.status = status

    def __str__(self) -> str:
        text = self.message
        if self.hint:
            text += f" ({self.hint})"
        if self.request_id:
            text += f" [{self.code}, {self.request_id}]"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with `args` alone and lose the rest in other processes.
        return (_rebuilt, (type(self), self.__dict__.copy()))


def _rebuilt(kind: type[SandflareError], state: dict[str, Any]) -> SandflareError:
    error = kind.__new__(kind, state["message"])
    error.__dict__.update(state)
    return error


class ConfigurationError(SandflareError):
    """An argument or setting that cannot be meant; nothing was sent."""

    default_code = "configuration"


class NoNode(SandflareError):
    """Nothing answers at the node's address."""

    default_code = "no_node"


class ConnectionBroken(SandflareError):
    """The connection ended before the answer did; whether the request took effect is not known."""

    default_code = "connection_broken"


class RequestTimeout(SandflareError, TimeoutError):
    """The node did not answer within ``request_timeout``."""

    default_code = "request_timeout"


class WaitTimeout(SandflareError, TimeoutError):
    """The process was still running when the time given to ``wait`` was up; it goes on."""

    default_code = "wait_timeout"


class BadAnswer(SandflareError):
    """What answered is no node, or one that this version does not understand."""

    default_code = "bad_answer"


class InvalidRequest(SandflareError):
    """The node found the request itself wrong; the message says which part."""

    default_code = "invalid_request"


class AuthenticationFailed(SandflareError):
    """No key, or one that is wrong, expired or revoked."""

    default_code = "unauthenticated"


class PermissionDenied(SandflareError):
    """The key, or the user inside the sandbox, may not do this."""

    default_code = "permission_denied"


class NotFound(SandflareError):
    """No such sandbox, process, snapshot or operation, or it is not yours."""

    default_code = "not_found"


class TemplateUnknown(NotFound):
    """There is no template of this name."""

    default_code = "template_unknown"


class PathNotFound(NotFound):
    """No such file or directory in the sandbox."""

    default_code = "path_not_found"


class Conflict(SandflareError):
    """Not possible in the present state of the thing asked for."""

    default_code = "conflict"


class AlreadyExists(Conflict):
    """It is there already."""

    default_code = "already_exists"


class SandboxOver(SandflareError):
    """The sandbox is over: it shut down, crashed, was killed, or its time was up."""

    default_code = "sandbox_over"


class TooLarge(SandflareError):
    """The data is over a limit, which the message names."""

    default_code = "body_too_large"


class Unsupported(SandflareError):
    """The node does not offer this operation in this way."""

    default_code = "unsupported"


class QuotaExceeded(SandflareError):
    """The project has used up what it may have at once; the message has the figures."""

    default_code = "quota_exceeded"


class RateLimited(SandflareError):
    """Too many requests in too short a time for what is before the node; later works.

    No node sends it: it is for gateways, and for codes of nodes newer than this version.
    """


class NoCapacity(SandflareError):
    """The node has no memory, processor or slot left; later may work."""

    default_code = "no_capacity"


class AgentSilent(SandflareError):
    """The agent inside the sandbox did not answer in time."""

    default_code = "agent_silent"


class DiskFull(SandflareError):
    """The disk of the sandbox or of the node is full."""

    default_code = "disk_full"


class NodeStopping(SandflareError):
    """The node is stopping and takes no new work."""

    default_code = "stopping"


class NodeFailed(SandflareError):
    """The node failed in a way its user cannot mend; its log has the request id."""

    default_code = "internal"


class KvmUnusable(NodeFailed):
    """The node's machine cannot run guests."""

    default_code = "kvm_unusable"


class ImageBroken(NodeFailed):
    """A kernel, template or snapshot file of the node is damaged."""

    default_code = "image_broken"


class GuestFailed(NodeFailed):
    """The guest could not be booted or restored."""

    default_code = "guest_failed"


class PortUnreachable(SandflareError):
    """Nothing in the sandbox listens on that port."""

    default_code = "port_unreachable"


class PortBroken(SandflareError):
    """The program on that port gave no whole answer, or one that is not HTTP."""

    default_code = "port_broken"


class RangeNotSatisfiable(SandflareError):
    """The part of a file that was asked for begins where the file has ended."""

    default_code = "range_not_satisfiable"


class SqlFailed(SandflareError):
    """Postgres refused the SQL; the message is its own."""

    default_code = "sql_failed"


class ArchiveRefused(SandflareError):
    """A directory that came from a sandbox contains what must not be written to this machine."""

    default_code = "archive_refused"


class CommandFailed(SandflareError):
    """A command that was to succeed (``check=True``) did not; ``result`` is all there is of it."""

    default_code = "command_failed"

    def __init__(self, message: str, *, result: Result) -> None:
        super().__init__(message)
        self.result = result


_BY_CODE: dict[str, type[SandflareError]] = {
    kind.default_code: kind
    for kind in (
        InvalidRequest,
        AuthenticationFailed,
        PermissionDenied,
        NotFound,
        TemplateUnknown,
        PathNotFound,
        Conflict,
        AlreadyExists,
        SandboxOver,
        TooLarge,
        Unsupported,
        QuotaExceeded,
        NoCapacity,
        AgentSilent,
        DiskFull,
        NodeStopping,
        NodeFailed,
        KvmUnusable,
        ImageBroken,
        GuestFailed,
        PortUnreachable,
        PortBroken,
        RangeNotSatisfiable,
        SqlFailed,
    )
}

# For codes newer than this version: the class of the status they come with.
_BY_STATUS: dict[int, type[SandflareError]] = {
    400: InvalidRequest,
    401: AuthenticationFailed,
    403: PermissionDenied,
    404: NotFound,
    405: Unsupported,
    409: Conflict,
    410: SandboxOver,
    413: TooLarge,
    415: Unsupported,
    416: RangeNotSatisfiable,
    429: RateLimited,
    503: NoCapacity,
    504: AgentSilent,
    507: DiskFull,
}

# LIMIT: of an answer that is no node's, what helps to see whose it is.
_FOREIGN_CHARS_MAX = 200


def from_failure(failure: Mapping[str, Any], status: int | None = None) -> SandflareError:
    """Make the error for the node's ``{code, message, hint?, request_id}``."""
    code = str(failure["code"])
    fallback = _BY_STATUS.get(status, NodeFailed) if status is not None else SandflareError
    hint = failure.get("hint")
    return _BY_CODE.get(code, fallback)(
        str(failure.get("message", code)),
        code=code,
        hint=str(hint) if hint else None,
        request_id=str(failure["request_id"]) if failure.get("request_id") else None,
        status=status,
    )


def from_response(status: int, body: bytes, request_id: str | None) -> SandflareError:
    """Make the error for an answer that is not a success."""
    try:
        failure = json.loads(body)
        if isinstance(failure, dict) and isinstance(failure.get("code"), str):
            if not failure.get("request_id") and request_id:
                failure["request_id"] = request_id
            return from_failure(failure, status)
    except ValueError:
        pass
    shown = body[:_FOREIGN_CHARS_MAX].decode("utf-8", "replace").strip()
    kind = _BY_STATUS.get(status, BadAnswer) if status in (401, 429, 503, 504) else BadAnswer
    return kind(
        f"what answered is not a Sandflare node: HTTP status {status}, {shown!r}",
        code=BadAnswer.default_code,
        hint="check the URL, and what is between here and the node",
        request_id=request_id,
        status=status,
    )
