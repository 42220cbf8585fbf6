"""The course's UNet: its size, its shapes, what it listens to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from darkroom.models.course_unet import CourseUNet

CLASSES = 10


def small(**more: Any) -> CourseUNet:
    torch.manual_seed(0)
    return CourseUNet(**({"hidden": 8, "conditioning": "class", "num_classes": CLASSES} | more)).eval()


@pytest.mark.parametrize(
    ("hidden", "conditioning", "parameters"),
    [
        (64, "none", 1_975_361),
        (64, "time", 1_996_417),
        (64, "class", 2_019_201),
        (128, "none", 7_891_073),
        (128, "time", 7_974_145),
        (128, "class", 8_060_673),
    ],
)
def test_number_of_parameters(hidden: int, conditioning: Any, parameters: int) -> None:
    with torch.device("meta"):
        classes = CLASSES if conditioning == "class" else 0
        network = CourseUNet(hidden=hidden, conditioning=conditioning, num_classes=classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize(("size", "channels"), [(4, 1), (20, 3), (28, 1), (32, 3)])
def test_pictures_keep_their_shape(size: int, channels: int) -> None:
    x = torch.randn(2, channels, size, size)
    network = small(size=size, channels=channels)
    assert network(x, torch.rand(2), torch.tensor([3, 0])).shape == x.shape


def test_the_middle_is_a_vector() -> None:
    network = small()
    states = []
    network.flatten.register_forward_hook(lambda module, inputs, output: states.append((inputs[0].shape, output.shape)))
    network(torch.randn(2, 1, 28, 28), torch.rand(2))
    assert states == [((2, 16, 7, 7), (2, 16, 1, 1))]


def test_no_class_equals_zeros() -> None:
    x, t = torch.randn(3, 1, 28, 28), torch.tensor([0.0, 0.4, 1.0])
    network = small()
    asked = []
    network.class1.register_forward_hook(lambda module, inputs, output: asked.append(inputs[0]))
    dropped, none = network(x, t, torch.full((3,), CLASSES)), network(x, t, None)
    assert torch.equal(asked[0], torch.zeros(3, CLASSES))
    assert torch.equal(dropped, none)
    assert not torch.allclose(dropped, network(x, t, torch.tensor([1, 2, 3])))


def test_time_and_class_modulate_as_the_course_writes() -> None:
    """unflattened := c1 * unflattened + t1, with constant answers of the four FC blocks."""
    network, seen = small(), []
    for name, value in {"class1": 2.0, "time1": 3.0, "class2": 0.5, "time2": -1.0}.items():
        block = getattr(network, name)
        torch.nn.init.zeros_(block[2].weight)
        torch.nn.init.constant_(block[2].bias, value)
    network.unflatten.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network.up1.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[0], output)))
    network.up2.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        network(torch.randn(2, 1, 28, 28), torch.rand(2), torch.tensor([1, 2]))
    unflattened, into_up1, up1, into_up2 = seen
    torch.testing.assert_close(into_up1[:, :16], 2 * unflattened + 3)
    torch.testing.assert_close(into_up2[:, :8], 0.5 * up1 - 1)


def test_what_it_is_not_conditioned_on_is_ignored() -> None:
    x, t, label = torch.randn(2, 1, 28, 28), torch.rand(2), torch.tensor([1, 2])
    denoiser, flow = small(conditioning="none", num_classes=0), small(conditioning="time", num_classes=0)
    assert torch.equal(denoiser(x), denoiser(x, t, label))
    assert torch.equal(flow(x, t), flow(x, t, label))
    assert not torch.allclose(flow(x, t), flow(x, 1 - t))


@pytest.mark.parametrize("conditioning", ["none", "time", "class"])
def test_every_parameter_learns_and_one_graph_holds_it(conditioning: Any) -> None:
    network = small(conditioning=conditioning, num_classes=CLASSES if conditioning == "class" else 0).train()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    # All dropped: what only a given class can reach must still have a (zero) gradient, or DDP waits for it.
    compiled(torch.randn(2, 1, 28, 28), torch.rand(2), torch.full((2,), CLASSES)).sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_channels_last_gives_the_same() -> None:
    x, t = torch.randn(2, 1, 28, 28), torch.rand(2)
    network = small()
    expected = network(x, t)
    turned = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(turned(x.to(memory_format=torch.channels_last), t), expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 30}, "must be divisible by 4; got 30"),
        ({"size": 0}, "must be divisible by 4; got 0"),
        ({"hidden": 0}, "must be at least 1; got hidden 0"),
        ({"conditioning": "klass"}, "must be one of none, time, class; got 'klass'"),
        ({"num_classes": 0}, "wants num_classes of at least 1; got 0"),
        ({"conditioning": "time"}, "num_classes is for conditioning 'class' only; got 10"),
    ],
)
def test_what_it_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**wrong)
