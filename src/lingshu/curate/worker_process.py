"""A worker process of the local backend: jobs come in on standard input, answers go out on standard
output.

It is a program of its own, so that it never runs a caller's main module again, and it ends when its
input does, whatever became of the driver.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import struct
import sys
import traceback
from typing import BinaryIO, NamedTuple

from lingshu.core import errors
from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.core.memory import retain_freed_memory


class SerializedError(NamedTuple):
    """Why a job cannot be done at all, in a form that any process can read: class, message,
    traceback.
    """

    class_name: str
    message: str
    traceback_text: str

    @classmethod
    def from_exception(cls, error: BaseException) -> SerializedError:
        if isinstance(error, ModuleNotFoundError):
            return cls("ModuleNotFoundError", error.name or one_line(error), "")
        return cls(
            type(error).__name__ if isinstance(error, LingshuError) else "",
            one_line(error),
            traceback.format_exc(),
        )

    def to_exception(self) -> Exception:
        """The exception again: of ours by its class, of others as a bug with the worker's
        traceback.
        """
        if self.class_name == "ModuleNotFoundError":
            return ModuleNotFoundError(f"No module named {self.message!r}", name=self.message)
        error_class = (
            getattr(errors, self.class_name, InputError) if self.class_name else RuntimeError
        )
        return (
            error_class(self.message)
            if self.class_name
            else error_class(f"{self.message}\n{self.traceback_text}")
        )


def send(stream: BinaryIO, value: object) -> None:
    data = pickle.dumps(value)
    stream.write(struct.pack("<I", len(data)) + data)
    stream.flush()


def receive(stream: BinaryIO) -> object:
    """The next value.

    Raises:
        EOFError: the other side is gone.
    """
    header = stream.read(4)
    if len(header) < 4:
        raise EOFError
    (size,) = struct.unpack("<I", header)
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)


def configure_memory() -> None:
    """Keep freed memory for the next image, and look for cycles less often: together a twentieth of
    a worker's time.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    retain_freed_memory(16 << 20)


def main() -> None:
    """Do jobs until there is none."""
    # There is a process for every core: numpy's library for matrices would start a thread for each,
    # which spins for a while.
    os.putenv("OPENBLAS_NUM_THREADS", "1")
    from lingshu.curate.worker import Job, Worker

    # The driver decides what an interrupt means; a worker ends when it goes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # what a library prints must not look like an answer
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker = Worker()
    configure_memory()
    while True:
        try:
            job = receive(sys.stdin.buffer)
        except EOFError:
            return
        assert isinstance(job, Job)
        try:
            worker.run_job(job)
            result = None
        except Exception as error:
            result = SerializedError.from_exception(error)
        send(output, result)
