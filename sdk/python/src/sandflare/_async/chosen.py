"""Which node is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandflare._async.client import AsyncClient


def chosen(client: AsyncClient | None, url: str | None, api_key: str | None) -> AsyncClient:
    """The client that was given, or the one that the others name."""
    if client is not None:
        return client
    # The client knows of sandboxes and databases, which come here.
    from sandflare._async.client import client_for

    return client_for(url, api_key)
