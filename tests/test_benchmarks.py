"""The GPU script on a processor, tiny, without the packages that a machine with a GPU may lack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from darkroom.models.catalog import open_model
from darkroom.training.data import load_images, sample_uri
from darkroom.training.idx import write_idx

ROOT = Path(__file__).parents[1]
BARE = """
import runpy, sys

class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ray", "diffusers", "pyarrow", "safetensors", "boto3", "pydantic", "transformers"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Lacking())
sys.path.insert(0, "benchmarks")
sys.argv[0] = "benchmarks/train_gpu.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_gpu_script_runs_everywhere_and_leaves_a_model(tmp_path: Path) -> None:
    images = load_images(sample_uri(), "train")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(write_idx(images.images[..., 0]))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(write_idx(images.labels.astype("uint8")))
    given = ["--tiny", "--mnist", str(tmp_path), "--out", str(tmp_path / "model"), "--json", str(tmp_path / "found")]
    done = subprocess.run([sys.executable, "-c", BARE, *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
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
