"""One request, as data: what is sent, how the answer is read, how often it may be sent."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, Union
from urllib.parse import quote

from sandflare._retry import Again
from sandflare.errors import BadAnswer
from sandflare.models import Model

T = TypeVar("T")
M = TypeVar("M", bound=Model)

#: A request's body: bytes, or pieces made anew by each call, with the length where it is known.
Body = Union[bytes, Callable[[], Iterable[bytes]]]


@dataclass(frozen=True)
class Ask(Generic[T]):
    """A request under ``/v1`` and what its answer means."""

    method: str
    path: str
    parse: Callable[[bytes], T]
    params: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    body: Body | None = None
    length: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    again: Again = Again.UNSENT
    #: Whether the node may take minutes: a first create makes its template's snapshot.
    slow: bool = False


def nothing(_: bytes) -> None:
    """Read an answer that says nothing."""


def text(answer: bytes) -> str:
    """Read an answer that is text."""
    return answer.decode("utf-8", "replace")


def parsed(answer: bytes) -> Any:
    """Read an answer that is JSON."""
    try:
        return json.loads(answer)
    except ValueError as error:
        raise BadAnswer("the node's answer is not JSON") from error


def one(model: type[M]) -> Callable[[bytes], M]:
    """Read an answer that is one thing."""
    return lambda answer: model.parse(parsed(answer))


def many(model: type[M], name: str) -> Callable[[bytes], list[M]]:
    """Read an answer that has a list under ``name``."""
    return lambda answer: page(model, name)(answer)[0]


def page(model: type[M], name: str) -> Callable[[bytes], tuple[list[M], str | None]]:
    """Read one page of a list, and the cursor of the next page if there is one."""

    def read(answer: bytes) -> tuple[list[M], str | None]:
        body = parsed(answer)
        if not isinstance(body, dict) or not isinstance(body.get(name), list):
            raise BadAnswer(f"the node's answer has no list of {name}")
        return [model.parse(item) for item in body[name]], body.get("next_cursor") or None

    return read


def given(**values: Any) -> dict[str, Any]:
    """Keep what was given; the node's own default stands for the rest."""
    return {name: value for name, value in values.items() if value is not None}


def segment(value: object) -> str:
    """Write a value as one segment of a path."""
    return quote(str(value), safe="")


def idempotency() -> dict[str, str]:
    """Make the header that lets a create be sent twice and take effect once."""
    return {"Idempotency-Key": uuid.uuid4().hex}


def the_same(body: Mapping[str, Any], after: str) -> dict[str, str]:
    """Make the header that whoever wants the same thing makes, to get one thing together.

    A node keeps the answer for a day, also when what it made is gone: what comes ``after`` that has
    another key, which all who know that it is gone come to as well.
    """
    wanted = json.dumps([after, body], sort_keys=True)
    return {"Idempotency-Key": f"the-same-{hashlib.sha256(wanted.encode()).hexdigest()}"}
