"""When the same request is sent again. Pure: decides, and does not wait."""

from __future__ import annotations

import enum
import random
from typing import TYPE_CHECKING

from sandflare.errors import (
    ConnectionBroken,
    NoNode,
    RequestTimeout,
    SandflareError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

#: How often a request is sent again, at most.
RETRIES = 3
# LIMIT: what a node may ask for with Retry-After; a caller who can wait longer says so in a loop.
_PAUSE_S_MAX = 30.0
_PAUSE_S_FIRST = 0.1
_STATUSES = frozenset({429, 502, 503, 504})
# They come with such a status, and no second request a moment later changes them.
_FINAL_CODES = frozenset({"kvm_unusable", "port_broken", "quota_exceeded", "stopping"})


class Again(enum.Enum):
    """How often a request may take effect."""

    #: Once: it is sent again only if it cannot have arrived.
    UNSENT = "unsent"
    #: Any number of times: reads, and creates that carry an idempotency key.
    SAFE = "safe"


def pause(
    again: Again,
    error: SandflareError,
    sent: int,
    retries: int = RETRIES,
    retry_after: float | None = None,
    jitter: Callable[[], float] = random.random,
) -> float | None:
    """Seconds to wait before sending again; ``None`` when the error is final.

    ``sent`` is how often it was sent already.
    """
    if sent > retries or not _may(again, error):
        return None
    if retry_after is not None:
        return min(max(retry_after, 0.0), _PAUSE_S_MAX)
    # Half of it by chance, so that a hundred agents refused at once do not come back at once.
    return float(_PAUSE_S_FIRST * 4 ** (sent - 1) * (0.5 + jitter() / 2))


def _may(again: Again, error: SandflareError) -> bool:
    if isinstance(error, NoNode):
        return True
    if again is Again.UNSENT or isinstance(error, RequestTimeout):
        return False
    if isinstance(error, ConnectionBroken):
        return True
    return error.status in _STATUSES and error.code not in _FINAL_CODES


def parse_retry_after(value: str | None) -> float | None:
    """Read a ``Retry-After`` in seconds; dates are not understood and ignored."""
    try:
        seconds = float(value) if value is not None else None
    except ValueError:
        return None
    return seconds if seconds is not None and 0 <= seconds < float("inf") else None
