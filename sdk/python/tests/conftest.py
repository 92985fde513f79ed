"""What the tests share. Those marked ``node`` need a node: SANDFLARE_API_URL says where."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

from sandflare import Client, Sandbox

# Nothing is written beside the sources, and a slow machine is no failure.
_HYPOTHESIS = tempfile.TemporaryDirectory(prefix="sandflare-hypothesis-")
set_hypothesis_home_dir(_HYPOTHESIS.name)
settings.register_profile("repository", database=None, deadline=None)
settings.load_profile("repository")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "node: needs a node, at SANDFLARE_API_URL")


def pytest_unconfigure() -> None:
    _HYPOTHESIS.cleanup()


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    url = os.environ.get("SANDFLARE_API_URL")
    if not url:
        pytest.fail("SANDFLARE_API_URL does not say where a node is; start one with `sandflare up`")
    with Client(url) as client:
        client.health()
        yield client


@pytest.fixture(scope="module")
def sandbox(client: Client) -> Iterator[Sandbox]:
    """One for the tests of a module; each works in files and processes of its own."""
    with client.create("sdk-test", size="nano") as sandbox:
        yield sandbox
