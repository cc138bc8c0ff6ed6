"""README.md and docs/: every fenced command and Python block runs, links lead somewhere, verbs are
documented.

A page runs from top to bottom in a folder of its own. In fences called sh, bash or console, lines
that start with `lingshu` are run; fences called python are run; a fence with title="name" is
written to that file instead. Fences called text, or under a line `<!-- not run: reason -->`, are
not run; the latter are reported as skipped with their reason.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lingshu.cli.main import VERBS, build_app, main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = {"sh", "bash", "console", "shell"}


@dataclass(frozen=True)
class Block:
    """A fence: its language, what it holds, the file it is to be written to, and why it is not run."""

    line: int
    language: str
    text: str
    title: str | None
    not_run: str | None

    @property
    def runs(self) -> bool:
        return (
            self.not_run is None
            and self.title is None
            and (self.language == "python" or bool(commands(self)))
        )


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence = re.match(r"^```(\w*)(.*)$", lines[number])
        if fence is None:
            number += 1
            continue
        end = next(i for i in range(number + 1, len(lines)) if lines[i].startswith("```"))
        mark = re.match(r"<!-- not run: (.+) -->", lines[number - 1] if number else "")
        title = re.search(r'title="([^"]+)"', fence[2])
        text = "\n".join(lines[number + 1 : end]) + "\n"
        found.append(
            Block(
                number + 1, fence[1], text, title[1] if title else None, mark[1] if mark else None
            )
        )
        number = end + 1
    return found


def commands(block: Block) -> list[list[str]]:
    """The `lingshu` commands of a shell fence, as arguments."""
    if block.language not in SHELL:
        return []
    join_fields = block.text.replace("\\\n", " ")
    lines = (line.removeprefix("$ ").strip() for line in join_fields.splitlines())
    # A "#" inside a word is part of it, as in http://host/v1#name; shlex would cut the line there.
    return [
        shlex.split(re.sub(r"\s#\s.*", "", line))[1:]
        for line in lines
        if line.startswith("lingshu ")
    ]


def not_run() -> Iterator[tuple[Path, Block]]:
    for page in PAGES:
        yield from ((page, block) for block in blocks(page) if block.not_run)


def label(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.runs for block in blocks(page))], ids=label
)
def test_every_command_of_a_page_runs(
    page: Path, workplace: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    if any("CHECKPOINT" in block.text for block in blocks(page) if block.runs):
        (workplace / "CHECKPOINT").symlink_to(request.getfixturevalue("checkpoint"))
    for block in blocks(page):
        if block.not_run:
            continue
        if block.title:
            target = workplace / block.title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(
                compile("\n" * block.line + block.text, str(page), "exec"), {"__name__": "__main__"}
            )
        for command in commands(block):
            code = main(command)
            assert code == 0, (
                f"{label(page)}:{block.line}: lingshu {shlex.join(command)} ended with {code}:"
                f" {capsys.readouterr().err}"
            )


@pytest.mark.parametrize(
    ("page", "block"), [pytest.param(p, b, id=f"{label(p)}:{b.line}") for p, b in not_run()]
)
def test_a_block_that_is_not_run_explains_why(page: Path, block: Block) -> None:
    assert block.not_run
    pytest.skip(block.not_run)


def test_a_fence_with_a_command_has_a_language() -> None:
    bare = [f"{label(p)}:{b.line}" for p in PAGES for b in blocks(p) if not b.language]
    assert not bare, f"name the language of these fences: {bare}"


def test_the_readme_starts_with_what_a_newcomer_needs() -> None:
    head = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:30])
    for needed in (
        "research only",
        "not for clinical use",
        "make quickstart",
        "make test",
        'lingshu ask CHECKPOINT "Is there a lesion?" image.png',
        "lingshu eval CHECKPOINT phantom --out runs/phantom",
    ):
        assert needed in head.lower() or needed in head, needed


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links_to_files_have_targets(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [
        t
        for t in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
        if "://" not in t and not t.startswith("mailto:")
    ]
    missing = [t for t in targets if not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_a_page_that_names_all_its_options(verb: str) -> None:
    page = (ROOT / "docs" / f"{verb}.md").read_text(encoding="utf-8")
    arguments = build_app()[verb].assemble_argument_collection()
    # "*" is a group whose options follow.
    options = [a.name for a in arguments if a.index is None and a.name != "*"]
    assert options or verb == "doctor"
    assert [o for o in options if o not in page] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if page.name not in navigation] == []
