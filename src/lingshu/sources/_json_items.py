"""The items of a long JSON array one after the other, without holding the array."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from lingshu.core.errors import InputError

_CHUNK = 1 << 20
# An item that does not end within this many characters is no item.
MAX_ITEM_CHARS = 32 << 20


def iter_json_items(path: Path) -> Iterator[object | ValueError]:
    """The items of a .json array, or the values of a file of JSON lines.

    A damaged line becomes a ValueError, and the next follows. After a damaged item of an array
    nothing can be read: its ValueError is the last.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            head = file.read(_CHUNK)
            if head.lstrip()[:1] == "[":
                yield from _iter_array(file.read, head.lstrip()[1:])
            else:
                file.seek(0)
                yield from (_parse_line(line) for line in file if line.strip())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error


def _parse_line(text: str) -> object | ValueError:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return ValueError(f"no JSON ({type(error).__name__})")


def _iter_array(read_more, buffer: str) -> Iterator[object | ValueError]:
    decoder, start = json.JSONDecoder(), 0
    while True:
        # Over the comma and blanks before an item.
        while True:
            while start < len(buffer) and buffer[start] in " \t\r\n,":
                start += 1
            if start < len(buffer):
                break
            buffer, start = read_more(_CHUNK), 0
            if not buffer:
                yield ValueError("the array does not end")
                return
        if buffer[start] == "]":
            return
        try:
            value, end = decoder.raw_decode(buffer, start)
            # A number may go on behind the buffer's end.
            is_complete = end < len(buffer)
        except RecursionError:
            yield ValueError("an item is nested too deep")
            return
        except ValueError:
            is_complete, value, end = False, None, 0
        if is_complete:
            yield value
            start = end
            continue
        chunk = read_more(max(_CHUNK, len(buffer) - start))
        if not chunk or len(buffer) - start > MAX_ITEM_CHARS:
            yield ValueError("an item is no JSON")
            return
        buffer, start = buffer[start:] + chunk, 0
