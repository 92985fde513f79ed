# Written by generate_sync.py: change the file of this name in `_async`.
"""Sends requests, and waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from sandflare import _http
from sandflare._sync import runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandflare._ask import Ask
    from sandflare._settings import Settings
    from sandflare.errors import SandflareError

T = TypeVar("T")


class Transport:
    """The connections to one node."""

    def __init__(self, settings: Settings, request_timeout: float | None, retries: int) -> None:
        self.settings = settings
        self._request_timeout = request_timeout
        self._retries = retries
        self._http = httpx.Client(**_http.options(settings))

    def close(self) -> None:
        self._http.close()

    def ask(self, ask: Ask[T], request_timeout: float | None = None) -> T:
        """Send a request and read its answer."""
        response = self._send(ask, _http.timeouts(ask, self._patience(request_timeout)))
        try:
            body = self._whole(response)
        finally:
            response.close()
        return ask.parse(body)

    def open(
        self, ask: Ask[Any], request_timeout: float | None = None, left: float | None = None
    ) -> httpx.Response:
        """Send a request whose answer is read as it comes, and closed by the caller.

        ``left`` are the seconds after which nobody reads it any more.
        """
        timeouts = _http.stream_timeouts(self._patience(request_timeout), left)
        response = self._send(ask, timeouts)
        _http.begun(response, left)
        return response

    def _patience(self, request_timeout: float | None) -> float | None:
        return self._request_timeout if request_timeout is None else request_timeout

    def pieces(self, response: httpx.Response) -> Iterator[bytes]:
        """Yield the bytes of an answer as they come."""
        try:
            yield from response.iter_raw()
        except httpx.HTTPError as error:
            raise _http.failed(error, self.settings) from error
        finally:
            response.close()

    def _send(self, ask: Ask[Any], timeouts: httpx.Timeout) -> httpx.Response:
        sent = 0
        while True:
            response = None
            cause: httpx.HTTPError | None = None
            body = runtime.body(_http.content(ask))
            try:
                request = self._http.build_request(**_http.arguments(ask, body), timeout=timeouts)
                response = self._http.send(request, stream=True)
                if response.is_success:
                    return response
                failure = self._refused(response)
            except httpx.HTTPError as error:
                cause = error
                failure = _http.failed(error, self.settings)
            sent += 1
            wait = _http.next_pause(ask, failure, sent, self._retries, response)
            if wait is None:
                raise failure from cause
            runtime.sleep(wait)

    def _refused(self, response: httpx.Response) -> SandflareError:
        try:
            return _http.refused(response, self._whole(response))
        finally:
            response.close()

    def _whole(self, response: httpx.Response) -> bytes:
        body = bytearray()
        try:
            for piece in response.iter_bytes():
                body += piece
                if len(body) > _http.ANSWER_BYTES_MAX:
                    raise _http.too_large(self.settings)
        except httpx.HTTPError as error:
            raise _http.failed(error, self.settings) from error
        return bytes(body)
