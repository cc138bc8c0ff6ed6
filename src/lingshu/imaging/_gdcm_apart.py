"""GDCM in a process of its own: on some damaged frames it ends the process that called it, which
must not be ours.

One child is started when the first frame needs it and serves this process until either ends.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import select
import struct
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The largest frame takes a few seconds; a decoder that goes round in circles takes for ever.
PATIENCE_S = 120.0


class Died(Exception):
    """The decoder ended or got stuck on this frame."""


class Refused(Exception):
    """The decoder could not read this frame; the message is the kind of its error."""


class _Child:
    """A running decoder and the pipes to it; remembers whether it still lives."""

    def __init__(self) -> None:
        # The child finds this package where this process found it.
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from lingshu.imaging._gdcm_apart import"
            " serve; serve()"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def decode(self, code: bytes, options: dict[str, Any]) -> NDArray[Any]:
        """The values of one frame.

        Raises:
            Died, Refused: no values.
        """
        import numpy as np

        with self._lock:
            try:
                _send(cast(IO[bytes], self._process.stdin), options, code)
                pipe = cast(IO[bytes], self._process.stdout)
                if not select.select([pipe], [], [], PATIENCE_S)[0]:
                    raise TimeoutError
                answer, values = _receive(pipe)
            except (OSError, EOFError, TimeoutError) as error:
                self.close()
                raise Died(
                    "the decoder ended"
                    if not isinstance(error, TimeoutError)
                    else "the decoder got stuck"
                ) from None
        if "error" in answer:
            raise Refused(answer["error"])
        return np.frombuffer(bytearray(values), answer["dtype"]).reshape(answer["shape"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                cast(IO[bytes], pipe).close()


@functools.cache
def _children(_process: int) -> list[_Child]:
    """The child of a process, if any; a forked copy of the process must not talk to its parent's."""
    return []


def decode_apart(code: bytes, options: dict[str, Any]) -> NDArray[Any]:
    """The values of one compressed frame, as GDCM reads it; `options` are those of pydicom's
    decoders.

    Raises:
        Died, Refused: no values.
    """
    held = _children(os.getpid())
    if not held or not held[0].alive:
        held[:] = [_Child()]
    return held[0].decode(code, options)


def _send(pipe: IO[bytes], head: dict[str, Any], body: bytes | memoryview) -> None:
    text = json.dumps(head).encode()
    pipe.write(struct.pack(">IQ", len(text), len(body)) + text)
    pipe.write(body)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    sizes = pipe.read(12)
    if len(sizes) < 12:
        raise EOFError
    text, body = struct.unpack(">IQ", sizes)
    head = json.loads(pipe.read(text))
    data = pipe.read(body)
    if len(data) < body:
        raise EOFError
    return head, data


def serve() -> None:
    """Decode what comes in until the pipe is closed.

    Answers carry no message: nothing of a file gets out but its values.
    """
    import numpy as np
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            options, code = _receive(sys.stdin.buffer)
        except EOFError:
            return
        syntax = UID(options.pop("transfer_syntax_uid"))
        try:
            found = get_decoder(syntax).iter_array(
                io.BytesIO(encapsulate([code], has_bot=False)),
                indices=[0],
                decoding_plugin="gdcm",
                transfer_syntax_uid=syntax,
                **options,
            )
            values = np.ascontiguousarray(next(iter(found))[0])
        except Exception as error:
            _send(answers, {"error": type(error).__name__}, b"")
            continue
        _send(
            answers,
            {"dtype": values.dtype.str, "shape": values.shape},
            values.reshape(-1).view(np.uint8).data,
        )
