"""Standard input of a command, cut into what one request carries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Union

from sandflare._archive import PIECE_BYTES
from sandflare.errors import Conflict, NotFound, SandboxOver, SandflareError

#: What can be sent to a command: text, bytes, or pieces that are made as they are sent.
Input = Union[str, bytes, Iterable[bytes]]

#: The command ended, or closed its input, before it had read all of it; its exit tells the rest.
NOBODY_READS: tuple[type[SandflareError], ...] = (NotFound, Conflict, SandboxOver)


def pieces(source: Input) -> Iterator[bytes]:
    """Yield the input in pieces of at most ``PIECE_BYTES``."""
    if isinstance(source, str):
        source = source.encode()
    for piece in [source] if isinstance(source, bytes) else source:
        for start in range(0, len(piece), PIECE_BYTES):
            yield piece[start : start + PIECE_BYTES]
