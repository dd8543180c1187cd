"""Every code block of the documentation is run.

The blocks of one file run in order in one empty folder: ``python`` blocks share their names, of ``console`` and
``bash`` blocks the ``brainloom`` lines go through the front door, and a block whose first line names a file
(``# onions.py``) is written there first. ``<!-- not run: REASON -->`` on the line before a block leaves it out.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import brainloom
from tests.conftest import PLUGIN, ROOT

PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if page.exists()]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"^# ([\w./-]+\.(?:py|ya?ml|toml|tsv))\n")
KNOWN = {"python", "console", "bash", "yaml", "toml", "json", "text", "mermaid"}


@dataclass(frozen=True)
class Block:
    """One fenced block: language, text, line of the page, and why it is not run, if so."""

    language: str
    text: str
    line: int
    left_out: str


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        before = text[: match.start()].rstrip("\n").rpartition("\n")[2]
        reason = re.fullmatch(r"<!-- not run: (.+) -->", before.strip())
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(match[1], match[2], line, reason[1] if reason else ""))
    return found


def command_lines(block: Block) -> Iterator[list[str]]:
    """The words after ``brainloom`` of every such line; in a console block those after ``$``."""
    for line in block.text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line[2:]
        if line.startswith("brainloom "):
            yield shlex.split(line, comments=True)[1:]


def run_block(block: Block, names: dict[str, Any], where: str) -> None:
    """Run one block in the current folder."""
    named = NAMED.match(block.text)
    if named:
        Path(named[1]).parent.mkdir(parents=True, exist_ok=True)
        Path(named[1]).write_text(block.text)
    if block.language == "json":
        json.loads(block.text)
    if block.language == "python" and not named:
        exec(compile("\n" * block.line + block.text, where, "exec"), names)
    if block.language in ("console", "bash"):
        for words in command_lines(block):
            assert brainloom.main(words) == 0, f"{where}: brainloom {shlex.join(words)}"


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty current folder; modules that a page writes there are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_block_of(page: Path, fresh: None) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if not block.left_out:
            run_block(block, names, f"{page.name}:{block.line}")


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_block_names_its_language_in(page: Path) -> None:
    for block in blocks(page):
        assert block.language in KNOWN, f"{page.name}:{block.line} is a block of '{block.language}'"


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_link_to_a_file_leads_somewhere_in(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize(
    "text, fails",
    [
        ("```python\nx = 1\n```\n```python\nassert x == 2\n```\n", True),
        ("```python\nx = 1\n```\n```python\nassert x == 1\n```\n", False),
        ("```console\n$ brainloom --version\n$ ls\n```\n", False),
        ("```console\n$ brainloom synth \\\n    genrate\n```\n", True),
        ("```bash\nbrainloom nonsense  # no such room\n```\n", True),
        ("<!-- not run: it takes hours -->\n```bash\nbrainloom nonsense\n```\n", False),
        ("```json\n{]\n```\n", True),
        ("```python\n# here.py\nx = 5\n```\n```python\nimport here\nassert here.x == 5\n```\n", False),
    ],
)
def test_a_page_with_a_block_that_fails_fails(text: str, fails: bool, tmp_path: Path, fresh: None) -> None:
    sys.path.insert(0, str(tmp_path))
    page = tmp_path / "page.md"
    page.write_text(text)
    names: dict[str, Any] = {}

    def run_all() -> None:
        for block in blocks(page):
            if not block.left_out:
                run_block(block, names, "page")

    if fails:
        with pytest.raises((AssertionError, ValueError)):
            run_all()
    else:
        run_all()


def test_the_onion_of_the_documentation_is_the_one_that_is_tested() -> None:
    (shown,) = [
        block.text for block in blocks(ROOT / "docs" / "generators.md") if block.text.startswith("# onions.py\n")
    ]
    assert shown.removeprefix("# onions.py\n") == (PLUGIN / "onions.py").read_text()
    (project,) = [block.text for block in blocks(ROOT / "docs" / "generators.md") if block.language == "toml"]
    assert project.removeprefix("# pyproject.toml\n") == (PLUGIN / "pyproject.toml").read_text()
