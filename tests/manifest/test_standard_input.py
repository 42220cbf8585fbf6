"""A manifest without a name is read as what it begins like."""

from __future__ import annotations

import gzip
import io
import json

import pytest

from darkroom.manifest import ManifestError
from darkroom.manifest.standard_input import format_of, read_rows_of

ROW = {"prompt": "a six", "seed": 1}
CONTENTS = {
    ".jsonl": json.dumps(ROW).encode(),
    ".json": b"\xef\xbb\xbf\n[" + json.dumps(ROW).encode() + b"]",
    ".csv": b"prompt,seed\r\na six,1\r\n",
    ".tsv": b"seed\tprompt\n1\ta six\n",
    ".yaml": b"# one\nrows:\n- {prompt: a six, seed: 1}\n",
}


@pytest.mark.parametrize("suffix", CONTENTS)
def test_each_format_is_told_from_the_others(suffix: str) -> None:
    for content, wanted in ((CONTENTS[suffix], suffix), (gzip.compress(CONTENTS[suffix]), f"{suffix}.gz")):
        assert format_of(content) == wanted
        rows, (place,) = read_rows_of(io.BytesIO(content))
        assert rows == [ROW] and place.startswith(f"stdin{wanted} ")


def test_anything_else_is_a_prompt_a_line() -> None:
    rows, places = read_rows_of(io.BytesIO(b"a red six, on white\n# no\na seven: blue\n"))
    assert [row["prompt"] for row in rows] == ["a red six, on white", "a seven: blue"]
    assert places == ["stdin.txt line 1", "stdin.txt line 3"]
    assert read_rows_of(io.BytesIO(b"prompt\na six\n"))[0] == [{"prompt": "a six"}], "but for a table of one column"


def test_what_cannot_be_read_is_told_by_its_place() -> None:
    with pytest.raises(ManifestError) as caught:
        read_rows_of(io.BytesIO(b'{"prompt": "a"}\n{\n[1]\n'))
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "stdin.jsonl line 2",
        "stdin.jsonl line 3",
    ]
    for separator in (b";", b"|"):
        with pytest.raises(ManifestError, match="line 1: the columns are separated by '.', wanted commas"):
            read_rows_of(io.BytesIO(b"prompt,seed\na six,1\n".replace(b",", separator)))
    with pytest.raises(ValueError, match="standard input has more than 16 MiB: give that manifest as a file"):
        read_rows_of(io.BytesIO(b"a\n" * 2**23 + b"b"))
    for content in (b"\x1f\x8bno", gzip.compress(b"a" * 99)[:-9]):
        with pytest.raises(ManifestError, match="gzip file"):
            read_rows_of(io.BytesIO(content))
