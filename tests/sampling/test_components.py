from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torchvision.transforms.functional import gaussian_blur

from darkroom.sampling.components import (
    COMPONENTS,
    FAMILIES,
    Component,
    _scaled_odd,
    check_sum,
    is_usual,
    make_component,
)

SIZES = (24, 48, 64, 65)
GAUSSIANS = [{}, {"sigma": 0.5}, {"sigma": 5, "kernel": 51}]
BANDS = [{}, {"nested": False}, {"fine": 0.5, "coarse": 3}]
STREAKS = [{}, {"angle": 0, "edges": "reflect"}, {"angle": -100, "length": 11}]
SETTINGS = {"low_pass": GAUSSIANS, "low_band": BANDS, "motion": STREAKS}
ROWS = [
    [make_component(name, **params) for name in family]
    for family in FAMILIES
    for params in SETTINGS.get(family[0], [{}])
]
ONE_OF_EACH = [make_component(name) for name in COMPONENTS] + [make_component("motion", angle=-100, length=11)]
BLURS = [row for row in ROWS if row[0].name in SETTINGS and dict(row[0].params).get("edges") != "zeros"]
EVERY = [component for row in ROWS for component in row] + [make_component("scale", weight=0.3)]


def noise(size: int, channels: int = 3, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(size))


def constant(size: int, channels: int = 3) -> Tensor:
    return torch.tensor([0.7, -0.4, 1.0, 0.1, -1.0, 0.3])[None, :channels, None, None].repeat(2, 1, size, size)


def test_every_component_is_of_a_family() -> None:
    assert {name for family in FAMILIES for name in family} | {"scale"} == set(COMPONENTS)
    assert {component.name for component in EVERY} == set(COMPONENTS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " + ".join(map(str, row)))
@pytest.mark.parametrize(("size", "channels"), [(5, 1), (24, 3), (48, 1), (64, 3), (65, 6)])
def test_family_sums_to_the_picture(row: list[Component], size: int, channels: int) -> None:
    x = noise(size, channels)
    kept = x.clone()
    assert (sum(component(x) for component in row) - x).abs().max() < 1e-6
    assert torch.equal(x, kept)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (1.0,), (-6.5, 7.5), (0.1, 0.2, 0.7)])
def test_scales_sum_to_the_picture(weights: tuple[float, ...]) -> None:
    x = noise(24)
    row = [make_component("scale", weight=weight) for weight in weights]
    check_sum(row)
    assert (sum(component(x) for component in row) - x).abs().max() < 5e-6


@pytest.mark.parametrize("component", ONE_OF_EACH, ids=str)
@pytest.mark.parametrize(("size", "channels"), [(24, 1), (24, 3), (48, 3), (64, 1), (64, 3), (65, 1), (65, 6)])
def test_sample_is_the_same_in_every_batch(component: Component, size: int, channels: int) -> None:
    x = noise(size, channels, batch=16)
    alone = [component(x[i : i + 1].clone()) for i in range(16)]
    for start, batch in ((3, 2), (9, 7), (0, 16)):
        together = component(x[start : start + batch])
        for i in range(batch):
            assert torch.equal(together[i], alone[start + i][0])


@pytest.mark.parametrize("component", EVERY, ids=str)
def test_component_is_linear(component: Component) -> None:
    x, y = noise(24).double(), noise(24).double().flip(2)
    assert torch.allclose(component(2 * x - 3 * y), 2 * component(x) - 3 * component(y), atol=1e-12)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 5.0])
def test_low_pass_is_torchvisions_blur_at_64(sigma: float) -> None:
    x, component = noise(64).clamp(-1, 1), make_component("low_pass", sigma=sigma)
    assert (component(x) - gaussian_blur(x, 33, sigma)).abs().max() < 1e-6
    assert (component(x.double()) - gaussian_blur(x.double(), 33, sigma)).abs().max() < 1e-12


@pytest.mark.parametrize(("size", "kernel", "sigma"), [(24, 13, 0.75), (48, 25, 1.5), (128, 67, 4.0)])
def test_blur_grows_with_the_image(size: int, kernel: int, sigma: float) -> None:
    x = noise(size, channels=1, batch=1).double()
    assert (make_component("low_pass")(x) - gaussian_blur(x, kernel, sigma)).abs().max() < 1e-12


def test_kernels_are_as_wide_as_the_authors() -> None:
    assert [_scaled_odd(33, size) for size in (64, 256, 1024)] == [33, 133, 529]
    assert [_scaled_odd(7, size) for size in (64, 256, 1024)] == [7, 29, 113]


def test_bands_are_differences_of_blurs() -> None:
    x = noise(64).double()
    fine, coarse = gaussian_blur(x, 33, 1.0), gaussian_blur(x, 33, 2.0)
    for name, wanted in (("low_band", coarse), ("middle_band", fine - coarse), ("high_band", x - fine)):
        assert (make_component(name, nested=False, kernel=33)(x) - wanted).abs().max() < 1e-12
    assert torch.equal(make_component("low_band", nested=False, kernel=33)(x), make_component("low_pass")(x))


