"""The header of a safetensors file: names, types, shapes and offsets of its tensors, checked
against the file's size.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import NamedTuple

from lingshu.core.errors import ArtifactError

# Bytes of one element, by the type names of the safetensors format.
ELEMENT_BYTES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
}
ELEMENT_BYTES |= {"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
MAX_HEADER_BYTES = 100_000_000  # the format's own bound


class TensorHeader(NamedTuple):
    """A tensor's element type, its shape, and its byte range counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_headers(path: Path) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file by name, without reading any of their values.

    Raises:
        ArtefactError: the file is missing, no safetensors file, or shorter or longer than its
            header says.
    """
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER_BYTES + 1
            if length > MAX_HEADER_BYTES:
                raise ArtifactError(
                    f"{path} is no safetensors file or is truncated; copy it again."
                )
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            tensors = {
                name: TensorHeader(t["dtype"], tuple(t["shape"]), *t["data_offsets"])
                for name, t in header.items()
            }
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} has a damaged header; copy it again.") from error
    expected = 8 + length + max((t.stop for t in tensors.values()), default=0)
    if path.stat().st_size != expected:
        raise ArtifactError(
            f"{path} has {path.stat().st_size} bytes, its header asks for {expected}: it is"
            " truncated or damaged; copy it again."
        )
    for name, tensor in tensors.items():
        if tensor.stop - tensor.start != math.prod(tensor.shape) * ELEMENT_BYTES.get(
            tensor.dtype, -1
        ):
            raise ArtifactError(
                f"{path}: tensor {name!r} has offsets that do not fit its shape; copy the file"
                " again."
            )
    return tensors
