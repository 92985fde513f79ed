"""Writes the synchronous half of the package from the asynchronous one.

python generate_sync.py          writes src/sandflare/_sync
python generate_sync.py --check  says which files differ, and exits with 1 if any does

`runtime.py` and `__init__.py` of both halves are written by hand: they are what differs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE, TARGET = HERE / "src/sandflare/_async", HERE / "src/sandflare/_sync"
BY_HAND = {"__init__.py", "runtime.py"}
# In this order: what is more special comes first.
RULES = [
    (r"Awaitable\[None\]", "None"),
    (r"AsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsync(?=[A-Z])", ""),
    (r"__a(enter|exit|iter|next)__", r"__\1__"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\ba(close|iter_raw|iter_bytes)\b", r"\1"),
    (r"sandflare\._async\b", "sandflare._sync"),
    (r"for an event loop\.", "for a program; threads can share it."),
    (r"and awaits them", "and waits for them"),
]
HEAD = "# Written by generate_sync.py: change the file of this name in `_async`.\n"


def ruff(*arguments: str | Path) -> None:
    """Run it with this package's settings."""
    program = [
        sys.executable,
        "-m",
        "ruff",
        *arguments,
        "--quiet",
        "--config",
        HERE / "pyproject.toml",
    ]
    subprocess.run(program, check=True)  # noqa: S603 -- the one beside this interpreter


def generate(target: Path) -> None:
    """Write the synchronous half into a directory."""
    for source in SOURCE.glob("*.py"):
        if source.name not in BY_HAND:
            text = source.read_text()
            for pattern, replacement in RULES:
                text = re.sub(pattern, replacement, text)
            (target / source.name).write_text(HEAD + text)
    ruff("check", target, "--fix-only", "--unsafe-fixes", "--select", "F401,I,UP028,TC")
    ruff("format", target)


def main() -> int:
    """Write, or compare."""
    if sys.argv[1:] != ["--check"]:
        generate(TARGET)
        return 0
    with tempfile.TemporaryDirectory() as directory:
        new = Path(directory)
        generate(new)
        names = {path.name for place in (new, TARGET) for path in place.glob("*.py")} - BY_HAND
        text = {
            name: [p.read_text() if (p := at / name).exists() else None for at in (new, TARGET)]
            for name in names
        }
    wrong = sorted(name for name, (made, found) in text.items() if made != found)
    for name in wrong:
        sys.stderr.write(f"_sync/{name} is not what generate_sync.py writes; run it\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
