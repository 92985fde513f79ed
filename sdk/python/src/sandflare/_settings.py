"""Where the node is and which key to show it."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sandflare.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_URL = "http://127.0.0.1:7878"
# LIMIT: a key is under a hundred characters; more than this is some other file.
_KEY_BYTES_MAX = 4096


@dataclass(frozen=True)
class Settings:
    """A node's address, without a slash at its end, and the key for it."""

    url: str
    api_key: str | None = field(repr=False)
    local: bool
    #: A file with the certificates to trust instead of the system's, for https.
    ca: str | None = None

    @classmethod
    def find(
        cls,
        url: str | None = None,
        api_key: str | None = None,
        ca: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Settings:
        """Take what is given, else what the environment says, else the node of this machine.

        The key file of the local node is read only for an address of this machine: an admin's key
        must not go to whoever a URL happens to name.
        """
        env = os.environ if environ is None else environ
        url = (url or env.get("SANDFLARE_API_URL") or DEFAULT_URL).strip().rstrip("/")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                f"{url!r} is not the address of a node",
                hint=f"it looks like {DEFAULT_URL}",
            )
        if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
            raise ConfigurationError(
                f"the address of a node is scheme, host and port; {parts.hostname} has more",
                hint=f"it looks like {DEFAULT_URL}",
            )
        local = _is_this_machine(parts.hostname)
        api_key = api_key or env.get("SANDFLARE_API_KEY") or (_key_file(env) if local else None)
        if api_key is not None:
            api_key = api_key.strip()
            if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
                raise ConfigurationError("the API key contains characters that no key has")
        ca = ca or env.get("SANDFLARE_CA") or None
        if ca is not None and not Path(ca).is_file():
            raise ConfigurationError(f"there is no file {ca} with certificates to trust")
        return cls(url=url, api_key=api_key or None, local=local, ca=ca)


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _key_file(env: Mapping[str, str]) -> str | None:
    home = env.get("SANDFLARE_HOME")
    folder = Path(home) if home else Path.home() / ".local" / "share" / "sandflare"
    try:
        with (folder / "api-key").open("rb") as file:
            return file.read(_KEY_BYTES_MAX).decode("ascii", "replace")
    except OSError:
        # No node was started here, or by somebody else; the node will say whether it wants a key.
        return None
