"""Memory found on the meta device is what a pass holds: counted by hand, and measured on a processor."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from darkroom.models import sd3_flux, stable_diffusion
from darkroom.models.catalog import open_model
from darkroom.models.deepfloyd import PARAMETERS, T5_XXL, UNET_SHAPES
from darkroom.models.memory import Memory, count_flops, measure, most_adapter_bytes, peak_bytes
from darkroom.models.mmdit import build_transformer

META = torch.device("meta")


def test_the_peak_of_a_known_graph() -> None:
    def run() -> torch.Tensor:
        x = torch.empty(1000, device=META)  # 4,000 bytes
        doubled = x * 2
        view = doubled.view(10, 100)  # nothing
        added = view + 1  # 12,000 in all
        del x, doubled, view
        added.relu_()
        return torch.cat([added, added]).half()  # 4,000 + 8,000 + 4,000

    assert peak_bytes(run) == 16_000


def test_attention_keeps_no_matrix() -> None:
    query = torch.empty(1, 1, 4096, 8, device=META)
    assert peak_bytes(lambda: nn.functional.scaled_dot_product_attention(query, query, query)) == 4096 * 8 * 4


def test_weights_are_counted_once() -> None:
    with META:
        module = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))
        module[1].weight = module[0].weight
    assert measure(module, lambda: module(torch.empty(3, 10, device=META))) == Memory(400, 3 * 120)


@pytest.mark.parametrize("number", [1, 2])
def test_a_stage_needs_what_it_is_seen_to_hold(toy_deepfloyd: str, number: int) -> None:
    """The same pass on a processor, its own storages counted: meta tells the truth of real tensors."""
    model, capacity = open_model(toy_deepfloyd), 4
    size = model.stages[number - 1].size
    predictor = model.predictor(number, torch.device("cpu"))
    zeros = torch.zeros(capacity, dtype=torch.int64)

    def run() -> None:
        predictor(torch.zeros(capacity, 3 * number, size, size), zeros, torch.zeros(capacity, 77, 32), zeros)

    needed = model.memory(number, "float32", capacity)
    assert needed.weights == sum(p.numel() * 4 for p in predictor.unet.parameters())
    assert needed.activations == pytest.approx(peak_bytes(run), rel=0.02)
    half, more = model.memory(number, "bfloat16", capacity), model.memory(number, "float32", 2 * capacity)
    assert half.weights * 2 == needed.weights and half.activations < needed.activations
    assert more.activations == pytest.approx(2 * needed.activations, rel=0.05)


def test_the_upscaler_decodes_one_picture_in_full_precision(toy_deepfloyd: str) -> None:
    model = open_model(toy_deepfloyd)
    vae = model.predictor(3, torch.device("cpu")).latents.vae
    full, half = model.memory(3, "float32", 1), model.memory(3, "bfloat16", 1)
    held = full.weights - 2 * (full.weights - half.weights)
    assert held == sum(p.numel() * 4 for p in vae.parameters())  # what half precision does not halve
    picture = 3 * 64 * 64 * 4
    assert half.activations > picture
    assert sum(model.encoder_memory("stage3", "bfloat16", 1)) > 0


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_shapes_have_the_published_number_of_parameters(name: str) -> None:
    with META:
        unet = UNet2DConditionModel.from_config(UNET_SHAPES[name])
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(PARAMETERS[name], rel=0.08)


@pytest.mark.parametrize("name", stable_diffusion.PARAMETERS)
def test_stable_diffusion_has_the_published_number_of_parameters(name: str) -> None:
    with META:
        unet = UNet2DConditionModel.from_config(stable_diffusion.UNET_SHAPES[name])
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(stable_diffusion.PARAMETERS[name], rel=1e-3)


@pytest.mark.parametrize("name", sd3_flux.PARAMETERS)
def test_transformers_have_the_published_number_of_parameters(name: str) -> None:
    with META:
        transformer = build_transformer(sd3_flux.TRANSFORMER_SHAPES[name])
    assert sum(p.numel() for p in transformer.parameters()) == pytest.approx(sd3_flux.PARAMETERS[name], rel=1e-3)


def test_t5_has_as_many_bytes_as_the_hub_says() -> None:
    """IF's half precision T5 is 11.5 GB: 4.76 B numbers in two bytes, but those of `wo` in four."""
    from transformers import T5Config, T5EncoderModel

    from darkroom.models.weights import in_dtype

    with META:
        encoder = in_dtype(T5EncoderModel(T5Config(**T5_XXL)), "float16", ("wo",))
    assert measure(encoder, lambda: None).weights == pytest.approx(11.5e9, rel=0.01)


def test_operations_are_counted() -> None:
    with META:
        module = nn.Linear(10, 20, bias=False)
    assert count_flops(lambda: module(torch.empty(3, 10, device=META))) == 2 * 3 * 10 * 20


@pytest.mark.parametrize("number", [1, 2])
def test_an_evaluation_costs_what_a_pass_is_seen_to_compute(toy_deepfloyd: str, number: int) -> None:
    model = open_model(toy_deepfloyd)
    stage, width = model.stages[number - 1], 32
    predictor, zeros = model.predictor(number, torch.device("cpu")), torch.zeros(2, dtype=torch.int64)
    x = torch.zeros(2, 3 * number, stage.size, stage.size)
    counted = count_flops(lambda: predictor(x, zeros, torch.zeros(2, 77, width), zeros))
    # The fused attention of a processor is not counted; on the meta device all of it is.
    assert 0.7 < counted / (2 * model.evaluation_flops(number)) <= 1


def test_adapters_take_a_share_of_what_a_process_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is mostly named without an index, which torch takes for the current one in some places only."""

    def fraction(device: int | None = None) -> float:
        return 1.0 if device is None else (0.25, 0.5)[torch.cuda._utils._get_device_index(device)]

    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", fraction)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=1000))
    asked = {name: most_adapter_bytes(torch.device(name)) for name in ("cpu", "cuda", "cuda:1")}
    assert asked == {"cpu": math.inf, "cuda": 100, "cuda:1": 50}
