"""What went wrong, as a class with a code, a hint and a request id."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from sandflare import errors
from sandflare.models import Result

OPENAPI = Path(__file__).parents[3] / "openapi" / "node.json"


def refused(status: int, code: str, **more: str) -> errors.SandflareError:
    body = {"code": code, "message": "no", "request_id": "req_1", **more}
    return errors.from_response(status, json.dumps(body).encode(), "req_2")


def test_every_code_of_the_node_has_a_class_of_its_own() -> None:
    codes = json.loads(OPENAPI.read_text())["components"]["schemas"]["ErrorCode"]["enum"]
    kinds = [type(refused(500, code)) for code in codes if code != "unknown"]
    assert len(kinds) == len(set(kinds))
    assert errors.SandflareError not in kinds
    # No class waits for a code that no node sends.
    assert set(errors._BY_CODE) | {"unknown"} == set(codes)


def test_an_error_carries_what_the_node_said() -> None:
    error = refused(503, "no_capacity", hint="wait")
    assert isinstance(error, errors.NoCapacity)
    assert (error.code, error.message, error.hint) == ("no_capacity", "no", "wait")
    assert (error.request_id, error.status) == ("req_1", 503)
    assert str(error) == "no (wait) [no_capacity, req_1]"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequest),
        (401, errors.AuthenticationFailed),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (410, errors.SandboxOver),
        (429, errors.RateLimited),
        (500, errors.NodeFailed),
        (418, errors.NodeFailed),
    ],
)
def test_a_code_of_the_future_is_of_the_kind_of_its_status(
    status: int, kind: type[errors.SandflareError]
) -> None:
    error = refused(status, "moon_phase_wrong")
    assert isinstance(error, kind)
    assert error.code == "moon_phase_wrong"


@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"[]", b'{"code":7}', b"\xff" * 1000])
def test_what_is_no_node_says_so(body: bytes) -> None:
    error = errors.from_response(404, body, None)
    assert type(error) is errors.BadAnswer
    assert "not a Sandflare node" in str(error)
    assert len(str(error)) < 1500


def test_errors_survive_the_way_to_another_process() -> None:
    result = Result("x", 1, b"out")
    failed = errors.CommandFailed("no", result=result)
    for error in (refused(404, "path_not_found", hint="look"), failed):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert (str(again), again.__dict__) == (str(error), error.__dict__)


def test_time_that_is_up_is_a_timeout_for_those_who_know_only_python() -> None:
    assert issubclass(errors.RequestTimeout, TimeoutError)
    assert issubclass(errors.WaitTimeout, TimeoutError)
