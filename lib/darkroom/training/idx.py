"""The IDX format of the MNIST family: a header of sizes, then unsigned bytes. http://yann.lecun.com/exdb/mnist"""

from __future__ import annotations

import gzip
import math
import struct
import zlib

import numpy as np


def parse_idx(data: bytes, where: str) -> np.ndarray:
    """Bytes of an IDX file, gzipped or not -> uint8 array of the shape its header states.

    Raises ValueError, naming `where`, for anything that is not a whole IDX file of unsigned bytes.
    """
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{where}: the gzip stream is broken ({error}); download the file again") from None
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or not 1 <= data[3] <= 4:
        raise ValueError(f"{where}: not an IDX file of unsigned bytes (it begins {data[:4].hex(' ')})")
    axes = data[3]
    header = 4 + 4 * axes
    if len(data) < header:
        raise ValueError(f"{where}: an IDX header of {axes} axes needs {header} bytes, the file has {len(data)}")
    shape = struct.unpack(f">{axes}I", data[4:header])
    if len(data) - header != math.prod(shape):
        sizes = " x ".join(map(str, shape))
        raise ValueError(f"{where}: its header promises {sizes} bytes, {len(data) - header} follow it")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def write_idx(array: np.ndarray) -> bytes:
    """The IDX bytes of a uint8 array, as `parse_idx` reads them."""
    assert array.dtype == np.uint8 and 1 <= array.ndim <= 4
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
