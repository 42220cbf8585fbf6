"""Maps of depth by a small random model of a real class: of the picture's size, from black to white, near is white."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

import darkroom
from darkroom.models.depth import StoredDepth, depth_map, farther_is_more, to_levels
from darkroom.models.errors import ModelError
from toy_control import save_net


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    backbone = Dinov2Config(
        image_size=28, patch_size=14, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        head_hidden_size=8, patch_size=14,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("depth")
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    DPTImageProcessor(size=size, do_resize=True, keep_aspect_ratio=False, ensure_multiple_of=14).save_pretrained(folder)
    return str(folder)


def test_a_map_is_of_the_pictures_size_and_the_same_again(folder: str) -> None:
    stored = StoredDepth.at(folder)
    picture = np.random.default_rng(1).integers(0, 256, (40, 32, 3), dtype=np.uint8)
    drawn = depth_map(stored, picture)
    assert (drawn.shape, drawn.dtype, drawn.min(), drawn.max()) == ((40, 32, 3), np.uint8, 0, 255)
    assert np.array_equal(drawn[..., :1].repeat(3, axis=2), drawn)
    assert np.array_equal(depth_map(stored, picture), drawn)


def test_a_network_sees_the_depth_of_a_rows_picture(folder: str, toy_sd: str, tmp_path: Path) -> None:
    model = darkroom.open_model(f"{toy_sd}/sd", control={"depth": save_net(tmp_path / "net")}, depth=folder)
    picture = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    plain = {"task": "text_to_image", "prompt": "a red one", "steps": 2}
    deep = {"net": "depth", "image": picture, "preprocess": "depth"}
    ready = {"net": "depth", "image": depth_map(StoredDepth.at(folder), picture)}
    images = darkroom.sample(model, [plain, *(plain | {"control": [use]} for use in (deep, ready))], capacity=4)
    without, drawn, given = map(np.array, images)
    assert np.array_equal(drawn, given) and not np.array_equal(drawn, without)
    with pytest.raises(ModelError, match="is no depth model: its config.json names CLIPTextModel"):
        shutil.copy(Path(folder) / "preprocessor_config.json", tmp_path)
        shutil.copy(Path(toy_sd) / "sd" / "text_encoder" / "config.json", tmp_path)
        darkroom.open_model(f"{toy_sd}/sd", depth=str(tmp_path))


def test_near_is_white() -> None:
    depth = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
    assert to_levels(depth, (2, 2), farther_is_more=False)[..., 0].tolist() == [[0, 64], [128, 255]]
    assert to_levels(depth, (2, 2), farther_is_more=True)[..., 0].tolist() == [[255, 191], [128, 0]]
    assert not to_levels(torch.ones(1, 1, 2, 2), (4, 4), farther_is_more=False).any(), "all is equally far"
    kinds = {"dpt": False, "glpn": True, "depth_anything": False, "zoedepth": True}
    assert {name: farther_is_more(SimpleNamespace(model_type=name)) for name in kinds} == kinds
    assert farther_is_more(SimpleNamespace(model_type="depth_anything", depth_estimation_type="metric"))


def test_a_folder_that_holds_none_says_so(folder: str, tmp_path: Path, toy_sd: str) -> None:
    with pytest.raises(ModelError, match="holds no depth model: it has no config.json and no preprocessor_config.json"):
        StoredDepth.at(str(tmp_path))
    stored = StoredDepth(folder, "0" * 64)
    with pytest.raises(ModelError, match="was 0000000000000000 when the run began, and .* lies at .* now"):
        depth_map(stored, np.zeros((8, 8, 3), np.uint8))
