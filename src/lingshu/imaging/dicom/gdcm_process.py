"""GDCM in a separate process: on some damaged frames it crashes the process that called it.

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

# The largest frame takes a few seconds; a decoder in an endless loop would never return.
TIMEOUT_S = 120.0


class DecoderCrashed(Exception):
    """The decoder crashed or got stuck on this frame."""


class DecodeError(Exception):
    """The decoder could not read this frame; the message is the class of its error."""


class _DecoderProcess:
    """A running decoder and the pipes to it."""

    def __init__(self) -> None:
        # The child finds this package where this process found it.
        imports = "from lingshu.imaging.dicom.gdcm_process import serve"
        script = f"import sys; sys.path[:] = {sys.path!r}; {imports}; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._lock = threading.Lock()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def decode(self, codestream: bytes, options: dict[str, Any]) -> NDArray[Any]:
        """The values of one frame.

        Raises:
            DecoderCrashed, DecodeError: no values.
        """
        import numpy as np

        with self._lock:
            try:
                _send(cast(IO[bytes], self._process.stdin), options, codestream)
                pipe = cast(IO[bytes], self._process.stdout)
                if not select.select([pipe], [], [], TIMEOUT_S)[0]:
                    raise TimeoutError
                response, values = _receive(pipe)
            except (OSError, EOFError, TimeoutError) as error:
                self.close()
                state = "got stuck" if isinstance(error, TimeoutError) else "ended"
                raise DecoderCrashed(f"the decoder {state}") from None
        if "error" in response:
            raise DecodeError(response["error"])
        return np.frombuffer(bytearray(values), response["dtype"]).reshape(response["shape"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                cast(IO[bytes], pipe).close()


@functools.cache
def _decoder_processes(_pid: int) -> list[_DecoderProcess]:
    """The child of a process, if any; a forked process must not use the child of its parent."""
    return []


def decode_in_subprocess(codestream: bytes, options: dict[str, Any]) -> NDArray[Any]:
    """The values of one compressed frame by GDCM; `options` are those of pydicom's decoders.

    Raises:
        DecoderCrashed, DecodeError: no values.
    """
    processes = _decoder_processes(os.getpid())
    if not processes or not processes[0].is_alive:
        processes[:] = [_DecoderProcess()]
    return processes[0].decode(codestream, options)


def _send(pipe: IO[bytes], header: dict[str, Any], body: bytes | memoryview) -> None:
    header_bytes = json.dumps(header).encode()
    pipe.write(struct.pack(">IQ", len(header_bytes), len(body)) + header_bytes)
    pipe.write(body)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    prefix = pipe.read(12)
    if len(prefix) < 12:
        raise EOFError
    header_size, body_size = struct.unpack(">IQ", prefix)
    header = json.loads(pipe.read(header_size))
    data = pipe.read(body_size)
    if len(data) < body_size:
        raise EOFError
    return header, data


def serve() -> None:
    """Decode frames from standard input until it is closed; errors are reported by class only."""
    import numpy as np
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    # Whatever a library prints must not get between the responses.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            options, codestream = _receive(sys.stdin.buffer)
        except EOFError:
            return
        syntax = UID(options.pop("transfer_syntax_uid"))
        try:
            arrays = get_decoder(syntax).iter_array(
                io.BytesIO(encapsulate([codestream], has_bot=False)),
                indices=[0],
                decoding_plugin="gdcm",
                transfer_syntax_uid=syntax,
                **options,
            )
            values = np.ascontiguousarray(next(iter(arrays))[0])
        except Exception as error:
            _send(output, {"error": type(error).__name__}, b"")
            continue
        _send(
            output,
            {"dtype": values.dtype.str, "shape": values.shape},
            values.reshape(-1).view(np.uint8).data,
        )
