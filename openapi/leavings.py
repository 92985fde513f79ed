"""As ``bodies``, and what a case made is removed after it: for a node that has real machines."""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

import bodies  # noqa: F401 -- its hooks count here too
import schemathesis

# What each operation that makes something calls the list of it, or nothing where it makes one.
MAKES = {
    "sandbox_create": ("sandboxes", None),
    "sandbox_fork": ("sandboxes", "sandboxes"),
    "snapshot_create": ("snapshots", None),
}


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Remove what was made, so that the next case finds room."""
    definition = case.operation.definition.raw
    makes = MAKES.get(definition.get("operationId"))
    if makes is None or not 200 <= response.status_code < 300:
        return
    kind, named = makes
    answer = json.loads(response.content)
    for made in answer[named] if named else [answer]:
        request = urllib.request.Request(
            f"{os.environ['SANDFLARE_API_URL']}/v1/{kind}/{made['id']}",
            headers={"Authorization": f"Bearer {os.environ['SANDFLARE_API_KEY']}"},
            method="DELETE",
        )
        with urllib.request.urlopen(request, timeout=60):
            pass
