"""Ports of sandboxes: what is said of them, and, against a real node, what is behind them."""

from __future__ import annotations

import time

import httpx
import pytest

from sandflare import AsyncClient, Client, Port, Sandbox

SERVER = ["python3", "-m", "http.server", "8000", "--directory", "/home/agent/www"]
LONG = 240


def served(sandbox: Sandbox) -> None:
    """Start a web server, and wait until it listens."""
    sandbox.upload("hello from inside\n", "/home/agent/www/index.html")
    sandbox.spawn(SERVER)
    port = sandbox.url(8000)
    until = time.monotonic() + LONG
    while httpx.get(port.path_url, headers=port.headers).status_code == 502:
        assert time.monotonic() < until, "the server does not listen"
        time.sleep(0.2)


def test_an_address_has_the_token_in_it_only_where_one_is_wanted() -> None:
    known = {
        "url": "http://8000-1.localhost:1",
        "path_url": "http://localhost:1/p/",
        "token": "sft_1",
    }
    private = Port.parse({"port": 8000, "public": False, **known})
    public = Port.parse({"port": 8000, "public": True, **known})
    assert f"{private}" == "http://8000-1.localhost:1/?sandflare_token=sft_1"
    assert f"{public}" == "http://8000-1.localhost:1/"
    assert private.headers == {"X-Sandflare-Token": "sft_1"}
    assert "sft_1" not in repr(private)


@pytest.mark.node
def test_a_server_is_reached_by_those_who_may(client: Client) -> None:
    with client.create("served") as sandbox:
        served(sandbox)
        port = sandbox.url(8000)
        assert not port.public
        assert httpx.get(port.path_url, headers=port.headers).text == "hello from inside\n"
        assert httpx.get(port.path_url).status_code == 401
        # By its host name, which is not looked up here: not every machine finds names of localhost.
        host = {"Host": port.url.split("://")[1]}
        node = port.path_url.split("/v1/")[0]
        assert httpx.get(node, headers={**host, **port.headers}).text == "hello from inside\n"
        assert httpx.get(node, headers=host).status_code == 401

        assert sandbox.url(8000, public=True).public
        assert sandbox.url(8000).public
        assert httpx.get(node, headers=host).text == "hello from inside\n"
        assert not sandbox.url(8000, public=False).public
        assert httpx.get(node, headers=host).status_code == 401

        sandbox.pause()
        assert httpx.get(port.path_url, headers=port.headers, timeout=LONG).status_code == 200
        assert sandbox.refresh().state == "running"


@pytest.mark.node
async def test_it_is_the_same_without_waiting(client: Client) -> None:
    async with AsyncClient(client.url) as other, await other.create("async-served") as sandbox:
        port = await sandbox.url(8000, public=True)
        assert (port.public, port) == (True, await sandbox.url(8000))
