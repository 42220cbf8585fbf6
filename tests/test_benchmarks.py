"""The benchmarks, tiny: the GPU scripts on a processor, without the packages that a machine with a GPU may lack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from darkroom.models.catalog import open_model
from darkroom.training.data import load_images, sample_uri
from darkroom.training.idx import write_idx

ROOT = Path(__file__).parents[1]
BARE = """
import runpy, sys

class Lacking:
    lacks = set(sys.argv.pop(1).split(","))

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.lacks:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Lacking())
sys.path.insert(0, "benchmarks")
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
OURS = "ray,boto3,pydantic"


def run(script: str, lacks: str, *given: str) -> None:
    command = [sys.executable, "-c", BARE, lacks, f"benchmarks/{script}", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


IF_TINY = ("--device", "cpu", "--tiny", "--seconds", "0", "--rows", "6", "--loop-rows", "1", "--mix-capacity", "4")


def test_the_if_script_runs_everywhere_and_all_arms_make_the_same_pictures(tmp_path: Path) -> None:
    path = tmp_path / "found"
    run("if_gpu.py", OURS, *IF_TINY, "--models", "IF-II-M", "--capacities", "2", "--json", str(path))
    found = json.loads(path.read_text())
    assert found["mix"]["C off"]["images_per_second"] > 0 and found["mix"]["A"]["rows"] == 1
    assert found["mix"]["C off"]["ran"] == "off" and found["mix"]["C over A"] > 0
    assert 0 < found["mix"]["differences"]["text_to_image"] < 2e-3
    (line,) = found["forward"]
    assert line["capacity"] == 2 and line["evaluations_per_second"] > 0 and line["share"] > 0
    assert line["parameters"] > 0 and line["foretold_gb"] > 4 * line["parameters"] / 1e9


def test_the_if_script_takes_half_precision_and_tries_things(tmp_path: Path) -> None:
    """As on a GPU: pictures come as float32 from bfloat16 weights, far apart without a fault."""
    path, tries = tmp_path / "found", ["plain", "fused+cudnn", "nhwc"]
    shown = ["--models", "IF-I-M", "--capacities", "2", "--dtype", "bfloat16", "--try", *tries]
    run("if_gpu.py", OURS, *IF_TINY, *shown, "--json", str(path))
    found = json.loads(path.read_text())
    assert found["mix"]["differences"]["text_to_image"] > 2e-3 and found["mix"]["C off"]["images_per_second"] > 0
    assert [line["try"] for line in found["forward"]] == tries[:2]
    copies = {name: sum(counts.values()) for name, counts in found["layout"]["IF-I-M"].items()}
    assert 0 < copies["fused"] < copies["plain"]


def test_the_if_script_keeps_what_it_has_when_its_time_is_over(tmp_path: Path) -> None:
    path = tmp_path / "found"
    shown = ["--quick", "--limit", "0", "--only", "forward", "--capacities", "2", "4", "--modes", "off"]
    run("if_gpu.py", OURS, *IF_TINY, *shown, "--json", str(path))
    found = json.loads(path.read_text())
    assert found["forward"] == [] and found["matmul_tflops"] > 0
    assert found["left_out"] == [f"IF-I-XL plain, capacity {capacity}, off" for capacity in (2, 4)]


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_arms_that_differ_are_a_fault_in_float32_only(dtype: torch.dtype) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from if_gpu import Made, compare
    finally:
        sys.path.pop(0)
    row, picture = {"id": "a", "task": "text_to_image"}, torch.zeros(3, 4, 4)
    made = {name: Made(images={"a": picture + off}) for name, off in (("A", 0.0), ("B", 0.0), ("C", 0.08))}
    if dtype == torch.float32:
        with pytest.raises(AssertionError, match="a differs by 0.08"):
            compare(made, [row], dtype)
    else:
        assert compare(made, [row], dtype) == {"text_to_image": pytest.approx(0.08)}


def test_the_gpu_script_runs_everywhere_and_leaves_a_model(tmp_path: Path) -> None:
    images = load_images(sample_uri(), "train")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(write_idx(images.images[..., 0]))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(write_idx(images.labels.astype("uint8")))
    given = ["--tiny", "--mnist", str(tmp_path), "--out", str(tmp_path / "model"), "--json", str(tmp_path / "found")]
    run("train_gpu.py", f"{OURS},pyarrow,diffusers,safetensors,transformers", *given)
    found = json.loads((tmp_path / "found").read_text())
    assert found["course"][0]["images_per_second"] > 0 and found["engine"][0]["evaluations_per_second"] > 0
    assert found["cifar"]["epoch_seconds"] > 0 and 0 <= found["mnist"]["accuracy"] <= 1
    model = open_model(str(tmp_path / "model"))
    assert (model.conditioning, model.num_classes, model.default_size) == ("label", 10, 28)
    network = model.load()
    for name, tensor in load_file(tmp_path / "model" / "model.safetensors").items():
        assert torch.equal(network.state_dict()[name], tensor), name


def test_the_classifier_it_rebuilds_is_ours() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from train_gpu import _judged
    finally:
        sys.path.pop(0)
    sample = load_images(sample_uri(), "test")
    pictures = torch.from_numpy(sample.images[:200]).permute(0, 3, 1, 2).float() / 127.5 - 1
    right = sum(found == wanted for found, wanted in zip(_judged(pictures), sample.labels[:200].tolist(), strict=True))
    assert right >= 195


TEXT = {"task": "text_to_image", "prompt": "a red two", "negative_prompt": "blue", "seed": 1, "guidance": 5, "steps": 3}
GIVEN = TEXT | {"image": "inputs/seven-red-on-white.png", "strength": 0.7}
LATENT = [
    *(TEXT | {"sampler": sampler} for sampler in ("ddim", "euler", "dpmpp_2m", "unipc")),
    TEXT | {"sampler": "euler", "karras": True, "steps": 4},
    TEXT | {"sampler": "dpmpp_2m", "spacing": "trailing", "guidance_rescale": 0.7},
    GIVEN | {"task": "image_to_image"},
    GIVEN | {"task": "inpaint", "mask": "inputs/mask-box-48.png"},
]


@pytest.mark.parametrize("shape", ["sd-xs", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd15", "sdxl"))])
def test_the_latent_script_runs_everywhere_and_makes_diffusers_pictures(tmp_path: Path, shape: str) -> None:
    rows, path = tmp_path / "rows.jsonl", tmp_path / "found"
    rows.write_text("".join(json.dumps(row) + "\n" for row in LATENT))
    given = ["--shape", shape, "--tiny", "--rows-from", str(rows), "--rows", "10", "--rounds", "1", "--capacity", "4"]
    run("latent.py", OURS, *given, "--json", str(path))
    found = json.loads(path.read_text())
    assert found["difference"] < 5e-3 and found["adapters"].keys() == {"1", "8"} and found["decoding_added"] < 1
    assert {name: arm["rows"] for name, arm in found["table"].items()} == {"A": 8, "B": 10, "C": 10}
    assert found["table"]["C"]["of_A"] > 0


@pytest.mark.slow
def test_the_latent_script_takes_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    command = [sys.executable, "benchmarks/latent.py", "--write-rows", str(path)]
    subprocess.run(command, cwd=ROOT, check=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) >= 40 and {row["task"] for row in rows} == {"text_to_image", "image_to_image", "inpaint"}
    assert not any("resample" in row or "clip_skip" in row for row in rows)


@pytest.mark.slow
def test_a_job_makes_the_pictures_of_the_bare_engine(tmp_path: Path) -> None:
    asked = ["--rows", "16", "--rounds", "1", "--free", "--json", str(tmp_path / "found")]
    done = subprocess.run([sys.executable, "benchmarks/job.py", *asked], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "found").read_text())["rounds"][0]["same"] == 16


@pytest.mark.slow
def test_the_embedded_control_network_is_followed() -> None:
    """The bounds are those that its card states for 200 pictures, less three standard errors of 60."""
    command = [sys.executable, "benchmarks/control.py", "--rows", "60"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = {line[:18].strip(): line[18:].split() for line in done.stdout.splitlines()[1:]}
    followed, free = ([float(share[:-1]) for share in lines[name]] for name in ("with the network", "without"))
    assert followed[0] >= 85 and followed[4] >= 90 and followed[5] >= 85
    assert followed[4] > free[4] + 10


@pytest.mark.slow
def test_the_studio_on_a_small_run(tmp_path: Path) -> None:
    for _ in range(2):  # made, and used again
        asked = ["--rows", "300", "--out", str(tmp_path / "run")]
        command = [sys.executable, "benchmarks/studio.py", *asked]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        table = {line[:22].strip(): line.split()[-1] for line in done.stdout.splitlines()}
        assert table["open"] == "300" and table["filter: task, flag"] == "3" and table["sort: score"] == "300"
