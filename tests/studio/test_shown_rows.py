"""Rows as the page's scripts are given them: where each pixel of an anagram goes, thumbnails, what is on record."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.report.turning import MOTIONS, seen
from darkroom.studio.run_table import RunTable
from darkroom.studio.run_view import View
from darkroom.studio.shown_rows import SMALL, frames, large, record, thumbnails
from report_runs import ERROR, NASTY, ODD_ID, ROWS, make_run, picture

JIGSAW = [
    {"view": "identity", "prompt": "a two"},
    {"view": "jigsaw", "seed": 3, "prompt": "a five"},
    {"view": "rotate_90", "prompt": "a six"},
    {"view": "negate", "prompt": "a nine"},
]
FINE = {name: {"view": name, "pieces": SMALL + 1} for name in ("patch_permute", "square_hinge")}
MORE: list[dict[str, Any]] = [
    {"task": "anagram", "views": JIGSAW, "id": "small"},
    {"task": "anagram", "views": JIGSAW, "id": "big"},
    {"task": "anagram", "views": [{"view": name, "prompt": "x" * 19_000} for name in MOTIONS], "id": "long"},
    *(
        {"task": "anagram", "views": [{"view": "identity", "prompt": "a two"}, {**fine, "prompt": "a six"}], "id": name}
        for name, fine in FINE.items()
    ),
]
BIG = picture(99, side=2 * SMALL)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    folder = tmp_path_factory.mktemp("shown")
    large = ["big", *FINE]
    pictures = [BIG if row.get("id") in large else picture(number) for number, row in enumerate([*ROWS, *MORE])]
    make_run(str(folder / "run"), folder, [*ROWS, *MORE], pictures=pictures)
    return RunTable(str(folder / "run"))


def decoded(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"))


def test_every_pixel_goes_to_its_place(table: RunTable) -> None:
    shown = large(table, table.named("small"))
    motion, drawn = shown["motion"], decoded(shown["source"])
    assert np.array_equal(drawn, decoded(shown["small"])), "as small it is sent without loss"
    for view, places, negated in zip(JIGSAW, motion["places"], motion["negated"], strict=True):
        there = np.zeros_like(drawn).reshape(-1, 3)
        there[np.frombuffer(base64.b64decode(places), "<u2")] = drawn.reshape(-1, 3)
        there = 255 - there if negated else there
        assert np.array_equal(there.reshape(drawn.shape), seen(drawn, view))
    assert motion["turns"][0] == [0, 0, 90, 0] and motion["turns"][2][0] == -90 and "ends" not in shown
    assert shown["labels"] == ["identity: a two", "jigsaw: a five", "rotate_90: a six", "negate: a nine"]


def test_of_a_large_one_the_views_come_whole(table: RunTable) -> None:
    shown = large(table, table.named("big"))
    assert shown["motion"]["side"] == SMALL and decoded(shown["small"]).shape == (SMALL, SMALL, 3)
    assert not shown["crisp"] and [decoded(end).shape for end in shown["ends"]] == [BIG.shape] * 4


def test_thumbnails(table: RunTable) -> None:
    shown = {one["id"]: one for one in thumbnails(table, table.find(View()).rows)}
    assert shown[ODD_ID]["caption"] == NASTY and decoded(shown[ODD_ID]["source"]).shape == (48, 48, 3)
    failed = shown["bad <i>row</i>"]
    assert failed["problem"] == ERROR and "source" not in failed
    assert len(shown["long"]["caption"]) == 120 and shown["small"]["motion"]["side"] == 48
    assert decoded(shown["big"]["source"]).shape == (SMALL, SMALL, 3)
    assert shown[ODD_ID]["motion"] is None


def test_views_finer_than_a_shrunk_picture_stand_still(table: RunTable) -> None:
    shown = {one["id"]: one for one in thumbnails(table, table.find(View()).rows)}
    for name in FINE:
        assert shown[name]["motion"] is None and decoded(shown[name]["source"]).shape == (SMALL, SMALL, 3)
        whole = large(table, table.named(name))
        assert "motion" not in whole and np.array_equal(decoded(whole["source"]), BIG)


def test_a_picture_that_is_gone_is_said(table: RunTable) -> None:
    row = table.named("big")
    Path(row["image_uri"]).rename(Path(row["image_uri"]).with_suffix(".away"))
    try:
        (shown,) = thumbnails(table, [row])
        assert "source" not in shown and "images/" in shown["problem"]
    finally:
        Path(row["image_uri"]).with_suffix(".away").rename(row["image_uri"])


def test_a_row_comes_back_as_a_manifest_has_it(table: RunTable) -> None:
    asked, whole = record(table, ODD_ID)
    assert asked is not None and asked["id"] == ODD_ID and asked["prompt"] == NASTY and asked["seed"] == 5
    assert whole["parameters"]["prompt"] == NASTY and whole["model"] == "if-xs" and "error" not in whole
    assert json.dumps(whole)
    asked, whole = record(table, "long")
    assert asked is None and len(json.dumps(whole)) < 200_000 and "19,000 characters" in whole["prompts"][0]


def test_a_series(table: RunTable) -> None:
    (own,) = [row for row in table.find(View(tasks=("image_to_image",))).rows if row["parameters"]["start"] == 3]
    series = table.series(own)
    assert list(series) == ["start"]
    shown = frames(table, "start", series["start"], own["id"])
    assert [one["label"] for one in shown] == ["start 1", "start 3", "start 5"]
    assert [one["own"] for one in shown] == [False, True, False]
    many = [own | {"id": str(number)} for number in range(100)]
    assert [frames(table, "seed", many, own)[0]["id"] for own in ("3", "60", "99")] == ["0", "36", "52"]
