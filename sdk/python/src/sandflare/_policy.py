"""What a sandbox may reach, in the forms people write it in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union

from sandflare.errors import ConfigurationError
from sandflare.models import Policy

#: What takes a policy takes a :class:`Policy`, its base alone, or a dictionary of its parts.
Network = Union[str, Policy, Mapping[str, Any]]

_BASES = ("none", "default")
_PARTS = ("base", "allow", "deny")


def policy(network: Network) -> dict[str, Any]:
    """Write a policy as the node takes it."""
    if isinstance(network, str):
        network = Policy(network)
    if isinstance(network, Policy):
        network = {"base": network.base, "allow": network.allow, "deny": network.deny}
    unknown = sorted(set(network) - set(_PARTS))
    if unknown:
        raise ConfigurationError(
            f"a policy has no {unknown[0]!r}", hint=f"its parts are {', '.join(_PARTS)}"
        )
    base = network.get("base", "default")
    if base not in _BASES:
        raise ConfigurationError(
            f"no policy has the base {base!r}", hint=f"one of {', '.join(_BASES)}"
        )
    return {"base": base, "allow": _rules(network, "allow"), "deny": _rules(network, "deny")}


def _rules(network: Mapping[str, Any], part: str) -> list[str]:
    rules = network.get(part, ())
    # The characters of a text would be rules as well.
    if isinstance(rules, str):
        raise ConfigurationError(f"`{part}` is a list of rules", hint=f"[{rules!r}]")
    return [str(rule) for rule in rules]
