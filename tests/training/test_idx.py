from __future__ import annotations

import gzip

import numpy as np
import pytest

from darkroom.training.idx import parse_idx, write_idx

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
BYTES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, *range(24)])


def test_the_bytes_of_an_array_are_those_of_the_format() -> None:
    assert write_idx(ARRAY) == BYTES


@pytest.mark.parametrize("data", [BYTES, gzip.compress(BYTES)], ids=["plain", "gzipped"])
def test_reads_what_the_format_says(data: bytes) -> None:
    found = parse_idx(data, "digits")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, ARRAY)


def test_labels_have_one_axis() -> None:
    assert parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 1]), "labels").tolist() == [7, 1]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG\r\n\x1a\n", "not an IDX file of unsigned bytes (it begins 89 50 4e 47)"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 0]), "not an IDX file of unsigned bytes"),  # 13 means floats
        (BYTES[:10], "a header of 3 axes needs 16 bytes, the file has 10".replace("a header", "an IDX header")),
        (BYTES[:-1], "its header promises 2 x 3 x 4 bytes, 23 follow it"),
        (BYTES + b"\0", "its header promises 2 x 3 x 4 bytes, 25 follow it"),
        (gzip.compress(BYTES, mtime=0)[:-9], "the gzip stream is broken"),
        (gzip.compress(BYTES, mtime=0)[:10] + b"\xff" * 20, "the gzip stream is broken"),  # zlib's own kind of error
    ],
)
def test_refuses_what_is_not_a_whole_file(data: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match="digits.gz") as caught:
        parse_idx(data, "digits.gz")
    assert sentence in str(caught.value)
