"""A secret: a value that sandboxes use and never have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandflare._async.chosen import chosen

if TYPE_CHECKING:
    import builtins
    from collections.abc import Sequence

    from sandflare._async.client import AsyncClient
    from sandflare.models import SecretInfo


class AsyncSecret:
    """A value that sandboxes use and never have; all its methods are of the class.

    A sandbox that is created with ``secrets`` has a placeholder in a variable. The node puts the
    value in where a request of the sandbox goes to one of the secret's hosts, and nowhere else.
    """

    @classmethod
    async def set(
        cls,
        name: str,
        value: str,
        *,
        hosts: Sequence[str],
        client: AsyncClient | None = None,
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
            api_key: see :class:`AsyncClient`.
            url: see :class:`AsyncClient`.
            request_timeout: see :class:`AsyncClient`.

        """
        found = chosen(client, url, api_key)
        return await found.set_secret(name, value, hosts=hosts, request_timeout=request_timeout)

    @classmethod
    async def list(
        cls,
        *,
        client: AsyncClient | None = None,
        api_key: str | None = None,
        url: str | None = None,
        request_timeout: float | None = None,
    ) -> builtins.list[SecretInfo]:
        """Secrets of the key's project, by name, without what they say."""
        return await chosen(client, url, api_key).secrets(request_timeout=request_timeout)

    @classmethod
    async def delete(
        cls,
        name: str,
        *,
        client: AsyncClient | None = None,
        api_key: str | None = None,
        url: str | None = None,
        request_timeout: float | None = None,
    ) -> None:
        """Delete a secret: requests of sandboxes that want it are refused from then on."""
        await chosen(client, url, api_key).delete_secret(name, request_timeout=request_timeout)
