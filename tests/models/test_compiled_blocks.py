"""Transformers compiled block by block: once for all depths, with each depth's own weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from darkroom.batch.capacity import empty_pass
from darkroom.models import EIGHT_BITS, lacks_library
from darkroom.models.adapter_files import StoredAdapter
from darkroom.models.catalog import open_model
from darkroom.models.compiled import compiled, mode_in_use, notes_of
from darkroom.models.mmdit import TransformerPredictor
from darkroom.models.parts import build_network
from darkroom.models.video import predictor_class
from darkroom.models.weights import in_dtype
from models.test_compiled import Counting
from toy_mmdit import save_toy_mmdit
from toy_video import save_toy_video

CPU, DEPTH = torch.device("cpu"), 5
TOYS: dict[str, Callable[[Path], Any]] = {
    "sd3": lambda folder: save_toy_mmdit(folder, "sd3-small"),  # whose first block has two attentions
    "flux": lambda folder: save_toy_mmdit(folder, "flux-dev"),
    "cogvideox": lambda folder: save_toy_video(folder, "cogvideox-5b"),
    "wan": lambda folder: save_toy_video(folder, "wan"),
}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def deep(folder: Path, family: str, dtype: str = "float32") -> tuple[Any, tuple[Tensor, ...]]:
    """A predictor of five blocks, of Flux two more of its other kind, and questions to it."""
    TOYS[family](folder)
    model = open_model(str(folder))
    stage, (name, config) = model.stages[0], model._network(1)
    torch.manual_seed(0)
    network = build_network(
        name, config | {"num_layers": DEPTH} | ({"num_single_layers": 2} if family == "flux" else {})
    )
    network = in_dtype(network.eval().requires_grad_(False), dtype)
    kind = TransformerPredictor if stage.video is None else predictor_class(config)
    x, times, *fields = empty_pass(stage, model.empty_fields(1), 2)
    x = torch.randn(x[:, :, :3, :4, :6].shape if stage.video else x.shape)
    return kind(network, stage.process, CPU), (x, times + 400, *(torch.randn(field.shape) for field in fields))


def blocks_of(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if module._compiled_call_impl is not None]


@pytest.mark.parametrize(("family", "blocks"), [("sd3", 5), ("flux", 7), ("cogvideox", 5), ("wan", 5)])
@torch.inference_mode()
def test_a_transformer_is_compiled_by_its_blocks(tmp_path: Path, family: str, blocks: int) -> None:
    """Every block by fewer graphs than there are blocks, to the bits that it has uncompiled: the backend runs graphs as
    they are."""
    (plain, asked), backend = deep(tmp_path, family), Counting()
    wanted = plain(*asked)
    fast = compiled(plain, "default", backend)
    assert torch.equal(fast(*asked), wanted)
    assert (mode_in_use(fast), notes_of(fast)) == ("default", [])
    found = backend.graphs
    assert len(blocks_of(plain.transformer)) == blocks and 0 < found < blocks
    assert torch.equal(fast(*asked), wanted) and backend.graphs == found, "what is compiled is not compiled again"


@pytest.mark.parametrize("dtype", EIGHT_BITS)
@torch.inference_mode()
def test_weights_in_eight_bits_are_compiled_too(tmp_path: Path, dtype: str) -> None:
    if why := lacks_library(dtype):
        pytest.skip(why)
    (plain, asked), backend = deep(tmp_path, "sd3", dtype), Counting()
    wanted = plain(*asked)
    fast = compiled(plain, "default", backend)
    assert torch.equal(fast(*asked), wanted) and notes_of(fast) == []
    assert 0 < backend.graphs < DEPTH


@torch.inference_mode()
def test_blocks_that_do_not_compile_run_as_they_are_shape_by_shape(tmp_path: Path) -> None:
    plain, asked = deep(tmp_path, "wan")
    more = tuple(torch.cat([part, part[:1]]) for part in asked)
    wanted, wanted_of_more = plain(*asked), plain(*more)

    def not_for_three(graph: torch.fx.GraphModule, examples: list[Any]) -> Any:
        if any(isinstance(one, Tensor) and one.dim() == 3 and len(one) == 3 for one in examples):
            raise ValueError("not for three")
        return graph

    fast = compiled(plain, "default", not_for_three)
    modes = []
    for _ in range(2):
        assert torch.equal(fast(*asked), wanted)
        modes.append(mode_in_use(fast))
        assert torch.equal(fast(*more), wanted_of_more)
        modes.append(mode_in_use(fast))
    assert modes == ["default", "off"] * 2
    assert notes_of(fast) == ["torch.compile failed, the model runs as it is: ValueError: not for three"]


@torch.inference_mode()
def test_with_adapters_it_is_compiled_whole(tmp_path: Path) -> None:
    """Each block's are its own: five of one layer must not become five times the first's."""
    model = open_model(str(TOYS["flux"](tmp_path / "flux")))
    layers = [f"transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k")]
    tensors = {f"transformer.{name}.lora_A.weight": torch.randn(2, 16) for name in layers}
    tensors |= {f"transformer.{name}.lora_B.weight": torch.randn(16, 2) for name in layers}
    save_file(tensors, tmp_path / "style.safetensors")
    predictor = model.adapted([StoredAdapter.at("style", str(tmp_path / "style.safetensors"))]).predictor(1, CPU)
    x, times, *fields = empty_pass(model.stages[0], model.empty_fields(1), 2)
    asked = (torch.randn(x.shape), times, *(torch.randn(field.shape) for field in fields))
    asked += (torch.tensor([[1], [0]]), torch.tensor([[0.7], [0.0]]))
    wanted, backend = predictor(*asked), Counting()
    fast = compiled(predictor, "default", backend)
    assert torch.equal(fast(*asked), wanted) and notes_of(fast) == []
    assert backend.graphs == 1 and not blocks_of(predictor.transformer)
