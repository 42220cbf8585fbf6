"""Adapters against the same weights added to the UNet's own, which is what an adapter means."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from darkroom.manifest import parse_task
from darkroom.models.adapter_files import Adapter, LowRank, Scales, parse_adapter, read_adapter
from darkroom.models.adapters import NUMBERS, SCALES, Adapters, _Layer, adaptable_layers, adapter_fields
from darkroom.models.errors import ModelError
from darkroom.models.predictors import UNetPredictor
from darkroom.sampling.buckets import Buckets
from darkroom.sampling.device import placed
from darkroom.sampling.diffusion import Diffusion
from darkroom.sampling.plans import Plan, make_plan
from darkroom.sampling.stage import Inputs, Stage
from toy_sd import SIDE, WIDTH
from toy_sd import unet as toy_unet

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "net.0.proj")


def low_ranks(unet: torch.nn.Module, rank: int, seed: int, ends: tuple[str, ...] = ATTENTION) -> dict[str, LowRank]:
    """Random additions to all layers whose name ends so."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    layers = {name: widths for name, widths in adaptable_layers(unet).items() if name.endswith(ends)}
    return {name: LowRank(normal(rank, into), normal(out, rank)) for name, (into, out) in layers.items()}


def merged(unet: Any, *additions: tuple[float, Mapping[str, LowRank]]) -> Any:
    """The UNet with the additions in its own weights."""
    whole = copy.deepcopy(unet)
    for scale, layers in additions:
        for name, (down, up) in layers.items():
            weight = whole.get_submodule(name).weight
            weight.data += scale * (up @ down).reshape(weight.shape)
    return whole


