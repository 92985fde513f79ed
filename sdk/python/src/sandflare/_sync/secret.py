# Written by generate_sync.py: change the file of this name in `_async`.
"""A secret: a value that sandboxes use and never have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandflare._sync.chosen import chosen

if TYPE_CHECKING:
    import builtins
    from collections.abc import Sequence

    from sandflare._sync.client import Client
    from sandflare.models import SecretInfo


class Secret:
    """A value that sandboxes use and never have; all its methods are of the class.

    A sandbox that is created with ``secrets`` has a placeholder in a variable. The node puts the
    value in where a request of the sandbox goes to one of the secret's hosts, and nowhere else.
    """

    @classmethod
    def set(
        cls,
        name: str,
        value: str,
        *,
        hosts: Sequence[str],
        client: Client | None = None,
        api_key: str | None = None,
        url: str | None = None,
        request_timeout: float | None = None,
    ) -> SecretInfo:
        """Make a secret, or give it another value and other hosts, which hold at once.

        Args:
            name: its name, 1 to 64 of ``a-z A-Z 0-9 _ -``.
            value: what it says; nothing shows it again.
            hosts: where it may go, such as ``api.openai.com``, ``*.example.com`` or
                ``local.test:8080``; without a port, 80 and 443.
            client: the node to ask; default: the one that ``url`` and ``api_key`` name.
            api_key: see :class:`Client`.
            url: see :class:`Client`.
            request_timeout: see :class:`Client`.

        """
        found = chosen(client, url, api_key)
        return found.set_secret(name, value, hosts=hosts, request_timeout=request_timeout)

    @classmethod
    def list(
        cls,
        *,
        client: Client | None = None,
        api_key: str | None = None,
        url: str | None = None,
        request_timeout: float | None = None,
    ) -> builtins.list[SecretInfo]:
        """Secrets of the key's project, by name, without what they say."""
        return chosen(client, url, api_key).secrets(request_timeout=request_timeout)

    @classmethod
    def delete(
        cls,
        name: str,
        *,
        client: Client | None = None,
        api_key: str | None = None,
        url: str | None = None,
        request_timeout: float | None = None,
    ) -> None:
        """Delete a secret: requests of sandboxes that want it are refused from then on."""
        chosen(client, url, api_key).delete_secret(name, request_timeout=request_timeout)
