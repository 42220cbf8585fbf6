"""Weights in eight bits: which they are, what is computed with them, and that nobody else in a pass has a say in it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from darkroom.batch.capacity import empty_pass
from darkroom.batch.options import Options, encoder_dtype, refuse_wrong, stage_dtypes
from darkroom.batch.sample import sample
from darkroom.models import lacks_library, sd3_flux
from darkroom.models.adapter_files import StoredAdapter
from darkroom.models.adapters import adaptable_layers
from darkroom.models.catalog import open_model
from darkroom.models.errors import ModelError
from darkroom.models.mmdit import build_transformer
from darkroom.models.parts import build_network
from darkroom.models.quantized import in_eight_bits, layers_in_eight_bits
from darkroom.models.weights import in_dtype
from toy_mmdit import save_toy_mmdit
from toy_sd import save_toy_sd
from toy_video import save_toy_video

CPU = torch.device("cpu")
TOYS: dict[str, Callable[[Path], Any]] = {
    "sd": lambda folder: save_toy_sd(folder, "sd"),
    "sdxl": lambda folder: save_toy_sd(folder, "sdxl"),
    "sd3": lambda folder: save_toy_mmdit(folder, "sd3"),
    "flux": lambda folder: save_toy_mmdit(folder, "flux-dev"),
    "cogvideox": lambda folder: save_toy_video(folder, "cogvideox-5b"),
    "wan": lambda folder: save_toy_video(folder, "wan"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of all families, DeepFloyd IF apart."""
    folder = tmp_path_factory.mktemp("families")
    for name, save in TOYS.items():
        save(folder / name)
    return {name: str(folder / name) for name in TOYS}


@pytest.fixture(params=[*TOYS, "if", "if 2", "upscaler"])
def staged(request: pytest.FixtureRequest, folders: dict[str, str], toy_deepfloyd: str) -> tuple[Any, int]:
    """A model, and which of its stages."""
    number = {"if 2": 2, "upscaler": 3}.get(request.param, 1)
    return open_model(folders.get(request.param, toy_deepfloyd)), number


def network_of(predictor: Any) -> Any:
    return predictor.unet if hasattr(predictor, "unet") else predictor.transformer


def a_pass(model: Any, number: int, capacity: int = 3) -> tuple[Tensor, ...]:
    """Random questions, in the shapes of the engine's; of videos, small ones."""
    generator, stage = torch.Generator().manual_seed(5), model.stages[number - 1]
    x, times, *fields = empty_pass(stage, model.empty_fields(number), capacity)
    x = x[:, :, :3, :4, :6] if stage.video else x
    drawn = [torch.randn(t.shape, generator=generator) if t.is_floating_point() else t.clone() for t in (x, *fields)]
    return drawn[0], times + 400, *drawn[1:]


def held_in_fp8(network: nn.Module) -> dict[str, Tensor]:
    """What is held so, by the names of the layers."""
    return {
        name.removesuffix(".weight"): parameter
        for name, parameter in network.named_parameters()
        if parameter.dtype == torch.float8_e4m3fn and not name.endswith(".bias")
    }


def round_weights(network: nn.Module, names: Iterable[str]) -> None:
    """Of a network in bfloat16, to what fp8 can hold."""
    for name in names:
        weight = network.get_submodule(name).weight
        weight.data = weight.data.to(torch.float8_e4m3fn).bfloat16()


def test_the_layers_are_those_that_diffusers_casting_takes(staged: tuple[Any, int]) -> None:
    model, number = staged
    theirs = build_network(*model._network(number)).bfloat16()
    theirs.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    wanted = {name for name in held_in_fp8(theirs) if not isinstance(theirs.get_submodule(name), nn.Embedding)}
    found = held_in_fp8(network_of(model.predictor(number, CPU, "fp8")))
    assert found.keys() == wanted and len(found) > 5


@torch.inference_mode()
def test_it_answers_as_the_rounded_weights_do(staged: tuple[Any, int]) -> None:
    model, number = staged
    held, plain = (model.predictor(number, CPU, dtype) for dtype in ("fp8", "bfloat16"))
    asked = a_pass(model, number)
    unrounded = plain(*asked)
    round_weights(network_of(plain), held_in_fp8(network_of(held)))
    assert held.dtype == torch.bfloat16
    assert torch.equal(held(*asked), plain(*asked))
    assert not torch.equal(held(*asked), unrounded)


