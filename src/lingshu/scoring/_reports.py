"""The reference text of a report, and how a reply is marked that only a judge can score."""

from __future__ import annotations

# How the note of a reply begins that has no score only because no judge was asked.
NEEDS_JUDGE = "needs a judge"


def format_reference(findings: str, impression: str, *, empty: str = "None") -> str:
    """A report's reference text: each section closed by one full stop, and `empty` where it says
    nothing.
    """
    return f"Findings: {_close_section(findings, empty)} Impression: {_close_section(impression, empty)}"


def _close_section(text: str, empty: str) -> str:
    content = text.strip() or empty
    return content if content.endswith((".", "!", "?", "。")) else f"{content}."
