"""What both transports share: how a request is built, and what a failure of httpx means."""

from __future__ import annotations

import platform
import ssl
from typing import TYPE_CHECKING, Any

import httpx

from sandflare._retry import parse_retry_after, pause
from sandflare._version import __version__
from sandflare.errors import (
    BadAnswer,
    ConfigurationError,
    ConnectionBroken,
    NoNode,
    RequestTimeout,
    SandflareError,
    from_response,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from sandflare._ask import Ask
    from sandflare._settings import Settings

#: Seconds for an answer, unless told otherwise.
REQUEST_TIMEOUT_S = 60.0
#: Seconds for what may have to boot a guest or write its memory to disk first.
SLOW_TIMEOUT_S = 600.0
# A host that does not take a connection in this time is not there.
_CONNECT_TIMEOUT_S = 5.0
#: A stream has a heartbeat every 15 seconds; after four that are missing, nobody is there.
SILENCE_S_MAX = 60.0
# LIMIT: an answer that is not a stream. The largest is a long directory.
ANSWER_BYTES_MAX = 64 * 1024 * 1024


def options(settings: Settings) -> dict[str, Any]:
    """Arguments for the constructor of a client of httpx."""
    headers = {
        "User-Agent": f"sandflare-python/{__version__} python/{platform.python_version()}",
        # Output and files are read as they are sent.
        "Accept-Encoding": "identity",
    }
    if settings.api_key is not None:
        headers["Authorization"] = f"Bearer {settings.api_key}"
    built: dict[str, Any] = {
        "base_url": settings.url + "/v1",
        "headers": headers,
        # Every stream holds a connection: a limit here would let the hundred and first wait for
        # ever behind a hundred that only listen.
        "limits": httpx.Limits(
            max_connections=None, max_keepalive_connections=64, keepalive_expiry=60.0
        ),
        # A proxy named in the environment is for other machines than this one.
        "trust_env": not settings.local,
        "follow_redirects": False,
    }
    if settings.ca is not None:
        try:
            built["verify"] = ssl.create_default_context(cafile=settings.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"{settings.ca} holds no certificates: {error}") from error
    return built


def timeouts(ask: Ask[Any], request_timeout: float | None) -> httpx.Timeout:
    """How long a request may take; 0 is without end."""
    seconds: float | None = SLOW_TIMEOUT_S if ask.slow else REQUEST_TIMEOUT_S
    if request_timeout is not None:
        seconds = request_timeout or None
    return httpx.Timeout(seconds, connect=_connect(seconds))


def stream_timeouts(request_timeout: float | None, left: float | None) -> httpx.Timeout:
    """How long a stream may take to begin; of ``left`` seconds, no more than those."""
    seconds: float | None = SILENCE_S_MAX
    if request_timeout is not None:
        seconds = request_timeout or None
    if left is not None:
        seconds = left if seconds is None else min(seconds, left)
    return httpx.Timeout(seconds, connect=_connect(seconds))


def begun(response: httpx.Response, left: float | None) -> None:
    """Let a stream that has begun be silent as long as streams may."""
    # What is waited for each piece is looked up when the first one is.
    timeouts = response.request.extensions["timeout"]
    timeouts["read"] = SILENCE_S_MAX if left is None else min(SILENCE_S_MAX, left)


def _connect(seconds: float | None) -> float:
    return _CONNECT_TIMEOUT_S if seconds is None else min(seconds, _CONNECT_TIMEOUT_S)


def arguments(
    ask: Ask[Any], content: bytes | Iterable[bytes] | AsyncIterator[bytes] | None
) -> dict[str, Any]:
    """Arguments for ``build_request`` of a client of httpx."""
    headers = dict(ask.headers)
    if content is not None:
        headers.setdefault("Content-Type", "application/octet-stream")
        if ask.length is not None:
            headers["Content-Length"] = str(ask.length)
    built: dict[str, Any] = {
        "method": ask.method,
        "url": ask.path,
        "params": dict(ask.params),
        "headers": headers,
    }
    if ask.json is not None:
        built["json"] = dict(ask.json)
    elif content is not None:
        built["content"] = content
    return built


def content(ask: Ask[Any]) -> bytes | Iterable[bytes] | None:
    """Make the body for one sending of a request."""
    return ask.body() if callable(ask.body) else ask.body


def failed(error: httpx.HTTPError, settings: Settings) -> SandflareError:
    """Say what a failure of httpx means."""
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        hint = "start one with `sandflare up`" if settings.local else "check the URL"
        return NoNode(f"nothing answers at {settings.url}: {error}", hint=hint)
    if isinstance(error, httpx.TimeoutException):
        return RequestTimeout(f"the node at {settings.url} did not answer in time")
    if isinstance(error, httpx.TransportError):
        return ConnectionBroken(f"the connection to {settings.url} broke: {_reason(error)}")
    return BadAnswer(f"the answer of {settings.url} cannot be read: {_reason(error)}")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def refused(response: httpx.Response, body: bytes) -> SandflareError:
    """Make the error for an answer that is not a success."""
    return from_response(response.status_code, body, response.headers.get("x-request-id"))


def too_large(settings: Settings) -> SandflareError:
    """Say that an answer is no node's."""
    return BadAnswer(f"{settings.url} answered with over {ANSWER_BYTES_MAX} bytes")


def next_pause(
    ask: Ask[Any],
    error: SandflareError,
    sent: int,
    retries: int,
    response: httpx.Response | None,
) -> float | None:
    """Seconds until the request is sent again; ``None`` when the error is final."""
    retry_after = response.headers.get("retry-after") if response is not None else None
    return pause(ask.again, error, sent, retries, parse_retry_after(retry_after))