@pytest.mark.parametrize("size", [64, 128])
def test_bands_that_say_nothing_are_the_authors(size: int) -> None:
    """compute_triple_bandpass of dangeng/visual_anagrams: sigmas 1, then 2, and 25 taps at 64 px."""
    x, factor = noise(size, batch=1).double(), size // 64
    taps = 25 * factor + (factor + 1) % 2
    fine = gaussian_blur(x, taps, 1.0 * factor)
    low = gaussian_blur(fine, taps, 2.0 * factor)
    for name, wanted in (("low_band", low), ("middle_band", fine - low), ("high_band", x - fine)):
        assert (make_component(name)(x) - wanted).abs().max() < 1e-12


@pytest.mark.parametrize("size", [64, 128])
def test_motion_that_says_nothing_is_the_authors(size: int) -> None:
    """MotionBlurView of dangeng/visual_anagrams: a diagonal of 7 taps at 64 px, beyond the borders zeros."""
    x, factor = noise(size, batch=1).double(), size // 64
    taps = 7 * factor + (factor + 1) % 2
    kernel = torch.eye(taps, dtype=torch.float64).repeat(3, 1, 1, 1) / taps
    wanted = conv2d(x, kernel, padding=taps // 2, groups=3)
    assert (make_component("motion")(x) - wanted).abs().max() < 1e-12
    assert (make_component("motion_residual")(x) - (x - wanted)).abs().max() < 1e-12
    inner = slice(taps // 2, -(taps // 2))
    mirrored = make_component("motion", edges="reflect")(x)
    assert torch.equal(mirrored[..., inner, inner], make_component("motion")(x)[..., inner, inner])


def test_what_is_seldom_given_is_said_only_where_it_is_not_the_usual() -> None:
    assert str(make_component("low_band")) == "low_band (coarse 2, fine 1)"
    assert (
        str(make_component("low_band", kernel=33, nested=False)) == "low_band (coarse 2, fine 1, kernel 33, nested no)"
    )
    assert str(make_component("low_pass", kernel=25)) == "low_pass (kernel 25, sigma 2)"
    assert str(make_component("motion", edges="reflect")) == "motion (angle 45, edges reflect, length 7)"
    assert is_usual("low_pass", "kernel", 33) and not is_usual("low_band", "kernel", 33)
    assert not is_usual("low_pass", "sigma", 2.0), "the strength of a filter is always said"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("row", BLURS, ids=lambda row: " + ".join(map(str, row)))
def test_constants_are_all_in_the_low_part(row: list[Component], size: int) -> None:
    x = constant(size)
    assert (row[0](x) - x).abs().max() < 1e-6
    assert all(component(x).abs().max() < 1e-6 for component in row[1:])


def test_grayscale_and_color() -> None:
    x = constant(8)
    gray = (0.7 - 0.4 + 1.0) / 3
    assert torch.allclose(make_component("grayscale")(x), torch.full_like(x, gray))
    assert torch.allclose(make_component("color")(x)[0, :, 0, 0], torch.tensor([0.7 - gray, -0.4 - gray, 1.0 - gray]))
    one = noise(8, channels=1)
    assert torch.equal(make_component("grayscale")(one), one)
    assert not make_component("color")(one).any()


def spot(size: int) -> Tensor:
    x = torch.zeros(1, 1, size, size)
    x[..., size // 2, size // 2] = 1.0
    return x


def test_motion_draws_a_line() -> None:
    steps = range(-3, 4)
    for angle, places in {
        45: {(k, k) for k in steps},
        0: {(0, k) for k in steps},
        90: {(k, 0) for k in steps},
        135: {(k, -k) for k in steps},
        -135: {(k, k) for k in steps},
    }.items():
        wanted = torch.zeros(64, 64)
        for down, right in places:
            wanted[32 + down, 32 + right] = 1 / 7
        assert torch.allclose(make_component("motion", angle=angle)(spot(64))[0, 0], wanted, atol=1e-7), angle


def test_motion_between_the_axes_shares_its_weight() -> None:
    drawn = make_component("motion", angle=math.degrees(math.atan(0.5)), length=5)(spot(64))[0, 0]
    assert torch.allclose(drawn[31:34, 30:35] * 10, MOTION_AT_ONE_HALF, atol=1e-6)
    assert drawn.sum().item() == pytest.approx(1.0)


MOTION_AT_ONE_HALF = torch.tensor([[2.0, 1, 0, 0, 0], [0, 1, 2, 1, 0], [0, 0, 0, 1, 2]])


@pytest.mark.parametrize("size", [4, 5, 24, 65])
def test_largest_kernels_fit_every_size(size: int) -> None:
    x = constant(size)
    assert (make_component("motion", angle=30, length=127, edges="reflect")(x) - x).abs().max() < 1e-5
    assert (make_component("low_pass", sigma=64, kernel=127)(x) - x).abs().max() < 1e-5


@pytest.mark.parametrize(("size", "taps"), [(4, 3), (24, 3), (48, 5), (64, 7), (256, 29)])
def test_motion_grows_with_the_image(size: int, taps: int) -> None:
    assert (make_component("motion", angle=0)(spot(size)) > 0).sum() == taps


def test_half_precision_is_computed_in_float32() -> None:
    x = noise(24)
    for dtype in (torch.float16, torch.bfloat16):
        for component in EVERY:
            result = component(x.to(dtype))
            assert result.dtype == dtype and torch.equal(result, component(x.to(dtype).float()).to(dtype))


def test_equal_by_name_and_parameters() -> None:
    assert make_component("low_pass") == make_component("low_pass", sigma=2) != make_component("high_pass")
    assert make_component("low_pass").params == (("kernel", 33), ("sigma", 2.0))
    assert len({make_component("motion", angle=angle) for angle in (45, 45.0, 30)}) == 2
    assert str(make_component("low_pass", sigma=2.5)) == "low_pass (sigma 2.5)"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " + ".join(map(str, row)))
def test_families_pass_the_check_in_any_order(row: list[Component]) -> None:
    check_sum(row)
    check_sum(row[::-1])


def parts(*named: tuple[str, dict[str, float]]) -> list[Component]:
    return [make_component(name, **params) for name, params in named]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "a hybrid needs components, none are given"),
        (parts(("low_pass", {})), "low_pass (sigma 2) needs its other half, high_pass (sigma 2)"),
        (
            parts(("low_pass", {"sigma": 3}), ("high_pass", {})),
            "low_pass (sigma 3) needs its other half, high_pass (sigma 3); "
            "what is given beside it is high_pass (sigma 2)",
        ),
        (
            parts(("color", {}), ("motion", {})),
            "color needs its other half, grayscale; what is given beside it is motion",
        ),
        (
            parts(("middle_band", {}), ("low_band", {})),
            "middle_band (coarse 2, fine 1) needs the rest of its family, high_band (coarse 2, fine 1)",
        ),
        (
            parts(("low_pass", {}), ("high_pass", {}), ("low_pass", {})),
            "low_pass (sigma 2) and high_pass (sigma 2) are the whole picture already, low_pass (sigma 2) is too much",
        ),
        (parts(("whole", {}), ("whole", {})), "whole is the whole picture already, whole is too much"),
        (
            parts(("grayscale", {}), ("color", {}), ("scale", {})),
            "grayscale and color are the whole picture already, scale (weight 0.5) is too much",
        ),
        (parts(("scale", {}), ("scale", {"weight": 0.4})), "the weights of scale sum to 0.9, wanted 1"),
    ],
)
def test_what_is_missing_is_said(row: list[Component], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_sum(row)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("lowpass", {}, "unknown component 'lowpass', did you mean 'low_pass'?"),
        ("low_pass", {"sigam": 2}, "component 'low_pass' has no parameter 'sigam', did you mean 'sigma'?"),
        ("low_pass", {"sigma": 0}, "'sigma' of low_pass is 0, wanted a number from 0.1 to 64"),
        ("low_pass", {"kernel": 32}, "'kernel' of low_pass is 32, wanted an odd number"),
        ("low_pass", {"kernel": 129}, "'kernel' of low_pass is 129, wanted a whole number from 3 to 127"),
        ("motion", {"angle": "left"}, "'angle' of motion is 'left', wanted a number from -360 to 360"),
        ("low_band", {"fine": 2}, "'fine' of low_band is 2, wanted less than 'coarse', which is 2.0"),
        ("low_band", {"nested": 1}, "'nested' of low_band is 1, wanted true or false"),
        ("motion", {"edges": "zero"}, "'edges' of motion is 'zero', wanted 'zeros' or 'reflect'"),
        ("motion", {"edges": [1]}, "'edges' of motion is [1], wanted 'zeros' or 'reflect'"),
        ("color", {"sigma": 1}, "component 'color' has no parameter 'sigma'; it takes none"),
        ("scale", {"weight": float("inf")}, "'weight' of scale is inf, wanted a number from -10000 to 10000"),
    ],
)
def test_what_is_wrong_is_said(name: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make_component(name, **params)
    assert str(caught.value).startswith(message)


def test_images_that_a_component_cannot_take() -> None:
    with pytest.raises(ValueError, match=r"component 'low_pass' takes \[B, C, S, S\], got \[3, 8, 8\]"):
        make_component("low_pass")(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match=r"component 'low_pass' takes pictures of 4 px or more, got \[1, 3, 3, 3\]"):
        make_component("low_pass")(torch.zeros(1, 3, 3, 3))
