# Written by generate_sync.py: change the file of this name in `_async`.
"""Which node is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandflare._sync.client import Client


def chosen(client: Client | None, url: str | None, api_key: str | None) -> Client:
    """The client that was given, or the one that the others name."""
    if client is not None:
        return client
    # The client knows of sandboxes and databases, which come here.
    from sandflare._sync.client import client_for

    return client_for(url, api_key)
