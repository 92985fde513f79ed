"""When the same request is sent again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sandflare import errors
from sandflare._retry import Again, parse_retry_after, pause

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "api.md"
BUSY = errors.NoCapacity("full", status=503)
BROKEN = errors.ConnectionBroken("broke")
ABSENT = errors.NoNode("nobody")


@pytest.mark.parametrize(
    ("again", "error", "retried"),
    [
        (Again.UNSENT, ABSENT, True),
        (Again.SAFE, ABSENT, True),
        (Again.UNSENT, BROKEN, False),
        (Again.SAFE, BROKEN, True),
        (Again.UNSENT, BUSY, False),
        (Again.SAFE, BUSY, True),
        (Again.SAFE, errors.RateLimited("slow down", status=429), True),
        (Again.SAFE, errors.AgentSilent("silent", status=504), True),
        (Again.SAFE, errors.BadAnswer("a gateway", status=502), True),
        (Again.SAFE, errors.QuotaExceeded("10 of 10", status=429), False),
        (Again.SAFE, errors.KvmUnusable("no KVM", status=503), False),
        (Again.SAFE, errors.NodeStopping("stopping", status=503), False),
        (Again.SAFE, errors.NotFound("gone", status=404), False),
        (Again.SAFE, errors.NodeFailed("oh", status=500), False),
        (Again.SAFE, errors.RequestTimeout("late"), False),
    ],
)
def test_only_what_is_safe_and_may_help_is_sent_again(
    again: Again, error: errors.SandflareError, retried: bool
) -> None:
    assert (pause(again, error, sent=1) is not None) == retried


def test_the_guide_of_the_api_says_the_same() -> None:
    text = GUIDE.read_text()
    worth = re.search(r"^Worth a second try, unchanged: (.*)\.$", text, re.MULTILINE)
    assert worth is not None
    rows = re.findall(r"^\| ([\d, ]+) \| (`.*?) \|", text, re.MULTILINE)
    statuses = {code: row[0] for row in rows for code in re.findall(r"`(\w+)`", row[1])}
    assert len(statuses) > 20
    retried = set()
    for code, status in statuses.items():
        body = json.dumps({"code": code, "message": "no"}).encode()
        error = errors.from_response(int(status.split(",")[0]), body, None)
        if pause(Again.SAFE, error, sent=1) is not None:
            retried.add(code)
    assert retried == set(re.findall(r"`(\w+)`", worth[1]))


def test_retries_end() -> None:
    assert pause(Again.SAFE, BUSY, sent=3, retries=3) is not None
    assert pause(Again.SAFE, BUSY, sent=4, retries=3) is None
    assert pause(Again.SAFE, ABSENT, sent=1, retries=0) is None


def test_pauses_grow_and_are_not_all_the_same() -> None:
    longest = [pause(Again.SAFE, BUSY, sent, jitter=lambda: 1.0) for sent in (1, 2, 3)]
    shortest = [pause(Again.SAFE, BUSY, sent, jitter=lambda: 0.0) for sent in (1, 2, 3)]
    assert longest == pytest.approx([0.1, 0.4, 1.6])
    assert shortest == pytest.approx([0.05, 0.2, 0.8])


def test_the_node_may_say_how_long_within_reason() -> None:
    assert pause(Again.SAFE, BUSY, sent=1, retry_after=2.0) == 2.0
    assert pause(Again.SAFE, BUSY, sent=1, retry_after=86400.0) == 30.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        (None, None),
        ("", None),
        ("-1", None),
        ("inf", None),
        ("Mon", None),
    ],
)
def test_a_retry_after_is_seconds_or_nothing(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds
