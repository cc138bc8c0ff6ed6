"""README.md and docs/: every fenced command and Python block runs, links lead somewhere, verbs are
documented.

A page runs from top to bottom in a temporary folder. In fences called sh, bash or console, lines
that start with `lingshu` are run; fences called python are run; a fence with title="name" is
written to that file instead. Fences called text, or under a line `<!-- not run: reason -->`, are
not run; the latter are reported as skipped with their reason.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from lingshu.cli.main import VERBS, build_app, main
from lingshu.train import config
from tests.support.markdown_blocks import Block, blocks, commands

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SECTIONS = {
    "learning_rates": config.LearningRates,
    "lora": config.Lora,
    "objective": config.Objective,
    "reward": config.Reward,
    "sampler": config.Sampler,
    "grpo": config.Grpo,
    "sharding": config.Sharding,
}  # of a training configuration


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


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_the_training_options_that_a_page_names_exist(page: Path) -> None:
    named = rf"(?<![\w-])(?=({'|'.join(SECTIONS)})\.(\w+))"
    for section, option in re.findall(named, page.read_text(encoding="utf-8")):
        assert option in SECTIONS[section].__dataclass_fields__, f"{section}.{option}"
