"""A reply's text while its tokens arrive: pieces that never hold half a character, a special token,
or the start of a stop text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# What a decoder writes for bytes that are no character, or not all of one yet.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class IncrementalDetokenizer:
    """What was said so far; `decode` makes text of tokens and leaves special ones out.

    It remembers because one character may take several tokens, and a stop text several pieces.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._decode, self._stop = decode, tuple(text for text in stop if text)
        self._pending_tokens: list[int] = []  # tokens since the last whole character
        self._n_emitted = 0  # characters of the open tokens that were taken already
        self._buffer = ""  # taken, but perhaps the start of a stop text

    def add(self, token: int) -> str:
        """The text that may be shown after one more token; empty while nothing can be."""
        self._pending_tokens.append(token)
        decoded = self._decode(self._pending_tokens)
        # Of the open bytes at most the last character is unfinished; what stands before it will not
        # change.
        complete_text = decoded.removesuffix(REPLACEMENT)
        new_text, self._n_emitted = complete_text[self._n_emitted :], len(complete_text)
        if len(complete_text) == len(decoded):
            self._pending_tokens, self._n_emitted = [], 0
        return self._emit(new_text, is_final=False)

    def flush(self) -> str:
        """The rest, once no token follows."""
        tail = self._decode(self._pending_tokens)[self._n_emitted :] if self._pending_tokens else ""
        self._pending_tokens, self._n_emitted = [], 0
        return self._emit(tail, is_final=True)

    def _emit(self, new_text: str, *, is_final: bool) -> str:
        if self.stopped:
            return ""
        buffer = self._buffer + new_text
        stop_offsets = [offset for text in self._stop if (offset := buffer.find(text)) >= 0]
        if stop_offsets:
            self.stopped, emitted, self._buffer = True, buffer[: min(stop_offsets)], ""
        else:
            n_held_back = (
                0
                if is_final
                else max((_suffix_overlap(buffer, text) for text in self._stop), default=0)
            )
            emitted, self._buffer = (
                buffer[: len(buffer) - n_held_back],
                buffer[len(buffer) - n_held_back :],
            )
        self.text += emitted
        return emitted


def _suffix_overlap(buffer: str, text: str) -> int:
    """How many characters at the end of `held` begin `text`."""
    return next(
        (
            size
            for size in range(min(len(buffer), len(text) - 1), 0, -1)
            if text.startswith(buffer[-size:])
        ),
        0,
    )


def truncate_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """A whole reply up to the first of the texts `stop`, and whether there was one."""
    stop_offsets = [
        offset for stop_text in stop if stop_text and (offset := text.find(stop_text)) >= 0
    ]
    return (text[: min(stop_offsets)], True) if stop_offsets else (text, False)