def test_what_is_held_lies_where_it_lay_after_a_pass(folders: dict[str, str]) -> None:
    """A CUDA graph reads it there."""
    model = open_model(folders["sd3"])
    predictor = model.predictor(1, CPU, "fp8")
    before = {name: weight.data_ptr() for name, weight in held_in_fp8(predictor.transformer).items()}
    with torch.inference_mode():
        predictor(*a_pass(model, 1))
    assert before == {name: weight.data_ptr() for name, weight in held_in_fp8(predictor.transformer).items()}


def test_the_bytes_are_foretold(staged: tuple[Any, int]) -> None:
    """One of each weight in eight bits, two of the others, and what Wan keeps whole; the VAE's beside them."""
    model, number = staged
    network = network_of(model.predictor(number, CPU, "fp8"))
    held = sum(weight.numel() for weight in held_in_fp8(network).values())
    others = [p for p in (*network.parameters(), *network.buffers()) if p.dtype != torch.float8_e4m3fn]
    row = [{"width": 48, "height": 32, "frames": 9}] if model.stages[0].video else []
    found, plain = (model.memory(number, dtype, 1, *row) for dtype in ("fp8", "bfloat16"))
    beside = plain.weights - _bytes_of(model, number, "bfloat16")
    assert found.weights == held + sum(p.numel() * p.element_size() for p in others) + beside
    assert plain.weights - found.weights == held
    # Beside what a pass holds anyhow, no more than one layer's weights are there in bfloat16.
    most = 2 * max(weight.numel() for weight in held_in_fp8(network).values())
    assert 0 <= found.activations - plain.activations <= most


@pytest.mark.parametrize(
    ("name", "modulating"),
    [("flux-dev", (19 * 2 * 6 + 38 * 3 + 2) * 3072 * 3073), ("sd35-large", ((37 * 12 + 6 + 2 + 2) * 2432 * 2433))],
)
def test_a_large_transformer_takes_a_byte_a_weight_and_two_of_what_modulates(name: str, modulating: int) -> None:
    """Counted by hand from the published shapes: matrices that make shifts, scales and gates of a block's norms."""
    with torch.device("meta"):
        network = in_dtype(build_transformer(sd3_flux.TRANSFORMER_SHAPES[name]), "fp8")
    found = sum(p.numel() * p.element_size() for p in network.parameters())
    assert found == pytest.approx(sd3_flux.PARAMETERS[name] + modulating, rel=2e-3)


def _bytes_of(model: Any, number: int, dtype: str) -> int:
    network = network_of(model.predictor(number, CPU, dtype))
    return sum(p.numel() * p.element_size() for p in (*network.parameters(), *network.buffers()))


