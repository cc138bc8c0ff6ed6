"""GDCM in a separate process: on some damaged frames it crashes the process that called it.

One child is started when the first frame needs it and serves this process until either ends.
"""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import sys
import threading
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The largest frame takes a few seconds; a decoder in an endless loop would never return.
TIMEOUT_S = 120.0


class DecoderCrashed(Exception):
    """The decoder crashed or got stuck on this frame."""


class DecodeError(Exception):
    """The decoder could not read this frame; the message is the class of its error."""


class _DecoderProcess:
    """A running decoder and the connection to it."""

    def __init__(self) -> None:
        self._connection, other_end = Pipe()
        handle = other_end.fileno()
        # The child finds this package where this process found it.
        imports = "from lingshu.imaging.dicom.gdcm_process import serve"
        script = f"import sys; sys.path[:] = {sys.path!r}; {imports}; serve({handle})"
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        self._process = subprocess.Popen(
            [sys.executable, "-c", script], pass_fds=[handle], **streams
        )
        other_end.close()
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
                _send(self._connection, options, codestream)
                if not self._connection.poll(TIMEOUT_S):
                    raise TimeoutError
                response, values = _receive(self._connection)
            except (OSError, EOFError) as error:
                self.close()
                state = "got stuck" if isinstance(error, TimeoutError) else "ended"
                raise DecoderCrashed(f"the decoder {state}") from None
        if "error" in response:
            raise DecodeError(response["error"])
        return np.frombuffer(bytearray(values), response["dtype"]).reshape(response["shape"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()


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


def _send(connection: Connection, header: dict[str, Any], body: bytes | memoryview) -> None:
    # Not pickled: a decoder that a damaged frame took over must not run code here.
    connection.send_bytes(json.dumps(header).encode())
    connection.send_bytes(body)


def _receive(connection: Connection) -> tuple[dict[str, Any], bytes]:
    return json.loads(connection.recv_bytes()), connection.recv_bytes()


def serve(handle: int) -> None:
    """Decode frames from a connection until it is closed; errors are reported by class only."""
    import numpy as np
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    connection = Connection(handle)
    while True:
        try:
            options, codestream = _receive(connection)
        except (EOFError, OSError):
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
            _send(connection, {"error": type(error).__name__}, b"")
            continue
        header = {"dtype": values.dtype.str, "shape": values.shape}
        _send(connection, header, values.reshape(-1).view(np.uint8).data)
