"""Secrets: how they are written, and, against a real node, that they are kept and not said."""

from __future__ import annotations

import pytest

from sandflare import AsyncClient, AsyncSecret, Client, Sandbox, Secret, SecretInfo, errors
from sandflare import _operations as operations


def test_a_secret_is_written_as_the_node_takes_it() -> None:
    ask = operations.secret_set("openai", "hunter2", ("api.openai.com",))
    assert (ask.method, ask.path) == ("PUT", "/secrets/openai")
    assert ask.json == {"value": "hunter2", "hosts": ["api.openai.com"]}
    with pytest.raises(errors.ConfigurationError, match="`hosts` is a list"):
        operations.secret_set("openai", "hunter2", "api.openai.com")


def test_what_is_shown_of_a_secret_is_read() -> None:
    known = {"name": "x", "hosts": ["a.example"], "created_at_ms": 1, "updated_at_ms": 2}
    secret = SecretInfo.parse(known)
    assert (secret.name, secret.hosts, secret.updated_at_ms) == ("x", ("a.example",), 2)
    with pytest.raises(errors.BadAnswer):
        SecretInfo.parse({"name": "x"})


@pytest.mark.node
def test_a_secret_is_set_used_and_deleted(client: Client) -> None:
    set_first = Secret.set("test-sdk", "hunter2", hosts=["a.example"], client=client)
    set_again = Secret.set("test-sdk", "hunter3", hosts=["*.a.example:8080"], client=client)
    try:
        assert set_again.created_at_ms == set_first.created_at_ms
        assert set_again in Secret.list(client=client)
        assert "hunter" not in repr(Secret.list(client=client))
        with Sandbox.create(secrets={"TOKEN": "test-sdk"}, client=client) as sandbox:
            shown = sandbox.run("env", check=True).stdout
            assert "TOKEN=sfsecret_" in shown
            assert "hunter" not in shown
            (child,) = sandbox.fork()
            with child:
                assert child.run("echo $TOKEN").stdout == sandbox.run("echo $TOKEN").stdout
    finally:
        Secret.delete("test-sdk", client=client)
    with pytest.raises(errors.NotFound):
        Secret.delete("test-sdk", client=client)
    with pytest.raises(errors.NotFound):
        Sandbox.create(secrets={"TOKEN": "test-sdk"}, client=client)
    with pytest.raises(errors.InvalidRequest):
        Secret.set("test-sdk", "two\nlines", hosts=["a.example"], client=client)


@pytest.mark.node
async def test_it_is_the_same_without_waiting(client: Client) -> None:
    async with AsyncClient(client.url) as node:
        await AsyncSecret.set("test-async", "hunter2", hosts=["a.example"], client=node)
        assert "test-async" in [secret.name for secret in await AsyncSecret.list(client=node)]
        await AsyncSecret.delete("test-async", client=node)
