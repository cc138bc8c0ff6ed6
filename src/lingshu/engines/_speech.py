"""A reply's text while its tokens arrive: pieces that never hold half a character, a special token,
or the start of a stop text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# What a decoder writes for bytes that are no character, or not all of one yet.
UNKNOWN = "\N{REPLACEMENT CHARACTER}"


class Speech:
    """What was said so far; `decode` makes text of tokens and leaves special ones out.

    It remembers because one character may take several tokens, and a stop text several pieces.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._decode, self._stop = decode, tuple(text for text in stop if text)
        self._open: list[int] = []  # tokens since the last whole character
        self._shown = 0  # characters of the open tokens that were taken already
        self._held = ""  # taken, but perhaps the start of a stop text

    def add(self, token: int) -> str:
        """The text that may be shown after one more token; empty while nothing can be."""
        self._open.append(token)
        decoded = self._decode(self._open)
        # Of the open bytes at most the last character is unfinished; what stands before it will not
        # change.
        whole = decoded.removesuffix(UNKNOWN)
        fresh, self._shown = whole[self._shown :], len(whole)
        if len(whole) == len(decoded):
            self._open, self._shown = [], 0
        return self._say(fresh, last=False)

    def end(self) -> str:
        """The rest, once no token follows."""
        rest = self._decode(self._open)[self._shown :] if self._open else ""
        self._open, self._shown = [], 0
        return self._say(rest, last=True)

    def _say(self, fresh: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        held = self._held + fresh
        found = [place for text in self._stop if (place := held.find(text)) >= 0]
        if found:
            self.stopped, said, self._held = True, held[: min(found)], ""
        else:
            keep = 0 if last else max((_overlap(held, text) for text in self._stop), default=0)
            said, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self.text += said
        return said


def _overlap(held: str, text: str) -> int:
    """How many characters at the end of `held` begin `text`."""
    return next(
        (
            size
            for size in range(min(len(held), len(text) - 1), 0, -1)
            if text.startswith(held[-size:])
        ),
        0,
    )


def cut_at(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """A whole reply up to the first of the texts `stop`, and whether there was one."""
    found = [place for one in stop if one and (place := text.find(one)) >= 0]
    return (text[: min(found)], True) if found else (text, False)
