"""Every request of this package is one that the node's own document knows."""

from __future__ import annotations

import inspect
import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

import sandflare
from sandflare import _operations as operations
from sandflare._ask import Ask

DOCUMENT = json.loads((Path(__file__).parents[3] / "openapi" / "node.json").read_text())
COMMAND: dict[str, Any] = {
    "env": {"A": "b"},
    "cwd": "/",
    "user": "root",
    "timeout": 1.5,
    "stdin": True,
}
CREATE: dict[str, Any] = {
    "name": "n",
    "template": "agent",
    "size": "nano",
    "env": {"A": "b"},
    "metadata": {"k": "v"},
    "timeout": 10,
    "idle_timeout": 5,
    "on_timeout": "pause",
    "snapshot": "snap_1",
    "network": {"base": "none", "allow": ["pypi.org"]},
}
CREATE_DATABASE: dict[str, Any] = {
    "name": "memory",
    "password": "Secret#42",
    "size": "nano",
    "disk_mib": 512,
    "extensions": ("vector",),
    "seed": "SELECT 1",
    "ttl": 60,
    "idle_timeout": 5,
    "outside": ["10.0.0.0/8"],
    "exist_ok": True,
}
ASKS: list[Ask[Any]] = [
    operations.health(),
    operations.templates(),
    operations.template_delete("agent", "nano"),
    operations.sandbox_create(**CREATE),
    operations.sandbox_list(
        state="running", name="n", metadata={"k": "v"}, limit=5, cursor="c", own=True
    ),
    operations.sandbox_get("sbx_1"),
    operations.sandbox_kill("sbx_1"),
    operations.sandbox_timeout("sbx_1", 10),
    operations.sandbox_pause("sbx_1"),
    operations.sandbox_resume("sbx_1"),
    operations.sandbox_fork("sbx_1", 2, "n"),
    operations.sandbox_snapshot("sbx_1", "n"),
    operations.sandbox_metrics("sbx_1"),
    operations.sandbox_logs("sbx_1"),
    operations.policy_get("sbx_1"),
    operations.policy_set("sbx_1", "none"),
    operations.flow_list("sbx_1", 5, 10),
    operations.port_get("sbx_1", 8000),
    operations.port_set("sbx_1", 8000, True),
    operations.snapshot_list(),
    operations.snapshot_get("snap_1"),
    operations.snapshot_delete("snap_1"),
    operations.database_create(**CREATE_DATABASE),
    operations.database_list("c"),
    operations.database_get("memory"),
    operations.database_stats("memory"),
    operations.database_delete("memory"),
    operations.database_query("memory", "SELECT 1", 10, 1.5),
    operations.database_set_password("memory", "Secret#42"),
    operations.database_fork("memory", "branch", "Secret#42", "before"),
    operations.database_snapshot("memory", "before"),
    operations.database_snapshots("memory"),
    operations.database_snapshot_delete("memory", "before"),
    operations.database_restore("memory", "before"),
    operations.database_set_outside("memory", "off"),
    operations.database_wire("sbx_1", "memory", "DATABASE_URL", "readonly"),
    operations.database_wired("sbx_1"),
    operations.database_unwire("sbx_1", "memory"),
    operations.secret_list(),
    operations.secret_set("openai", "hunter2", ["api.openai.com"]),
    operations.secret_delete("openai"),
    operations.project_list(),
    operations.project_create("n", {"sandboxes": 5}),
    operations.project_change("prj_1", {"sandboxes": 5}),
    operations.project_delete("prj_1"),
    operations.key_list(),
    operations.key_create("n", "prj_1", "user", datetime.now(timezone.utc)),
    operations.key_delete("key_1"),
    operations.usage(),
    operations.execute("sbx_1", "true", **COMMAND),
    operations.process_spawn("sbx_1", ["true"], pty=(24, 80), **COMMAND),
    operations.process_list("sbx_1"),
    operations.process_events("sbx_1", 1, 5),
    operations.process_stdin("sbx_1", 1, b"x", True),
    operations.process_signal("sbx_1", 1, "SIGINT"),
    operations.process_resize("sbx_1", 1, 24, 80),
    operations.process_get("sbx_1", 1),
    operations.file_read("sbx_1", "/x", "root", 5, 10),
    operations.file_pack("sbx_1", "/x", "agent"),
    operations.file_unpack("sbx_1", "/x", b"", "agent"),
    operations.file_watch("sbx_1", "/x", True, "agent"),
    operations.file_write("sbx_1", "/x", b"", length=None, mode=0o644, user="agent"),
    operations.file_list("sbx_1", "/", "agent"),
    operations.file_stat("sbx_1", "/", "agent"),
    operations.file_make("sbx_1", "/x", 0o755, "agent"),
    operations.file_move("sbx_1", "/x", "/y", "agent"),
    operations.file_remove("sbx_1", "/x", True, "agent"),
]


def operation(ask: Ask[Any]) -> dict[str, Any]:
    for path, methods in DOCUMENT["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), f"/v1{ask.path}"):
            found = methods.get(ask.method.lower())
            if found is not None:
                return dict(found)
    pytest.fail(f"the node has no {ask.method} {ask.path}")


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: f"{ask.method} {ask.path}")
def test_a_request_is_in_the_document_with_all_it_sends(ask: Ask[Any]) -> None:
    known = operation(ask)
    names = {p["name"] for p in known.get("parameters", []) if p["in"] == "query"}
    assert set(ask.params) <= names
    content = known.get("requestBody", {}).get("content", {})
    if ask.json is not None:
        schema = resolved(content["application/json"]["schema"])
        assert set(ask.json) <= set(schema["properties"])
        assert set(schema.get("required", [])) <= set(ask.json)
    if ask.body is not None:
        assert ask.headers.get("Content-Type", "application/octet-stream") in content


def test_every_request_of_the_package_is_checked_here() -> None:
    made = {
        name
        for name, function in inspect.getmembers(operations, inspect.isfunction)
        if str(inspect.signature(function).return_annotation).startswith("Ask[")
    }
    text = inspect.getsource(inspect.getmodule(test_every_request_of_the_package_is_checked_here))
    assert {name for name in made if f"operations.{name}(" not in text} == set()


SYNC = [
    sandflare.Client,
    sandflare.Database,
    sandflare.Sandbox,
    sandflare.Secret,
    sandflare.Process,
    sandflare.Events,
    sandflare.Files,
]


@pytest.mark.parametrize("kind", SYNC, ids=lambda kind: kind.__name__)
def test_the_async_class_has_the_same_methods_with_the_same_arguments(kind: type) -> None:
    other = getattr(sandflare, f"Async{kind.__name__}")
    assert surface(other) == surface(kind)


def surface(kind: type) -> dict[str, object]:
    shown: dict[str, object] = {}
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(member, classmethod):
            member = member.__func__
        if not callable(member):
            shown[name] = type(member).__name__
            continue
        parameters = inspect.signature(member).parameters.values()
        shown[name] = [
            (p.name, p.kind, p.default, str(p.annotation).replace("Async", "")) for p in parameters
        ]
    return shown
