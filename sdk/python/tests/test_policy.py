"""What sandboxes may reach: how it is written, and, against a real node, that it is kept."""

from __future__ import annotations

from typing import Any

import pytest

from sandflare import AsyncClient, Client, Flow, Policy, errors
from sandflare import _operations as operations

NOTHING = {"base": "none", "allow": [], "deny": []}


@pytest.mark.parametrize(
    ("network", "sent"),
    [
        ("none", NOTHING),
        ("default", {**NOTHING, "base": "default"}),
        ({}, {**NOTHING, "base": "default"}),
        ({"base": "none", "allow": ["pypi.org"]}, {**NOTHING, "allow": ["pypi.org"]}),
        (Policy("none"), NOTHING),
        (Policy(deny=("*:25",)), {"base": "default", "allow": [], "deny": ["*:25"]}),
        (
            {"base": "none", "allow": (f"*:{p}" for p in (1, 2))},
            {**NOTHING, "allow": ["*:1", "*:2"]},
        ),
    ],
)
def test_a_policy_is_written_in_several_ways(network: Any, sent: dict[str, Any]) -> None:
    assert operations.policy_set("sbx_1", network).json == sent


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("all", "no policy has the base 'all'"),
        ({"base": "none", "alow": ["pypi.org"]}, "a policy has no 'alow'"),
        ({"allow": "pypi.org"}, "`allow` is a list of rules"),
        (Policy("none", "pypi.org"), "`allow` is a list of rules"),
    ],
)
def test_what_cannot_be_meant_is_not_sent(network: Any, said: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=said):
        operations.policy_set("sbx_1", network)


def test_what_was_set_equals_what_is_read() -> None:
    wanted = Policy("none", ("pypi.org",))
    assert Policy.parse({"base": "none", "allow": ["pypi.org"], "deny": []}) == wanted


def test_a_flow_says_whether_it_was_let_out() -> None:
    known = {"index": 1, "at_ms": 2, "protocol": "dns", "reason": "base none", "name": "pypi.org"}
    flow = Flow.parse({**known, "verdict": "denied", "count": 3})
    assert (flow.denied, flow.count, flow.address) == (True, 3, None)
    assert not Flow.parse({**known, "verdict": "allowed"}).denied
    with pytest.raises(errors.BadAnswer):
        Flow.parse(known)


@pytest.mark.node
def test_a_policy_is_kept_and_inherited(client: Client) -> None:
    narrow = Policy("none", ("pypi.org:443",))
    with client.create("narrow", network=narrow) as sandbox:
        assert sandbox.policy() == narrow
        (child,) = sandbox.fork()
        with child:
            assert child.set_policy("default") == Policy()
            assert (child.policy(), sandbox.policy()) == (Policy(), narrow)
        snapshot = sandbox.snapshot()
        try:
            with client.create(snapshot=snapshot) as again:
                assert again.policy() == narrow
        finally:
            client.delete_snapshot(snapshot.id)
        sandbox.pause()
        assert sandbox.set_policy({"base": "none"}) == Policy("none")
        sandbox.resume()
        assert sandbox.policy() == Policy("none")
        with pytest.raises(errors.InvalidRequest):
            sandbox.set_policy({"allow": ["no rule"]})
        assert [flow.index for flow in sandbox.flows(limit=1)] in ([], [len(sandbox.flows()) - 1])


@pytest.mark.node
async def test_it_is_the_same_without_waiting(client: Client) -> None:
    async with AsyncClient(client.url) as node, await node.create(network="none") as sandbox:
        assert await sandbox.policy() == Policy("none")
        assert await sandbox.set_policy(Policy()) == Policy()
        assert isinstance(await sandbox.flows(after=0), list)