@pytest.fixture(params=["sd", "sdxl"])
def unet(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return toy_unet(request.param).eval().requires_grad_(False)


def asked(unet: Any, rows: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(7)
    config = unet.config

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    side = config.sample_size
    asked = {"sample": normal(rows, 4, side, side), "timestep": torch.arange(rows) * 100 + 7}
    asked["encoder_hidden_states"] = normal(rows, 6, config.cross_attention_dim)
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        asked["added_cond_kwargs"] = {"text_embeds": normal(rows, pooled), "time_ids": normal(rows, 6)}
    return asked


def part(asked: dict[str, Any], places: list[int]) -> dict[str, Any]:
    return {k: part(v, places) if isinstance(v, dict) else v[places] for k, v in asked.items()}


@pytest.mark.parametrize(
    "rows",
    [
        [{}, {"a": 1.0}, {"b": 0.6}, {"b": 1.2}, {"a": 0.0}],
        [{"a": 0.0, "b": 0.0}, {"a": 0.5, "b": 0.5}, {"b": 0.6, "a": -0.4}, {"b": 1.2, "a": 0.0}, {"b": 0.0, "a": 0.0}],
    ],
    ids=["one", "two"],
)
def test_rows_with_other_adapters_share_a_pass(unet: Any, rows: list[dict[str, float]]) -> None:
    """Each is answered as by a UNet that has its adapters in its weights; one without, to the bit as by the base."""
    adapters = [Adapter(name, "", low_ranks(unet, rank, rank)) for name, rank in (("a", 2), ("b", 5))]
    base, inputs = copy.deepcopy(unet), asked(unet, len(rows))
    hung = Adapters(unet, adapters)
    fields = [adapter_fields(row, ("a", "b")) for row in rows]
    numbers, scales = (torch.stack([one[name] for one in fields]) for name in (NUMBERS, SCALES))
    hung.choose(numbers, scales)
    answer, plain = unet(**inputs).sample, base(**inputs).sample
    assert torch.equal(answer[[0, 4]], plain[[0, 4]])
    for place, row in enumerate(rows):
        layers = {adapter.name: adapter.layers for adapter in adapters}
        whole = merged(base, *((scale, layers[name]) for name, scale in row.items()))
        expected = whole(**inputs).sample[place]
        assert (answer[place] - expected).abs().max() <= 5e-6 * expected.abs().max()
    assert (answer[1] - plain[1]).abs().max() > 1e-2 * plain[1].abs().max()
    # Whatever stands in the other slots of a pass, a row's answer has the same bits.
    other = part(inputs, [3, 1, 2, 0, 4])
    hung.choose(numbers[[3, 1, 2, 0, 4]], scales[[3, 1, 2, 0, 4]])
    assert torch.equal(unet(**other).sample[[3, 1, 2, 0]], answer[[0, 1, 2, 3]])


def test_a_row_pays_for_few_more_adapters_than_it_has() -> None:
    names = ("a", "b", "c", "d", "e")
    places = [len(adapter_fields(dict.fromkeys(names[:count], 1.0), names)[NUMBERS]) for count in range(5)]
    assert places == [1, 1, 2, 4, 4]
    assert adapter_fields({}, ()) == {}


NAMES = tuple("abcdefghi")


def plans(uses: list[dict[str, float]]) -> list[Plan]:
    """Rows of three steps with these adapters."""
    stage = Stage(1, SIDE, 4, Diffusion.scaled_linear(), factor=1)
    generator = torch.Generator().manual_seed(3)
    conditions = {key: torch.randn(6, WIDTH, generator=generator) for key in ("a red one", "")}
    row = parse_task({"task": "text_to_image", "prompt": "a red one", "steps": 3}).canonical()
    return [
        make_plan(row | {"seed": seed}, stage, Inputs(conditions, fields=adapter_fields(use, NAMES)))
        for seed, use in enumerate(uses)
    ]


def test_more_adapters_than_there_is_room_for_take_turns() -> None:
    """Rows get the bits that they have where all lie on the device, and what a row uses stays while it is under way."""
    torch.manual_seed(0)
    base = toy_unet("sd").eval().requires_grad_(False)
    adapters = [Adapter(name, "", low_ranks(base, 2 + place % 2, place)) for place, name in enumerate(NAMES)]
    uses: list[dict[str, float]] = [{name: 0.8} for name in NAMES] + [{}, {"a": 0.5, "i": 0.5}, {"b": 1.0}]
    uses += [dict.fromkeys("efgh", 0.3), dict.fromkeys("abcd", 0.3), {"c": 0.0}]
    images = []
    for room in (math.inf, 0):
        unet = copy.deepcopy(base)
        predictor = UNetPredictor(unet, Diffusion.scaled_linear(), torch.device("cpu"), None, False, adapters, room)
        assert predictor.adapters is not None and predictor.adapters.places == (9 if room else 4)
        before = predictor.adapters._place_of.clone()
        engine, done = Buckets(predictor, 6), {}
        for number, plan in enumerate(plans(uses)):
            engine.add(plan, number)
        for _ in range(200):
            done |= {result.tag: result.image for result in engine.advance()}
        assert engine.idle and not any(predictor.adapters._users.values())
        assert torch.equal(before, predictor.adapters._place_of) == (room > 0)
        images.append(done)
    assert all(torch.equal(images[0][number], images[1][number]) for number in range(len(uses)))


def short_of_places() -> UNetPredictor:
    """With places for four of its nine adapters."""
    torch.manual_seed(0)
    unet = toy_unet("sd").eval().requires_grad_(False)
    adapters = [Adapter(name, "", low_ranks(unet, 2, place)) for place, name in enumerate(NAMES)]
    return UNetPredictor(unet, Diffusion.scaled_linear(), torch.device("cpu"), None, False, adapters, 0)


def test_rows_that_are_given_up_hold_nothing() -> None:
    predictor = short_of_places()
    first, second = plans([dict.fromkeys("abcd", 0.3), dict.fromkeys("efgh", 0.3)])
    engine = Buckets(predictor, 2)
    engine.add(first)
    engine.advance()
    assert not predictor.admit(second)
    engine.abandon()
    assert predictor.admit(second)


def fails_once(work: Callable[..., Any], at: int) -> Callable[..., Any]:
    """The work, but for its call number `at`, for which memory ends."""
    calls = itertools.count(1)

    def tried(*given: Any) -> Any:
        if next(calls) == at:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return work(*given)

    return tried


def test_rows_hold_nothing_where_memory_ends_as_one_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = short_of_places()
    monkeypatch.setattr("darkroom.sampling.engine.placed", fails_once(placed, at=2))
    engine = Buckets(predictor, 8)
    for number, plan in enumerate(plans([{"a": 0.3, "b": 0.3}, {"c": 0.3, "d": 0.3}])):
        engine.add(plan, number)
    with pytest.raises(torch.OutOfMemoryError):
        engine.advance()
    engine.abandon()
    assert predictor.adapters is not None and not any(predictor.adapters._users.values())


def test_no_place_is_lost_where_memory_ends_as_adapters_are_brought(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = short_of_places()
    (plan,) = plans([dict.fromkeys("efgh", 0.3)])
    monkeypatch.setattr(_Layer, "put", fails_once(_Layer.put, at=2))
    with pytest.raises(torch.OutOfMemoryError):
        predictor.admit(plan)
    assert predictor.admit(plan)


def diffusers_keys(layers: Mapping[str, LowRank]) -> dict[str, Tensor]:
    return {
        key: tensor
        for name, (down, up) in layers.items()
        for key, tensor in ((f"unet.{name}.lora.down.weight", down), (f"unet.{name}.lora.up.weight", up))
    }


def processor_keys(layers: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """As diffusers wrote them when attention had processors of its own."""
    old = {}
    for name, (down, up) in layers.items():
        block, _, own = name.removesuffix(".0").rpartition(".")
        old |= {f"{block}.processor.{own}_lora.down.weight": down, f"{block}.processor.{own}_lora.up.weight": up}
    return {f"unet.{key}": tensor for key, tensor in old.items()}


def peft_keys(layers: Mapping[str, LowRank]) -> dict[str, Tensor]:
    return {
        key: tensor
        for name, (down, up) in layers.items()
        for key, tensor in (
            (f"base_model.model.{name}.lora_A.weight", down),
            (f"base_model.model.{name}.lora_B.weight", up),
        )
    }


def kohya_keys(layers: Mapping[str, LowRank]) -> dict[str, Tensor]:
    found = {}
    for name, (down, up) in layers.items():
        stem = f"lora_unet_{name.replace('.', '_')}"
        pixels = (1, 1) if name.endswith(("proj_in", "proj_out")) else ()
        found[f"{stem}.lora_down.weight"] = down.reshape(*down.shape, *pixels)
        found[f"{stem}.lora_up.weight"] = up.reshape(*up.shape, *pixels)
        found[f"{stem}.alpha"] = torch.tensor(6.0)
    return found


@pytest.mark.parametrize(
    ("keys", "ends", "scale"),
    [
        (diffusers_keys, ATTENTION, 1.0),
        (processor_keys, ("to_q", "to_k", "to_v", "to_out.0"), 1.0),
        (peft_keys, ATTENTION, 2.0),
        (kohya_keys, ATTENTION, 1.5),
    ],
    ids=["diffusers", "attention processors", "peft", "kohya"],
)
def test_a_layout_and_its_alpha(
    tmp_path: Path, unet: Any, keys: Callable[..., dict[str, Tensor]], ends: tuple[str, ...], scale: float
) -> None:
    layers = low_ranks(unet, 4, 1, ends)
    save_file({k: v.contiguous() for k, v in keys(layers).items()}, tmp_path / "adapter_model.safetensors")
    if keys is peft_keys:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    targets = adaptable_layers(unet)
    found = read_adapter("style", str(tmp_path), targets)
    assert found.layers.keys() == layers.keys() and found.rank == 4
    assert all(torch.equal(found.layers[name].down, layers[name].down) for name in layers)
    assert all(torch.equal(found.layers[name].up, layers[name].up * scale) for name in layers)
    file = read_adapter("style", str(tmp_path / "adapter_model.safetensors"), targets)
    assert file.digest == found.digest and len(found.digest) == 64


def test_alpha_of_diffusers_metadata_and_of_single_layers() -> None:
    scales = Scales(8.0, {"attn1.to_q": 2.0})
    assert [scales.of("x.attn2.to_q", 4, None), scales.of("x.attn1.to_q", 4, None)] == [2.0, 0.5]
    assert scales.of("x.attn1.to_q", 4, 1.0) == 0.25 and Scales().of("x", 4, None) == 1.0
    assert Scales(8.0, by_root=True).of("x", 4, None) == 4.0


def test_metadata_of_a_diffusers_file_says_alpha(tmp_path: Path, unet: Any) -> None:
    layers = low_ranks(unet, 4, 1)
    says = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 2.0}), "format": "pt"}
    save_file(diffusers_keys(layers), tmp_path / "a.safetensors", metadata=says)
    found = read_adapter("a", str(tmp_path / "a.safetensors"), adaptable_layers(unet))
    assert all(torch.equal(found.layers[name].up, layers[name].up * 0.5) for name in layers)


def test_names_of_sdxls_first_code() -> None:
    targets = {
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": (4, 4),
        "up_blocks.0.attentions.2.transformer_blocks.1.ff.net.2": (4, 4),
        "mid_block.attentions.0.proj_in": (4, 4),
    }
    stems = ["input_blocks_4_1", "output_blocks_2_1", "middle_block_1"]
    rests = ["transformer_blocks_0_attn1_to_q", "transformer_blocks_1_ff_net_2", "proj_in"]
    keys = {}
    for stem, rest in zip(stems, rests, strict=True):
        keys |= {f"lora_unet_{stem}_{rest}.lora_{way}.weight": torch.ones(4, 4) for way in ("down", "up")}
    assert parse_adapter(keys, targets).keys() == targets.keys()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"lora_te_text_model_encoder.lora_down.weight": (2, 4)}, "it adapts the text encoder too"),
        ({"lora_unet_a.hada_w1_a": (2, 4)}, r"it is LoHa \(arXiv.*\), and LoRA alone runs here: lora_unet_a.hada_w1_a"),
        ({"lora_unet_a.lokr_w1": (2, 4)}, "it is LoKr .*, and LoRA alone runs here: lora_unet_a.lokr_w1"),
        ({"lora_unet_a.dora_scale": (3, 1)}, "it is DoRA .*: lora_unet_a.dora_scale"),
        ({"base_model.model.a.lora_magnitude_vector.weight": (3,)}, "it is DoRA .*: base_model.model.a.lora_magn"),
        ({"unet.mid.lora.down.weight": (2, 4), "unet.b.x": (2, 4)}, "no low-rank addition .*: unet.b.x, unet.mid"),
        ({"unet.a.lora.down.weight": (2, 5)}, "a takes 4 values and gives 3, its additions are 3 x 2 and 2 x 5"),
        ({"unet.a.lora.down.weight": (2, 4, 3, 3)}, "the layer a is a convolution of more than one pixel"),
        ({"unet.a.lora.up.weight": None}, "the layer a has only down, wanted down and up"),
    ],
)
def test_what_is_not_understood_is_an_error(change: dict[str, Any], problem: str) -> None:
    keys = {"unet.a.lora.down.weight": (2, 4), "unet.a.lora.up.weight": (3, 2)} | change
    tensors = {key: torch.zeros(shape) for key, shape in keys.items() if shape is not None}
    with pytest.raises(ModelError, match=problem):
        parse_adapter(tensors, {"a": (4, 3)})


def test_a_place_without_an_adapter_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no adapter: wanted one file of .safetensors, found none"):
        read_adapter("a", str(tmp_path), {})
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="a.safetensors is damaged"):
        read_adapter("a", str(tmp_path / "a.safetensors"), {})
