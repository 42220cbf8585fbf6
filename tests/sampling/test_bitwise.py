from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from darkroom.sampling import bitwise


def test_exp_is_exp():
    z = torch.linspace(-80, 80, 200_001)
    exact = z.double().exp()
    assert ((bitwise.exp(z).double() - exact) / exact).abs().max().item() < 2**-23
    assert bitwise.exp(torch.zeros(1)).item() == 1.0


def test_exp_does_not_overflow():
    extreme = bitwise.exp(torch.tensor([-1e30, 1e30]))
    assert extreme.isfinite().all() and extreme[0] < 1e-30 and extreme[1] > 1e30


def test_exp_does_not_depend_on_the_place():
    z = 3 * torch.randn(40_003, generator=torch.Generator().manual_seed(0))
    whole = bitwise.exp(z)
    for size in (1, 7, 33):
        pieces = torch.cat([bitwise.exp(piece) for piece in z[: 60 * size].split(size)])
        assert torch.equal(pieces, whole[: 60 * size])


def test_threshold_by_hand():
    x0 = torch.tensor([-3.0, 0.5, 1.0, 2.0, -0.25]).reshape(1, 5, 1, 1)
    # Magnitudes in order: 0.25 0.5 1 2 3. The 0.75 quantile is 2; the 0.875 quantile half way from 2 to 3.
    assert bitwise.threshold(x0, 0.75, 10.0).flatten().tolist() == [-1.0, 0.25, 0.5, 1.0, -0.125]
    torch.testing.assert_close(bitwise.threshold(x0, 0.875, 10.0), x0.clamp(-2.5, 2.5) / 2.5, rtol=0, atol=0)
    assert bitwise.threshold(x0, 1.0, 10.0).flatten()[0].item() == -1.0
    assert bitwise.threshold(x0, 0.75, 1.5).flatten().tolist() == (x0.clamp(-1.5, 1.5) / 1.5).flatten().tolist()


def test_threshold_leaves_a_modest_picture_alone():
    x0 = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9
    assert torch.equal(bitwise.threshold(x0, 0.95, 1.5), x0)


@pytest.mark.parametrize("ratio", [0.5, 0.95, 0.995, 1.0])
@pytest.mark.parametrize("size", [8, 24, 64])
def test_threshold_equals_diffusers(ratio, size):
    scheduler = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=ratio, sample_max_value=2.5)
    x0 = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(size)) * torch.arange(1, 6).reshape(
        5, 1, 1, 1
    )
    torch.testing.assert_close(bitwise.threshold(x0, ratio, 2.5), scheduler._threshold_sample(x0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 24])
def test_deviation(size):
    x = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(size)) * 3 + 1
    found = bitwise.deviation(x)
    torch.testing.assert_close(found, x.std(dim=(1, 2, 3), keepdim=True), rtol=1e-6, atol=0)
    assert all(torch.equal(bitwise.deviation(x[i : i + 1]), found[i : i + 1]) for i in range(5))
