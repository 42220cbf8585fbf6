"""Fused projections against diffusers' own processor."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils._python_dispatch import TorchDispatchMode

from darkroom.models.compiled import compiled, mode_in_use
from darkroom.models.fused_attention import fuse_projections
from darkroom.models.predictors import UNetPredictor
from toys import tiny_unet


def make(only_cross_attention: bool) -> tuple[UNetPredictor, UNetPredictor]:
    """The same weights, as they are and fused."""
    plain = tiny_unet(16)
    config = dict(plain.unet.config) | {"only_cross_attention": only_cross_attention}
    unet = UNet2DConditionModel.from_config(config).eval().requires_grad_(False)
    predictors = [
        UNetPredictor(copy.deepcopy(unet), plain.process, plain.device, fused=fused) for fused in (False, True)
    ]
    return predictors[0], predictors[1]


def inputs() -> tuple[torch.Tensor, ...]:
    made = torch.Generator().manual_seed(0)
    x, condition = torch.randn(3, 3, 16, 16, generator=made), torch.randn(3, 5, 32, generator=made)
    return x, torch.tensor([0, 400, 900]), condition, torch.zeros(3, dtype=torch.int64)


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ran: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ran[func.overloadpacket.__name__] += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("only_cross_attention", (False, True))
@torch.inference_mode()
def test_fused_projections_say_what_diffusers_says(only_cross_attention: bool) -> None:
    plain, fused = make(only_cross_attention)
    answer = plain(*inputs())
    assert answer.abs().max() > 0.1
    assert torch.allclose(fused(*inputs()), answer, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_it_takes_the_place_of_the_old_weights_and_saves_products() -> None:
    plain, fused = make(False)
    sizes = [sum(weight.numel() for weight in one.unet.parameters()) for one in (plain, fused)]
    assert sizes[0] == sizes[1]
    assert not any(weight.requires_grad for weight in fused.unet.parameters())
    ran = []
    for one in (plain, fused):
        with Counting() as counting:
            one(*inputs())
        ran.append(counting.ran["linear"])
    attentions = sum(name.endswith("to_qkv.weight") for name, _ in fused.unet.named_parameters())
    assert attentions > 0 and ran[0] - ran[1] == 3 * attentions, "q, k, v and two of the text became two products"


@pytest.mark.slow
def test_it_compiles_in_one_piece() -> None:
    _, fused = make(False)
    fast = compiled(fused, "default", "eager")
    with torch.inference_mode():
        assert torch.equal(fast(*inputs()), fused(*inputs()))
    assert mode_in_use(fast) == "default"
    torch._dynamo.reset()


def test_a_second_time_changes_nothing() -> None:
    plain, fused = make(False)
    assert fuse_projections(fused.unet) == 0 and fuse_projections(plain.unet) > 0
