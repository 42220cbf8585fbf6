"""A small run, and its exports made in this process: what Ray Data's tasks do, one after the other."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from darkroom.export.cards import write_cards
from darkroom.export.job import ShardJob, _block, claim, claimed, receipts_of, write_block
from darkroom.export.plan import ExportOptions, make_plan
from darkroom.runs import to_table
from darkroom.runs.reading import read_run_record
from darkroom.storage import image_key, open_store
from runs import commit, png, result

HOSTILE = "</table> | `<script>` ```\n# not a heading\n---"
PROMPTS = ["a red seven", "a blue two", HOSTILE, "ein Maß, 七", "a red seven"]
SCORES = {"scorer": "clip", "revision": "1", "matrix": [[0.5]], "alignment": 0.5, "concealment": None}
RECORD = {
    "plan": "0" * 8,
    "manifest": {},
    "model": {"name": "if-xs", "revision": "6844c1e1"},
    "options": {},
    "created_at": "2026-11-27T14:25:06+00:00",
    "code": "0.1.0",
}


def row(number: int, uri: str, inline: bool = False) -> dict[str, Any]:
    """A good row of the run at `uri`, with a picture of noise that lies there already."""
    store, row_id, key = open_store(uri), f"folder/row {number}", f"{number:032x}"
    data, place = png(8 + number % 2 * 8, seed=number), image_key(row_id, key)
    if not inline:
        store.write(place, data)
    stage = {"stage": 1, "steps": 4, "guidance": 7.0, "noise_level": None, "dtype": "float32", "capacity": 32}
    size = 8 + number % 2 * 8
    return result(
        {"id": row_id, "key": key, "row": {"task": "text_to_image"}},
        image={"bytes": data if inline else None, "path": place},
        image_uri="" if inline else store.uri(place),
        sha256=hashlib.sha256(data).hexdigest(),
        width=size,
        height=size,
        prompts=[PROMPTS[number % len(PROMPTS)]],
        negative_prompt="" if number % 2 else "blurred",
        seed=number,
        steps=4,
        guidance=7.0,
        sampler="ddpm",
        parameters=json.dumps({"task": "text_to_image", "prompt": PROMPTS[number % len(PROMPTS)], "seed": number}),
        stages=json.dumps([stage]),
        controls="[]",
        scores=json.dumps(SCORES) if number == 3 else "{}",
        alignment=0.5 if number == 3 else None,
        model="if-xs",
        model_revision="6844c1e1",
        source_uri=f"{uri}/secret-place.png",
        worker="my-host:cpu",
        attempts=1,
        evaluations=4,
        seconds=0.1,
    )


def make_run(uri: str, count: int = 20, inline: bool = False) -> str:
    """A run of so many good rows and a failed one, in two files. Its uri."""
    store = open_store(uri)
    store.write("run.json", json.dumps(RECORD).encode())
    rows = [row(number, uri, inline) for number in range(count)]
    failed = result({"id": "failed", "key": "f" * 32, "row": {"task": "inpaint"}}, "failed", error="no file")
    failed |= {"parameters": "{}", "stages": "[]", "controls": "[]", "scores": "{}", "attempts": 1}
    commit(store, "first", to_table(rows[: count // 2]))
    commit(store, "second", to_table([*rows[count // 2 :], failed]))
    return uri


def export_here(options: ExportOptions) -> list[str]:
    """The job without Ray: the names of the shards that it wrote. Raises what a worker met as AssertionError."""
    run, out = open_store(options.run), open_store(options.out)
    plan = make_plan(options, run, claimed(out).get("bytes_per_pixel"))
    claim(out, options, plan)
    done = receipts_of(out, plan, options)
    todo = [shard for shard in plan.shards if shard.name not in done]
    for shard in todo:
        (answer,) = write_block(
            _block(shard, plan), ShardJob(run.root, out.root, options.format, options.png_text)
        ).to_pylist()
        assert not answer["error"], answer["error"]
    done = receipts_of(out, plan, options)
    write_cards(out, options, plan, read_run_record(run), [done[shard.name] for shard in plan.shards])
    return [shard.name for shard in todo]


def options_of(run: str, out: Path | str, format: str, **more: Any) -> ExportOptions:
    """Two shards of train, with 12 rows of the run above, and two of test, with 8."""
    size = {"webdataset": 25_000, "imagefolder": 8_500}.get(format, 5_000)
    options = ExportOptions(run, str(out), format, splits=(("train", 0.7), ("test", 0.3)), shard_bytes=size)
    return replace(options, **more)
