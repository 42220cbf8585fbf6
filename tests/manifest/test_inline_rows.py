"""Rows that come from Python instead of a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkroom.manifest import ManifestError, read_rows
from darkroom.manifest.inline_rows import named_by_row, write_rows
from darkroom.storage import decode, open_store, read_uri


def written(rows: object, store_uri: str) -> list[dict]:
    return [row.data for row in read_rows(write_rows(rows, open_store(store_uri)))]


def test_rows_come_back_as_a_manifest_reads_them(store_uri: str) -> None:
    rows = [{"task": "text_to_image", "prompt": "é", "seed": np.int64(3)}, {"task": "forward", "size": None}]
    assert written(rows, store_uri) == [{"task": "text_to_image", "prompt": "é", "seed": 3}, {"task": "forward"}]
    assert written({"a": (1, 2)}, store_uri) == [{"a": [1, 2]}]


def test_paths_are_meant_from_here_and_uris_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"image": "in/a.png", "mask": Path("b.png"), "components": [{"image": "s3://bucket/c.png"}, {"prompt": "x"}]}
    (found,) = written(row, str(tmp_path / "out"))
    assert found["image"] == f"{tmp_path}/in/a.png" and found["mask"] == f"{tmp_path}/b.png"
    assert found["components"] == [{"image": "s3://bucket/c.png"}, {"prompt": "x"}]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "1", "P"])
def test_a_pil_image_lies_beside_the_manifest(tmp_path: Path, mode: str) -> None:
    image = Image.effect_mandelbrot((12, 9), (-2, -1, 1, 1), 20).convert(mode)
    uri = write_rows({"image": image}, open_store(str(tmp_path)))
    (row,) = read_rows(uri)
    found = decode(read_uri(f"{tmp_path}/inputs/{row.data['image']}"), "it")
    assert np.array_equal(found, np.asarray(image.convert("RGB")))


def test_arrays_are_pictures_and_masks(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    mask = np.eye(5, 4, dtype=bool)
    (row,) = written({"image": picture, "mask": mask}, str(tmp_path))
    image, painted = (decode(read_uri(f"{tmp_path}/inputs/{row[name]}"), name) for name in ("image", "mask"))
    assert np.array_equal(image, picture) and np.array_equal(painted[..., 0], mask * 255)


def test_what_is_no_row_or_no_picture_is_said_of_the_row(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(ManifestError, match=r"row 2: wanted a mapping such as \{'task': ...\}, was 'a red seven'"):
        write_rows([{}, "a red seven"], store)
    with pytest.raises(ManifestError, match="row 1: 'image' is an array of float32, 3 x 8 x 8: wanted uint8, H x W,"):
        write_rows({"image": np.zeros((3, 8, 8), np.float32)}, store)
    with pytest.raises(ManifestError, match="row 1: Object of type set is not JSON serializable"):
        write_rows({"views": {1}}, store)


def test_the_same_rows_are_one_file_and_others_leave_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    first, again, other = (write_rows({"seed": seed}, store) for seed in (1, 1, 2))
    assert first == again != other
    assert json.loads(read_uri(first)) == {"seed": 1}


def test_problems_name_the_row() -> None:
    with pytest.raises(ManifestError) as caught, named_by_row():
        raise ManifestError(["rows-0123456789ab.jsonl line 3: bad (so in 4 more places, the last is "
                             "rows-0123456789ab.jsonl line 9)", "rows-0123456789ab.jsonl: has no rows"])  # fmt: skip
    assert caught.value.problems == ["row 3: bad (so in 4 more places, the last is row 9)", "rows: has no rows"]
