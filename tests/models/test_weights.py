"""Weights come from any of the layouts of the hub, and every way in which files are wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from darkroom.models.errors import ModelError
from darkroom.models.sources import LocalFolder
from darkroom.models.weights import DIFFUSERS, TRANSFORMERS, in_dtype, load_module, weight_files

CPU = torch.device("cpu")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))


def saved(folder: Path, state: dict[str, torch.Tensor], name: str = "diffusion_pytorch_model.safetensors") -> Path:
    (folder / "unet").mkdir(exist_ok=True)
    save_file(state, folder / "unet" / name)
    return folder / "unet" / name


def loaded(folder: Path, dtype: str = "float32") -> nn.Module:
    return load_module(LocalFolder(str(folder)), "unet", DIFFUSERS, Small, CPU, dtype)


def test_the_files_are_those_that_fit_the_dtype(toy_deepfloyd: str) -> None:
    source = LocalFolder(f"{toy_deepfloyd}/stage1")
    assert weight_files(source, "unet", DIFFUSERS, "float32") == ["unet/diffusion_pytorch_model.safetensors"]
    assert weight_files(source, "unet", DIFFUSERS, "bfloat16") == ["unet/diffusion_pytorch_model.fp16.safetensors"]
    index, *shards = weight_files(source, "text_encoder", TRANSFORMERS, "float32")
    assert index == "text_encoder/model.safetensors.index.json" and len(shards) > 2
    index, *shards = weight_files(source, "text_encoder", TRANSFORMERS, "float16")
    assert index == "text_encoder/model.safetensors.index.fp16.json"
    assert all(shard.startswith("text_encoder/model.fp16-0000") for shard in shards) and len(shards) == 2


def test_what_is_there_is_taken_and_cast(tmp_path: Path) -> None:
    state = Small().state_dict()
    half = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    saved(tmp_path, half, "diffusion_pytorch_model.fp16.safetensors")
    module = loaded(tmp_path)  # no full precision there: better than nothing, and the revision tells them apart
    assert module.last.weight.dtype == torch.float32 and torch.equal(module.last.weight, half["last.weight"].float())
    assert module.count.dtype == torch.int64 and not module.training and not module.last.weight.requires_grad
    saved(tmp_path, state)
    assert torch.equal(loaded(tmp_path).last.weight, state["last.weight"])
    assert torch.equal(loaded(tmp_path, "bfloat16").last.weight, half["last.weight"].bfloat16())


def test_one_tensor_that_two_parameters_share_lies_in_the_files_once(toy_deepfloyd: str) -> None:
    source = LocalFolder(f"{toy_deepfloyd}/stage1")
    config = T5Config.from_dict(json.loads(source.read("text_encoder/config.json")))
    module = load_module(source, "text_encoder", TRANSFORMERS, lambda: T5EncoderModel(config), CPU, "float32")
    assert module.shared.weight.data_ptr() == module.encoder.embed_tokens.weight.data_ptr()
    assert not any(parameter.is_meta for parameter in module.parameters())


def test_names_of_older_files_are_understood(tmp_path: Path) -> None:
    query = torch.randn(4, 4, 1, 1)  # a convolution of one pixel
    saved(tmp_path, {"a.query.weight": query, "a.query.bias": torch.zeros(4)})
    build = lambda: nn.ModuleDict({"a": nn.ModuleDict({"to_q": nn.Linear(4, 4)})})  # noqa: E731
    module = load_module(LocalFolder(str(tmp_path)), "unet", DIFFUSERS, build, CPU, "float32")
    assert torch.equal(module["a"]["to_q"].weight, query[:, :, 0, 0])


def test_the_upscalers_text_encoder_is_read_under_its_older_names(toy_deepfloyd: str) -> None:
    source = LocalFolder(f"{toy_deepfloyd}/stage3")
    names = load_file(source.root / "text_encoder/model.safetensors")
    assert all(name.startswith("text_model.") for name in names)  # as in the hub; today's class has no such part
    config = CLIPTextConfig.from_dict(json.loads(source.read("text_encoder/config.json")))
    clip = load_module(source, "text_encoder", TRANSFORMERS, lambda: CLIPTextModel(config), CPU, "float32")
    assert clip.embeddings.position_ids.tolist() == [list(range(77))]


def test_files_that_are_wrong_are_named(tmp_path: Path) -> None:
    state = Small().state_dict()
    with pytest.raises(
        ModelError, match="the model has no file .*unet/diffusion_pytorch_model.safetensors, nor an index"
    ):
        loaded(tmp_path)
    saved(tmp_path, {name: t for name, t in state.items() if not name.startswith("last")})
    with pytest.raises(ModelError, match="unet lacks the tensor 'last.bias' and 1 more, which the model's config.json"):
        loaded(tmp_path)
    saved(tmp_path, state | {"other": torch.zeros(1)})
    with pytest.raises(
        ModelError, match="model.safetensors holds a tensor 'other', for which .* config.json has no place"
    ):
        loaded(tmp_path)
    saved(tmp_path, state | {"last.weight": torch.zeros(3, 4)})
    with pytest.raises(ModelError, match=r"the tensor 'last.weight' is \[3, 4\], and config.json wants \[2, 4\]"):
        loaded(tmp_path)
    saved(tmp_path, state | {"last.weight": torch.zeros(4, 2)})  # as many numbers, and still not what is wanted
    with pytest.raises(ModelError, match=r"the tensor 'last.weight' is \[4, 2\], and config.json wants \[2, 4\]"):
        loaded(tmp_path)
    path = saved(tmp_path, state)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelError, match="model.safetensors is damaged .*: fetch it again"):
        loaded(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="model.safetensors is damaged"):
        loaded(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    index = tmp_path / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"last.weight": "diffusion_pytorch_model-00001-of-00001.safetensors"}}))
    with pytest.raises(ModelError, match="no file .*unet/diffusion_pytorch_model-00001-of-00001.safetensors"):
        loaded(tmp_path)
    index.write_text("{}")
    with pytest.raises(ModelError, match="index.json has no 'weight_map'"):
        loaded(tmp_path)


def test_t5_keeps_in_full_what_half_precision_cannot_hold() -> None:
    config = T5Config(
        vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    kept = {
        name
        for name, p in in_dtype(T5EncoderModel(config), "float16", ("wo",)).named_parameters()
        if p.dtype != torch.float16
    }
    assert kept == {"encoder.block.0.layer.1.DenseReluDense.wo.weight"}
    assert {p.dtype for p in in_dtype(T5EncoderModel(config), "bfloat16", ("wo",)).parameters()} == {torch.bfloat16}
