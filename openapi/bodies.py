"""How schemathesis writes and reads the bodies it does not know. Named in schemathesis.toml."""

from __future__ import annotations

import json
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-tar", "application/sql")
def made_up(ctx: Any, value: Any) -> bytes:
    """Whatever it is: the node has to see that it is no archive, and no SQL."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


@schemathesis.deserializer("application/x-ndjson")
def events(ctx: Any, response: Any) -> Any:
    """The last event; the document describes one, not the stream."""
    return json.loads(response.content.splitlines()[-1])


@schemathesis.deserializer("application/octet-stream", "application/x-tar", "application/sql")
def content(ctx: Any, response: Any) -> str:
    """A file's bytes, for which JSON's schemas have no type."""
    return str(response.content)