def test_a_network_in_memory_is_held_as_one_that_is_loaded(folders: dict[str, str]) -> None:
    loaded = open_model(folders["sd"]).predictor(1, CPU, "fp8").unet
    whole = open_model(folders["sd"]).predictor(1, CPU, "bfloat16").unet
    other = in_dtype(copy.deepcopy(whole), "fp8")
    pairs = zip(held_in_fp8(loaded).items(), held_in_fp8(other).items(), strict=True)
    assert all(a == b and torch.equal(x.float(), y.float()) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("family", ["sd", "flux"])
@torch.inference_mode()
def test_adapters_add_to_weights_in_eight_bits(folders: dict[str, str], tmp_path: Path, family: str) -> None:
    """What they add is in bfloat16; a question without one is answered to the bit as if there were none."""
    model = open_model(folders[family])
    network = build_network(*model._network(1))
    layers = [(name, widths) for name, widths in adaptable_layers(network).items() if name.endswith("to_q")]
    generator, tensors = torch.Generator().manual_seed(2), {}
    for name, (into, out) in layers:
        prefix = f"{'unet' if family == 'sd' else 'transformer'}.{name}"
        tensors[f"{prefix}.lora_A.weight"] = torch.randn(2, into, generator=generator)
        tensors[f"{prefix}.lora_B.weight"] = torch.randn(out, 2, generator=generator)
    save_file(tensors, tmp_path / "style.safetensors")
    adapted = model.adapted([StoredAdapter.at("style", str(tmp_path / "style.safetensors"))])
    asked = a_pass(model, 1)
    asked_so = (*asked, torch.tensor([[0], [1], [0]]), torch.tensor([[0.0], [1.0], [0.0]]))
    held, base, plain = (
        adapted.predictor(1, CPU, "fp8"),
        model.predictor(1, CPU, "fp8")(*asked),
        adapted.predictor(1, CPU, "bfloat16"),
    )
    found = held(*asked_so)
    assert [torch.equal(found[at], base[at]) for at in range(3)] == [True, False, True]
    round_weights(network_of(plain), held_in_fp8(network_of(held)))
    assert torch.equal(found, plain(*asked_so))


WANTS_TORCHAO = pytest.mark.skipif(bool(lacks_library("int8")), reason="torchao is not installed: darkroom[int8]")


@WANTS_TORCHAO
@pytest.mark.parametrize("family", ["sd", "sd3", "flux", "cogvideox", "wan"])
@torch.inference_mode()
def test_int8_is_held_by_torchao(folders: dict[str, str], family: str) -> None:
    """Of the linear layers of those that fp8 has, a byte a weight and five a row; near to what bfloat16 answers, and a
    question alone as among others."""
    model = open_model(folders[family])
    held, plain = (model.predictor(1, CPU, dtype) for dtype in ("int8", "bfloat16"))
    layers = layers_in_eight_bits(network_of(plain), "int8")
    assert layers.keys() == {
        n for n, layer in layers_in_eight_bits(network_of(plain), "fp8").items() if _is_linear(layer)
    }
    weights = [network_of(held).get_submodule(name).weight for name in layers]
    assert {type(weight).__name__ for weight in weights} == {"Int8Tensor"} and len(weights) > 5
    row = [{"width": 48, "height": 32, "frames": 9}] if model.stages[0].video else []
    found, half = (model.memory(1, dtype, 1, *row) for dtype in ("int8", "bfloat16"))
    assert half.weights - found.weights == sum(weight.numel() - 5 * len(weight) for weight in weights)
    asked = a_pass(model, 1)
    answer, wanted = held(*asked), plain(*asked)
    assert 0 < (answer - wanted).abs().mean() < 0.1 * wanted.abs().mean()
    others = tuple(torch.cat([part[:1], part[:1], part[2:]]) for part in asked)
    assert torch.equal(held(*others)[0], answer[0]) and torch.equal(held(*others)[2], answer[2])


def _is_linear(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear


@pytest.mark.skipif(not lacks_library("int8"), reason="torchao is installed")
def test_without_torchao_int8_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(
        ValueError, match=r"--dtype int8: weights in int8 want torchao, .*pip install 'darkroom\[int8\]'"
    ):
        refuse_wrong(Options("no manifest", "no run", model="no model", dtype="int8"))
    with pytest.raises(ModelError, match="want torchao"):
        in_eight_bits(torch.zeros(2, 2), "int8")


ROWS = [{"task": "text_to_image", "prompt": "a red one", "seed": seed, "steps": 2 + seed} for seed in range(3)]


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", pytest.param("flux", marks=pytest.mark.slow)])
def test_a_row_alone_is_the_row_among_others(folders: dict[str, str], family: str) -> None:
    model = open_model(folders[family])
    together = [np.asarray(picture) for picture in sample(model, ROWS, capacity=4, dtype="fp8")]
    for row, picture in zip(ROWS, together, strict=True):
        assert np.array_equal(np.asarray(sample(model, row, capacity=4, dtype="fp8")[0]), picture)
    plain = [np.asarray(picture) for picture in sample(model, ROWS, capacity=4, dtype="bfloat16")]
    assert not all(map(np.array_equal, together, plain))


def test_a_cascade_may_hold_each_stage_otherwise(toy_deepfloyd: str) -> None:
    model = open_model(toy_deepfloyd)
    dtypes = stage_dtypes(model, "fp8,bfloat16,float32", on_gpu=False)
    assert dtypes == {1: "fp8", 2: "bfloat16", 3: "float32"}
    assert encoder_dtype(model, "text_encoder", dtypes) == "bfloat16", "an encoder's embeddings are those of bfloat16"
    (picture,) = sample(model, {**ROWS[0], "size": 16}, capacity=2, dtype="fp8,bfloat16,float32")
    assert picture.size == (16, 16)


def test_a_small_network_is_refused_by_name(toy_network: str) -> None:
    with pytest.raises(ValueError, match="--dtype fp8 is for models of diffusers, and 'toy.*' is a network of our own"):
        stage_dtypes(open_model(toy_network), "fp8", on_gpu=True)
