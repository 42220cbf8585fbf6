from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.batch.row_state import Failure, RowState, StageRecord
from darkroom.batch.write_results import Receipt, WriteOptions, to_pixels, write_unit
from darkroom.runs import Ledger, Shard
from darkroom.storage import image_key, open_store
from runs import next_owner, results

ROW = {"task": "text_to_image", "prompt": "a one", "negative_prompt": "a two", "seed": 5, "guidance": 7, "stride": 30}
PICTURE = np.linspace(-1.2, 1.2, 3 * 8 * 8, dtype=np.float32).reshape(3, 8, 8)


def made(name: str, error: str = "", unit: int = 2) -> RowState:
    """A row at the end of its way."""
    new = RowState(unit, name, hashlib.md5(name.encode()).hexdigest(), ROW, ["a one"])
    if error:
        return dataclasses.replace(new, failure=Failure("input", error))
    done = {"steps": 34, "start_timestep": 990.0, "evaluations": 68, "seconds": 1.5, "worker": "here:cpu"}
    return dataclasses.replace(new, **done, picture=PICTURE)


def options_for(uri: str, **more: Any) -> WriteOptions:
    open_store(uri).write("run.json", json.dumps({"plan": "plan"}).encode())
    return WriteOptions(uri, "plan", "toy", "rev", "ddpm", **more)


def written(rows: list[RowState], options: WriteOptions) -> Receipt:
    """Writes a unit, and commits what was staged as the run's owner does."""
    writer = next_owner(open_store(options.run))
    receipt = write_unit(rows, options)
    assert writer.log.rows == Ledger(writer.store).read().rows, "staged, it does not count yet"
    writer.commit([Shard.from_json(receipt.shard)])
    return receipt


def test_guidance_is_what_was_used(store_uri: str) -> None:
    """Of an upscaled row that of the upper stage, which the row need not name."""
    upper = StageRecord(2, 10, 1.0, 250, "float32", 8)
    states = [dataclasses.replace(made(name), row=ROW | {"task": name}, stages=[upper]) for name in ("upscale", "edit")]
    written(states, options_for(store_uri))
    assert {name: row["guidance"] for name, row in results(store_uri).items()} == {"upscale": 1, "edit": 7}


def test_a_unit_is_pictures_rows_and_one_shard(store_uri: str) -> None:
    receipt = written([made("a"), made("b", error="there is no file x")], options_for(store_uri))
    assert (receipt.unit, receipt.ok, receipt.failed, receipt.evaluations) == (2, 1, 1, 68)
    found, store = results(store_uri), open_store(store_uri)
    good, bad = found["a"], found["b"]
    key = image_key("a", good["key"])
    assert good["image"] == {"bytes": None, "path": store.uri(key)} and good["image_uri"] == store.uri(key)
    data = store.read(key)
    assert hashlib.sha256(data).hexdigest() == good["sha256"]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), to_pixels(PICTURE))
    assert (good["status"], good["error"], good["width"], good["height"], good["steps"]) == ("ok", "", 8, 8, 34)
    assert (good["prompts"], good["negative_prompt"], good["sampler"]) == (["a one"], "a two", "ddpm")
    assert json.loads(good["parameters"]) == ROW
    assert (bad["status"], bad["error"], bad["image"], bad["sha256"]) == ("failed", "there is no file x", None, "")


@pytest.mark.parametrize(("images", "inline", "object_"), [("inline", True, False), ("both", True, True)])
def test_where_the_bytes_lie(tmp_path: Path, images: Any, inline: bool, object_: bool) -> None:
    written([made("a")], options_for(str(tmp_path), images=images))
    row = results(str(tmp_path))["a"]
    assert (hashlib.sha256(row["image"]["bytes"]).hexdigest() == row["sha256"]) == inline
    assert row["image"]["path"] and bool(row["image_uri"]) == object_
    assert (tmp_path / image_key("a", row["key"])).exists() == object_


def test_written_and_committed_twice_it_counts_once(tmp_path: Path) -> None:
    written([made("a")], options_for(str(tmp_path)))
    written([made("a")], options_for(str(tmp_path)))
    assert results(str(tmp_path)).keys() == {"a"}


def test_a_block_is_one_unit(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"units \[1, 2\]"):
        write_unit([made("a", unit=1), made("b", unit=2)], options_for(str(tmp_path)))


def test_a_pixel_that_was_uint8_comes_back_as_it_was() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    picture = pixels.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    assert np.array_equal(to_pixels(picture), pixels)


def test_values_beyond_the_range_are_cut_and_one_channel_is_grey() -> None:
    picture = np.array([[[-3.0, 0.0, 3.0]]], dtype=np.float32)
    assert to_pixels(picture).tolist() == [[[0, 0, 0], [128, 128, 128], [255, 255, 255]]]
