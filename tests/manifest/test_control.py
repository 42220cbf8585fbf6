"""`control` in a manifest: what a row may say of control networks, its canonical form and key, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from darkroom.batch.planned_rows import Maker, ReadRows
from darkroom.manifest import Abilities, ManifestError, open_manifest
from darkroom.manifest.csv_files import NESTED_FIELDS, SWITCHES
from darkroom.manifest.tasks import parse_task
from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.stage import Stage
from runs import write_manifest

ROW = {"task": "text_to_image", "prompt": "a red seven", "steps": 10}
USE = {"net": "canny", "image": "a.png"}
SD = Abilities("sd", (512,), 512, "text", "diffusion", 1000, latent=True, step=8, nets=("canny", "depth"))


def canonical(*uses: dict[str, Any], **more: Any) -> dict[str, Any]:
    return parse_task(ROW | {"control": list(uses)} | more).canonical()


def test_canonical_form() -> None:
    whole = {"scale": 1, "start": 0, "end": 1}
    assert canonical(USE)["control"] == [USE | {"preprocess": "none"} | whole]
    edges = canonical(USE | {"preprocess": "canny", "high": 150.0, "scale": 0.5})["control"]
    assert edges == [USE | {"preprocess": "canny", "low": 100, "high": 150} | whole | {"scale": 0.5}]
    row = canonical(USE | {"net": "z"}, USE | {"preprocess": "canny"}, fit="pad", guess_mode=True)
    assert [use["net"] for use in row["control"]] == ["canny", "z"]
    assert (row["fit"], row["guess_mode"]) == ("pad", True)
    assert parse_task(row).canonical() == row, "it is a row that asks for the same"
    plain = parse_task(ROW).canonical()
    assert not {"control", "guess_mode", "fit"} & plain.keys()
    assert parse_task(ROW | {"control": [], "guess_mode": False}).canonical() == plain
    assert "control" in NESTED_FIELDS and "guess_mode" in SWITCHES


def test_the_key_holds_what_a_network_is_and_not_what_it_is_called() -> None:
    def key(*uses: dict[str, Any], nets: dict[str, str], depth: str = "") -> str:
        task = parse_task(ROW | {"control": list(uses)})
        maker = Maker("r", (), 512, (), nets=tuple(nets.items()), depth=depth)
        return maker.key(task, task.canonical())

    one = key(USE, nets={"canny": "1"})
    assert one == key(USE | {"net": "b"}, nets={"a": "2", "b": "1"})
    assert one != key(USE, nets={"canny": "2"})
    changes = [{"scale": 0}, {"start": 0.1}, {"end": 0.5}, {"image": "b.png"}, {"preprocess": "canny"}]
    assert len({one, *(key(USE | change, nets={"canny": "1"}) for change in changes)}) == 6
    deep = USE | {"preprocess": "depth"}
    assert len({key(deep, nets={"canny": "1"}, depth=depth) for depth in "ab"}) == 2
    assert one == key(USE, nets={"canny": "1"}, depth="b")
    pair = (USE, USE | {"net": "z", "scale": 0.5})
    assert key(*pair, nets={"canny": "1", "z": "2"}) == key(*reversed(pair), nets={"canny": "1", "z": "2"})


@pytest.mark.parametrize("beside", [{"adapters": (("a", "1"),)}, {"nets": (("a", "1"),)}, {"depth": "1"}])
def test_a_run_is_planned_anew_where_another_file_lies_under_the_same_name(tmp_path: Path, beside: Any) -> None:
    uri = write_manifest(tmp_path, [ROW])
    stage = Stage(1, 512, 4, Diffusion.scaled_linear(), factor=8, step=8)
    makers = [Maker("r", (stage,), 512, ("text",)), Maker("r", (stage,), 512, ("text",), **beside)]
    marks = [ReadRows(uri, SD, maker).mark["from"] for maker in (*makers, makers[1])]
    assert marks[0] != marks[1] == marks[2]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (ROW | {"control": [{"net": "canny"}]}, "control 1: 'image' is missing"),
        (ROW | {"control": [USE | {"net": "cany"}]}, "network 'cany' is none that was given, did you mean 'canny'?"),
        (ROW | {"control": [USE | {"net": "pose"}]}, "'pose' is none that was given: give it with --control pose=URI"),
        (ROW | {"control": [USE | {"preprocess": "depth"}]}, "there is no model of depth: give one with --depth URI"),
        (
            ROW | {"control": [USE | {"preprocess": "canny", "low": 200}, USE | {"net": "depth", "low": 1}]},
            "control 2: 'low' is a threshold of canny, and 'preprocess' is 'none'",
        ),
        (
            ROW | {"control": [USE | {"preprocess": "canny", "low": 250}]},
            "control 1: 'low' must not be above 'high', was 250 and 200",
        ),
        (ROW | {"control": [USE | {"start": 0.5, "end": 0.5}]}, "'start' must be below 'end', was 0.5 and 0.5"),
        (ROW | {"control": [USE, USE]}, "the control network 'canny' is given 2 times, wanted once"),
        (ROW | {"control": [USE | {"net": str(n)} for n in range(5)]}, "'control' must be at most 4, was 5"),
        (ROW | {"control": [USE | {"preproces": "canny"}]}, "control 1: unknown key 'preproces', did you mean 'prepro"),
        (ROW | {"control": [USE | {"steps": 3}]}, "control 1: unknown key 'steps', which 'control' does not take"),
        (ROW | {"adapters": [{"adapter": "a", "sclae": 3}]}, "adapter 1: unknown key 'sclae', did you mean 'scale'?"),
        (ROW | {"control": [USE | {"preprocess": "cany"}]}, "did you mean 'canny'?"),
        (ROW | {"control": [USE | {"scale": -1}]}, "control 1: 'scale' must be at least 0, was -1"),
        (ROW | {"guess_mode": True}, "'guess_mode' is given, and no 'control'"),
        (ROW | {"fit": "pad"}, "'fit' is given, and no picture"),
        (ROW | {"controlnet": [USE]}, "unknown key 'controlnet', did you mean 'control'?"),
        (
            {"task": "upscale", "prompt": "a", "image": "a.png", "control": [USE]},
            "unknown key 'control', which upscale does not take",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(tmp_path: Path, row: dict[str, Any], why: str) -> None:
    with pytest.raises(ManifestError) as raised:
        open_manifest(write_manifest(tmp_path, [row]), SD)
    assert why in str(raised.value)


def test_a_model_of_pixels_is_not_controlled(tmp_path: Path) -> None:
    pixels = Abilities("if-xs", (24, 48), 24, "text", "diffusion", 1000)
    with pytest.raises(ManifestError, match="'control' is for models of latents.* 'if-xs' works on pixels"):
        open_manifest(write_manifest(tmp_path, [ROW | {"control": [USE]}]), pixels)
