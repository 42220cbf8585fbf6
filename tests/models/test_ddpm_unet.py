"""The UNet of DDPM: its size, its shapes, how it begins, what it listens to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from darkroom.models.ddpm_unet import CIFAR10, MNIST, DDPMUNet

TINY: dict[str, Any] = dict(channels=1, size=8, width=8, multipliers=(1, 2), blocks=1, attention=(4,))


def tiny(**more: Any) -> DDPMUNet:
    """With random weights where training begins from zeros, so that something comes out."""
    torch.manual_seed(0)
    network = DDPMUNet(**(TINY | more)).eval()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(CIFAR10, 16_690_115), (MNIST, 2_734_945), (MNIST | {"num_classes": 10}, 2_736_353)],
)
def test_number_of_parameters(config: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        network = DDPMUNet(**config)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    if config is CIFAR10:
        assert abs(parameters / 16.8e6 - 1) < 0.01


@pytest.mark.parametrize("config", [CIFAR10, MNIST])
def test_the_configurations_run_and_begin_at_zero(config: dict[str, Any]) -> None:
    x = torch.randn(1, config["channels"], config["size"], config["size"])
    with torch.no_grad():
        assert torch.equal(DDPMUNet(**config)(x, torch.tensor([999])), torch.zeros_like(x))


def test_attention_is_where_it_was_asked_for_and_in_the_middle() -> None:
    network, sizes = tiny(size=16, multipliers=(1, 2, 2), attention=(8,)), []
    for module in network.modules():
        if type(module).__name__ == "_Attention":
            module.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[-1]))
    network(torch.randn(1, 1, 16, 16), torch.tensor([3]))
    assert sizes == [8, 4, 8, 8]


def test_it_listens_to_time_and_class() -> None:
    x, t, label = torch.randn(3, 1, 8, 8), torch.tensor([0, 10, 999]), torch.tensor([0, 1, 2])
    network = tiny(num_classes=3)
    told = network(x, t, label)
    assert not torch.allclose(told, network(x, t.flip(0), label))
    assert not torch.allclose(told, network(x, t, label.flip(0)))
    assert torch.equal(network(x, t), network(x, t, torch.full((3,), 3)))
    unconditional = tiny()
    assert torch.equal(unconditional(x, t), unconditional(x, t, label))


def test_time_is_sines_and_cosines_of_geometric_frequencies() -> None:
    network, seen = tiny(), []
    network.time.mlp.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network(torch.randn(1, 1, 8, 8), torch.tensor([7]))
    angles = torch.tensor([7 / 10_000 ** (i / 4) for i in range(4)])
    torch.testing.assert_close(seen[0][0], torch.cat([angles.sin(), angles.cos()]))


@pytest.mark.parametrize("num_classes", [0, 3])
def test_every_parameter_learns_and_one_graph_holds_it(num_classes: int) -> None:
    network = tiny(num_classes=num_classes).train()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    compiled(torch.randn(2, 1, 8, 8), torch.tensor([0, 5]), torch.tensor([1, 3])).sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_channels_last_gives_the_same() -> None:
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 500])
    network = tiny()
    expected = network(x, t)
    turned = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(turned(x.to(memory_format=torch.channels_last), t), expected)


def test_a_picture_does_not_see_its_neighbours() -> None:
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([1, 500, 3, 9])
    network = tiny().train()
    torch.testing.assert_close(network(x, t)[:1], network(x[:1], t[:1]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 30, "multipliers": (1, 2, 2), "attention": ()}, "size 30 to a fraction: it must divide by 4"),
        ({"attention": (16,)}, r"attention at \[16\] pixels, but the levels have \[8, 4\]"),
        ({"width": 7}, "even width.*got width 7"),
        ({"multipliers": ()}, r"multipliers \[\]"),
    ],
)
def test_what_it_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**wrong)
