"""CogVideoX' and Wan's layouts, at toy size, through a real Ray: a whole manifest each, its run audited and resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest

from darkroom.batch.generate import run
from darkroom.batch.options import Options
from darkroom.manifest import ManifestError
from darkroom.report.page import write_report
from darkroom.runs.audit import audit
from darkroom.runs.maintenance import clean
from darkroom.storage import image_key_of, open_store
from runs import pictures, results, tree, write_manifest
from toy_video import save_toy_video

TEXT = {"task": "text_to_video", "prompt": "a red one", "steps": 4, "width": 48, "height": 32, "frames": 9}
ROWS: list[dict[str, Any]] = [
    {**TEXT, "id": "text"},
    {**TEXT, "id": "seed", "seed": 4, "negative_prompt": "a blue two"},
    {**TEXT, "id": "tall", "width": 32, "height": 48, "frames": 17},
    {**TEXT, "id": "unguided", "guidance": 1},
]
OWN: dict[str, list[dict[str, Any]]] = {
    "cogvideox-5b": [{**TEXT, "id": "ddim", "sampler": "ddim"}],
    "wan22": [{**TEXT, "id": "second", "guidance_2": 2}, {**TEXT, "id": "euler", "sampler": "euler"}],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cogvideox-5b", "wan22"])
def test_a_whole_manifest(tmp_path: Path, shared_ray: None, kind: Any) -> None:
    model = str(save_toy_video(tmp_path / kind, kind))
    rows = ROWS + OWN[kind]
    manifest = write_manifest(tmp_path, rows)
    options = Options(manifest, str(tmp_path / "run"), model=model, capacity=2, unit_rows=2)
    outcome = run(options, lambda line: None)
    found, store = results(options.out), open_store(options.out)
    assert (outcome.rows, outcome.failed) == (len(rows), 0), [row["error"] for row in found.values()]
    for row in rows:
        result = found[row["id"]]
        with av.open(result["video_uri"]) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert len(frames) == result["frames"] == row["frames"]
        assert frames[0].shape[:2] == (result["height"], result["width"]) == (row["height"], row["width"])
        assert result["evaluations"] == (4 if row.get("guidance") == 1 else 8)
    assert len({store.read(image_key_of(row["video_uri"])) for row in found.values()}) == len(rows)
    assert list(store.list("latents/")) == [] and audit(options.out).passed
    assert "nothing in" in clean(options.out, remove=True)
    write_report(options.out)
    assert store.read("report/index.html").count(b"<video controls loop muted") == len(rows)

    files, made = tree(tmp_path / "run" / "images"), pictures(options.out)
    single = replace(options, manifest=write_manifest(tmp_path, rows[1:2], "single.jsonl"), out=str(tmp_path / "one"))
    assert run(single, lambda line: None).failed == 0
    assert pictures(single.out)["seed"] == made["seed"], "alone, it has other bytes"
    again = run(options, lambda line: None)
    assert (again.made, tree(tmp_path / "run" / "images"), pictures(options.out)) == (0, files, made)

    bad = [*rows, {**TEXT, "id": "odd", "frames": 10}]
    with pytest.raises(ManifestError, match="line .*'frames' must be one more than a multiple of .*, was 10"):
        run(replace(options, manifest=write_manifest(tmp_path, bad, "bad.jsonl")), lambda line: None)
