"""What documents show to newcomers is run as it stands, against a real node."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PYTHON = [
    "docs/guides/databases.md",
    "docs/guides/network.md",
    "docs/guides/python.md",
    "docs/guides/quickstart.md",
    "sdk/python/README.md",
]
FRONT_PAGE = """\
sb = Sandbox.create("agent", size="nano")
sb.upload(csv_bytes, "/home/agent/data.csv")
"""
FRONT_PAGE_REST = """\
for event in sb.stream("python3 analyse.py"):
    if event.event == "stdout":
        print(event.line)
chart = sb.download("/home/agent/chart.png")
"""


def blocks(document: str, language: str = "python") -> list[str]:
    text = (ROOT / document).read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, f"{document} shows no {language}"
    return [str(block) for block in found]


@pytest.mark.parametrize("document", PYTHON)
def test_python_in_documents_is_python(document: str) -> None:
    for block in blocks(document):
        compile(block, document, "exec")


@pytest.mark.node
@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("document", PYTHON)
def test_a_document_runs_from_its_top_to_its_end(document: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("\n".join(blocks(document)))
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::ResourceWarning", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


# What is shown on the way.
SHELL = {
    "docs/guides/api.md": ("TGludXgg", '"code":"not_found"', "b25lCnR3bwo=", "paused"),
    "docs/guides/audit.md": ("ACTION", '"entries": ['),
    "docs/guides/cli.md": ("exit code 7\n", "/tmp\nfrom a file\n", "Initialized empty Git"),
    "docs/guides/network.md": ("base   none\n", "is not found any more\n"),
    "docs/guides/operations.md": ("prj_", "team"),
    "docs/guides/ports.md": (".localhost:", '<a href="now">now</a>'),
    "docs/guides/quickstart.md": ("42\n", "agent\n/home/agent\n", "45\n", "print(sum("),
}


@pytest.mark.node
@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(("document", "shown"), SHELL.items())
def test_the_shell_of_a_guide_runs_from_its_top_to_its_end(
    document: str, shown: tuple[str, ...], tmp_path: Path
) -> None:
    built = ROOT / "target" / "x86_64-unknown-linux-gnu" / "release"
    programs = os.environ.get("SANDFLARE_TEST_PROGRAMS", str(built))
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks(document, "sh"))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        check=False,
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    for text in shown:
        assert text in ended.stdout, said
    assert not list(tmp_path.iterdir())


def test_the_example_is_the_program_of_the_front_page() -> None:
    program = (ROOT / "examples" / "front-page" / "front_page.py").read_text()
    for part in ("from sandflare import Sandbox\n", FRONT_PAGE, FRONT_PAGE_REST):
        assert part in program


def test_the_example_has_fifty_thousand_rows_that_are_always_the_same() -> None:
    make = [sys.executable, ROOT / "examples" / "front-page" / "make_data.py"]
    first, again = (subprocess.run(make, capture_output=True, check=True).stdout for _ in range(2))
    assert first == again
    assert len(first.splitlines()) == 1 + 50_000


@pytest.mark.node
@pytest.mark.usefixtures("client")
def test_the_front_page_turns_rows_into_a_chart(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, ROOT / "examples" / "front-page" / "front_page.py", "chart.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.startswith("rows: 50000, missing temperatures: ")
    chart = (tmp_path / "chart.png").read_bytes()
    assert chart.startswith(b"\x89PNG\r\n\x1a\n")
    # The header's width and height: nine by eight inches of a hundred dots.
    assert (int.from_bytes(chart[16:20], "big"), int.from_bytes(chart[20:24], "big")) == (900, 800)
    assert chart.endswith(b"IEND\xaeB\x60\x82")
